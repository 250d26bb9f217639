"""Batches for training: crops of bands, mixed, filtered and masked afresh in every epoch. Pure numpy on power bands.

Powers of unrelated sounds add, so two sounds are mixed exactly enough by adding their mel powers, and a filter or a
gain is a factor a band: nothing here needs the waveform.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.scene.classes import LABELS, STEADY
from training.scene.examples import Examples
from training.scene.network import Shape

Bands = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of what. Levels in dB, chances in 0…1, lengths in frames."""

    batch: int = 32
    frames: int = 128
    speech_share: float = 0.15
    other_share: float = 0.25
    mix: float = 0.6
    gain_db: float = 12.0
    filter: float = 0.3
    noise: float = 0.3
    silent: float = 0.03
    """Chance of an item with nothing in it but, perhaps, faint noise."""
    mask_bands: int = 10
    mask_frames: int = 20
    whole: float = 0.3
    """Chance that a short piece keeps its own length rather than lie in silence."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Bands [items, mels, frames] with their valid frames, and what is heard: in the clip [items, classes], in its
    frames of four hops [items, time, classes], and 1 where that is known."""

    bands: Tensor
    counts: Tensor
    present: Tensor
    known: Tensor
    frames_present: Tensor
    frames_known: Tensor


@dataclass(frozen=True, slots=True)
class _Sounds:
    """The same in numpy, before noise and masks. `active` [items, time] is 1 or 0, or nan where that is not clear."""

    powers: Bands
    counts: NDArray[np.int64]
    active: Bands
    present: Bands
    known: Bands


def steps_per_epoch(examples: Examples, recipe: Recipe) -> int:
    return len(_order(examples, recipe, np.random.default_rng(0))) // recipe.batch


def batches(examples: Examples, shape: Shape, recipe: Recipe, chance: np.random.Generator) -> Iterator[Batch]:
    """One epoch: every piece with one of the ten sounds once, and a share of speech and of other sounds."""
    order = _order(examples, recipe, chance)
    for first in range(0, len(order) - recipe.batch + 1, recipe.batch):
        yield _batch(examples, order[first : first + recipe.batch], shape, recipe, chance)


def _order(examples: Examples, recipe: Recipe, chance: np.random.Generator) -> NDArray[np.int64]:
    speech = examples.present[:, -1] > 0
    sounds = examples.present[:, :-1].any(1) & ~speech
    shares = {"speech": recipe.speech_share, "other": recipe.other_share}
    main = np.flatnonzero(sounds)
    total = len(main) / (1 - sum(shares.values()))
    parts = [main]
    for pool, share in ((speech, recipe.speech_share), (~speech & ~sounds, recipe.other_share)):
        candidates = np.flatnonzero(pool)
        parts.append(chance.permutation(candidates)[: int(total * share)])
    return chance.permutation(np.concatenate(parts))


def _batch(
    examples: Examples, chosen: NDArray[np.int64], shape: Shape, recipe: Recipe, chance: np.random.Generator
) -> Batch:
    cropped = [_crop(_pick(examples, at, chance), shape, recipe, chance) for at in chosen]
    steady = examples.present[chosen] @ np.array([label in STEADY for label in LABELS], np.float32) > 0
    active = np.stack([activity(powers, level, one) for (powers, _, level), one in zip(cropped, steady, strict=True)])
    counts = np.array([count for _, count, _ in cropped])
    sounds = _Sounds(
        np.stack([one[0] for one in cropped]), counts, active, examples.present[chosen], examples.known[chosen]
    )
    powers, counts, present, known, frames_present, frames_known = _mixed(sounds, recipe, chance)
    silent = chance.random(len(chosen)) < recipe.silent
    for values, nothing in ((powers, 0), (present, 0), (frames_present, 0), (known, 1), (frames_known, 1)):
        values[silent] = nothing
    powers = powers * _filters(len(chosen), shape, recipe, chance) + _noise(len(chosen), shape, recipe, chance)
    bands = _masked(np.log(powers + shape.floor).astype(np.float32), recipe, chance)
    arrays = (bands, counts, present, known, frames_present, frames_known)
    return Batch(*(torch.from_numpy(one) for one in arrays))


def _pick(examples: Examples, index: int, chance: np.random.Generator) -> Bands:
    versions = examples.bands[index]
    return versions[chance.integers(len(versions))].astype(np.float32)


def _crop(bands: Bands, shape: Shape, recipe: Recipe, chance: np.random.Generator) -> tuple[Bands, int, float]:
    """A part of *bands* as powers, rolled first and never all but silent; its length, and the loudest power of all."""
    powers = np.maximum(np.exp(bands) - shape.floor, 0.0)
    level = powers.sum(0)
    loudest, size = float(level.max()), powers.shape[1]
    if size < recipe.frames:
        keeps = chance.random() < recipe.whole
        offset = 0 if keeps else chance.integers(recipe.frames - size + 1)
        placed = np.zeros((powers.shape[0], recipe.frames), np.float32)
        placed[:, offset : offset + size] = powers
        return placed, size if keeps else recipe.frames, loudest
    shift = chance.integers(size)
    powers, level = np.roll(powers, shift, axis=1), np.roll(level, shift)
    start = chance.integers(size - recipe.frames + 1)
    if level[start : start + recipe.frames].max() < 0.1 * loudest:
        start = int(np.clip(level.argmax() - chance.integers(recipe.frames), 0, size - recipe.frames))
    return powers[:, start : start + recipe.frames], recipe.frames, loudest


def activity(powers: Bands, loudest: float, steady: bool) -> Bands:
    """Whether the sound of a clip is heard in each frame of four hops: 1, 0, or nan where its level leaves that open.

    A steady sound is heard down to 40 dB below the clip's loudest hop; another is surely heard within 15 dB of it and
    surely not 35 dB below.
    """
    level = np.pad(powers.sum(0), (2, -powers.shape[1] % 4 + 2))[: (powers.shape[1] + 3) // 4 * 4].reshape(-1, 4).max(1)
    if steady:
        return (level > 1e-4 * loudest).astype(np.float32)
    surely, hardly = 10**-1.5 * loudest, 10**-3.5 * loudest
    return np.where(level > surely, 1.0, np.where(level < hardly, 0.0, np.nan)).astype(np.float32)


def _mixed(sounds: _Sounds, recipe: Recipe, chance: np.random.Generator) -> tuple[NDArray[np.generic], ...]:
    """Some items get another one of the batch beneath or above them; a sound at half strength is half present.

    Returns:
        Powers, counts, and presence and knowledge of clips and of frames.
    """
    batch = len(sounds.powers)
    other = chance.permutation(batch)
    share = np.where(chance.random(batch) < recipe.mix, chance.beta(0.6, 0.6, batch), 1.0).astype(np.float32)
    loudness = np.sqrt(np.quantile(sounds.powers.sum(1), 0.9, axis=1)) + 1e-3
    level = np.exp(chance.uniform(-1, 1, batch).astype(np.float32) * recipe.gain_db * np.log(10) / 20)
    one = (share * level)[:, None, None] ** 2 * sounds.powers
    two = ((1 - share) * level * loudness / loudness[other])[:, None, None] ** 2 * sounds.powers[other]
    first = np.minimum(1, 2 * share)[:, None] * sounds.present
    second = np.minimum(1, 2 - 2 * share)[:, None] * sounds.present[other]
    is_mixed = share < 1
    known = np.where(is_mixed[:, None], np.minimum(sounds.known, sounds.known[other]), sounds.known)
    counts = np.where(is_mixed, np.maximum(sounds.counts, sounds.counts[other]), sounds.counts)
    heard, clear = np.nan_to_num(sounds.active)[:, :, None], ~np.isnan(sounds.active)[:, :, None]
    frames_present = np.maximum(first[:, None] * heard, second[:, None] * heard[other])
    frames_clear = (clear | (first[:, None] == 0)) & (clear[other] | (second[:, None] == 0))
    within = np.arange(heard.shape[1])[None, :, None] * 4 < counts[:, None, None]
    frames_known = known[:, None] * frames_clear * within
    mixed = (one + two, np.maximum(first, second), known, frames_present, frames_known)
    powers, present, known, frames_present, frames_known = (values.astype(np.float32) for values in mixed)
    return powers, counts, present, known, frames_present, frames_known


def _filters(batch: int, shape: Shape, recipe: Recipe, chance: np.random.Generator) -> Bands:
    """A gentle tilt and at times a low-pass, as factors [batch, mels, 1]: codecs and microphones are no class."""
    mel = np.linspace(
        2595 * np.log10(1 + shape.low_hz / 700), 2595 * np.log10(1 + shape.sample_rate / 1400), shape.mels
    )
    centre_hz = 700 * (10 ** (mel / 2595) - 1)
    cutoff_hz = np.exp(chance.uniform(np.log(3000), np.log(14_000), (batch, 1)))
    low_pass = 1 / (1 + (centre_hz / cutoff_hz) ** chance.choice([4, 8, 32], (batch, 1)))
    low_pass = np.where(chance.random((batch, 1)) < recipe.filter, low_pass, 1.0)
    tilt_db = chance.uniform(-6, 6, (batch, 1)) * np.linspace(-1, 1, shape.mels)
    return (low_pass * 10 ** (tilt_db / 10)).astype(np.float32)[:, :, None]


def _noise(batch: int, shape: Shape, recipe: Recipe, chance: np.random.Generator) -> Bands:
    """Faint steady noise of a random colour, as powers [batch, mels, 1]."""
    level = np.where(chance.random((batch, 1)) < recipe.noise, np.exp(chance.uniform(-9, -1, (batch, 1))), 0.0)
    colour_db = chance.uniform(-20, 20, (batch, 1)) * np.linspace(-1, 1, shape.mels)
    return (level * 10 ** (colour_db / 10)).astype(np.float32)[:, :, None]


def _masked(bands: Bands, recipe: Recipe, chance: np.random.Generator) -> Bands:
    """SpecAugment: two stripes of bands and two of frames set to the item's mean."""
    for item in bands:
        mean = item.mean()
        for _ in range(2):
            wide, long = chance.integers(recipe.mask_bands + 1), chance.integers(recipe.mask_frames + 1)
            low, start = chance.integers(bands.shape[1] - wide + 1), chance.integers(bands.shape[2] - long + 1)
            item[low : low + wide] = mean
            item[:, start : start + long] = mean
    return bands
