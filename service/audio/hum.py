"""Finds hum of the mains: 50 or 60 Hz and multiples that stand out all the time, not only while somebody speaks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from service.audio.windows import mean_squares, window

LOW_RATE = 2000
WINDOW_S = 2.0
LEAST_WINDOWS = 3
MAINS_HZ = (50.0, 60.0)
HARMONICS = 8
LINE_HZ = 1.0
AROUND_HZ = (2.5, 16.0)
STANDS_OUT_DB = 12.0
ALONE_DB = 6.0
ALONE_HZ = 8.0
"""Above everything else this near: the syllables of a steady voice put rows of lines around its own."""
LEAST_AMPLITUDE = 10 ** (-80 / 20)
"""A weaker line is not heard."""
DIGITAL_SILENCE = 1e-12


class Hum:
    """Averages the logarithm of the spectrum over windows of two seconds: what comes and goes fades, lines stay."""

    def __init__(self, sample_rate: int) -> None:
        self._fold = max(1, sample_rate // LOW_RATE)
        self._rate = sample_rate / self._fold
        self._size = int(WINDOW_S * self._rate)
        self._window = window(self._size)
        self._rest = np.zeros(0, np.float32)
        self._low = np.zeros(0, np.float32)
        # Nobody asks for more than what lies around the highest multiple.
        highest = int((max(MAINS_HZ) * HARMONICS + AROUND_HZ[1]) * self._size / self._rate) + 2
        self._sum = np.zeros(min(highest, self._size // 2 + 1))
        self._windows = 0

    def push(self, mixed: NDArray[np.float32]) -> None:
        """Take (n,) more."""
        # a plain mean is filter enough: it has its zeros where the lowest frequencies would be folded to
        whole = np.append(self._rest, mixed)
        count = len(whole) // self._fold
        self._rest = whole[count * self._fold :]
        folded = whole[: count * self._fold].reshape(count, self._fold)
        self._low = np.append(self._low, folded @ np.full(self._fold, 1 / self._fold, np.float32))
        if len(self._low) >= self._size:
            half = self._size // 2
            windows = np.lib.stride_tricks.sliding_window_view(self._low, self._size)[::half]
            self._look(windows)
            self._low = self._low[len(windows) * half :]

    def finish(self) -> float | None:
        """50.0 or 60.0 where such hum stands out."""
        if self._windows < LEAST_WINDOWS:
            return None
        level = self._sum / self._windows
        strengths = {mains: self._stand_out(level, mains) for mains in MAINS_HZ}
        heard = {mains: sum(heights) for mains, heights in strengths.items() if _is_hum(heights)}
        return max(heard, key=lambda mains: heard[mains]) if heard else None

    def _look(self, windows: NDArray[np.float32]) -> None:
        """Take whole windows, (windows, samples)."""
        windows = windows[mean_squares(windows) >= DIGITAL_SILENCE]
        centred = (windows - windows.mean(axis=1, keepdims=True)) * self._window
        spectrum = np.fft.rfft(centred)[:, : len(self._sum)]
        power = (spectrum.real**2 + spectrum.imag**2) * (2 / self._window.sum()) ** 2
        self._sum += 10 / np.log(10) * np.log(power + 1e-18).sum(axis=0, dtype=np.float64)
        self._windows += len(windows)

    def _stand_out(self, level: NDArray[np.float64], mains: float) -> list[float]:
        """By how many dB each multiple stands out; 0 where it does not."""
        at, around, next_to = _places(len(level), self._rate / self._size, mains)
        line = level[at].max(axis=1)
        clear = (line - level[next_to].max(axis=1) >= ALONE_DB) & (line >= 20 * np.log10(LEAST_AMPLITUDE))
        if not clear.any():
            return [0.0] * HARMONICS
        height = line - np.median(level[around], axis=1)
        heights: list[float] = np.where(clear & (height >= STANDS_OUT_DB), height, 0.0).tolist()
        return heights


@lru_cache(maxsize=64)
def _places(bins: int, width_hz: float, mains: float) -> tuple[NDArray[np.intp], ...]:
    """For each multiple of *mains* the bins on it, around it, and next to it: three arrays [multiples, bins]."""
    frequency = np.arange(bins) * width_hz
    away = np.abs(frequency - mains * np.arange(1, HARMONICS + 1)[:, None])
    rings = (
        away <= LINE_HZ,
        (away >= AROUND_HZ[0]) & (away <= AROUND_HZ[1]),
        (away >= AROUND_HZ[0]) & (away <= ALONE_HZ),
    )
    # A multiple near an end of the spectrum has fewer bins about it than another: all get as few.
    return tuple(np.stack([np.flatnonzero(row)[: ring.sum(axis=1).min()] for row in ring]) for ring in rings)


def _is_hum(heights: list[float]) -> bool:
    """The mains and one multiple, or four multiples with odd ones: a steady voice has every second at most."""
    lines = [height > 0 for height in heights]
    return (lines[0] and sum(lines) >= 2) or (sum(lines) >= 4 and any(lines[2::2]))
