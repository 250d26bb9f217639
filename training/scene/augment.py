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

from training.scene.examples import Examples
from training.scene.network import Shape

Bands = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of what. Levels in dB, chances in 0…1, lengths in frames."""

    batch: int = 32
    frames: int = 160
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
    bands: Tensor
    counts: Tensor
    present: Tensor
    known: Tensor


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
    powers, counts = zip(
        *(_crop(_pick(examples, index, chance), shape, recipe, chance) for index in chosen), strict=True
    )
    stack, sizes = np.stack(powers), np.array(counts)
    present, known = examples.present[chosen], examples.known[chosen]
    stack, sizes, present, known = _mixed(stack, sizes, present, known, recipe, chance)
    silent = chance.random(len(chosen)) < recipe.silent
    stack[silent], present[silent], known[silent] = 0.0, 0.0, 1.0
    stack = stack * _filters(len(chosen), shape, recipe, chance)
    stack = stack + _noise(len(chosen), shape, recipe, chance)
    bands = _masked(np.log(stack + shape.floor).astype(np.float32), recipe, chance)
    tensors = (torch.from_numpy(one) for one in (bands, sizes, present, known))
    return Batch(*tensors)


def _pick(examples: Examples, index: int, chance: np.random.Generator) -> Bands:
    versions = examples.bands[index]
    return versions[chance.integers(len(versions))].astype(np.float32)


def _crop(bands: Bands, shape: Shape, recipe: Recipe, chance: np.random.Generator) -> tuple[Bands, int]:
    """A part of *bands* as powers, rolled first; where it is all but silent another is taken."""
    powers = np.maximum(np.exp(bands) - shape.floor, 0.0)
    size = powers.shape[1]
    if size < recipe.frames:
        keeps = chance.random() < recipe.whole
        offset = 0 if keeps else chance.integers(recipe.frames - size + 1)
        placed = np.zeros((powers.shape[0], recipe.frames), np.float32)
        placed[:, offset : offset + size] = powers
        return placed, size if keeps else recipe.frames
    powers = np.roll(powers, chance.integers(size), axis=1)
    level = powers.sum(0)
    for _ in range(10):
        start = chance.integers(size - recipe.frames + 1)
        if level[start : start + recipe.frames].max() > 0.1 * level.max():
            break
    return powers[:, start : start + recipe.frames], recipe.frames


def _mixed(
    powers: Bands,
    sizes: NDArray[np.int64],
    present: NDArray[np.float32],
    known: NDArray[np.float32],
    recipe: Recipe,
    chance: np.random.Generator,
) -> tuple[Bands, NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Some items get another one of the batch beneath or above them; a sound at half strength is half present."""
    batch = len(powers)
    other = chance.permutation(batch)
    share = np.where(chance.random(batch) < recipe.mix, chance.beta(0.6, 0.6, batch), 1.0).astype(np.float32)
    loudness = np.sqrt(np.quantile(powers.sum(1), 0.9, axis=1)) + 1e-3
    level = np.exp(chance.uniform(-1, 1, batch).astype(np.float32) * recipe.gain_db * np.log(10) / 20)
    one = (share * level)[:, None, None] ** 2 * powers
    two = ((1 - share) * level * loudness / loudness[other])[:, None, None] ** 2 * powers[other]
    weight_one, weight_two = np.minimum(1, 2 * share)[:, None], np.minimum(1, 2 - 2 * share)[:, None]
    mixed_present = np.maximum(weight_one * present, weight_two * present[other])
    mixed_known = np.where(share[:, None] < 1, np.minimum(known, known[other]), known)
    mixed_sizes = np.where(share < 1, np.maximum(sizes, sizes[other]), sizes)
    return one + two, mixed_sizes, mixed_present.astype(np.float32), mixed_known.astype(np.float32)


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
