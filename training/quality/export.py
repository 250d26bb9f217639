"""Writes the trained net as a version folder, with the figures `training.quality.evaluate` found.

python -m training.quality.export --data FOLDER --name blstm --version 2 --default
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
from training.quality.model import KINDS, LEAST, MOST, Kind, Shape
from training.quality.spectrum import RATE_HZ, served
from training.quality.train import load_net

NAMES: dict[Kind, str] = {kind: f"quality-{kind}" for kind in KINDS}
OUTPUTS = {"score": ("batch",), "frames": ("batch", "time"), "frame_lengths": ("batch",), "speech": ("batch",)}
WORDS: dict[Kind, str] = {
    "blstm": "{layers} bidirectional LSTM of {hidden}",
    "blstm-attn": "{layers} bidirectional LSTM of {hidden}, attention of four heads to what lies within a second",
    "cnn": "residual convolutions over time with dilations {dilations}",
    "cnn-se": "residual convolutions over time with dilations {dilations}, squeezed and excited by the whole piece",
}
TEMPLATE = Path(__file__).with_name("card.md")
MIN_S = 0.25
"""PESQ itself refuses what is shorter."""
WORSE, BIASED = 2.0, 0.3
"""By how many times the squared error may grow, and by how much the mean may be off, before a score is doubted."""
NARROW_HZ = 4000.0
RESPONSE = "In training each clip is heard through a new random device response. "


def validity(chosen: dict[str, Any]) -> dict[str, float]:
    """Where a score is to be doubted, by the figures of the split that weights are chosen on."""
    # Half of what nearly all clips have: recordings pause more than clips do.
    doubts = {"speech": round(chosen["speech"]["lowest_of_speech"][1] / 2, 3)}
    most = WORSE * chosen["all"]["mse"]
    narrow = chosen["by_band"].get("narrow")
    if narrow and (narrow["mse"] > most or abs(narrow["bias"]) > BIASED):
        doubts["narrow_band_hz"] = NARROW_HZ
    good = [float(level) for level, figures in chosen["quiet"].items() if figures["mse"] <= most]
    doubts["low_level_dbfs"] = min(good, default=-30.0)
    return doubts


def manifest(
    version: int, settings: dict[str, Any], found: dict[str, Any], chosen: dict[str, Any], split: str, default: bool
) -> dict[str, Any]:
    """The tables of `model.toml`, with what *found* says of *split* and *chosen* of the split of the choice."""
    everything, low_high, shape = found["all"], found["lcc_interval"], Shape.from_table(settings["shape"])
    return {
        "name": NAMES[shape.kind],
        "version": version,
        "task": "quality",
        "title": "PESQ-WB without a reference, over time",
        "licence": "Apache-2.0",
        "default": default,
        "trusted": True,
        "sample_rate": RATE_HZ,
        "batching": {"mode": "padded", "max_items": 8, "max_seconds": 80.0},
        "window": {
            "min_s": MIN_S,
            "max_s": PIECE_S,
            "context_s": CONTEXT_S,
            "agreement": found["pieces"]["frame_max"],
        },
        "frames": {"step_s": shape.step_s, "offset_s": 0.0},
        "validity": validity(chosen),
        "scales": [{"key": "pesq", "name": "PESQ-WB", "min": LEAST, "max": MOST, "better": "higher"}],
        "figures": {
            "variant": "corrected",
            "shape": json.dumps(shape.table()),
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
    version: int, settings: dict[str, Any], found: dict[str, Any], chosen: dict[str, Any], split: str, rows: Corpus
) -> str:
    """The text of `CARD.md`, with what was *found* on *split* and on the split that the weights were *chosen* on."""
    shape = Shape.from_table(settings["shape"])
    layers = {1: "one", 2: "two layers of"}.get(shape.layers, str(shape.layers))
    trunk = WORDS[shape.kind].format(layers=layers, hidden=shape.hidden, dilations=", ".join(map(str, shape.dilations)))
    return TEMPLATE.read_text("utf-8").format(
        name=NAMES[shape.kind],
        version=version,
        trunk=trunk,
        inputs=f"{shape.bands} mel bands" if shape.bands else "257 log magnitudes",
        parameters=found["parameters"],
        channels=shape.channels,
        strides=" and ".join(str(stride) for stride in shape.strides),
        step_ms=round(1000 * shape.step_s),
        clips=settings["clips"],
        epochs=settings["epochs"],
        best=settings["chosen"]["epoch"],
        run=settings["run"],
        response=RESPONSE if settings["response_db"] else "",
        note=settings.get("note", ""),
        options=_options(settings),
        split=split,
        val=chosen["all"],
        figures=_figures(found),
        damage=_table(found["by_damage"]),
        reference=_table(found["by_reference"]),
        sources=_table(found["by_source"]),
        ranges=_table(found["by_range"]),
        bands=_table(found["by_band"]),
        quiet=_table(found["quiet"]),
        validity=validity(chosen),
        speech=found["speech"],
        deviation=found["all"]["label_deviation"],
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
    shape = Shape.from_table(settings["shape"])
    said = {
        "kind": shape.kind, "epochs": settings["epochs"], "clips": settings["clips"], "rate": settings["rate"],
        "response-db": settings["response_db"], "bands": shape.bands, "channels": shape.channels,
        "strides": " ".join(map(str, shape.strides)), "dropout": shape.dropout, "seed": settings["seed"],
    }  # fmt: skip
    if shape.kind.startswith("blstm"):
        said |= {"hidden": shape.hidden, "layers": shape.layers}
    else:
        said["dilations"] = " ".join(map(str, shape.dilations))
    return " ".join(f"--{name} {value}" for name, value in said.items())


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
        (
            "Share of speech parts clips with speech from sounds and music (ROC area)",
            f"{found['speech']['auc']:.3f}",
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


def export(runs: Path, data: Path, into: Path, name: str, version: int, split: str, *, default: bool) -> Checked:
    """Package the best weights of run *name* as `into/quality-<kind>/<version>`.

    Raises:
        BadExport: the formats disagree.
        OSError: the run was not trained, or not evaluated on *split* and on `val`.
    """
    folder = runs / "quality" / name
    model, settings = load_net(folder)
    settings |= {"run": name}
    found, chosen = (json.loads((folder / f"figures-{one}.json").read_text("utf-8")) for one in (split, "val"))
    rows = used_rows(read_corpus(data))
    tables = manifest(version, settings, found, chosen, split, default)
    text = card(version, settings, found, chosen, split, rows)
    return package(model, OUTPUTS, tables, text, into / tables["name"] / str(version), onnx=served(model))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.quality.export", description=__doc__.split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--name", default="blstm", help="run to export (default: %(default)s)")
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--split", default="test", choices=("val", "test"), help="whose figures to state")
    parser.add_argument("--default", action="store_true", help="it serves where a request names no model")
    parser.add_argument("--into", type=Path, default=Path("exported_models"), help="(default: %(default)s)")
    given = parser.parse_args(arguments)
    print(export(given.runs, given.data, given.into, given.name, given.version, given.split, default=given.default))


if __name__ == "__main__":
    main()
