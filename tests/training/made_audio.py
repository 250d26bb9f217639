"""Speech-like sounds and a corpus of them, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from training.corpus import Corpus, read_corpus

RATE_HZ = 16000
HEADER = (
    "path,kind,uses,label,group,speaker,language,rate,channels,seconds,fold,split,"
    "snr,clear,bandwidth,f0,codec,licence,credit,source,floor"
)


def voice(seconds: float, seed: int = 0, pitch_hz: float = 140.0) -> NDArray[np.float32]:
    """Syllables of a buzzing voice with three moving formants and pauses; RMS about 0.05."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * RATE_HZ)
    time_s = np.arange(samples) / RATE_HZ
    pitch = pitch_hz * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time_s + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    total = np.zeros(samples)
    for harmonic in range(1, 40):
        frequency = harmonic * pitch_hz
        formants = sum(np.exp(-(((frequency - centre) / 250) ** 2)) for centre in (500, 1500 + 300 * seed % 700, 2600))
        total += (formants + 0.02) / harmonic**0.5 * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * time_s + rng.uniform(0, 6)) + 0.4, 0, 1)
    words = np.sin(2 * np.pi * 0.6 * time_s + rng.uniform(0, 6)) > -0.6
    spoken = total * syllables * words + 1e-4 * rng.standard_normal(samples)
    return (0.05 * spoken / np.sqrt(np.mean(spoken**2))).astype(np.float32)


def made_corpus(folder: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> Corpus:
    """Two speakers, a steady noise and a room in each split."""
    rows = [HEADER]
    for place, split in enumerate(splits):
        for speaker in range(2):
            name = f"{split}-voice{speaker}.wav"
            soundfile.write(folder / name, voice(5.0, 10 * place + speaker, 110 + 60 * speaker), RATE_HZ)
            rows.append(
                f"{name},speech,speech,,{split}{speaker},,en,16000,1,5.0,,{split},50,1,8000,,pcm,CC0-1.0,Made,m,-60"
            )
        rng = np.random.default_rng(place)
        soundfile.write(folder / f"{split}-noise.wav", 0.05 * rng.standard_normal(20000), RATE_HZ)
        rows.append(f"{split}-noise.wav,noise,noise,fan,{split}-fan,,,16000,1,1.25,,{split},,,,,pcm,CC0-1.0,Made,m,")
        room = rng.standard_normal(4000) * np.exp(-np.arange(4000) / 600)
        soundfile.write(folder / f"{split}-room.wav", 0.5 * room / np.abs(room).max(), RATE_HZ)
        rows.append(f"{split}-room.wav,rir,rir,hall,{split}-hall,,,16000,1,0.25,,{split},,,,,pcm,CC0-1.0,Made,m,")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return read_corpus(folder)
