"""Trains the net on the labelled clips; a killed run goes on with the same command.

    python -m training.quality.train --epochs 20

The weights with the least squared error on the validation split are kept in `runs/quality/<name>/best.pt`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.loop import Plan, fit, seed
from training.quality.features import Features, open_features, random_responses
from training.quality.labels import BINS, Clips, Fact, bin_of, labels_folder
from training.quality.model import KINDS, QualityNet, Shape, curve_loss, loss, speech_loss
from training.simulate.recipe import FAMILIES

BATCH = 32
SHELF = 20
"""Batches that are sorted by length together."""
TILT_DB = 6.0
SPEECH_WEIGHT = 0.2


def open_split(runs: Path, split: str) -> Features:
    """The features and labels of one split as `training.quality.labels` left them."""
    folder = labels_folder(runs)
    return open_features(Clips(folder, split), folder, split)


def predict(model: nn.Module, features: Features, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Scores of *rows* (all where None), clip by clip in batches of 32."""
    wanted = np.arange(len(features)) if rows is None else rows
    scores = []
    with torch.no_grad():
        for first in range(0, len(wanted), BATCH):
            spectra, counts, *_ = features.batch(wanted[first : first + BATCH])
            scores.append(model.judge(spectra, counts)[0].numpy())  # type: ignore[operator]
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def agreement(predicted: NDArray[np.floating[Any]], labels: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Squared error and linear correlation, with `score` as the loop wants it: higher is better."""
    error = float(np.mean((predicted - labels) ** 2))
    return {"score": -error, "mse": error, "lcc": float(np.corrcoef(predicted, labels)[0, 1])}


def batches(
    features: Features, usable: NDArray[np.int64], response_db: float, rng: np.random.Generator, *, even: bool = False
) -> Iterator[tuple[Tensor, ...]]:
    """The *usable* clips once in random order, each through a random response of up to *response_db*.

    Clips of a batch are of similar length: what is padded is time lost.

    Args:
        even: as many draws, but each part of the scale as often as any other.
    """
    order = rng.choice(usable, len(usable), p=_even(features.labels[usable])) if even else rng.permutation(usable)
    shelves = [shelf[np.argsort(features.counts[shelf], kind="stable")] for shelf in _cut(order, SHELF * BATCH)]
    drawn = [rows for shelf in shelves for rows in _cut(shelf, BATCH) if len(rows) == BATCH]
    for batch in rng.permutation(len(drawn)):
        responses = random_responses(rng, BATCH, response_db, TILT_DB) if response_db else None
        # Sorted: neighbours on disk are read together.
        yield features.batch(np.sort(drawn[batch]), responses)


def _even(labels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Chance of each clip, so that all bins of the scale are drawn alike."""
    bins = np.array([bin_of(label) if label else BINS for label in labels.tolist()])
    weights = 1 / np.bincount(bins)[bins]
    return np.asarray(weights / weights.sum())


def _cut(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def batch_loss(model: nn.Module, batch: tuple[Tensor, ...], constraint: str = "curve") -> Tensor:
    """The loss by name: `curve`, or the frame constraint of Quality-Net with the anchor 4.5 or 5."""
    spectra, counts, labels, curves, speech = batch
    scores, frames, left, spoken = model.judge(spectra, counts)  # type: ignore[operator]
    heard = SPEECH_WEIGHT * speech_loss(spoken, left, speech)
    if constraint == "curve":
        return heard + curve_loss(scores, frames, left, labels, curves)
    return heard + loss(scores, frames, left, labels, float(constraint))


def usable_clips(facts: list[Fact], count: int | None, without: list[str]) -> NDArray[np.int64]:
    """The first *count* clips that were damaged by none of the kinds *without*."""
    rows = [row for row, fact in enumerate(facts) if not {step["family"] for step in fact.steps} & set(without)]
    return np.array(rows[:count], np.int64)


def load_net(folder: Path) -> tuple[QualityNet, dict[str, Any]]:
    """The best weights of a run, and the run's settings with the figures they were chosen by."""
    settings = json.loads((folder / "run.json").read_text("utf-8"))
    model = QualityNet(Shape.from_table(settings["shape"]))
    state = torch.load(folder / "best.pt", weights_only=True)
    model.load_state_dict(state["model"])
    model.deafen()
    return model.eval(), settings | {"chosen": state["figures"]}


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(1)
    train, val = open_split(options.runs, "train"), open_split(options.runs, "val")
    folder = options.runs / "quality" / options.name
    folder.mkdir(parents=True, exist_ok=True)
    facts = Clips(labels_folder(options.runs), "train").facts[: len(train)]
    settings = _settings(options, len(usable_clips(facts, options.clips, options.without)), folder)
    usable = usable_clips(facts, settings["clips"], settings["without"])
    plan = Plan(
        epochs=options.epochs, steps_per_epoch=len(usable) // BATCH, rate=options.rate, warm_up_epochs=0.3, floor=0.01,
        weight_decay=0.01, average=0.998, seed=options.seed, patience=options.patience,
        falls=(options.falls_every, options.falls_by) if options.falls_every else None,
    )  # fmt: skip
    seed(options.seed)
    model = QualityNet(Shape.from_table(settings["shape"]))

    scored = np.flatnonzero(val.labels)

    def validate(average: nn.Module) -> dict[str, float]:
        figures = agreement(predict(average, val, scored), val.labels[scored])
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}), flush=True)
        return figures

    def drawn(rng: np.random.Generator) -> Iterator[tuple[Tensor, ...]]:
        return batches(train, usable, options.response_db, rng, even=options.even)

    fit(model, drawn, partial(batch_loss, constraint=options.constraint), plan, folder, validate)


def _settings(options: argparse.Namespace, clips: int, folder: Path) -> dict[str, Any]:
    """What the run was begun with: a resumed run keeps its number of clips though more may have been made since."""
    path = folder / "run.json"
    if path.exists():
        begun: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return begun
    shape = Shape(
        options.kind, options.bands, options.channels, tuple(options.strides), options.hidden, options.layers,
        dilations=tuple(options.dilations), dropout=options.dropout,
    )  # fmt: skip
    settings = {
        "shape": shape.table(), "clips": clips, "epochs": options.epochs, "rate": options.rate,
        "response_db": options.response_db, "seed": options.seed, "constraint": options.constraint,
        "without": options.without,
    }  # fmt: skip
    path.write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    return settings


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.quality.train", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the labels are (default: %(default)s)")
    parser.add_argument("--kind", choices=KINDS, default="blstm")
    parser.add_argument("--name", help="folder of the run under runs/quality (default: the kind)")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--clips", type=int, help="use no more than this many training clips (default: all)")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--response-db", type=float, default=3.0, help="spread of random responses; 0 for none")
    parser.add_argument("--bands", type=int, default=0, help="mel bands to start from; 0 for all bins")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--strides", type=int, nargs="+", default=[2, 2])
    parser.add_argument("--hidden", type=int, default=64, help="of the LSTM, in each direction")
    parser.add_argument("--layers", type=int, default=1, help="of the LSTM")
    parser.add_argument("--dilations", type=int, nargs="+", default=[1, 2, 4, 8], help="of the convolutions")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument(
        "--constraint", choices=("curve", "4.5", "5"), default="curve",
        help="of the frames: the measured curve, or the clip's label weighted 10^(label - 4.5) or 10^(label - 5)",
    )  # fmt: skip
    parser.add_argument("--even", action="store_true", help="draw each part of the scale as often as any other")
    parser.add_argument("--falls-every", type=int, default=0, help="epochs between falls of the rate; 0 for a cosine")
    parser.add_argument("--falls-by", type=float, default=0.3)
    parser.add_argument("--patience", type=int, help="end after so many epochs that were not better")
    parser.add_argument("--without", nargs="*", default=[], choices=FAMILIES, help="kinds of damage to leave out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.name = options.name or options.kind
    return options


if __name__ == "__main__":
    main()
