"""Makes labelled clips: simulated damage with its PESQ-WB (ITU-T P.862.2) against the undamaged reference.

    python -m training.quality.labels --data FOLDER --train 20000

Speakers, noise recordings and rooms keep the manifest's split. A killed run goes on with the same command, and a
larger count adds to what is there. Clips of a split lie one after the other in a file of int16, their curves (where in
the clip the damage is heard) and speech (where somebody speaks) in files of a value a frame, their facts beside them,
one JSON line each. Some clips hold no speech: they have no label, and teach where a score means nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count as counted
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pesq import PesqError, pesq
from tqdm import tqdm

from service.backends.machine import usable_cores
from training.corpus import Corpus, Mono, add_arguments, open_sounds, read_corpus
from training.quality.perceptual import HOP, curve
from training.simulate.denoise import Enhancer
from training.simulate.levels import to_peak
from training.simulate.music import music
from training.simulate.noise import Noises
from training.simulate.recipe import Damaged, Recipe
from training.simulate.speech import AS_RECORDED, GATED, VARIED, Reference, Voices

T = TypeVar("T", bound=np.generic)

RATE_HZ = 16000
SHORTEST, LONGEST = 2 * RATE_HZ, 10 * RATE_HZ
OFTEN_BELOW = 4 * RATE_HZ
"""Most training clips are shorter: PESQ costs what a clip lasts, and more clips teach more voices and noises."""
LEAST, MOST = 1.0, 4.644
BINS = 19
"""The scale in steps of about 0.2, for the even spread."""
CROWDED = 1.4
"""A clip whose bin holds this many times its share is refused."""
SPEECHLESS = 0.05
"""Share of clips that hold anything but speech."""
ENHANCER = Path(__file__).parents[2] / "exported_models" / "enhance-bandgru" / "1" / "model.onnx"
AHEAD = 128
"""Clips that several processes make without waiting for each other."""
SPLITS = ("test", "val", "train")
BARRED = ("CC-BY-SA",)
"""Licences left out, so that the weights may be published under Apache-2.0."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of one clip. `attempt` and the split make its seed."""

    attempt: int
    label: float
    """PESQ-WB; 0 where there is no speech to score."""
    length: int
    speaker: str
    family: str
    preparation: str
    reference: dict[str, float | str]
    steps: list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class Made:
    """A clip as it is heard, its curve (see `training.quality.perceptual.curve`), where it is speech, and its fact."""

    waveform: Mono
    curve: Mono
    speech: NDArray[np.bool_]
    fact: Fact


def speech_frames(ideal: Mono) -> NDArray[np.bool_]:
    """Which frames of the curve are loud enough to be speech: within 30 dB of the loudest, in a voice without noise."""
    powers = np.convolve(ideal.astype(np.float64) ** 2, np.full(HOP, 1 / HOP), "same")[::HOP]
    spoken = np.zeros(frames_of(len(ideal)), bool)
    spoken[: len(powers)] = powers > powers.max(initial=0.0) / 1000
    return spoken


def frames_of(length: int) -> int:
    """Frames of the curve and of the features of so many samples."""
    return length // HOP + 1


class Clips:
    """The labelled clips of one split on disk: append, read back, go on after a kill."""

    def __init__(self, folder: Path, split: str) -> None:
        self.samples_path, self.curves_path = folder / f"{split}.i16", folder / f"{split}.curves.f16"
        self.speech_path, self.facts_path = folder / f"{split}.speech.u8", folder / f"{split}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.facts = list(self._whole_lines())

    def _whole_lines(self) -> Iterator[Fact]:
        if not self.facts_path.exists():
            return
        for line in self.facts_path.read_text("utf-8").split("\n")[:-1]:
            yield Fact(**json.loads(line))

    def repair(self) -> None:
        """Cut off what a kill left half written. Only for the process that appends."""
        lines = "".join(json.dumps(asdict(fact)) + "\n" for fact in self.facts)
        if self.facts_path.exists() and self.facts_path.read_text("utf-8") != lines:
            self.facts_path.write_text(lines, "utf-8")
        samples, frames = int(self.lengths().sum()), int(self.frames().sum())
        sizes = {self.samples_path: 2 * samples, self.curves_path: 2 * frames, self.speech_path: frames}
        for path, size in sizes.items():
            if path.exists():
                with path.open("r+b") as stream:
                    stream.truncate(size)

    def append(self, made: Made) -> None:
        """Add one clip; its line last, so that a line always has its clip."""
        with self.samples_path.open("ab") as stream:
            np.rint(np.clip(made.waveform, -1, 1) * 32767).astype(np.int16).tofile(stream)
        with self.curves_path.open("ab") as stream:
            made.curve.astype(np.float16).tofile(stream)
        with self.speech_path.open("ab") as stream:
            made.speech.astype(np.uint8).tofile(stream)
        with self.facts_path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(made.fact)) + "\n")
        self.facts.append(made.fact)

    def waveforms(self) -> list[NDArray[np.int16]]:
        """All clips, each of its own length; mapped from disk."""
        return cut(self.samples_path, np.int16, self.lengths())

    def curves(self) -> list[NDArray[np.float16]]:
        """Their curves, a value every `HOP` samples."""
        return cut(self.curves_path, np.float16, self.frames())

    def speech(self) -> list[NDArray[np.uint8]]:
        """Where somebody speaks, 0 or 1, as often."""
        return cut(self.speech_path, np.uint8, self.frames())

    def labels(self) -> NDArray[np.float32]:
        return np.array([fact.label for fact in self.facts], np.float32)

    def lengths(self) -> NDArray[np.int64]:
        return np.array([fact.length for fact in self.facts], np.int64)

    def frames(self) -> NDArray[np.int64]:
        return frames_of(self.lengths())  # type: ignore[arg-type, return-value]


def cut(path: Path, kind: type[T], sizes: NDArray[np.int64], width: int = 1) -> list[NDArray[T]]:
    """Rows of *sizes* that lie one after the other in *path*, mapped; each row of *width* values unless that is 1."""
    if not len(sizes):
        return []
    total = int(sizes.sum())
    whole = np.memmap(path, dtype=kind, mode="r", shape=(total,) if width == 1 else (total, width))
    plain = np.asarray(whole)  # slices of the map itself are slow to make
    ends = np.cumsum(sizes)
    return [plain[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)]


class Maker:
    """Draws clips of one split; the same split, seed and attempt always give the same clip."""

    def __init__(self, corpus: Corpus, split: str, runs: Path, seed: int) -> None:
        usable = corpus.select(split=split, without_licences=BARRED)
        talkers = open_sounds(usable.select(kind="speech"), RATE_HZ, runs)
        sounds = usable.select(kind="event") + usable.select(use="noise")
        self.sounds = Noises(RATE_HZ, open_sounds(sounds, RATE_HZ, runs))
        recorded = open_sounds(usable.select(use="noise"), RATE_HZ, runs)
        self.voices = Voices(open_sounds(usable.select(kind="speech", clear=True), RATE_HZ, runs))
        rooms = open_sounds(usable.select(kind="rir"), RATE_HZ, runs)
        self.recipe = Recipe(RATE_HZ, Noises(RATE_HZ, recorded, talkers), rooms, Enhancer(ENHANCER))
        self._split, self._seed = split, seed

    def _length(self, rng: np.random.Generator) -> int:
        if self._split == "train" and rng.random() < 0.7:
            return int(rng.integers(SHORTEST, OFTEN_BELOW))
        return int(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST))))

    def reference(self, rng: np.random.Generator, samples: int) -> tuple[Reference, str]:
        """Training varies voice and device; the others keep them, one half gated and one half as recorded."""
        if self._split == "train":
            return self.voices.draw(rng, samples, VARIED), "varied"
        if rng.random() < 0.5:
            return self.voices.draw(rng, samples, GATED), "gated"
        return self.voices.draw(rng, samples, AS_RECORDED), "as recorded"

    def pair(self, attempt: int) -> tuple[Mono, Mono]:
        """Clip number *attempt* as it should be and as it is heard."""
        rng = np.random.default_rng([self._seed, SPLITS.index(self._split), attempt])
        rng.random()
        reference, _, damaged = self._draw(rng)
        return reference.ideal, damaged.waveform

    def make(self, attempt: int) -> Made | None:
        """Clip number *attempt* with its label; None where PESQ has none (no speech left in it)."""
        rng = np.random.default_rng([self._seed, SPLITS.index(self._split), attempt])
        if rng.random() < SPEECHLESS:
            return self._speechless(rng, attempt)
        reference, preparation, damaged = self._draw(rng)
        label = score(reference.ideal, damaged.waveform)
        if label is None:
            return None
        heard = to_peak(damaged.waveform, float(rng.uniform(-18.0, -0.5)))
        over_time = curve(reference.ideal, damaged.waveform, label)
        spoken = speech_frames(reference.ideal)
        return Made(heard, over_time, spoken, _fact(attempt, label, reference, preparation, damaged))

    def _speechless(self, rng: np.random.Generator, attempt: int) -> Made:
        samples = self._length(rng)
        kind = "music" if rng.random() < 0.3 else "sound"
        made = music(rng, samples, RATE_HZ) if kind == "music" else self.sounds.draw(rng, samples).waveform
        nothing = np.zeros(frames_of(samples))
        fact = Fact(attempt, 0.0, samples, "", kind, "", {}, [])
        return Made(to_peak(made, float(rng.uniform(-18.0, -0.5))), nothing.astype(np.float32), nothing > 0, fact)

    def _draw(self, rng: np.random.Generator) -> tuple[Reference, str, Damaged]:
        samples = self._length(rng)
        reference, preparation = self.reference(rng, samples)
        return reference, preparation, self.recipe.damage(rng, reference.waveform)


def _fact(attempt: int, label: float, reference: Reference, preparation: str, damaged: Damaged) -> Fact:
    return Fact(
        attempt=attempt,
        label=round(label, 4),
        length=len(damaged.waveform),
        speaker=reference.group,
        family=damaged.family,
        preparation=preparation,
        reference=reference.parameters,
        steps=[asdict(step) for step in damaged.steps],
    )


def score(reference: Mono, heard: Mono) -> float | None:
    """PESQ-WB of *heard* against *reference*; None where it is not defined."""
    # Its filters ring out in denormal numbers, on which a processor spends most of the time. The value stays the same.
    torch.set_flush_denormal(True)
    try:
        value = float(pesq(RATE_HZ, reference, heard, "wb"))
    except (PesqError, ValueError):
        return None
    finally:
        torch.set_flush_denormal(False)
    return value if np.isfinite(value) else None


def bin_of(label: float) -> int:
    """Which of the `BINS` equal parts of the scale *label* falls in."""
    return int(np.clip((label - LEAST) / (MOST - LEAST) * BINS, 0, BINS - 1))


def fill(clips: Clips, maker: Maker, count: int, title: str, jobs: int = 1) -> None:
    """Make clips until there are *count*, evenly spread: any first part of the set is about as even as the whole."""
    clips.repair()
    held = np.bincount([bin_of(fact.label) for fact in clips.facts if fact.label], minlength=BINS)
    first = clips.facts[-1].attempt + 1 if clips.facts else 0
    bar = tqdm(total=count, initial=len(clips.facts), desc=f"label {title}", unit="clip", mininterval=5.0)
    with bar, _in_order(maker, jobs) as make:
        for made in make(first):
            if len(clips.facts) >= count:
                break
            if made is None:
                continue
            if made.fact.label:
                place = bin_of(made.fact.label)
                if held[place] >= CROWDED * (len(clips.facts) + 20) / BINS:
                    continue
                held[place] += 1
            clips.append(made)
            bar.update()


@contextmanager
def _in_order(maker: Maker, jobs: int) -> Iterator[Callable[[int], Iterator[Made | None]]]:
    """Gives clips in the order of their numbers for ever, made by so many processes."""
    if jobs == 1:
        yield lambda first: (maker.make(attempt) for attempt in counted(first))
        return
    # Forked, so that the recordings are mapped once and never sent.
    with ProcessPoolExecutor(jobs, get_context("fork"), initializer=_begin, initargs=(maker,)) as pool:

        def make(first: int) -> Iterator[Made | None]:
            for start in counted(first, AHEAD):
                yield from pool.map(_make, range(start, start + AHEAD), chunksize=4)

        yield make


def _begin(maker: Maker) -> None:
    global _maker
    _maker = maker
    torch.set_num_threads(1)


def _make(attempt: int) -> Made | None:
    assert _maker is not None
    return _maker.make(attempt)


_maker: Maker | None = None
"""Of a process that makes clips for another one."""


def labels_folder(runs: Path) -> Path:
    return runs / "quality" / "labels"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.quality.labels", description=__doc__.split("\n")[0])
    add_arguments(parser)
    for split, count in (("test", 1000), ("val", 1000), ("train", 20000)):
        parser.add_argument(f"--{split}", type=int, default=count, help="clips (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="processes (default: the cores)")
    options = parser.parse_args(arguments)
    corpus = read_corpus(options.data)
    for split in SPLITS:
        maker = Maker(corpus, split, options.runs, options.seed)
        fill(Clips(labels_folder(options.runs), split), maker, getattr(options, split), split, options.jobs)


if __name__ == "__main__":
    main()
