"""Adds the int8 file of a shipped quality model: its convolutions with fixed scales, a scale for each channel.

    python -m training.quality.quantize quality-blstm/2 --runs DIR

Scales are fixed on validation clips, so that an answer does not depend on its batch; the front end, the recurrent layer
and the head stay fp32. What it costs is measured on the labelled test clips against the fp32 file and goes into
`model.toml`. Needs the labels of both splits, see `training.quality.labels`.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.export import Run, onnx_runner, sha256, to_toml
from training.quality.labels import Clips, labels_folder
from training.quality.measures import agreement

NAME = "model.int8.onnx"
MOST_LCC = 0.003
MOST_SHIFT = 0.05
"""On the scale of the score: 95 of 100 clips must move by no more for the file to serve unasked."""


class _Heard(CalibrationDataReader):  # type: ignore[misc]
    """Validation clips, one at a time."""

    def __init__(self, clips: Clips) -> None:
        self._left = _items(clips)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        item = next(self._left, None)
        return None if item is None else {"waveform": item[None], "lengths": np.array([len(item)], np.int64)}


def _items(clips: Clips) -> Iterator[NDArray[np.float32]]:
    for waveform in clips.waveforms():
        yield waveform.astype(np.float32) / 32768


def quantize(full: Path, into: Path, clips: Clips) -> None:
    """Write *full* to *into* with its convolutions in int8."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(full), str(prepared), skip_symbolic_shape=True)
        logging.disable(logging.WARNING)  # it advises what was done the line before
        quantize_static(
            str(prepared), str(into), _Heard(clips), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"],
            per_channel=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
        )  # fmt: skip
        logging.disable(logging.NOTSET)


def scores(run: Run, clips: Clips) -> NDArray[np.float64]:
    given = (run(item[None], np.array([len(item)], np.int64)) for item in _items(clips))
    return np.array([answer["score"][0] for answer in given], np.float64)


def loss(full: Path, small: Path, clips: Clips) -> dict[str, float]:
    """What *small* says otherwise than *full*, and what that does to the agreement with the labels."""
    wanted, given = scores(onnx_runner(full), clips), scores(onnx_runner(small), clips)
    scored = clips.labels() > 0
    wanted, given, labels = wanted[scored], given[scored], clips.labels()[scored].astype(np.float64)
    before, after = agreement(wanted, labels), agreement(given, labels)
    moved = np.abs(given - wanted)
    found = {
        "lcc": before["lcc"] - after["lcc"],
        "srcc": before["srcc"] - after["srcc"],
        "mse": after["mse"] - before["mse"],
        "score_mean": float(moved.mean()),
        "score_p95": float(np.quantile(moved, 0.95)),
        "score_max": float(moved.max()),
    }
    return {name: round(value, 5) for name, value in found.items()} | {"clips": len(labels)}


def gain(full: Path, small: Path, clips: Clips, rounds: int = 20) -> float:
    """How many times as fast *small* is on one thread: the least time of each, taken in turns, for one clip."""
    item = next(_items(clips))
    inputs = item[None], np.array([len(item)], np.int64)
    runs = onnx_runner(full), onnx_runner(small)
    least = [math.inf, math.inf]
    for _, (place, run) in itertools.product(range(rounds), enumerate(runs)):
        began = time.thread_time()
        run(*inputs)
        least[place] = min(least[place], time.thread_time() - began)
    return least[0] / least[1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.quality.quantize", description=__doc__.split("\n")[0])
    parser.add_argument("model", help="NAME/VERSION")
    parser.add_argument("--into", type=Path, default=Path("exported_models"), help="(default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the labels are (default: %(default)s)")
    options = parser.parse_args()
    folder = options.into / options.model
    tables = tomllib.loads((folder / "model.toml").read_text("utf-8"))
    labels = labels_folder(options.runs)
    full, small = folder / "model.onnx", folder / NAME
    quantize(full, small, Clips(labels, "val"))
    found = loss(full, small, Clips(labels, "test"))
    others = [file for file in tables["files"] if file["path"] != NAME]
    made = {
        "path": NAME,
        "backend": "onnx",
        "precision": "int8",
        "tolerance": 0.1,
        "sha256": sha256(small),
        "accepted": found["lcc"] <= MOST_LCC and found["score_p95"] <= MOST_SHIFT,
        "loss": found,
    }
    (folder / "model.toml").write_text(to_toml(tables | {"files": [*others, made]}), "utf-8")
    print(found, "accepted" if made["accepted"] else "not accepted")
    print(f"{gain(full, small, Clips(labels, 'test')):.2f} times as fast here")


if __name__ == "__main__":
    main()
