"""What every floor may know: plain frozen values, no behaviour beyond their own arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""float32 in -1…1, shaped (channels, frames) unless the docstring says (frames,)."""

Arrays = dict[str, NDArray[np.generic]]
"""Named tensors as a backend takes and gives them."""

Task = Literal["quality", "scene", "enhance"]
OneChannel = Literal["mix"] | int
"""The mean of all channels, or the one with that number, counted from 0."""
Channel = OneChannel | Literal["each"]

TASKS: tuple[Task, ...] = ("quality", "scene", "enhance")


@dataclass(frozen=True, slots=True)
class Turn:
    """On whose behalf work is done, and by when: what the queue goes by when it says whose turn it is.

    Attributes:
        deadline: on the engine's clock; infinite waits as long as it takes.
        share: who pays for it, the caller's key (its id) or, where there are no keys, the caller's address.
        flow: one request of that caller.
        bulk: may wait for whatever is not.
    """

    deadline: float = math.inf
    share: str = ""
    flow: int = 0
    bulk: bool = False
    _spent: list[float] = field(default_factory=lambda: [0.0], init=False, compare=False, repr=False)

    @property
    def spent_s(self) -> float:
        """Seconds of workers that it has had so far."""
        return self._spent[0]

    def spend(self, seconds: float) -> None:
        self._spent[0] += seconds


WHENEVER = Turn()
"""Of nobody in particular, with all the time there is."""


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """What is known of a recording from its header (and, once it was read to the end, for certain)."""

    format: str
    subtype: str
    sample_rate: int
    channels: int
    frames: int | None = None
    """Frames per channel: as declared while reading, as counted after. None where no header says."""

    @property
    def duration_s(self) -> float | None:
        return None if self.frames is None else self.frames / self.sample_rate


@dataclass(frozen=True, slots=True)
class Finding:
    """A plain measurement that says why a recording sounds as it does."""

    kind: Literal["clipping", "dropout", "silence", "narrow_band", "low_level", "dc_offset", "hum"]
    onset_s: float
    offset_s: float
    value: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Values at a fixed step; `values[i]` is centred at `start_s + i * step_s`."""

    start_s: float
    step_s: float
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a recording with the mean score of that part."""

    onset_s: float
    offset_s: float
    score: float


@dataclass(frozen=True, slots=True)
class Label:
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """One label heard from onset to offset, with its mean probability there."""

    label: str
    onset_s: float
    offset_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """Limits on one decoded recording. `max_samples` counts over all channels: limits multiply, this one protects."""

    max_duration_s: float = 7200.0
    max_channels: int = 16
    max_samples: int = 400_000_000
    min_rate: int = 4_000
    max_rate: int = 192_000
    child_memory_bytes: int = 1 << 30
    child_cpu_s: int = 120


@dataclass(frozen=True, slots=True)
class Warnings:
    """Sentences collected while a recording is read, in order, each once."""

    sentences: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        if sentence not in self.sentences:
            self.sentences.append(sentence)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics processor.

    Attributes:
        memory_bytes: of the whole device, whoever uses it.
        free_bytes: of that, when it was asked; None where the driver does not tell.
        driver: its version; None likewise.
    """

    name: str
    memory_bytes: int
    free_bytes: int | None
    driver: str | None
