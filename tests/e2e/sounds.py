"""Recordings for tests, made here."""

from __future__ import annotations

import io
import wave

import numpy as np
from numpy.typing import NDArray


def speechlike(seconds: float, rate: int = 16_000, seed: int = 0) -> NDArray[np.float32]:
    """Harmonics with a syllable-like envelope over a faint floor, (frames,)."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * time + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase) / k**1.2 for k in range(1, 25) if k * 160 < rate / 2)
    envelope = np.clip(np.sin(2 * np.pi * 2.3 * time) + 0.3, 0, 1) ** 0.7
    return (0.12 * voice * envelope + 0.0005 * rng.standard_normal(time.size)).astype(np.float32)


def wav(samples: NDArray[np.float32], rate: int = 16_000) -> bytes:
    """PCM 16 WAV of (frames,) or (channels, frames)."""
    channels = np.atleast_2d(samples)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(channels, -1, 1).T * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def long_wav(minutes: float, rate: int = 8000) -> bytes:
    """A long one that is small on the wire: one minute, repeated."""
    minute = speechlike(60, rate)
    return wav(np.tile(minute, max(1, round(minutes))), rate)
