"""The yardstick: a straight line through ten plain measurements. A net that does not beat it has learnt nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.corpus import Mono
from training.quality.labels import RATE_HZ, Clips
from training.simulate.levels import frame_powers
from training.simulate.spectrum import stft

RIDGE = 1.0


def measure(samples: Mono) -> NDArray[np.float64]:
    """Floor, crest, clipped and silent shares, centroid, bands over 4 and 7 kHz, flatness, spread and swing."""
    powers = frame_powers(samples, RATE_HZ) + 1e-12
    active = powers > powers.max() / 1000
    level = powers[active].mean()
    peak = float(np.abs(samples).max()) + 1e-9
    spectrum = np.mean(np.abs(stft(samples)[::2]) ** 2, axis=0) + 1e-12
    frequencies = np.linspace(0, RATE_HZ / 2, len(spectrum))
    levels_db = 10 * np.log10(powers / level)
    return np.array(
        [
            np.quantile(levels_db, 0.1),
            20 * np.log10(peak / np.sqrt(level)),
            np.log10(np.mean(np.abs(samples) > 0.98 * peak) + 1e-5),
            np.mean(powers < 1e-10),
            (frequencies * spectrum).sum() / spectrum.sum() / 1000,
            10 * np.log10(spectrum[frequencies > 4000].sum() / spectrum.sum()),
            10 * np.log10(spectrum[frequencies > 7000].sum() / spectrum.sum()),
            np.mean(np.log(spectrum)) - np.log(np.mean(spectrum)),
            np.std(levels_db),
            np.mean(np.abs(np.diff(levels_db))),
        ]
    )


def measure_all(clips: Clips, count: int) -> NDArray[np.float64]:
    """`measure` of the first *count* clips, shaped (count, 10)."""
    return np.array([measure(samples.astype(np.float32) / 32768) for samples in clips.waveforms()[:count]])


def fit_line(train: NDArray[np.float64], labels: NDArray[np.float32], test: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ridge regression on standardised measurements, applied to *test*."""
    mean, spread = train.mean(0), train.std(0) + 1e-9
    known = np.column_stack([(train - mean) / spread, np.ones(len(train))])
    weights = np.linalg.solve(known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ labels)
    return np.clip(np.column_stack([(test - mean) / spread, np.ones(len(test))]) @ weights, 1.0, 4.64)
