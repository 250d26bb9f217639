"""Writes the trained net as a version folder, with the figures `training.quality.evaluate` found.

python -m training.quality.export --data FOLDER --version 1
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.corpus import Corpus, add_arguments, read_corpus
from training.export import Checked, package
from training.quality.evaluate import CONTEXT_S, PIECE_S
from training.quality.labels import BARRED
from training.quality.model import LEAST, MOST, RATE_HZ, ServedNet, Shape
from training.quality.train import load_net

NAME = "quality-blstm"
OUTPUTS = {"score": ("batch",), "frames": ("batch", "time"), "frame_lengths": ("batch",)}
TEMPLATE = Path(__file__).with_name("card.md")
MIN_S = 0.25
"""PESQ itself refuses what is shorter."""


def manifest(version: int, settings: dict[str, Any], found: dict[str, Any], split: str) -> dict[str, Any]:
    """The tables of `model.toml`, with what *found* says of *split*."""
    everything, low_high = found["all"], found["lcc_interval"]
    return {
        "name": NAME,
        "version": version,
        "task": "quality",
        "title": "PESQ-WB without a reference, over time",
        "licence": "Apache-2.0",
        "default": True,
        "trusted": True,
        "sample_rate": RATE_HZ,
        "batching": {"mode": "padded", "max_items": 8, "max_seconds": 80.0},
        "window": {
            "min_s": MIN_S,
            "max_s": PIECE_S,
            "context_s": CONTEXT_S,
            "agreement": found["pieces"]["frame_max"],
        },
        "frames": {"step_s": Shape.from_table(settings["shape"]).step_s, "offset_s": 0.0},
        "scales": [{"key": "pesq", "name": "PESQ-WB", "min": LEAST, "max": MOST, "better": "higher"}],
        "figures": {
            "split": split,
            "clips": everything["clips"],
            "speakers": everything["speakers"],
            "lcc": everything["lcc"],
            "lcc_low": low_high[0],
            "lcc_high": low_high[1],
            "srcc": everything["srcc"],
            "mse": everything["mse"],
            "straight_line_lcc": found["straight_line"]["lcc"],
            "snr_spearman": found["ladders"]["snr"]["spearman"],
            "level_shift": found["level"]["float"],
            "locality_auc": found["locality_auc"],
            "parameters": found["parameters"],
        },
    }


def used_rows(corpus: Corpus) -> Corpus:
    """The rows whose sound went into the weights or into their choice."""
    usable = corpus.select(without_licences=BARRED)
    chosen = usable.select(split="train") + usable.select(split="val")
    return chosen.select(kind="speech") + chosen.select(use="noise") + chosen.select(kind="rir")


def card(
    version: int, settings: dict[str, Any], found: dict[str, Any], split: str, val: dict[str, float], rows: Corpus
) -> str:
    """The text of `CARD.md`, with what was *found* on *split* and the agreement on the `val` split."""
    shape = Shape.from_table(settings["shape"])
    everything = found["all"]
    return TEMPLATE.read_text("utf-8").format(
        name=NAME,
        version=version,
        parameters=found["parameters"],
        hidden=shape.hidden,
        channels=shape.channels,
        strides=" and ".join(str(stride) for stride in shape.strides),
        step_ms=round(1000 * shape.step_s),
        clips=settings["clips"],
        epochs=settings["epochs"],
        best=settings["chosen"]["epoch"],
        options=_options(settings),
        split=split,
        val=val,
        figures=_figures(found),
        damage=_table(found["by_damage"]),
        reference=_table(found["by_reference"]),
        ranges=_table(found["by_range"]),
        deviation=everything["label_deviation"],
        context_s=CONTEXT_S,
        piece_s=PIECE_S,
        pieces=found["pieces"],
        licences=", ".join(sorted({row.licence for row in rows})),
        barred=", ".join(BARRED),
        speakers=len({row.group for row in rows.select(kind="speech", split="train", clear=True)}),
        minutes=rows.select(kind="speech", split="train", clear=True).seconds / 60,
        noises=len(rows.select(use="noise", split="train").groups),
        credits="\n".join(rows.credits()),
    )


def _options(settings: dict[str, Any]) -> str:
    shape = settings["shape"]
    strides = " ".join(str(stride) for stride in shape["strides"])
    return (
        f"--epochs {settings['epochs']} --clips {settings['clips']} --rate {settings['rate']} "
        f"--response-db {settings['response_db']} --bands {shape['bands']} --channels {shape['channels']} "
        f"--strides {strides} --hidden {shape['hidden']} --dropout {shape['dropout']} --seed {settings['seed']}"
    )


def _figures(found: dict[str, Any]) -> str:
    everything, line, steps = found["all"], found["straight_line"], found["ladders"]
    interval = {name: "{:.3f} to {:.3f}".format(*found[f"{name}_interval"]) for name in ("lcc", "srcc")}
    rows = [
        ("Linear correlation with PESQ-WB (LCC)", f"{everything['lcc']:.3f}, 95 % over speakers {interval['lcc']}"),
        ("Rank correlation (SRCC)", f"{everything['srcc']:.3f}, 95 % over speakers {interval['srcc']}"),
        ("Squared and absolute error", f"{everything['mse']:.3f} and {everything['mae']:.3f}"),
        ("The same by a straight line through ten measurements", f"LCC {line['lcc']:.3f}, MSE {line['mse']:.3f}"),
        (
            "Label over prediction",
            f"slope {found['calibration']['slope']:.3f}, intercept {found['calibration']['intercept']:.3f}",
        ),
    ]
    rows += [
        (
            f"One clip, {kind} growing milder: rank correlation, share of steps that do not fall",
            f"{climb['spearman']:.3f}, {climb['rising']:.3f}",
        )
        for kind, climb in steps.items()
    ]
    rows += [
        (
            "Largest change for gains of -40…0 dB; for -20 dB in 16 bits; for a flip",
            f"{found['level']['float']:.4f}; {found['level']['16 bit']:.4f}; {found['level']['flip']:.4f}",
        ),
        ("Curve finds the one bad stretch of a clip (ROC area)", f"{found['locality_auc']:.3f}"),
        ("Score of 10 s against the mean of its halves (mean difference)", f"{found['halves_mae']:.3f}"),
    ]
    return "\n".join(f"| {what} | {value} |" for what, value in rows)


def _table(kinds: dict[str, dict[str, float]]) -> str:
    def cell(figures: dict[str, float], name: str) -> str:
        return f"{figures[name]:.3f}" if name in figures else "-"

    names = ("lcc", "srcc", "mse", "bias")
    return "\n".join(
        f"| {kind} | {figures['clips']} | " + " | ".join(cell(figures, name) for name in names) + " |"
        for kind, figures in kinds.items()
    )


def export(runs: Path, data: Path, into: Path, name: str, version: int, split: str) -> Checked:
    """Package the best weights of run *name* as `into/quality-blstm/<version>`.

    Raises:
        BadExport: the formats disagree.
        OSError: the run was not trained or not evaluated on *split*.
    """
    folder = runs / "quality" / name
    model, settings = load_net(folder)
    found = json.loads((folder / f"figures-{split}.json").read_text("utf-8"))
    rows = used_rows(read_corpus(data))
    tables = manifest(version, settings, found, split)
    text = card(version, settings, found, split, settings["chosen"], rows)
    return package(model, OUTPUTS, tables, text, into / NAME / str(version), onnx=ServedNet(model))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.quality.export", description=__doc__.split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--name", default="blstm", help="run to export (default: %(default)s)")
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--split", default="test", choices=("val", "test"), help="whose figures to state")
    parser.add_argument("--into", type=Path, default=Path("exported_models"), help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    print(export(options.runs, options.data, options.into, options.name, options.version, options.split))


if __name__ == "__main__":
    main()
