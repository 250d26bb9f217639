"""Finds a narrow band: the spectrum ends steeply well below what the sample rate could carry, as after a telephone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.audio.windows import mean_squares, window
from service.values import Samples

WINDOW_S = 0.032
WINDOWS_A_SECOND = 8
"""Looked at, about: the long-term spectrum needs no more."""
LEAST_WINDOWS = 8
ACTIVE_POWER = 1e-6

BAND_HZ = 100.0
LOWEST_HZ = 1000.0
HIGHEST_HZ = 7000.0
"""A band that ends above it is wide enough for speech."""
ROOM_HZ = 600.0
"""What must be free between the end of the band and half the sample rate."""
EDGE_HZ = 400.0
"""Within this width the spectrum falls..."""
DROP_DB = 25.0
"""...by this much, and stays there."""


class Bandwidth:
    """Gathers the long-term spectrum of the parts that are not quiet."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._size = 1 << round(np.log2(WINDOW_S * sample_rate))
        self._window = window(self._size)
        self._power = np.zeros(self._size // 2 + 1)
        self._windows = 0

    def push(self, slab: Samples, second: int) -> None:
        """Take more of the recording; *second* is about a second in samples."""
        count = slab.shape[1] // self._size
        if not count:
            return
        chosen = slice(None, None, max(1, second // self._size // WINDOWS_A_SECOND))
        windows = slab[:, : count * self._size].reshape(slab.shape[0], count, self._size)[:, chosen]
        active = mean_squares(windows) - windows.mean(axis=2) ** 2 > ACTIVE_POWER
        if active.any():
            spectrum = np.fft.rfft(windows[active] * self._window)
            self._power += (spectrum.real**2 + spectrum.imag**2).sum(axis=0, dtype=np.float64)
            self._windows += len(spectrum)

    def finish(self) -> float | None:
        """Where the band ends in Hz, if it ends clearly and early."""
        if self._windows < LEAST_WINDOWS or self._rate / 2 < LOWEST_HZ + ROOM_HZ:
            return None
        level = self._bands()
        around = round(EDGE_HZ / BAND_HZ)
        highest = min(HIGHEST_HZ, self._rate / 2 - ROOM_HZ)
        candidates = np.arange(round(LOWEST_HZ / BAND_HZ), int(highest / BAND_HZ) + 1)
        inside = np.median(np.lib.stride_tricks.sliding_window_view(level, around), axis=1)[candidates - around]
        outside = np.maximum.accumulate(level[::-1])[::-1][candidates + around // 2]
        best = int(np.argmax(inside - outside))
        if inside[best] - outside[best] < DROP_DB:
            return None
        return self._end(level, int(candidates[best]) - around)

    def _bands(self) -> NDArray[np.float64]:
        """The mean level of each band in dB, up to half the sample rate."""
        width = self._rate / self._size
        band = (np.arange(len(self._power)) * width / BAND_HZ).astype(int)
        count = int(self._rate / 2 / BAND_HZ)
        power = np.bincount(band, self._power)[:count] / np.maximum(np.bincount(band)[:count], 1)
        filled = np.bincount(band)[:count] > 0
        power = np.interp(np.arange(count), np.flatnonzero(filled), power[filled])
        return 10 * np.log10(power + 1e-20)

    @staticmethod
    def _end(level: NDArray[np.float64], start: int) -> float:
        """The upper end of the last band before the spectrum is halfway down its edge."""
        inside = float(np.median(level[start : start + 4]))
        outside = float(level[start + 6 :].max())
        last = int(np.flatnonzero(level > (inside + outside) / 2)[-1])
        return (last + 1) * BAND_HZ
