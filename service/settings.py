"""Every setting of the service: one field, one line of help, one variable `EARMARK_<NAME>`, one option of `earmark serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import EarmarkError
from service.values import AudioLimits

PREFIX = "EARMARK_"
MIB = 1 << 20


class BadSettings(EarmarkError):
    code = "bad-settings"
    title = "A setting is wrong"


def embedded_models() -> Path:
    """The folder of the shipped exports: inside an installed wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "exported_models"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "exported_models"


class Settings(BaseSettings):
    """All of them have defaults that are right for one machine; unknown `EARMARK_` variables are refused."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, cli_kebab_case=True)

    # where it listens
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    cors: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins that browsers may call from, comma separated."
    )

    # models
    models: str = Field(
        "",
        description="Folder of models, or several joined by ':'; a later one overlays an earlier one, all overlay the shipped ones.",
    )
    pin: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Versions to serve instead of the highest, as name@version, comma separated."
    )
    preload: bool = Field(
        True, description="Load every model at start; otherwise the defaults only, the others at first use."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where models run: auto takes a GPU when one is there."
    )
    precision: Literal["auto", "fp32", "fp16", "int8"] = Field(
        "auto",
        description="Of the models: auto takes lower precision where its loss is accepted and this machine gains clearly.",
    )
    tuning: str = Field("", description="File that `earmark tune` wrote on this machine; saves measuring at load.")
    gpu_memory_bytes: int = Field(
        0, ge=0, description="Most memory of a GPU for one model; 0 takes 70 % of what the device has."
    )
    tf32: bool = Field(
        False, description="Let a GPU multiply full precision with fewer bits: faster, and about 1e-3 off."
    )
    workers: int = Field(0, ge=0, le=256, description="Threads that compute; 0 counts the cores this process may use.")

    # limits on what is sent
    max_body_bytes: int = Field(256 * MIB, ge=1, description="Largest body.")
    max_bodies_bytes: int = Field(
        0, ge=0, description="All bodies in memory at once; 0 takes a quarter of the memory this process may use."
    )
    max_duration_s: float = Field(7200.0, gt=0, description="Longest recording, in seconds.")
    max_channels: int = Field(16, ge=1, le=64, description="Most channels.")
    max_samples: int = Field(400_000_000, ge=1, description="Most decoded samples, counted over all channels.")
    max_answer_bytes: int = Field(
        256 * MIB,
        ge=1,
        description="Largest enhanced recording that is held whole (JSON, multipart, score=true); streamed ones have no such limit.",
    )
    max_parts: int = Field(64, ge=1, le=1000, description="Most parts of a form.")
    body_timeout_s: float = Field(300.0, gt=0, description="Longest time a body may take to arrive, in seconds.")
    body_stall_s: float = Field(20.0, gt=0, description="Longest pause between two pieces of a body, in seconds.")
    body_rate: float = Field(
        4096.0, ge=0, description="Least bytes a second of a body, on average and after its first ten seconds; 0 for any."
    )
    child_memory_bytes: int = Field(
        1024 * MIB, ge=64 * MIB, description="Memory of the child process that decodes rarer formats."
    )
    child_cpu_s: int = Field(120, ge=1, description="Processor seconds of that child process for one recording.")

    # load
    deadline_s: float = Field(300.0, gt=0, description="Longest time for one request when it names none, in seconds.")
    queue_s: float = Field(
        5.0, gt=0, description="Most work that may wait, in predicted seconds of computing per worker."
    )
    drain_s: float = Field(
        30.0, ge=0, description="Longest time to finish requests in flight after SIGTERM, in seconds."
    )

    # who may ask
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Keys that may ask, comma separated, or @FILE with one a line; empty lets everybody ask.",
    )
    admin_key: SecretStr = Field(
        SecretStr(""), description="Key for loading and unloading models; empty allows it from loopback only."
    )
    key_requests: int = Field(64, ge=1, description="Most requests in flight for one key.")

    # what it writes
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
    log_format: Literal["json", "text"] = Field("json", description="One JSON object a line, or plain text.")

    @field_validator("cors", "pin", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _no_unknown_variables(self) -> Settings:
        known = {PREFIX + name.upper() for name in type(self).model_fields}
        unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
        if unknown:
            raise ValueError(f"unknown variable {', '.join(unknown)}; `earmark serve --help` lists the known ones")
        return self

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """The shipped models first, then the user's, each overlaying the ones before."""
        return (embedded_models(), *(Path(part) for part in self.models.split(os.pathsep) if part))

    @property
    def audio_limits(self) -> AudioLimits:
        return AudioLimits(
            max_duration_s=self.max_duration_s,
            max_channels=self.max_channels,
            max_samples=self.max_samples,
            child_memory_bytes=self.child_memory_bytes,
            child_cpu_s=self.child_cpu_s,
        )

    def keys(self) -> tuple[str, ...]:
        """The keys that may ask, read from the variable or from the file it names.

        Raises:
            BadSettings: the file named by `@FILE` cannot be read or holds no key.
        """
        value = self.api_keys.get_secret_value()
        if not value.startswith("@"):
            return tuple(key.strip() for key in value.split(",") if key.strip())
        try:
            lines = Path(value[1:]).read_text("utf-8").splitlines()
        except OSError as error:
            raise BadSettings(f"EARMARK_API_KEYS names a file that cannot be read: {error.strerror}") from error
        keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
        if not keys:
            raise BadSettings("EARMARK_API_KEYS names a file without a key in it")
        return keys
