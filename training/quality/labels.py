"""Makes labelled clips: simulated damage with its PESQ-WB (ITU-T P.862.2) against the undamaged reference.

    python -m training.quality.labels --data FOLDER --train 20000

Speakers, noise recordings and rooms keep the manifest's split. A killed run goes on with the same command, and a larger
count adds to what is there. Clips of a split lie in one file of int16, their facts beside it, one JSON line each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pesq import PesqError, pesq
from tqdm import tqdm

from training.corpus import Corpus, Mono, add_arguments, open_sounds, read_corpus
from training.simulate.levels import to_peak
from training.simulate.noise import Noises
from training.simulate.recipe import Damaged, Recipe
from training.simulate.speech import AS_RECORDED, GATED, VARIED, Reference, Voices

RATE_HZ = 16000
CLIP = 4 * RATE_HZ
SHORTEST = 2 * RATE_HZ
LEAST, MOST = 1.0, 4.644
BINS = 19
"""The scale in steps of about 0.2, for the even spread."""
CROWDED = 1.4
"""A clip whose bin holds this many times its share is refused."""
SPLITS = ("test", "val", "train")
BARRED = ("CC-BY-SA",)
"""Licences left out, so that the weights may be published under Apache-2.0."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of one clip. `attempt` and the split make its seed."""

    attempt: int
    label: float
    length: int
    speaker: str
    family: str
    preparation: str
    reference: dict[str, float | str]
    steps: list[dict[str, object]]


class Clips:
    """The labelled clips of one split on disk: append, read back, go on after a kill."""

    def __init__(self, folder: Path, split: str) -> None:
        self.samples_path, self.facts_path = folder / f"{split}.i16", folder / f"{split}.jsonl"
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
        if self.samples_path.exists():
            with self.samples_path.open("r+b") as stream:
                stream.truncate(len(self.facts) * CLIP * 2)

    def append(self, waveform: Mono, fact: Fact) -> None:
        """Add one clip of at most `CLIP` samples; the samples first, so that a line always has its clip."""
        whole = np.zeros(CLIP, np.int16)
        whole[: len(waveform)] = np.rint(np.clip(waveform, -1, 1) * 32767)
        with self.samples_path.open("ab") as stream:
            whole.tofile(stream)
        with self.facts_path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(fact)) + "\n")
        self.facts.append(fact)

    def waveforms(self) -> NDArray[np.int16]:
        """All clips, shaped (clips, `CLIP`), zeros after each one's `length`; mapped from disk."""
        shape = (len(self.facts), CLIP)
        if not self.facts:
            return np.zeros(shape, np.int16)
        return np.memmap(self.samples_path, dtype=np.int16, mode="r", shape=shape)

    def labels(self) -> NDArray[np.float32]:
        return np.array([fact.label for fact in self.facts], np.float32)

    def lengths(self) -> NDArray[np.int64]:
        return np.array([fact.length for fact in self.facts], np.int64)


class Maker:
    """Draws clips of one split; the same split, seed and attempt always give the same clip."""

    def __init__(self, corpus: Corpus, split: str, runs: Path, seed: int) -> None:
        usable = corpus.select(split=split, without_licences=BARRED)
        talkers = open_sounds(usable.select(kind="speech"), RATE_HZ, runs)
        recorded = open_sounds(usable.select(use="noise"), RATE_HZ, runs)
        self.voices = Voices(open_sounds(usable.select(kind="speech", clear=True), RATE_HZ, runs))
        rooms = open_sounds(usable.select(kind="rir"), RATE_HZ, runs)
        self.recipe = Recipe(RATE_HZ, Noises(RATE_HZ, recorded, talkers), rooms)
        self._split, self._seed = split, seed

    def _length(self, rng: np.random.Generator) -> int:
        # PESQ costs what a clip lasts: shorter ones teach more voices and noises in the same time.
        longest_often = 0.1 if self._split == "train" else 0.7
        return CLIP if rng.random() < longest_often else int(rng.integers(SHORTEST, CLIP * 7 // 8))

    def reference(self, rng: np.random.Generator, samples: int) -> tuple[Reference, str]:
        """Training varies voice and device; the others keep them, one half gated and one half as recorded."""
        if self._split == "train":
            return self.voices.draw(rng, samples, VARIED), "varied"
        if rng.random() < 0.5:
            return self.voices.draw(rng, samples, GATED), "gated"
        return self.voices.draw(rng, samples, AS_RECORDED), "as recorded"

    def make(self, attempt: int) -> tuple[Mono, Fact] | None:
        """Clip number *attempt* with its label; None where PESQ has none (no speech left in it)."""
        rng = np.random.default_rng([self._seed, SPLITS.index(self._split), attempt])
        samples = self._length(rng)
        reference, preparation = self.reference(rng, samples)
        damaged = self.recipe.damage(rng, reference.waveform)
        label = score(reference.ideal, damaged.waveform)
        if label is None:
            return None
        heard = to_peak(damaged.waveform, float(rng.uniform(-18.0, -0.5)))
        return heard, _fact(attempt, label, reference, preparation, damaged)


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
    try:
        value = float(pesq(RATE_HZ, reference, heard, "wb"))
    except (PesqError, ValueError):
        return None
    return value if np.isfinite(value) else None


def bin_of(label: float) -> int:
    """Which of the `BINS` equal parts of the scale *label* falls in."""
    return int(np.clip((label - LEAST) / (MOST - LEAST) * BINS, 0, BINS - 1))


def fill(clips: Clips, maker: Maker, count: int, title: str) -> None:
    """Make clips until there are *count*, evenly spread: any first part of the set is about as even as the whole."""
    clips.repair()
    held = np.bincount([bin_of(fact.label) for fact in clips.facts], minlength=BINS)
    attempt = clips.facts[-1].attempt + 1 if clips.facts else 0
    with tqdm(total=count, initial=len(clips.facts), desc=f"label {title}", unit="clip", mininterval=5.0) as bar:
        while len(clips.facts) < count:
            made = maker.make(attempt)
            attempt += 1
            if made is None:
                continue
            waveform, fact = made
            place = bin_of(fact.label)
            if held[place] >= CROWDED * (len(clips.facts) + 20) / BINS:
                continue
            clips.append(waveform, fact)
            held[place] += 1
            bar.update()


def labels_folder(runs: Path) -> Path:
    return runs / "quality" / "labels"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.quality.labels", description=__doc__.split("\n")[0])
    add_arguments(parser)
    for split, count in (("test", 1000), ("val", 1000), ("train", 20000)):
        parser.add_argument(f"--{split}", type=int, default=count, help="clips (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    corpus = read_corpus(options.data)
    for split in SPLITS:
        maker = Maker(corpus, split, options.runs, options.seed)
        fill(Clips(labels_folder(options.runs), split), maker, getattr(options, split), split)


if __name__ == "__main__":
    main()
