"""Noisy speech with its clean reference: drawn anew for training, or as fixed lists for validation and test.

Knows what an enhancer must hear. The sounds come from a corpus; voices, noises and rooms from the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.corpus import Corpus, Mono, Sounds, open_sounds
from training.enhance.network import SAMPLE_RATE_HZ
from training.simulate.levels import SILENT, from_db, rms
from training.simulate.mixture import Mixture, mix
from training.simulate.noise import Noises, stretch
from training.simulate.rooms import draw_room
from training.simulate.spectrum import band_gain, shape
from training.simulate.speech import Preparation, Voices

PREPARATION = Preparation(gated=0.25, second_voice=0.0, coded=0.0, near_room=0.1, room_tone=0.0)
"""References without room tone: what lies under the voice is to be taken away, not learned."""
LIST_LEVEL_DBFS = -28.0
SNR_DB = (-6.0, 18.0)
LEVEL_DBFS = (-40.0, -15.0)


@dataclass(frozen=True, slots=True)
class Material:
    """What one split offers."""

    voices: Voices
    noises: Noises
    rooms: Sounds


@dataclass(frozen=True, slots=True)
class Case:
    """One entry of a fixed list: the mixture, its ratio of whole powers, the noise's label and the speaker."""

    noisy: Mono
    clean: Mono
    snr_db: float
    label: str
    speaker: str


def open_material(corpus: Corpus, split: str, runs: Path) -> Material:
    """Clear speech, noise and rooms of *split* at the enhancer's rate."""
    speech = open_sounds(corpus.select(split=split, kind="speech", clear=True), SAMPLE_RATE_HZ, runs)
    noise = open_sounds(corpus.select(split=split, use="noise"), SAMPLE_RATE_HZ, runs)
    rooms = open_sounds(corpus.select(split=split, kind="rir"), SAMPLE_RATE_HZ, runs)
    return Material(Voices(speech), Noises(SAMPLE_RATE_HZ, noise, speech), rooms)


class Stock:
    """Gives something new in a share of the cases, else what it gave before: drawing must cost less than learning."""

    def __init__(self, make: Callable[[np.random.Generator], Mono], size: int = 64, fresh: float = 0.4) -> None:
        self.make, self.size, self.fresh = make, size, fresh
        self.kept: list[Mono] = []

    def draw(self, rng: np.random.Generator) -> Mono:
        if len(self.kept) == self.size and rng.random() > self.fresh:
            return self.kept[int(rng.integers(self.size))]
        made = self.make(rng)
        if len(self.kept) < self.size:
            self.kept.append(made)
        else:
            self.kept[int(rng.integers(self.size))] = made
        return made


class Mixer:
    """Draws mixtures of *count* samples for training from *material*."""

    def __init__(self, material: Material, count: int) -> None:
        self.count = count
        self.rooms = material.rooms
        self.voices = Stock(lambda rng: material.voices.draw(rng, count, PREPARATION).waveform)
        self.noises = Stock(lambda rng: _surroundings(rng, material.noises, count))

    def draw(self, rng: np.random.Generator) -> Mixture:
        """One mixture: one in twenty is speech alone, one in twenty noise alone (its `clean` is silence)."""
        kind = rng.choice(("both", "speech", "noise"), p=(0.90, 0.05, 0.05))
        if kind == "noise":
            return _levelled(rng, self.noises.draw(rng), np.zeros(self.count, np.float32))
        noise = None if kind == "speech" else self.noises.draw(rng)
        room = draw_room(rng, SAMPLE_RATE_HZ, (0.1, 0.7), recorded=self.rooms) if rng.random() < 0.3 else None
        mixture = mix(self.voices.draw(rng), noise, SAMPLE_RATE_HZ, float(rng.uniform(*SNR_DB)), room)
        noisy, clean = mixture.noisy, mixture.clean
        if rng.random() < 0.1:
            band = band_gain(0.0, float(rng.uniform(3400, 7000)))
            noisy, clean = shape(noisy, SAMPLE_RATE_HZ, band), shape(clean, SAMPLE_RATE_HZ, band)
        return _levelled(rng, noisy, clean)


def _surroundings(rng: np.random.Generator, noises: Noises, count: int) -> Mono:
    """One noise, or two of them one under the other."""
    first = noises.draw(rng, count).waveform
    if rng.random() < 0.7:
        return first
    second = noises.draw(rng, count).waveform
    return first + second * np.float32(from_db(float(rng.uniform(-15, 0))))


def _levelled(rng: np.random.Generator, noisy: Mono, clean: Mono) -> Mixture:
    """At a random level; what then passes full scale is clipped in half of the cases and turned down in the others."""
    gain = np.float32(from_db(float(rng.uniform(*LEVEL_DBFS))) / max(rms(noisy), SILENT))
    noisy, clean = noisy * gain, clean * gain
    peak = float(np.abs(noisy).max(initial=0.0))
    if peak > 1.0 and rng.random() < 0.5:
        return Mixture(np.clip(noisy, -1, 1), clean)
    fit = np.float32(1 / max(peak, 1.0))
    return Mixture(noisy * fit, clean * fit)


def batches(
    material: Material, items: int, seconds: float, steps: int
) -> Callable[[np.random.Generator], Iterator[tuple[Tensor, Tensor]]]:
    """Batches (noisy, clean), each [items, samples], as the training loop asks for them."""
    count = round(seconds * SAMPLE_RATE_HZ)

    def epoch(rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        mixer = Mixer(material, count)
        for _ in range(steps):
            drawn = [mixer.draw(rng) for _ in range(items)]
            yield (
                torch.from_numpy(np.stack([one.noisy for one in drawn])),
                torch.from_numpy(np.stack([one.clean for one in drawn])),
            )

    return epoch


def fixed_list(material: Material, snrs_db: tuple[float, ...], each: int, seed: int) -> list[Case]:
    """The same mixtures for the same arguments: *each* per ratio, up to 6 s of a voice in one recorded noise, no room.

    Speakers and recordings take turns, so that none is heard twice before all were heard once.
    """
    rng = np.random.default_rng(seed)
    speech, recorded = material.voices.sounds, material.noises.recorded
    if recorded is None:
        raise ValueError("a fixed list needs recorded noise")
    voices, noises = _Turns(rng, speech, 3.5), _Turns(rng, recorded, 1.0)
    made = []
    for snr_db in snrs_db * each:
        row, at = voices.next(), noises.next()
        count = min(round(float(rng.uniform(3.5, 6.0)) * SAMPLE_RATE_HZ), speech.size(row))
        clean = stretch(rng, count, speech, row)
        noise = stretch(rng, count, recorded, at)
        noisy = clean + noise * np.float32(rms(clean) / max(rms(noise), SILENT) * from_db(-snr_db))
        gain = np.float32(from_db(LIST_LEVEL_DBFS) / max(rms(noisy), SILENT))
        heard = speech.corpus.rows[row]
        made.append(Case(noisy * gain, clean * gain, snr_db, recorded.corpus.rows[at].label, heard.group))
    return made


class _Turns:
    """Groups of a corpus in shuffled turns, a random row of at least *least_s* from each."""

    def __init__(self, rng: np.random.Generator, sounds: Sounds, least_s: float) -> None:
        self.rng = rng
        rows: dict[str, list[int]] = {}
        for position, row in enumerate(sounds.corpus.rows):
            if sounds.size(position) >= least_s * SAMPLE_RATE_HZ:
                rows.setdefault(row.group, []).append(position)
        self.rows = list(rows.values())
        self.waiting: list[int] = []

    def next(self) -> int:
        if not self.waiting:
            self.waiting = [int(group) for group in self.rng.permutation(len(self.rows))]
        return int(self.rng.choice(self.rows[self.waiting.pop()]))
