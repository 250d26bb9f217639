"""Recordings and files for the tests of audio, all made here."""

from __future__ import annotations

import io
import struct
from functools import cache

import numpy as np
import soundfile
from numpy.typing import NDArray

from service.audio.decode import Recording, open_recording
from service.audio.raw import RawFormat
from service.values import AudioLimits, Samples

LIMITS = AudioLimits()


@cache
def speech(seconds: float, rate: int = 16_000, seed: int = 0, pitch_hz: float = 120.0, steady: bool = False) -> Samples:
    """Voiced syllables, hisses between them, a faint floor; -20 dBFS, up to half the rate or 8 kHz; (1, frames)."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    wander = 0.08 * np.sin(2 * np.pi * 2.3 * time + seed) + 0.05 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch_hz * (1 + (0 if steady else 1) * wander)) / rate
    count = int(min(0.95 * rate / 2, 8000) / (1.15 * pitch_hz))
    turn = np.exp(1j * phase).astype(np.complex64)
    harmonic, voice = np.ones_like(turn), np.zeros(time.size)
    for k in range(1, count):
        harmonic *= turn
        voice += (harmonic * np.exp(1j * rng.uniform(0, 6)) / k).imag
    syllables = np.sin(2 * np.pi * 3.1 * time)
    hiss = 0.3 * rng.standard_normal(time.size) * np.clip(-syllables - 0.6, 0, None)
    mixed = voice * np.clip(syllables + 0.3, 0, None) ** 2 + hiss
    mixed *= 0.1 / np.sqrt(np.mean(mixed**2))
    samples = (mixed + 1e-4 * rng.standard_normal(time.size)).astype(np.float32)[None]
    samples.flags.writeable = False  # it is made once: copy it to change it
    return samples


def syllable(number: int) -> float:
    """The second in which that syllable of `speech` is loudest."""
    return (number + 0.25) / 3.1


def tone(seconds: float, rate: int, channels: int = 1, hz: float = 440.0, level: float = 0.5) -> Samples:
    """(channels, frames); each channel is half as loud as the one before."""
    wave = np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return (level * wave * 0.5 ** np.arange(channels)[:, None]).astype(np.float32)


def encoded(kind: str, subtype: str, samples: Samples, rate: int) -> bytes:
    """A file as libsndfile writes it."""
    target = io.BytesIO()
    with soundfile.SoundFile(target, "w", rate, samples.shape[0], subtype, format=kind) as file:
        for at in range(0, samples.shape[1], 4096):
            file.write(samples[:, at : at + 4096].T)
    return target.getvalue()


def chunk(name: bytes, body: bytes, length: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if length is None else length) + body + b"\0" * (len(body) % 2)


def wav(
    data: bytes,
    *,
    tag: int = 1,
    channels: int = 1,
    rate: int = 16_000,
    bits: int = 16,
    align: int | None = None,
    data_length: int | None = None,
    riff_length: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A WAV file with any lie in its header."""
    align = channels * bits // 8 if align is None else align
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits)
    length = len(data) if data_length is None else data_length
    inside = b"WAVE" + before + chunk(b"fmt ", fmt) + b"data" + struct.pack("<I", length) + data + after
    return b"RIFF" + struct.pack("<I", len(inside) if riff_length is None else riff_length) + inside


def pcm16(samples: Samples) -> bytes:
    """Interleaved."""
    return (np.clip(samples.T, -1, 1) * 32767).astype("<i2").tobytes()


def heard(
    body: bytes | bytearray | memoryview, limits: AudioLimits = LIMITS, raw: RawFormat | None = None
) -> tuple[Samples, Recording]:
    """All samples of a body, and the recording, closed."""
    with open_recording(body, limits, raw) as recording:
        blocks = list(recording.blocks())
        return np.concatenate(blocks, axis=1), recording


def level(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
