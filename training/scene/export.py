"""Writes the trained scene model as a version folder.

`python -m training.scene.export --data DIR --runs DIR --version 1 --split val`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.corpus import Corpus, add_arguments, read_corpus
from training.export import package
from training.scene.classes import ESC10, LABELS
from training.scene.evaluate import CONTEXT_S, MAX_S, cost, joined_difference, trained
from training.scene.examples import chosen_rows
from training.scene.train import SHAPE, SPEECH, run_folder

NAME = "sounds-cpresnet"
OUTPUTS = {"clip": ("batch",), "frames": ("batch", "time"), "frame_lengths": ("batch",)}


def manifest(
    version: int, thresholds: dict[str, float], found: dict[str, Any], split: str, agreement: float
) -> dict[str, Any]:
    low, high = found["accuracy_wilson"]
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
        "window": {"min_s": 0.1, "max_s": MAX_S, "context_s": round(CONTEXT_S, 6), "agreement": agreement},
        "frames": {"step_s": SHAPE.frame_step_s, "offset_s": 0.0},
        "segmenting": {"on": 0.5, "off": 0.3, "median_s": 0.24, "min_s": 0.16},
        "figures": {
            "split": split,
            "esc10_macro_accuracy": round(found["accuracy"], 4),
            "esc10_accuracy_low": round(low, 4),
            "esc10_accuracy_high": round(high, 4),
            "mean_average_precision": round(found["map"], 4),
            "macro_f1": round(found["macro_f1"], 4),
            "none_labelled": round(found["none_labelled"], 4),
        }
        | {key: round(value, 1) for key, value in cost().items()},
        "labels": [{"name": label, "threshold": thresholds[label]} for label in LABELS],
    }


def card(
    version: int, thresholds: dict[str, float], found: dict[str, Any], split: str, corpus: Corpus, with_val: bool
) -> str:
    flag = " --with-val" if with_val else ""
    taught = "folds 1 to 4" if with_val else "folds 1 to 3"
    fold = {"val": "fold 4", "test": "fold 5"}[split]
    recipe = "python -m training.scene.train --data DIR --runs DIR"
    evaluation = f"python -m training.scene.evaluate --data DIR --runs DIR --split {split}{flag}"
    costs = cost()
    return CARD.format(
        name=NAME,
        version=version,
        parameters=int(costs["parameters"]),
        net=costs["net_mmac_per_s"],
        front=costs["front_end_mmac_per_s"],
        labels=", ".join(LABELS),
        taught=taught,
        fold=fold,
        split=split,
        evaluation=evaluation,
        figures=_figure_rows(found),
        confusion=_confusion_rows(found),
        thresholds=_threshold_rows(thresholds, found),
        training="\n".join([recipe, "python -m training.scene.evaluate --data DIR --runs DIR --split val"])
        + (f"\n{recipe}{flag}" if with_val else ""),
        caution=TOUCHED_ONCE if split == "test" else STILL_CLOSED,
        credits="\n".join(corpus.credits()),
        files=len(corpus),
        minutes=corpus.seconds / 60,
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
    "The test fold was looked at once, with the finished model. Length of training and thresholds come from fold 4, "
    "by a model of the same recipe that had not learned from it."
)

CARD = """# {name}, version {version}

## What it does

Says which of eleven sounds are heard in a recording, each with a probability of its own (so none may be), and in
which frames of 80 ms: {labels}.

A dense residual convolutional net of {parameters} parameters after CP-ResNet, with a receptive field of about one
second and attention over time; 64 mel bands at 32 kHz are computed inside the graph. {net:.1f} million
multiply-accumulates a second of audio, and {front:.1f} for the front end (`training.scene.evaluate.cost`).

## Data and split

ESC-10 by its own folds: {taught} taught, {fold} ({split}) is what the figures below are measured on. Folds never
share an original recording. Speech of many speakers is the eleventh label. Other events, noises and places of the same
corpus are taught and tried as "none of these"; they are no labels, because too few independent recordings of each were
at hand to measure one honestly. Where a source does not say whether a label is heard as well, the pair is left out of
loss and figures.
{files} recordings, {minutes:.0f} minutes in all. {caution}

## Figures

All by `{evaluation}`:

| figure | value | 95 % interval |
|---|---|---|
{figures}

Clips of ESC-10, the highest label as the answer:

{confusion}

Thresholds and F1 at them:

| label | threshold | F1 |
|---|---|---|
{thresholds}

The thresholds were fitted on the validation fold for F0.5: rather no label than a wrong one.

## Training

```
{training}
```

One thread of a CPU; AdamW with a cosine, average of weights, no pretraining. Crops of 3.2 s, speed 0.8 to 1.25,
rooms, mixtures, low-pass filters, tilts, faint noise and SpecAugment.

## Limits

- Not for safety, security, health or surveillance: a sneeze, a cry or a fire that it misses means nothing, and so
  does one that it reports.
- Eleven labels. A sound outside them should give none, and at times gives a similar one: steady noises sound like rain
  or waves, engines like a chainsaw or a helicopter.
- Figures come from clips that people chose to upload, loud and near. Distant, mixed and reverberant sounds do worse.
- Segments were taught from clips only: their edges are right to a few tenths of a second at best.
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
    parser.add_argument(
        "--with-val", action="store_true", help="export the model that also learned from the validation split"
    )
    parser.add_argument("--split", choices=["val", "test"], default="test", help="whose figures to report")
    parser.add_argument("--out", type=Path, default=Path("exported_models"))
    options = parser.parse_args()
    whole = read_corpus(options.data)
    splits = ["train", "val", options.split]
    used = sum((chosen_rows(whole, split, SPEECH[split]) for split in splits), Corpus(options.data, ()))
    folder = run_folder(options.runs, options.with_val)
    found = json.loads((folder / f"figures-{options.split}.json").read_text())
    thresholds = json.loads((run_folder(options.runs, with_val=False) / "thresholds.json").read_text())
    model = trained(folder)
    agreement = joined_difference(model, MAX_S, CONTEXT_S)
    tables = manifest(options.version, thresholds, found, options.split, agreement)
    text = card(options.version, thresholds, found, options.split, used, options.with_val)
    print(package(model, OUTPUTS, tables, text, options.out / NAME / str(options.version)))


if __name__ == "__main__":
    main()
