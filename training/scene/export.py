"""Writes the trained scene model as a version folder.

`python -m training.scene.export --data DIR --runs DIR --version 1`, after `training.scene.evaluate`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.corpus import Corpus, add_arguments, read_corpus
from training.export import package
from training.scene.classes import ESC10, LABELS
from training.scene.evaluate import CONTEXT_S, MAX_S, Fitted, cost, joined_difference, trained
from training.scene.examples import chosen_rows
from training.scene.train import SHAPE, SPEECH, run_folder

NAME = "sounds-cpresnet"
OUTPUTS = {"clip": ("batch",), "frames": ("batch", "time"), "frame_lengths": ("batch",)}


def manifest(version: int, fitted: Fitted, found: dict[str, Any], split: str, agreement: float) -> dict[str, Any]:
    low, high = found["accuracy_wilson"]
    measured = {
        "esc10_macro_accuracy": found["accuracy"],
        "esc10_accuracy_low": low,
        "esc10_accuracy_high": high,
        "mean_average_precision": found["map"],
        "macro_f1": found["macro_f1"],
        "none_labelled": found["none_labelled"],
        "segment_f1_1s": found["second_f1"],
        "event_f1": found["event_f1"],
        "none_segmented": found["none_segmented"],
    }
    return {
        "name": NAME,
        "version": version,
        "task": "scene",
        "title": "Eleven everyday sounds, clip and frames",
        "licence": "Apache-2.0",
        "default": True,
        "trusted": True,
        "sample_rate": SHAPE.sample_rate,
        "exclusive": False,
        "aggregate": "max",
        "batching": {"mode": "padded", "max_items": 8, "max_seconds": 80.0},
        "window": {"min_s": 0.1, "max_s": MAX_S, "context_s": round(CONTEXT_S, 6), "agreement": max(agreement, 1e-6)},
        "frames": {"step_s": SHAPE.frame_step_s, "offset_s": 0.0},
        "segmenting": fitted.rule.model_dump(),
        "figures": {"split": split}
        | {key: round(value, 4) for key, value in measured.items()}
        | {key: round(value, 1) for key, value in cost().items()},
        "labels": [{"name": label, "threshold": fitted.thresholds[label]} for label in LABELS],
    }


def card(version: int, fitted: Fitted, found: dict[str, Any], split: str, used: Corpus) -> str:
    costs = cost()
    return CARD.format(
        name=NAME,
        version=version,
        parameters=int(costs["parameters"]),
        net=costs["net_mmac_per_s"],
        front=costs["front_end_mmac_per_s"],
        labels=", ".join(LABELS),
        fold={"val": "fold 4", "test": "fold 5"}[split],
        split=split,
        figures=_figure_rows(found),
        confusion=_confusion_rows(found),
        thresholds=_threshold_rows(fitted.thresholds, found),
        rule=fitted.rule,
        caution=TOUCHED_ONCE if split == "test" else STILL_CLOSED,
        credits="\n".join(used.credits()),
        files=len(used),
        minutes=used.seconds / 60,
    )


def _figure_rows(found: dict[str, Any]) -> str:
    def interval(key: str) -> str:
        low, high = found[key]
        return f"{low:.3f} to {high:.3f}"

    rows = [
        (
            f"Macro accuracy of the ten ESC-10 sounds, {found['clips']} clips of {found['recordings']} recordings; "
            "the highest of all eleven labels is the answer",
            f"{found['accuracy']:.3f}",
            f"{interval('accuracy_wilson')} (Wilson), {interval('accuracy_bootstrap')} (bootstrap over recordings)",
        ),
        (
            f"Mean average precision of the eleven labels over all {found['pieces']} pieces, other sounds among them",
            f"{found['map']:.3f}",
            f"{interval('map_bootstrap')} (bootstrap over recordings)",
        ),
        ("Macro F1 at the thresholds of the manifest, same pieces", f"{found['macro_f1']:.3f}", ""),
        (
            f"Pieces with none of the eleven that get a label all the same, of {found['none_pieces']} pieces "
            f"of {found['none_recordings']} recordings",
            f"{found['none_labelled']:.3f}",
            "",
        ),
        ("Pieces, of all, with at least one wrong label", f"{found['wrongly_said']:.3f}", ""),
        (
            "F1 of seconds on 100 made scenes of two or three clips over a background: a second counts for a label "
            "if any of it is heard",
            f"{found['second_f1']:.3f}",
            "",
        ),
        (
            "F1 of events on the same scenes: onset within 0.2 s, offset within 0.2 s or a fifth of the event",
            f"{found['event_f1']:.3f}",
            "",
        ),
        ("Pieces with none of the eleven in which a segment is found", f"{found['none_segmented']:.3f}", ""),
    ]
    return "\n".join(f"| {what} | {value} | {interval} |" for what, value, interval in rows)


def _confusion_rows(found: dict[str, Any]) -> str:
    head = "| heard \\ said | " + " | ".join(LABELS) + " |\n|---|" + "---|" * len(LABELS)
    rows = [f"| {label} | " + " | ".join(str(count) for count in row) + " |" for label, row in _paired(found)]
    return "\n".join([head, *rows])


def _paired(found: dict[str, Any]) -> list[tuple[str, list[int]]]:
    return list(zip(ESC10, found["confusion"], strict=True))


def _threshold_rows(thresholds: dict[str, float], found: dict[str, Any]) -> str:
    return "\n".join(f"| {label} | {thresholds[label]:.3f} | {found['f1'][label]:.3f} |" for label in LABELS)


STILL_CLOSED = (
    "The test fold has not been looked at for this version: these are validation figures and flatter a little."
)
TOUCHED_ONCE = (
    "The test fold was looked at once, with the finished model. Length of training, thresholds and the rule for "
    "segments come from fold 4."
)

CARD = """# {name}, version {version}

## What it does

Says which of eleven sounds are heard in a recording, each with a probability of its own (so none may be), and in
which frames of 80 ms: {labels}.

A dense residual convolutional net of {parameters} parameters after CP-ResNet, with a receptive field of about one
second and attention over time; 64 mel bands at 32 kHz are computed inside the graph. {net:.1f} million
multiply-accumulates a second of audio, and {front:.1f} for the front end (`training.scene.evaluate.cost`).

## Data and split

ESC-10 by its own folds: folds 1 to 3 taught, {fold} ({split}) is what the figures below are measured on. Folds never
share an original recording. Speech of many speakers is the eleventh label. Other events, noises and places of the same
corpus are taught and tried as "none of these"; they are no labels, because too few independent recordings of each were
at hand to measure one honestly. Where a source does not say whether a label is heard as well, the pair is left out of
loss and figures.
{files} recordings, {minutes:.0f} minutes in all. {caution}

## Figures

All by `python -m training.scene.evaluate --data DIR --runs DIR --split {split}`:

| figure | value | 95 % interval |
|---|---|---|
{figures}

Clips of ESC-10, the highest label as the answer:

{confusion}

Thresholds and F1 at them:

| label | threshold | F1 |
|---|---|---|
{thresholds}

The thresholds were fitted on the validation fold for F0.5: rather no label than a wrong one. So was the rule for
segments, on scenes made of its clips: on at {rule.on}, off at {rule.off}, median over {rule.median_s} s, at least
{rule.min_s} s long.

## Training

```
python -m training.scene.train --data DIR --runs DIR
python -m training.scene.evaluate --data DIR --runs DIR --split val
python -m training.scene.evaluate --data DIR --runs DIR --split test
python -m training.scene.export --data DIR --runs DIR --version {version}
```

One thread of a CPU; AdamW with a cosine, average of weights, no pretraining. Crops of 2.6 s, speed 0.8 to 1.25,
rooms, mixtures, low-pass filters, tilts, faint noise and SpecAugment. Frames learn from where their clip is loud.

## Limits

- Not for safety, security, health or surveillance: a sneeze, a cry or a fire that it misses means nothing, and so
  does one that it reports.
- Eleven labels. A sound outside them should give none, and at times gives a similar one: steady noises sound like rain
  or waves, engines like a chainsaw or a helicopter.
- Figures come from clips that people chose to upload, loud and near. Distant, mixed and reverberant sounds do worse.
- No one marked where a sound begins and ends in these clips: segments learned from levels, and are measured on made
  scenes only.
- Speech is found, not who speaks nor what is said.

## Licence

Apache-2.0 for weights and code.

## Sources

{credits}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--version", type=int, required=True)
    parser.add_argument("--split", choices=["val", "test"], default="test", help="whose figures to report")
    parser.add_argument("--out", type=Path, default=Path("exported_models"))
    options = parser.parse_args()
    whole = read_corpus(options.data)
    used = sum((chosen_rows(whole, split, SPEECH[split]) for split in SPEECH), Corpus(options.data, ()))
    folder = run_folder(options.runs)
    found, fitted = (
        json.loads((folder / f"figures-{options.split}.json").read_text()),
        Fitted.read(folder / "fitted.json"),
    )
    model = trained(folder)
    tables = manifest(options.version, fitted, found, options.split, joined_difference(model, MAX_S, CONTEXT_S))
    text = card(options.version, fitted, found, options.split, used)
    print(package(model, OUTPUTS, tables, text, options.out / NAME / str(options.version)))


if __name__ == "__main__":
    main()
