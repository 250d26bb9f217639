"""Judges a trained net on speakers and recordings it never heard; prints the figures and keeps them as JSON.

    python -m training.quality.evaluate --data FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training.corpus import add_arguments, read_corpus
from training.quality.hand import fit_line, measure_all
from training.quality.labels import RATE_HZ, Clips, Maker, labels_folder
from training.quality.measures import (
    agreement,
    by_kind,
    by_range,
    calibration,
    interval,
    linear_correlation,
    rank_correlation,
)
from training.quality.model import Shape
from training.quality.probes import ladders, lengths, level_shift, locality, pieces
from training.quality.train import load_net, open_split, predict
from training.simulate.speech import AS_RECORDED

PIECE_S, CONTEXT_S = 10.24, 1.28
"""How the service is told to cut long recordings; both whole numbers of scores apart."""
LADDERS, CLIPS = 40, 40
"""Clips for each climb, and for finding the bad stretch."""


def on_labels(model: nn.Module, runs: Path, split: str) -> dict[str, Any]:
    """Agreement with the labels of *split*: in all, by damage, by reference, by part of the scale, over speakers."""
    features, facts = open_split(runs, split), Clips(labels_folder(runs), split).facts
    predicted, labels = predict(model, features), features.labels
    speakers = [fact.speaker for fact in facts]
    return {
        "all": agreement(predicted, labels) | {"speakers": len(set(speakers)), "label_deviation": float(labels.std())},
        "lcc_interval": interval(predicted, labels, speakers, linear_correlation),
        "srcc_interval": interval(predicted, labels, speakers, rank_correlation),
        "calibration": calibration(predicted, labels),
        "by_damage": by_kind(predicted, labels, [fact.family for fact in facts]),
        "by_reference": by_kind(predicted, labels, [fact.preparation for fact in facts]),
        "by_range": by_range(predicted, labels),
    }


def yardstick(runs: Path, split: str, count: int = 4000) -> dict[str, float]:
    """Agreement of a straight line through ten measurements, fitted on training clips."""
    train, test = Clips(labels_folder(runs), "train"), Clips(labels_folder(runs), split)
    known = measure_all(train, count)
    return agreement(fit_line(known, train.labels()[: len(known)], measure_all(test, len(test.facts))), test.labels())


def behaviour(model: nn.Module, maker: Maker, step_s: float) -> dict[str, Any]:
    """The probes, on references and noise of the maker's split."""
    rng = np.random.default_rng(3)
    speech = [maker.voices.draw(rng, 4 * RATE_HZ, AS_RECORDED).waveform for _ in range(10)]
    long = [maker.voices.draw(rng, 25 * RATE_HZ, AS_RECORDED).waveform for _ in range(6)]
    spoilt = [maker.recipe.damage(rng, clip).waveform for clip in long]
    return {
        "ladders": ladders(model, maker, LADDERS),
        "level": level_shift(model, speech),
        "locality_auc": locality(model, maker, step_s, CLIPS),
        "halves_mae": lengths(model, [clip[: 10 * RATE_HZ] for clip in spoilt]),
        "pieces": pieces(model, spoilt, step_s, PIECE_S, CONTEXT_S),
    }


def _rounded(figures: Any) -> Any:
    if isinstance(figures, dict):
        return {key: _rounded(value) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [_rounded(value) for value in figures]
    return round(figures, 4) if isinstance(figures, float) else figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.quality.evaluate", description=__doc__.split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--name", default="blstm", help="run to judge (default: %(default)s)")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = options.runs / "quality" / options.name
    model, settings = load_net(folder)
    step_s = Shape.from_table(settings["shape"]).step_s
    maker = Maker(read_corpus(options.data), options.split, options.runs, seed=1)
    figures = _rounded(
        on_labels(model, options.runs, options.split)
        | {"straight_line": yardstick(options.runs, options.split)}
        | behaviour(model, maker, step_s)
        | {"parameters": sum(weights.numel() for weights in model.parameters()), "clips_trained_on": settings["clips"]}
    )
    (folder / f"figures-{options.split}.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
