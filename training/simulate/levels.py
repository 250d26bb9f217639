"""Levels of speech and noise, in the one definition that every ratio of the simulator uses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.corpus import Mono

FRAME_S = 0.02
ACTIVE_BELOW_LOUDEST_DB = 30.0
SILENT = 1e-7
"""An RMS below this (-140 dBFS) is taken for digital silence."""


def rms(samples: Mono) -> float:
    """Root of the mean power of all samples; 0 for none."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def frame_powers(samples: Mono, rate_hz: int) -> NDArray[np.float64]:
    """Mean power of each whole frame of 20 ms."""
    size = round(FRAME_S * rate_hz)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    return np.mean(np.square(frames, dtype=np.float64), axis=1)


def active_frames(samples: Mono, rate_hz: int) -> NDArray[np.bool_]:
    """Which 20 ms frames lie within 30 dB of the loudest."""
    powers = frame_powers(samples, rate_hz)
    return powers > max(float(powers.max(initial=0.0)) * 10 ** (-ACTIVE_BELOW_LOUDEST_DB / 10), SILENT**2)


def active_rms(samples: Mono, rate_hz: int) -> float:
    """RMS over the active frames alone: the level of speech without its pauses; 0 where nothing is active."""
    active = active_frames(samples, rate_hz)
    return float(np.sqrt(frame_powers(samples, rate_hz)[active].mean())) if active.any() else 0.0


def active_share(samples: Mono, rate_hz: int) -> float:
    """Share of 20 ms frames that are active, 0…1."""
    active = active_frames(samples, rate_hz)
    return float(active.mean()) if len(active) else 0.0


def from_db(level_db: float) -> float:
    """Amplitude factor of a level in dB."""
    return float(10 ** (level_db / 20))


def to_peak(samples: Mono, peak_dbfs: float) -> Mono:
    """*samples* scaled so that the largest magnitude is *peak_dbfs*; silence stays."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples if peak < SILENT else (samples * np.float32(from_db(peak_dbfs) / peak)).astype(np.float32)
