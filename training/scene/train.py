"""Trains the scene model: `python -m training.scene.train --data DIR --runs DIR`. The same command resumes."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training import loop
from training.corpus import Corpus, add_arguments, read_corpus
from training.scene.augment import Batch, Recipe, batches, steps_per_epoch
from training.scene.classes import ESC10, LABELS
from training.scene.examples import Examples, chosen_rows, examples
from training.scene.metrics import macro_accuracy, mean_average_precision
from training.scene.network import Net, Shape

SHAPE = Shape(channels=(32, 48, 96, 128))
VARIANTS = 8
SPEECH = {"train": 240, "val": 60, "test": 60}
"""Speech recordings taken of each split."""


FRAMES_WEIGHT = 0.5
"""Of the frames' loss beside the clip's: where a clip is loud or silent says something about where its sound is."""


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of every known label of the clip and of its frames, summed over labels."""
    clip, frames, _ = model(batch.bands, batch.counts)
    of_clip = _cross_entropy(clip, 0.98 * batch.present + 0.01, batch.known)
    of_frames = _cross_entropy(frames, 0.98 * batch.frames_present + 0.01, batch.frames_known)
    return (of_clip + FRAMES_WEIGHT * of_frames) * len(LABELS)


def _cross_entropy(given: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    each = nn.functional.binary_cross_entropy(given.clamp(1e-6, 1 - 1e-6), wanted, reduction="none")
    return (each * known).sum() / known.sum()


def predict(model: nn.Module, given: Examples) -> np.ndarray:
    """Clip probabilities [pieces, classes] of the plain variants, each piece alone in length."""
    rows = []
    with torch.no_grad():
        for versions in given.bands:
            bands = torch.from_numpy(versions[0].astype(np.float32)).unsqueeze(0)
            rows.append(model(bands, torch.tensor([bands.shape[2]]))[0][0].numpy())
    return np.stack(rows)


def esc10_accuracy(scores: np.ndarray, given: Examples) -> float:
    """Macro accuracy over the ESC-10 clips, the highest of all labels being the answer."""
    clips = esc10_clips(given)
    return macro_accuracy(given.present[clips, : len(ESC10)].argmax(1), scores[clips].argmax(1))


def esc10_clips(given: Examples) -> np.ndarray:
    return np.flatnonzero([row.fold is not None for row in given.rows])


def split_examples(corpus: Corpus, split: str, runs: Path) -> Examples:
    return examples(chosen_rows(corpus, split, SPEECH[split]), SHAPE, runs, VARIANTS if split != "test" else 1)


def run_folder(runs: Path) -> Path:
    return runs / "scene"


def network() -> Net:
    return Net(SHAPE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--epochs", type=int, default=130)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    corpus = read_corpus(options.data)
    train, val = (split_examples(corpus, split, options.runs) for split in ("train", "val"))

    def validate(model: nn.Module) -> dict[str, float]:
        scores = predict(model, val)
        accuracy, precision = esc10_accuracy(scores, val), mean_average_precision(scores, val.present, val.known)
        return {"accuracy": accuracy, "map": precision, "score": (accuracy + precision) / 2}

    recipe = Recipe()
    plan = loop.Plan(
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch(train, recipe),
        rate=3e-3,
        warm_up_epochs=5,
        average=0.995,
        seed=options.seed,
        validate_every=10,
    )
    loop.seed(options.seed)
    loop.fit(
        network(),
        lambda chance: batches(train, SHAPE, recipe, chance),
        loss,
        plan,
        run_folder(options.runs),
        validate,
    )


if __name__ == "__main__":
    main()
