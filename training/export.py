"""Packs a trained network as one version folder, checked before it is seen: graphs, golden answer, manifest and card.

Knows no model: a network is a module with `forward(waveform, lengths)`, its manifest a table, its card a text.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.engine.manifest import parse_manifest

OPSET = 17
BOUND = 1e-4
"""Largest difference between formats, and between an item alone and the same item in a batch."""

Outputs = Mapping[str, tuple[str, ...]]
"""Each output in the order of `forward`, with the names of its leading axes that vary: `{"score": ("batch",)}`."""

Run = Callable[[NDArray[np.float32], NDArray[np.int64]], dict[str, NDArray[Any]]]


class BadExport(Exception):
    """The export does not keep what an export promises; nothing was written."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Largest absolute differences found."""

    onnx: float
    torchscript: float
    alone_to_batch: float

    def worst(self) -> float:
        return max(self.onnx, self.torchscript, self.alone_to_batch)


def package(
    module: nn.Module,
    outputs: Outputs,
    manifest: Mapping[str, Any],
    card: str,
    folder: Path,
    lengths_s: tuple[float, float, float] = (0.7, 1.37, 2.9),
    script: bool = True,
    onnx: nn.Module | None = None,
) -> Checked:
    """Write `folder` (`.../<name>/<version>`) whole or not at all.

    Args:
        module: `forward(waveform [batch, samples] float32, lengths [batch] int64)` gives a tensor, or a tuple in the
            order of *outputs*.
        manifest: the tables of `model.toml` without `files` and `golden`, which are added here.
        lengths_s: the lengths at which the formats are compared.
        script: compile by `torch.jit.script`; otherwise trace.
        onnx: what the ONNX file computes, where the same answers come cheaper than by *module*.

    Raises:
        BadExport: formats or batches disagree by more than `BOUND`, or a dimension came out fixed.
        BadManifest: the manifest would not load.
    """
    module = module.eval()
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        sample_rate = int(manifest["sample_rate"])
        _write_onnx(onnx.eval() if onnx else module, outputs, partial / "model.onnx", sample_rate)
        _write_torchscript(module, partial / "model.pt", sample_rate, script)
        checked = check(module, outputs, partial, sample_rate, lengths_s)
        _write_golden(module_runner(module, tuple(outputs)), partial / "golden.npz", sample_rate)
        tables = dict(manifest) | _file_tables(partial, outputs)
        parse_manifest(tables, str(folder / "model.toml"))
        (partial / "model.toml").write_text(to_toml(tables), "utf-8")
        (partial / "CARD.md").write_text(card, "utf-8")
        _publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return checked


def check(module: nn.Module, outputs: Outputs, folder: Path, sample_rate: int, lengths_s: tuple[float, ...]) -> Checked:
    """Compare the files in *folder* with *module* and each item alone with itself in a padded batch.

    Raises:
        BadExport: more than `BOUND` apart.
    """
    eager = module_runner(module, tuple(outputs))
    onnx = onnx_runner(folder / "model.onnx")
    with _quiet():
        scripted = module_runner(torch.jit.load(folder / "model.pt"), tuple(outputs))
    of_onnx, of_script, of_batch = 0.0, 0.0, 0.0
    for length_s, batch in itertools.product(lengths_s, (1, 3)):
        waveform = np.stack([sweep(int(length_s * sample_rate) + 1, sample_rate, row) for row in range(batch)])
        lengths = np.array([waveform.shape[1] - 977 * row for row in range(batch)], np.int64)
        wanted = eager(waveform, lengths)
        of_onnx = max(of_onnx, _apart(wanted, onnx(waveform, lengths)))
        of_script = max(of_script, _apart(wanted, scripted(waveform, lengths)))
    sizes = [int(length_s * sample_rate) + 1 for length_s in lengths_s]
    for run in (eager, onnx):
        of_batch = max(of_batch, alone_to_batch(run, outputs, sizes, sample_rate))
    checked = Checked(of_onnx, of_script, of_batch)
    if not checked.worst() <= BOUND:
        raise BadExport(f"differences above {BOUND}: {json.dumps(asdict(checked))}")
    return checked


def alone_to_batch(run: Run, outputs: Outputs, sizes: list[int], sample_rate: int) -> float:
    """Largest difference between items of *sizes* samples alone and in one batch whose padding is filled with noise."""
    items = [sweep(size, sample_rate, index) for index, size in enumerate(sizes)]
    batch = np.random.default_rng(1).uniform(-7, 7, (len(items), max(sizes) + 1234)).astype(np.float32)
    for row, item in enumerate(items):
        batch[row, : len(item)] = item
    together = run(batch, np.array(sizes, np.int64))
    worst = 0.0
    for row, item in enumerate(items):
        alone = run(item[None], np.array([len(item)], np.int64))
        for name in outputs:
            one = alone[name][0]
            # A lone item has no padding, so its own size says which part of the batch's row is valid.
            same = together[name][row][tuple(slice(size) for size in one.shape)]
            worst = max(worst, float(np.abs(one.astype(np.float64) - same).max(initial=0.0)))
    return worst


def sweep(samples: int, sample_rate: int, seed: int = 0) -> NDArray[np.float32]:
    """A sweep with gaps over faint noise, the same on every machine for the same arguments."""
    time_s = np.arange(samples) / sample_rate
    tone = np.sin(2 * np.pi * (200 + 150 * seed + 600 * time_s) * time_s) * (np.sin(2 * np.pi * 3 * time_s) > -0.3)
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(samples)
    return (0.3 * tone + 0.02 * noise).astype(np.float32)


def module_runner(module: nn.Module, names: tuple[str, ...]) -> Run:
    def run(waveform: NDArray[np.float32], lengths: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            given = module(torch.from_numpy(waveform), torch.from_numpy(lengths))
        tensors: tuple[Tensor, ...] = (given,) if isinstance(given, Tensor) else tuple(given)
        return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}

    return run


def onnx_runner(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(waveform: NDArray[np.float32], lengths: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(None, {"waveform": waveform, "lengths": lengths}), strict=True))

    return run


def to_toml(tables: Mapping[str, Any]) -> str:
    """*tables* as TOML: scalars and lists of scalars first, then tables, then arrays of tables; None is left out."""
    return "\n".join(_toml_lines(tables, "")).strip() + "\n"


def _toml_lines(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    nested = {key: value for key, value in table.items() if _is_table(value) or _is_tables(value)}
    for key, value in table.items():
        if key not in nested and value is not None:
            yield f"{key} = {_toml_value(value)}"
    for key, value in nested.items():
        for one in [value] if _is_table(value) else value:
            yield ""
            yield f"[{prefix}{key}]" if _is_table(value) else f"[[{prefix}{key}]]"
            yield from _toml_lines(one, f"{prefix}{key}.")


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_tables(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(_is_table(one) for one in value)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(one) for one in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"no TOML for {type(value).__name__}")


def _example(sample_rate: int) -> tuple[Tensor, Tensor]:
    # Two items of an odd length: a size of 1 or a round one could be frozen into the graph.
    samples = sample_rate + 1237
    waveform = np.stack([sweep(samples, sample_rate, row) for row in range(2)])
    return torch.from_numpy(waveform), torch.tensor([samples, samples - 4321])


@contextmanager
def _quiet() -> Iterator[None]:
    # Both exporters announce their successors, and the tracer warns of every shape it follows; the checks below decide.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write_onnx(module: nn.Module, outputs: Outputs, path: Path, sample_rate: int) -> None:
    axes = {"waveform": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}}
    axes |= {name: dict(enumerate(dims)) for name, dims in outputs.items()}
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            module, _example(sample_rate), str(path), input_names=["waveform", "lengths"], output_names=list(outputs),
            dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for tensor in (*session.get_inputs(), *session.get_outputs()):
        fixed = [axis for axis in axes[tensor.name] if isinstance(tensor.shape[axis], int)]
        if fixed:
            raise BadExport(f"{tensor.name} has fixed axes {fixed}: shape {tensor.shape}")


def _write_torchscript(module: nn.Module, path: Path, sample_rate: int, script: bool) -> None:
    with _quiet(), torch.no_grad():
        compiled = (
            torch.jit.script(module) if script else torch.jit.trace(module, _example(sample_rate), check_trace=False)
        )
        torch.jit.save(compiled, str(path))


def _write_golden(run: Run, path: Path, sample_rate: int) -> None:
    waveform = sweep(sample_rate, sample_rate)
    given = run(waveform[None], np.array([sample_rate], np.int64))
    np.savez_compressed(path, waveform=waveform, **{name: values[0] for name, values in given.items()})


def _file_tables(folder: Path, outputs: Outputs) -> dict[str, Any]:
    files = [
        {"path": "model.onnx", "backend": "onnx", "sha256": sha256(folder / "model.onnx")},
        {
            "path": "model.pt",
            "backend": "torchscript",
            "sha256": sha256(folder / "model.pt"),
            "outputs": list(outputs),
        },
    ]
    return {"files": files, "golden": {"path": "golden.npz", "sha256": sha256(folder / "golden.npz")}}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _apart(wanted: dict[str, NDArray[Any]], given: dict[str, NDArray[Any]]) -> float:
    worst = 0.0
    for name, values in wanted.items():
        if values.shape != given[name].shape:
            raise BadExport(f"{name}: shape {given[name].shape} where {values.shape} was expected")
        worst = max(worst, float(np.abs(values.astype(np.float64) - given[name]).max(initial=0.0)))
    return worst


def _publish(partial: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
