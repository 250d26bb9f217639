"""Judges exports and DNSMOS on recordings of your own, against PESQ-WB of each with its reference.

    python -m training.quality.compare REFERENCES DEGRADED --models exported_models/quality-blstm/2 …

A degraded file belongs to the reference of the same name; a folder under DEGRADED is a kind of degradation. All are
read as mono at 16 kHz. Needs the package `pesq`; DNSMOS is asked where `speechmos` is installed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training.corpus import Mono, load
from training.quality.labels import RATE_HZ, score
from training.quality.measures import agreement
from training.quality.pictures import calibration_plot
from training.quality.scorers import Scorer, dnsmos, exported

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A degraded recording with its label, and what kind of degradation it is."""

    name: str
    kind: str
    samples: Mono
    label: float


def pairs(references: Path, degraded: Path) -> Iterator[Pair]:
    """Every degraded file that has a reference and for which PESQ has an opinion; others are named and left out."""
    for path in sorted(degraded.rglob("*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        found = [one for one in sorted(references.rglob(f"{path.stem}.*")) if one.suffix.lower() in SUFFIXES]
        if not found:
            print(f"{path}: no reference of that name")
            continue
        reference, heard = load(found[0], RATE_HZ), load(path, RATE_HZ)
        size = min(len(reference), len(heard))
        label = score(reference[:size], heard[:size])
        if label is None:
            print(f"{path}: PESQ has no opinion of it")
            continue
        kind = path.relative_to(degraded).parts[0] if path.parent != degraded else "all"
        yield Pair(path.name, kind, heard[:size], label)


def judge(scorer: Scorer, known: list[Pair]) -> dict[str, object]:
    """Agreement in all and by kind, speed in seconds of audio a second, and the scores."""
    began = time.perf_counter()
    scores = np.array([scorer(pair.samples).score for pair in known])
    taken = time.perf_counter() - began
    labels, kinds = np.array([pair.label for pair in known]), np.array([pair.kind for pair in known])
    return {
        "all": agreement(scores, labels),
        "by_kind": {str(kind): agreement(scores[kinds == kind], labels[kinds == kind]) for kind in np.unique(kinds)},
        "times_real_time": sum(len(pair.samples) for pair in known) / RATE_HZ / taken,
        "scores": {pair.name: round(float(value), 4) for pair, value in zip(known, scores, strict=True)},
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.quality.compare", description=__doc__.split("\n")[0])
    parser.add_argument("references", type=Path)
    parser.add_argument("degraded", type=Path)
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="version folders with a model.onnx")
    parser.add_argument("--out", type=Path, help="write figures here as JSON, a calibration plot for each model beside")
    options = parser.parse_args(arguments)
    known = list(tqdm(pairs(options.references, options.degraded), desc="label", unit="pair", leave=False))
    if not known:
        raise SystemExit("there is no pair of a degraded file and a reference of the same name")
    scorers = {"/".join(folder.parts[-2:]): exported(folder / "model.onnx") for folder in options.models}
    other = dnsmos()
    if other is not None:
        scorers["DNSMOS overall"] = other
    found = {name: judge(scorer, known) for name, scorer in scorers.items()}
    shown = {name: {key: one[key] for key in one if key != "scores"} for name, one in found.items()}
    print(json.dumps(shown, indent=1))
    if options.out:
        labels = {pair.name: pair.label for pair in known}
        options.out.write_text(json.dumps({"labels": labels, "models": found}, indent=1), "utf-8")
        for name, one in found.items():
            marks = [(one["scores"][pair.name], pair.label) for pair in known]  # type: ignore[index]
            picture = options.out.with_name(f"{options.out.stem}.{name.replace('/', '-').replace(' ', '-')}.svg")
            picture.write_text(calibration_plot(name, marks), "utf-8")


if __name__ == "__main__":
    main()
