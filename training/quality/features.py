"""The clips' features, computed once by the net's own front end and mapped from disk, and one variation of them.

Gain and polarity need no variation: the front end takes them out exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.quality.labels import CLIP, Clips
from training.quality.model import BINS, HOP, RATE_HZ, LogSpectrum

FRAMES = CLIP // HOP + 1
KNOTS = 9
LOWEST = -2.0
"""What the front end says of digital silence."""


@dataclass(frozen=True, slots=True)
class Features:
    """`spectra` [clips, frames, 257] float16, the true frames, labels and each clip's mean powers [clips, 257]."""

    spectra: NDArray[np.float16]
    counts: NDArray[np.int64]
    labels: NDArray[np.float32]
    powers: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: NDArray[np.int64], responses_db: NDArray[np.float32] | None = None) -> tuple[Tensor, ...]:
        """Features, counts and labels of *rows*, heard through *responses_db* [rows, 257] where given."""
        counts = self.counts[rows]
        spectra = self.spectra[rows, : counts.max()].astype(np.float32)
        if responses_db is not None:
            spectra = respond(spectra, self.powers[rows], responses_db)
        return torch.from_numpy(spectra), torch.from_numpy(counts), torch.from_numpy(self.labels[rows])


def open_features(clips: Clips, folder: Path, split: str) -> Features:
    """The features of *clips*, computed for those that `folder` does not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    spectra_path, powers_path = folder / f"{split}.features.f16", folder / f"{split}.powers.f32"
    size = FRAMES * BINS * 2
    done = spectra_path.stat().st_size // size if spectra_path.exists() and powers_path.exists() else 0
    done = min(done, powers_path.stat().st_size // (BINS * 4) if done else 0)
    count = len(clips.facts)
    if done < count:
        with spectra_path.open("ab") as spectra_file, powers_path.open("ab") as powers_file:
            spectra_file.truncate(done * size)
            powers_file.truncate(done * BINS * 4)
            _extend(clips, done, spectra_file, powers_file, split)
    spectra = np.memmap(spectra_path, dtype=np.float16, mode="r", shape=(count, FRAMES, BINS))
    powers = np.fromfile(powers_path, np.float32, count * BINS).reshape(count, BINS)
    return Features(spectra, clips.lengths() // HOP + 1, clips.labels(), powers)


def _extend(clips: Clips, first: int, spectra_file: object, powers_file: object, split: str) -> None:
    front, waveforms, lengths = LogSpectrum(), clips.waveforms(), clips.lengths()
    starts = range(first, len(lengths), 16)
    for row in tqdm(starts, desc=f"features {split}", unit="batch", leave=False, mininterval=5.0):
        part = slice(row, row + 16)
        with torch.no_grad():
            heard = torch.from_numpy(waveforms[part].astype(np.float32) / 32768)
            spectra, counts = front(heard, torch.from_numpy(lengths[part]))
        mask = (torch.arange(FRAMES) < counts.unsqueeze(1)).unsqueeze(2)
        powers = (10 ** (3 * spectra - 4) * mask).sum(1) / counts.unsqueeze(1)
        spectra.numpy().astype(np.float16).tofile(spectra_file)
        powers.numpy().astype(np.float32).tofile(powers_file)


def respond(
    spectra: NDArray[np.float32], powers: NDArray[np.float32], responses_db: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Features as if each clip had been heard through its response, at the level the front end would give it then.

    A response common to speech and damage changes PESQ little: it is taken to leave the label as it is.
    """
    gained = (powers * 10 ** (responses_db / 10)).sum(1) / np.maximum(powers.sum(1), 1e-12)
    shift_db = responses_db - 10 * np.log10(np.maximum(gained, 1e-12))[:, None]
    return np.maximum(spectra + (shift_db / 30)[:, None, :], LOWEST).astype(np.float32)


def random_responses(rng: np.random.Generator, count: int, spread_db: float, tilt_db: float) -> NDArray[np.float32]:
    """Smooth random responses [count, 257] in dB; each with a spread of its own up to *spread_db*."""
    bins_hz = np.maximum(np.linspace(0, RATE_HZ / 2, BINS), 30.0)
    places = np.interp(np.log(bins_hz), np.log(np.geomspace(60, RATE_HZ / 2, KNOTS)), np.arange(KNOTS))
    left = np.minimum(places.astype(int), KNOTS - 2)
    part = places - left
    knots = rng.normal(0, 1, (count, KNOTS)) * rng.uniform(0, spread_db, (count, 1))
    knots += np.linspace(-0.5, 0.5, KNOTS) * rng.uniform(-tilt_db, tilt_db, (count, 1))
    return (knots[:, left] * (1 - part) + knots[:, left + 1] * part).astype(np.float32)
