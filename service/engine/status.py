"""What the manager says about each version it knows: frozen, for whoever lists models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.backends.base import Detail
from service.engine.lane import Mode
from service.engine.manifest import Manifest
from service.values import Task

State = Literal["loading", "ready", "failed", "unloaded", "draining"]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version.

    Attributes:
        task: None where the manifest cannot be read.
        serving: whether it is the version that the bare name means.
        default: whether it serves its task where a request names no model.
        reason: why it is not ready, or what an operator should know of one that is.
        backend, provider, device, precision, batching, file_bytes: of what really runs; None while nothing is loaded.
        gain: how many times as fast as full precision the lower one runs here, whichever serves; None where there was
            nothing to compare.
        tuned: whether what it costs was read from a tuning file.
        details: of the device, see `service.backends.base.Backend`.
        folder: where the version lies; its card is `card()`.
    """

    name: str
    version: int
    task: Task | None
    serving: bool
    default: bool
    state: State
    reason: str | None
    backend: str | None
    provider: str | None
    device: str | None
    precision: str | None
    batching: Mode | None
    file_bytes: int | None
    gain: float | None
    tuned: bool
    details: Mapping[str, Detail]
    manifest: Manifest | None
    folder: Path

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    def card(self) -> str | None:
        """The text of `CARD.md`, read from disk; None where there is none."""
        try:
            return (self.folder / "CARD.md").read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None
