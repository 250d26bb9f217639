"""The clips' features, computed once by the net's own front end and mapped from disk, and one variation of them.

Gain and polarity need no variation: the front end takes them out exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.quality.labels import Clips, cut
from training.quality.spectrum import BINS, HEARD_BINS, RATE_HZ, Spectrum

KNOTS = 9
LOWEST = -2.0
"""What the front end says of digital silence."""


@dataclass(frozen=True, slots=True)
class Features:
    """Of each clip: `spectra` [frames, 257] float16, the true frames, label (0: no speech), mean powers [257], curve
    [frames], and where it is speech [frames]."""

    spectra: list[NDArray[np.float16]]
    counts: NDArray[np.int64]
    labels: NDArray[np.float32]
    powers: NDArray[np.float32]
    curves: list[NDArray[np.float16]]
    speech: list[NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: NDArray[np.int64], responses_db: NDArray[np.float32] | None = None) -> tuple[Tensor, ...]:
        """Features, counts, labels, curves and speech of *rows*, heard through *responses_db* [rows, 257]."""
        counts = self.counts[rows]
        spectra = np.zeros((len(rows), int(counts.max()), BINS), np.float32)
        curves, speech = np.zeros(spectra.shape[:2], np.float32), np.zeros(spectra.shape[:2], np.float32)
        for place, row in enumerate(rows.tolist()):
            spectra[place, : counts[place]] = self.spectra[row]
            curves[place, : counts[place]] = self.curves[row]
            speech[place, : counts[place]] = self.speech[row]
        if responses_db is not None:
            spectra = respond(spectra, self.powers[rows], responses_db)
        spectra[:, :, HEARD_BINS:] = 0
        return (
            torch.from_numpy(spectra), torch.from_numpy(counts), torch.from_numpy(self.labels[rows]),
            torch.from_numpy(curves), torch.from_numpy(speech),
        )  # fmt: skip


def open_features(clips: Clips, folder: Path, split: str) -> Features:
    """The features of *clips*, computed for those that `folder` does not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    spectra_path, powers_path = folder / f"{split}.features.f16", folder / f"{split}.powers.f32"
    count, frames = len(clips.facts), clips.frames()
    ends = np.concatenate([[0], np.cumsum(frames)])
    done = min(_held(powers_path, BINS * 4), int(np.searchsorted(ends, _held(spectra_path, BINS * 2), "right")) - 1)
    if done < count:
        with spectra_path.open("ab") as spectra_file, powers_path.open("ab") as powers_file:
            spectra_file.truncate(int(ends[done]) * BINS * 2)
            powers_file.truncate(done * BINS * 4)
            _extend(clips, done, spectra_file, powers_file, split)
    powers = np.fromfile(powers_path, np.float32, count * BINS).reshape(count, BINS)
    spectra = cut(spectra_path, np.float16, frames, BINS)
    return Features(spectra, frames, clips.labels(), powers, clips.curves(), clips.speech())


def _held(path: Path, size: int) -> int:
    return path.stat().st_size // size if path.exists() else 0


def _extend(clips: Clips, first: int, spectra_file: BinaryIO, powers_file: BinaryIO, split: str) -> None:
    front, waveforms = Spectrum(), clips.waveforms()
    for row in tqdm(range(first, len(waveforms)), desc=f"features {split}", unit="clip", leave=False, mininterval=5.0):
        heard = torch.from_numpy(waveforms[row].astype(np.float32) / 32768)
        with torch.no_grad():
            spectra = front(heard[None], torch.tensor([len(heard)]))[0][0]
        spectra.numpy().astype(np.float16).tofile(spectra_file)
        (10 ** (3 * spectra - 4)).mean(0).numpy().astype(np.float32).tofile(powers_file)


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
