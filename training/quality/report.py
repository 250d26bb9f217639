"""Writes `exported_models/QUALITY.md` and its pictures: all the quality models side by side, from what was measured.

    python -m training.quality.report --data FOLDER

Takes the figures that `training.quality.evaluate` left of each run, and measures the speed of the exports.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.engine.manifest import read_manifest
from training.corpus import add_arguments, read_corpus
from training.quality.export import NAMES
from training.quality.labels import RATE_HZ, Clips, Maker, labels_folder
from training.quality.model import KINDS, Kind
from training.quality.pictures import calibration_plot, curve_plot, histogram_plot
from training.quality.probes import spoilt
from training.quality.scorers import exported

TEMPLATE = Path(__file__).with_name("report.md")
PICTURES = Path("docs") / "pictures"
CONSTRAINTS = {
    "curve": "the measured curve",
    "4.5": "the label, weighted 10^(Q - 4.5)",
    "5": "the label, weighted 10^(Q - 5)",
}
"""Of the frames, and the runs that differ in nothing else: `loss-curve`, `loss-4.5`, `loss-5`."""
UNSEEN = "unseen"
"""The run that left kinds of damage out."""

Figures = dict[str, Any]


def figures_of(runs: Path, name: str, split: str = "test") -> Figures | None:
    path = runs / "quality" / name / f"figures-{split}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def newest(into: Path, kind: Kind) -> Path:
    """The folder of the newest version of *kind*.

    Raises:
        FileNotFoundError: there is none.
    """
    folders = sorted((into / NAMES[kind]).glob("*/model.toml"), key=lambda path: int(path.parent.name))
    if not folders:
        raise FileNotFoundError(f"no version of {NAMES[kind]} in {into}")
    return folders[-1].parent


def speed(folder: Path, file: str = "model.onnx", seconds: float = 10.0, rounds: int = 25) -> float:
    """Seconds of audio a second, one at a time on one core, by the thread's own clock."""
    scorer = exported(folder / file)
    samples = np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ)).astype(np.float32) / 10
    scorer(samples)
    taken = []
    for _ in range(rounds):
        began = time.thread_time()
        scorer(samples)
        taken.append(time.thread_time() - began)
    return seconds / statistics.median(taken)


def models_table(found: Mapping[Kind, Figures], folders: Mapping[Kind, Path]) -> str:
    head = ("model", "parameters", "LCC", "95 % over speakers", "SRCC", "MSE", "SNR ladder", "bad stretch", "speed")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for kind, one in found.items():
        name, version = folders[kind].parts[-2:]
        low, high = one["lcc_interval"]
        rows.append(
            f"| [{name}@{version}]({name}/{version}/CARD.md) | {one['parameters']} | {one['all']['lcc']:.3f} "
            f"| {low:.3f} to {high:.3f} | {one['all']['srcc']:.3f} | {one['all']['mse']:.3f} "
            f"| {one['ladders']['snr']['spearman']:.3f} | {one['locality_auc']:.3f} | {speed(folders[kind]):.0f} |"
        )
    return "\n".join(rows)


def damage_table(found: Mapping[Kind, Figures]) -> str:
    """LCC by kind of damage of all nets and of DNSMOS, on the clips that DNSMOS was asked about."""
    columns = {NAMES[kind]: one["beside"]["net"] for kind, one in found.items() if one["beside"]}
    if not columns:
        return "DNSMOS was not asked: the packages of the extra `dnsmos` were not installed."
    columns["DNSMOS overall"] = next(one["beside"]["dnsmos"] for one in found.values() if one["beside"])
    first = next(iter(columns.values()))
    rows = ["| damage | clips | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for kind, counted in first["by_damage"].items():
        parts = (column["by_damage"][kind] for column in columns.values())
        cells = (f"{part['lcc']:.3f}" if "lcc" in part else "-" for part in parts)
        rows.append(f"| {kind} | {counted['clips']} | " + " | ".join(cells) + " |")
    totals = (f"{column['all']['lcc']:.3f}" for column in columns.values())
    return "\n".join([*rows, f"| all | {first['all']['clips']} | " + " | ".join(totals) + " |"])


def loss_text(runs: Path) -> str:
    """The nets that differ in their loss alone, where they were trained."""
    head = ("frames are held to", "LCC", "SRCC", "MSE", "bad stretch", "clips, epochs")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for constraint, words in CONSTRAINTS.items():
        one = figures_of(runs, f"loss-{constraint}")
        if one is None:
            continue
        epochs = json.loads((runs / "quality" / f"loss-{constraint}" / "run.json").read_text())["epochs"]
        rows.append(
            f"| {words} | {one['all']['lcc']:.3f} | {one['all']['srcc']:.3f} | {one['all']['mse']:.3f} "
            f"| {one['locality_auc']:.3f} | {one['clips_trained_on']}, {epochs} |"
        )
    if len(rows) == 2:
        return ""
    return " The plain convolutional net, all else equal:\n\n" + "\n".join(rows)


def unseen_text(runs: Path) -> str:
    """A net that never heard some kinds of damage, where one was trained."""
    found = figures_of(runs, UNSEEN)
    if found is None:
        return ""
    without = json.loads((runs / "quality" / UNSEEN / "run.json").read_text())["without"]
    one = found["unseen"]
    return (
        "## Damage that was never heard\n\n"
        f"The plain convolutional net trained without any clip that holds {' and '.join(without)}, judged on the "
        f"{one['clips']} test clips\ndamaged by these alone: LCC {one['lcc']:.3f}, SRCC {one['srcc']:.3f}, "
        f"MSE {one['mse']:.3f}.\n\n"
    )


def _kinds_table(kinds: Mapping[str, Figures]) -> str:
    rows = ["| | clips | LCC | MSE | bias |", "|---|---|---|---|---|"]
    for kind, one in kinds.items():
        lcc = f"{one['lcc']:.3f}" if "lcc" in one else "-"
        rows.append(f"| {kind} | {one['clips']} | {lcc} | {one['mse']:.3f} | {one['bias']:.3f} |")
    return "\n".join(rows)


def draw(found: Mapping[Kind, Figures], folders: Mapping[Kind, Path], options: argparse.Namespace) -> None:
    """The pictures: labels, calibration of each model, and one clip with a bad stretch."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    labels = Clips(labels_folder(options.runs), "train").labels()
    (PICTURES / "quality-labels.svg").write_text(
        histogram_plot(f"{len(labels)} training labels", labels[labels > 0].tolist()), "utf-8"
    )
    for kind, one in found.items():
        picture = calibration_plot(NAMES[kind], [(pair[0], pair[1]) for pair in one["pairs"]])
        (PICTURES / f"{NAMES[kind]}.svg").write_text(picture, "utf-8")
    maker = Maker(read_corpus(options.data), "test", options.runs, seed=1)
    samples, bad_s = next(spoilt(np.random.default_rng(7), maker, 6 * RATE_HZ))
    curves = {}
    for kind, folder in folders.items():
        frames = read_manifest(folder).frames
        curves[NAMES[kind]] = (frames.step_s if frames else 1.0, exported(folder / "model.onnx")(samples).curve)
    picture = curve_plot("one damaged stretch", samples, RATE_HZ, curves, bad_s)
    (PICTURES / "quality-stretch.svg").write_text(picture, "utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.quality.report", description=__doc__.split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--into", type=Path, default=Path("exported_models"), help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = {kind: one for kind in KINDS if (one := figures_of(options.runs, kind)) is not None}
    folders = {kind: newest(options.into, kind) for kind in found}
    manifests = {kind: read_manifest(folder) for kind, folder in folders.items()}
    best = next((kind for kind, manifest in manifests.items() if manifest.default), next(iter(found)))
    default = manifests[best]
    one = found[best]
    text = TEMPLATE.read_text("utf-8").format(
        models=models_table(found, folders),
        damage=damage_table(found),
        losses=loss_text(options.runs),
        unseen=unseen_text(options.runs),
        best=NAMES[best],
        validity=default.validity,
        bands=_kinds_table(one["by_band"]),
        quiet=_kinds_table(one["quiet"]),
        languages=_kinds_table(one["by_language"]),
        sources=_kinds_table(one["by_source"]),
        speech=one["speech"],
        level=one["level"],
        ladders=one["ladders"],
        calibration=one["calibration"],
        plots="\n".join(f"![{NAMES[kind]}](../{PICTURES}/{NAMES[kind]}.svg)" for kind in found),
        pictures=f"../{PICTURES}",
        clips=one["clips_trained_on"],
        deviation=one["all"]["label_deviation"],
        test_clips=one["all"]["clips"],
        speakers=one["all"]["speakers"],
    )
    (options.into / "QUALITY.md").write_text(text, "utf-8")
    draw(found, folders, options)
    print(text)


if __name__ == "__main__":
    main()
