"""Noise reducers: the damage they leave (musical noise, dull or gated speech) is one a score must know.

`gate` and `expand` also serve to take the floor off references.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import scipy.ndimage
from numpy.typing import NDArray

from training.corpus import Mono
from training.simulate.levels import frame_powers
from training.simulate.spectrum import istft, stft

Powers = NDArray[np.float32]


def noise_estimate(powers: Powers, quantile: float = 0.15) -> Powers:
    """Mean noise power of each bin, shaped (1, bins): a low quantile over time, corrected as for Gaussian noise."""
    # The quantile q of an exponential distribution of mean m is -m log(1 - q).
    return (np.quantile(powers, quantile, axis=0, keepdims=True) / -np.log1p(-quantile)).astype(np.float32)


def spectral_subtraction(samples: Mono, over: float, floor: float) -> Mono:
    """Subtract *over* times the estimated noise power; gains never fall below *floor*. Leaves musical noise."""
    spectra = stft(samples)
    powers = np.abs(spectra) ** 2
    kept = 1 - over * noise_estimate(powers) / np.maximum(powers, 1e-12)
    return istft(spectra * np.sqrt(np.maximum(kept, floor**2)), len(samples))


def wiener(samples: Mono, smoothing: float, floor: float) -> Mono:
    """Wiener gains from a decision-directed ratio (Ephraim, Malah 1984); *smoothing* is the past frame's share."""
    spectra = stft(samples)
    powers = np.abs(spectra) ** 2
    ratios = powers / np.maximum(noise_estimate(powers), 1e-12)
    gains = np.empty_like(ratios)
    before = np.ones_like(ratios[0])
    for frame, ratio in enumerate(ratios):
        prior = smoothing * before + (1 - smoothing) * np.maximum(ratio - 1, 0)
        gains[frame] = np.maximum(prior / (1 + prior), floor)
        before = gains[frame] ** 2 * ratio
    return istft(spectra * gains, len(samples))


def gate(samples: Mono, floor: float = 0.1) -> Mono:
    """Spectral gate for references: gains smoothed over time and frequency, so that they leave no musical noise."""
    spectra = stft(samples)
    powers = np.abs(spectra) ** 2
    smooth = scipy.ndimage.uniform_filter(powers, (5, 3))
    gains = np.clip(1 - 2 * noise_estimate(smooth, 0.05) / np.maximum(smooth, 1e-12), floor, 1)
    return istft(spectra * scipy.ndimage.uniform_filter(gains, (3, 3)), len(samples))


def expand(samples: Mono, rate_hz: int, open_db: float = -28.0, shut_db: float = -40.0, depth_db: float = 25.0) -> Mono:
    """Turn pauses down: no change above *open_db* (relative to active speech), *depth_db* less below *shut_db*."""
    powers = frame_powers(samples, rate_hz)
    if len(powers) < 3:
        return samples
    active = powers[powers > powers.max() / 1000].mean()
    level_db = 10 * np.log10(scipy.ndimage.maximum_filter1d(powers, 3) / max(active, 1e-20) + 1e-12)
    closed = np.clip((open_db - level_db) / (open_db - shut_db), 0, 1)
    size = len(samples) / len(powers)
    centres = (np.arange(len(powers)) + 0.5) * size
    gain_db = np.interp(np.arange(len(samples)), centres, -depth_db * closed)
    return (samples * 10 ** (gain_db / 20)).astype(np.float32)


class Enhancer:
    """A trained enhancer's ONNX export (`waveform`, `lengths` to `enhanced`), opened when it is first used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, samples: Mono) -> Mono:
        level = max(float(np.abs(samples).max(initial=0.0)), 1e-9) * 2
        given = {"waveform": (samples / level)[None].astype(np.float32), "lengths": np.array([len(samples)])}
        enhanced: Mono = _session(self._path).run(["enhanced"], given)[0][0]
        return enhanced * np.float32(level)


@cache
def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
