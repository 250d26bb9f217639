"""What `earmark tune` found on a machine, written down: read at load, it takes the place of measuring.

Every entry bears what it holds for: the file's sum, the runtime, the processor. What is stale is ignored.
"""

from __future__ import annotations

import json
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.backends import machine
from service.engine.cost import CostModel
from service.engine.lane import Mode
from service.engine.manifest import Sum
from service.settings import BadSettings

HEAD = "# Written by `earmark tune`; read where EARMARK_TUNING names this file. Stale entries are ignored.\n"

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TunedFile(_Table):
    """What one graph does on this machine, one thread a run."""

    model: str
    path: str
    sha256: Sum
    precision: str
    device: str
    chosen: bool
    """Serves, of the files of its model."""
    gain: float | None = None
    """How many times as fast as full precision the lower one is, where both were measured."""
    mode: Mode
    shrink_bytes: Annotated[int, Field(ge=0)]
    fixed_s: Seconds
    items: tuple[int, ...]
    per_second: tuple[Seconds, ...]

    @model_validator(mode="after")
    def _is_a_table(self) -> TunedFile:
        self.cost()
        return self

    def cost(self) -> CostModel:
        return CostModel(self.fixed_s, self.items, self.per_second)


class Tuning(_Table):
    """A machine and its models."""

    processor: str
    runtime: str
    workers: Annotated[int, Field(ge=1)]
    files: tuple[TunedFile, ...] = ()

    def stale(self) -> str | None:
        """Why this was found elsewhere; None if it holds here."""
        facts = (("processor", self.processor, machine.processor()), ("runtime", self.runtime, runtime()))
        return next((f"its {what} is {then}, here it is {now}" for what, then, now in facts if then != now), None)

    def chosen(self, sums: set[str]) -> TunedFile | None:
        """The entry for the file that serves, among the files with one of *sums*."""
        return next((file for file in self.files if file.chosen and file.sha256 in sums), None)


def runtime() -> str:
    """The runtime and its version, such as "onnxruntime 1.31.1"."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "no onnxruntime"


def read_tuning(path: Path) -> Tuning:
    """Read the file at *path*.

    Raises:
        BadSettings: it cannot be read, or says what cannot be.
    """
    try:
        return Tuning.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise BadSettings(f"EARMARK_TUNING names a file that cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path.name}: not TOML: {error}") from error
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise BadSettings(f"{path.name}: {'; '.join(faults)}; `earmark tune` writes it anew") from error


def write_tuning(tuning: Tuning, path: Path) -> None:
    path.write_text(to_toml(tuning), "utf-8")


def to_toml(tuning: Tuning) -> str:
    tables = tuning.model_dump(mode="json", exclude_none=True)
    files = tables.pop("files")
    parts = [HEAD + _lines(tables), *("\n[[files]]\n" + _lines(file) for file in files)]
    return "".join(parts)


def _lines(table: dict[str, Any]) -> str:
    # JSON's strings, numbers, lists and booleans are TOML's as well.
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
