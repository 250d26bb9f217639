"""Short-time and whole-clip spectra: the few operations that the rest of the simulator shares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from training.corpus import Mono

SIZE, HOP = 512, 128
_WINDOW = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SIZE) / SIZE)).astype(np.float32)
_OVERLAP_SUM = np.float32(SIZE / HOP / 2)
"""Squared square-root Hann windows a quarter apart add to this."""

Curve = NDArray[np.float32]
Spectra = NDArray[np.complex64]


def stft(samples: Mono) -> Spectra:
    """Spectra shaped (frames, 257): 512 samples every 128, square-root Hann, zeros before and after."""
    padded = np.pad(samples, (SIZE - HOP, SIZE + HOP))
    frames = np.lib.stride_tricks.sliding_window_view(padded, SIZE)[::HOP]
    return np.asarray(scipy.fft.rfft(frames * _WINDOW, axis=1), dtype=np.complex64)


def istft(spectra: Spectra, count: int) -> Mono:
    """The *count* samples whose `stft` is *spectra*; exact where they are unchanged."""
    frames = scipy.fft.irfft(spectra, SIZE, axis=1).astype(np.float32) * _WINDOW
    whole = np.zeros((len(frames) + SIZE // HOP - 1) * HOP, np.float32)
    for part in range(SIZE // HOP):
        whole[part * HOP : (part + len(frames)) * HOP] += frames[:, part * HOP : (part + 1) * HOP].reshape(-1)
    return whole[SIZE - HOP : SIZE - HOP + count] / _OVERLAP_SUM


def shape(samples: Mono, rate_hz: int, gain: Callable[[Curve], Curve]) -> Mono:
    """*samples* filtered without delay by `gain(frequencies in Hz)`, an amplitude factor for each frequency."""
    size = scipy.fft.next_fast_len(len(samples) + 2048, real=True)
    spectrum = scipy.fft.rfft(samples, size)
    frequencies = np.linspace(0, rate_hz / 2, len(spectrum), dtype=np.float32)
    return np.asarray(scipy.fft.irfft(spectrum * gain(frequencies), size)[: len(samples)], dtype=np.float32)


def smooth_gain(knots_hz: NDArray[np.float64], knots_db: NDArray[np.float64]) -> Callable[[Curve], Curve]:
    """A gain that runs through the knots, straight in dB over the logarithm of frequency."""

    def gain(frequencies: Curve) -> Curve:
        level_db = np.interp(np.log(np.maximum(frequencies, 1.0)), np.log(knots_hz), knots_db)
        return np.asarray(10 ** (level_db / 20), dtype=np.float32)

    return gain


def random_gain(rng: np.random.Generator, rate_hz: int, spread_db: float, tilt_db: float) -> Callable[[Curve], Curve]:
    """A smooth random response: nine knots of deviation *spread_db*, and a tilt of up to *tilt_db* / 2 at each end."""
    knots_hz = np.geomspace(60, rate_hz / 2, 9)
    knots_db = rng.normal(0, spread_db, 9) + np.linspace(-0.5, 0.5, 9) * rng.uniform(-tilt_db, tilt_db)
    return smooth_gain(knots_hz, knots_db)


def band_gain(low_hz: float, high_hz: float, edge_share: float = 0.08) -> Callable[[Curve], Curve]:
    """Passes *low_hz*…*high_hz*; cosine edges, each as wide as *edge_share* of its own frequency."""

    def gain(frequencies: Curve) -> Curve:
        up = np.clip((frequencies - low_hz) / max(low_hz * edge_share, 1e-3) + 1, 0, 1) if low_hz > 0 else 1.0
        down = np.clip((high_hz - frequencies) / (high_hz * edge_share) + 1, 0, 1)
        return np.asarray(np.sin(np.pi / 2 * up) ** 2 * np.sin(np.pi / 2 * down) ** 2, dtype=np.float32)

    return gain
