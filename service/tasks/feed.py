"""From a recording's blocks to a model's pieces: one channel, the model's rate, the model's windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.audio.resample import Resampler
from service.engine.manifest import Manifest
from service.errors import TooShort
from service.tasks.windows import Piece, Windows


class Feed:
    """Resamples and cuts one channel for one model."""

    def __init__(self, manifest: Manifest, sample_rate: int) -> None:
        self._manifest = manifest
        self._sample_rate = sample_rate
        self._pushed = 0
        self._resampler = Resampler(sample_rate, manifest.sample_rate, 1)
        self._windows = Windows.of(manifest)

    @property
    def duration_s(self) -> float:
        """Seconds cut so far."""
        return self._windows.received / self._manifest.sample_rate

    @property
    def is_too_short(self) -> bool:
        """Whether what came so far is less than the model can judge."""
        return self._pushed / self._sample_rate < self._manifest.window.min_s

    def push(self, samples: NDArray[np.float32]) -> list[Piece]:
        """Take (frames,) more at the recording's rate."""
        self._pushed += samples.size
        return self._windows.push(self._resampler.push(samples[None])[0])

    def finish(self) -> list[Piece]:
        """The last pieces.

        Raises:
            TooShort: the whole recording is shorter than the model can judge.
        """
        if self.is_too_short:
            shortest_s, got_s = self._manifest.window.min_s, self._pushed / self._sample_rate
            raise TooShort(
                f"the recording lasts {got_s:.3f} s; {self._manifest.id} needs at least {shortest_s:g} s",
                minimum=shortest_s,
                got=round(got_s, 4),
            )
        return self._windows.push(self._resampler.finish()[0]) + self._windows.finish()
