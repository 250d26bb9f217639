"""Cuts a stream of samples into pieces that a model can run at once, so that joined answers equal one long pass.

Pure arithmetic on one channel at the model's rate; knows neither models nor threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Piece:
    """One stretch of samples and the part of it that speaks for the recording.

    Attributes:
        samples: float32 (n,).
        start: where `samples[0]` lies in the recording, in samples; a multiple of the grid.
        keep_from, keep_to: the samples of the recording this piece answers for; outside is context.
        last: nothing comes after it.
    """

    samples: NDArray[np.float32]
    start: int
    keep_from: int
    keep_to: int
    last: bool


class Windows:
    """Pieces of at most *size* samples whose neighbours overlap by twice *context*.

    Every piece starts on a multiple of *grid* (one frame of the model), so that frames of neighbours fall on the same
    moments. The last piece reaches back to be as long as the others: no piece has less context than it must.
    """

    def __init__(self, size: int, context: int, grid: int = 1) -> None:
        self.size = max(grid, size // grid * grid)
        self.context = -(-context // grid) * grid
        self.advance = self.size - 2 * self.context
        if self.advance < grid:
            raise ValueError(f"pieces of {size} samples with context {context} leave nothing")
        self.grid = grid
        self._held = np.zeros(0, np.float32)
        self._held_start = 0
        self._next = 0

    @classmethod
    def of(cls, manifest: Manifest) -> Windows:
        """As the manifest's `window` and `frames` say."""
        rate = manifest.sample_rate
        grid = round(manifest.frames.step_s * rate) if manifest.frames else 1
        return cls(round(manifest.window.max_s * rate), round(manifest.window.context_s * rate), max(1, grid))

    @property
    def received(self) -> int:
        """Samples pushed so far."""
        return self._held_start + self._held.size

    def push(self, samples: NDArray[np.float32]) -> list[Piece]:
        """Take (n,) more samples; give the pieces that are certain not to be the last."""
        self._held = np.concatenate((self._held, samples))
        pieces = []
        while self.received - self._next > self.size:
            pieces.append(self._piece(self._next, self._next + self.size, last=False))
            self._next += self.advance
        # the last piece may reach back by a whole size from the end, which is not known yet
        self._forget(max(0, min(self._next, self.received - self.size - self.grid)))
        return pieces

    def finish(self) -> list[Piece]:
        """The last piece; none if nothing was ever pushed."""
        if self.received == 0:
            return []
        back = max(0, self.received - self.size)
        start = min(self._next, -(-back // self.grid) * self.grid)
        return [self._piece(start, self.received, last=True)]

    def _piece(self, start: int, stop: int, *, last: bool) -> Piece:
        first = self._next == 0
        return Piece(
            samples=self._held[start - self._held_start : stop - self._held_start].copy(),
            start=start,
            keep_from=0 if first else self._next + self.context,
            keep_to=stop if last else self._next + self.size - self.context,
            last=last,
        )

    def _forget(self, before: int) -> None:
        if before > self._held_start:
            self._held = self._held[before - self._held_start :]
            self._held_start = before
