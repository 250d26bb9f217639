"""Tries a trained scene model on one split, waveform in.

`python -m training.scene.evaluate --data DIR --runs DIR --split val`. On the validation split it also fits the
probability from which each label is said and how frames become segments. The test split is for one look at the end.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from service.engine.manifest import Segmenting
from training.corpus import Sounds, add_arguments, open_sounds, read_corpus
from training.scene import metrics
from training.scene.classes import ESC10, LABELS
from training.scene.examples import Examples, chosen_rows, examples
from training.scene.network import Export, Net, front_end
from training.scene.segments import Heard, Trial, best_rule, hear, made_scenes, segment_figures
from training.scene.train import SHAPE, SPEECH, esc10_clips, run_folder

MAX_S = 10.0
"""Longest piece that runs at once."""
CONTEXT_S = math.ceil(SHAPE.context_s / SHAPE.frame_step_s) * SHAPE.frame_step_s
"""Whole frames, so that pieces stay on the frame grid."""
SCENES = 100
"""Made scenes of ten seconds that segments are tried on."""

Probabilities = NDArray[np.float32]


def trained(folder: Path) -> Export:
    """The averaged weights of the run in *folder*."""
    state = torch.load(folder / "last.pt", weights_only=True)["average"]
    net = Net(SHAPE)
    net.load_state_dict({key.removeprefix("module."): value for key, value in state.items() if key != "n_averaged"})
    return Export(SHAPE, net).eval()


def hear_all(model: Export, sounds: Sounds, given: Examples) -> list[Heard]:
    """What the model says of each piece alone."""
    return [hear(model, sounds.part(piece.row, piece.start, piece.count)) for piece in given.pieces]


def fitted_thresholds(scores: Probabilities, given: Examples) -> dict[str, float]:
    """For each label the probability from which it is said, leaning to silence; every recording weighs the same."""
    weights = np.array([1 / given.groups.count(group) for group in given.groups])
    thresholds = {}
    for index, label in enumerate(LABELS):
        known = given.known[:, index] > 0
        thresholds[label] = metrics.best_threshold(
            scores[known, index], given.present[known, index] > 0.5, weights=weights[known]
        )
    return thresholds


def figures(scores: Probabilities, given: Examples, thresholds: dict[str, float]) -> dict[str, Any]:
    """Everything the card reports of one split."""
    clips = esc10_clips(given)
    truth, guess = given.present[clips, : len(ESC10)].argmax(1), scores[clips].argmax(1)
    groups = [given.rows[clip].group for clip in clips]
    right = int((truth == guess).sum())
    said = scores >= np.array([thresholds[label] for label in LABELS])
    none = np.flatnonzero(~(given.present > 0).any(1))
    wrong = said & (given.present == 0) & (given.known > 0)
    f1 = [metrics.f_score(said[at, one], given.present[at, one] > 0.5) for one, at in _known_rows(given)]
    return {
        "clips": len(clips),
        "recordings": len(set(groups)),
        "accuracy": metrics.macro_accuracy(truth, guess),
        "accuracy_wilson": metrics.wilson(right, len(clips)),
        "accuracy_bootstrap": metrics.bootstrap(lambda at: metrics.macro_accuracy(truth[at], guess[at]), groups),
        "pieces": len(given),
        "map": metrics.mean_average_precision(scores, given.present, given.known),
        "map_bootstrap": metrics.bootstrap(
            lambda at: metrics.mean_average_precision(scores[at], given.present[at], given.known[at]), given.groups, 500
        ),
        "macro_f1": float(np.mean(f1)),
        "f1": dict(zip(LABELS, f1, strict=True)),
        "none_pieces": len(none),
        "none_recordings": len({given.rows[one].group for one in none}),
        "none_labelled": float(wrong[none].any(1).mean()),
        "wrongly_said": float(wrong.any(1).mean()),
        "confusion": metrics.confusion(truth, guess, len(LABELS))[: len(ESC10)].tolist(),
    }


def _known_rows(given: Examples) -> list[tuple[int, NDArray[np.int64]]]:
    return [(one, np.flatnonzero(given.known[:, one] > 0)) for one in range(len(LABELS))]


def cost() -> dict[str, float]:
    """Parameters of the net, and multiply-accumulates for a second of audio, the front end apart."""
    samples = 10 * SHAPE.sample_rate
    lengths = torch.tensor([samples])
    transform, net = front_end(SHAPE), Net(SHAPE).eval()
    with torch.no_grad():
        with FlopCounterMode(display=False) as front:
            bands, counts = transform(torch.zeros(1, samples), lengths)
        with FlopCounterMode(display=False) as rest:
            net(bands, counts)
    return {
        "parameters": sum(one.numel() for one in net.parameters()),
        "front_end_mmac_per_s": front.get_total_flops() / 2e7,
        "net_mmac_per_s": rest.get_total_flops() / 2e7,
    }


def joined_difference(model: Export, max_s: float, context_s: float) -> float:
    """Largest difference of frames between one pass over 25 s and overlapping pieces with their context dropped."""
    rate, step = SHAPE.sample_rate, round(SHAPE.frame_step_s * SHAPE.sample_rate)
    time_s = np.arange(25 * rate) / rate
    noise = np.random.default_rng(0).standard_normal(len(time_s)) * (np.sin(2 * np.pi * 0.7 * time_s) > 0)
    waveform = torch.from_numpy((0.1 * noise).astype(np.float32)).unsqueeze(0)
    size, context = round(max_s * rate), round(context_s * rate)
    with torch.no_grad():
        whole = model(waveform, torch.tensor([waveform.shape[1]]))[1][0]
        worst = 0.0
        for start in range(0, waveform.shape[1] - size + 1, size - 2 * context):
            piece = model(waveform[:, start : start + size], torch.tensor([size]))[1][0]
            low, high = (0 if start == 0 else context // step), (size - context) // step
            first = start // step
            worst = max(worst, (piece[low:high] - whole[first + low : first + high]).abs().max().item())
    return worst


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the validation split decides: when a label is said, and how frames become segments."""

    thresholds: dict[str, float]
    rule: Segmenting

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"thresholds": self.thresholds, "segmenting": self.rule.model_dump()}, indent=1))

    @classmethod
    def read(cls, path: Path) -> Fitted:
        tables = json.loads(path.read_text())
        return cls(tables["thresholds"], Segmenting(**tables["segmenting"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--split", choices=["val", "test"], default="val")
    options = parser.parse_args()
    folder = run_folder(options.runs)
    table = folder / "fitted.json"
    corpus = chosen_rows(read_corpus(options.data), options.split, SPEECH[options.split])
    given = examples(corpus, SHAPE, options.runs, 1)
    sounds = open_sounds(corpus, SHAPE.sample_rate, options.runs)
    model = trained(folder)
    heard = hear_all(model, sounds, given)
    scores = np.stack([one.clip for one in heard])
    thresholds = fitted_thresholds(scores, given) if options.split == "val" else Fitted.read(table).thresholds
    scenes = made_scenes(sounds, given, SCENES)
    none = given.known.all(1) & ~given.present.any(1)
    trial = Trial(
        scenes,
        [hear(model, scene.waveform) for scene in scenes],
        [heard[at] for at in np.flatnonzero(none)],
        np.array([thresholds[label] for label in LABELS], np.float32),
    )
    if options.split == "val":
        Fitted(thresholds, best_rule(trial, SHAPE)).write(table)
    found = figures(scores, given, thresholds) | segment_figures(trial, SHAPE, Fitted.read(table).rule)
    (folder / f"figures-{options.split}.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
