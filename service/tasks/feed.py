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
        self._resampler = Resampler(sample_rate, manifest.sample_rate, 1)
        self._windows = Windows.of(manifest)

    @property
    def duration_s(self) -> float:
        """Seconds cut so far."""
        return self._windows.received / self._manifest.sample_rate

    def push(self, samples: NDArray[np.float32]) -> list[Piece]:
        """Take (frames,) more at the recording's rate."""
        return self._windows.push(self._resampler.push(samples[None])[0])

    def finish(self) -> list[Piece]:
        """The last pieces.

        Raises:
            TooShort: the whole recording is shorter than the model can judge.
        """
        pieces = self._windows.push(self._resampler.finish()[0])
        shortest_s = self._manifest.window.min_s
        if self.duration_s < shortest_s:
            raise TooShort(
                f"the recording lasts {self.duration_s:.3f} s; {self._manifest.id} needs at least {shortest_s:g} s",
                minimum=shortest_s,
                got=round(self.duration_s, 4),
            )
        return pieces + self._windows.finish()
