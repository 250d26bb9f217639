"""Tiny real models in folders, made on the spot: each task's graph honours `lengths`, so batches do not change answers.

quality: the score falls with the level, `frames` are the log energies of 256 samples each; scene: "loud" and "quiet" by
level; enhance: half of what went in.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from service.values import TASKS, Task

RATE = 16_000
HOP = 256
NAMES: dict[Task, str] = {"quality": "tiny-quality", "scene": "tiny-scene", "enhance": "tiny-enhance"}


def make_repository(folder: Path) -> Path:
    """A folder with one default model of each task, all at 16 kHz."""
    for task in TASKS:
        make_model(folder, task)
    return folder


def make_model(
    folder: Path, task: Task, name: str = "", version: int = 1, *, graph: bytes | None = None, **overrides: Any
) -> Path:
    """Write `folder/<name>/<version>/` and return it.

    Args:
        graph: the bytes of another ONNX graph than the task's own.
        **overrides: keys of the manifest, in place of the usual ones; None leaves a key out.
    """
    name = name or NAMES[task]
    home = folder / name / str(version)
    home.mkdir(parents=True)
    content = graph or make_graph(task)
    (home / "model.onnx").write_bytes(content)
    (home / "CARD.md").write_text(f"# {name}\n\nA model for tests.\n", "utf-8")
    manifest: dict[str, Any] = {
        "name": name,
        "version": version,
        "task": task,
        "title": f"A tiny model for {task}",
        "licence": "Apache-2.0",
        "default": name == NAMES[task],
        "sample_rate": RATE,
        "window": {"min_s": 0.1, "max_s": 4.0, "context_s": 0.256},
        "batching": {"mode": "padded", "max_items": 8, "max_seconds": 32.0},
        "files": [{"path": "model.onnx", "backend": "onnx", "sha256": hashlib.sha256(content).hexdigest()}],
    }
    manifest |= _task_tables(task)
    if graph is None:
        manifest["golden"] = _golden(home, content)
    manifest |= overrides
    (home / "model.toml").write_text(to_toml(manifest), "utf-8")
    return home


def make_graph(task: Task) -> bytes:
    """The bytes of the task's ONNX graph."""
    nodes, outputs = {"quality": _quality, "scene": _scene, "enhance": _enhance}[task]()
    inputs = [
        helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
    ]
    nodes = _masked() + nodes
    used = {name for node in nodes for name in node.input}
    constants = [constant for constant in _constants() if constant.name in used]
    return pack(helper.make_graph(nodes, f"tiny-{task}", inputs, outputs, constants))


def pack(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def to_toml(table: dict[str, Any]) -> str:
    """TOML of *table*; nested tables are written inline."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items() if item is not None)
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value)


def _task_tables(task: Task) -> dict[str, Any]:
    frames = {"step_s": HOP / RATE, "offset_s": HOP / RATE / 2}
    if task == "quality":
        return {"frames": frames, "scales": [{"key": "mos", "name": "Tiny score", "min": 1.0, "max": 5.0}]}
    if task == "scene":
        return {"frames": frames, "labels": [{"name": "loud"}, {"name": "quiet"}]}
    return {}


def _golden(home: Path, content: bytes) -> dict[str, Any]:
    waveform = np.random.default_rng(7).uniform(-0.3, 0.3, 3 * RATE).astype(np.float32)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    values = session.run(None, {"waveform": waveform[np.newaxis], "lengths": np.array([len(waveform)])})
    answers = {node.name: value[0] for node, value in zip(session.get_outputs(), values, strict=True)}
    np.savez(home / "golden.npz", waveform=waveform, **answers)
    return {"path": "golden.npz", "sha256": hashlib.sha256((home / "golden.npz").read_bytes()).hexdigest()}


def _constants() -> list[TensorProto]:
    integers = {"i0": 0, "i1": 1, "hop_less_one": HOP - 1, "hop": HOP}
    vectors = {"v0": [0], "v1": [1], "v000": [0, 0, 0], "to_frames": [0, -1, HOP]}
    floats = {"tiny": 1e-8, "half": 0.5, "one": 1.0, "steep": 20.0, "middle": 0.1, "five": 5.0, "four": 4.0}
    return [
        *(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in (integers | vectors).items()),
        *(numpy_helper.from_array(np.array(value, np.float32), name) for name, value in floats.items()),
    ]


def _masked() -> list[onnx.NodeProto]:
    """`x`: the waveform with zeros from each item's length on; `n`: lengths as floats; `rms` over the true length."""
    node = helper.make_node
    return [
        node("Shape", ["waveform"], ["samples_v"], start=1, end=2),
        node("Squeeze", ["samples_v", "v0"], ["samples"]),
        node("Range", ["i0", "samples", "i1"], ["positions"]),
        node("Unsqueeze", ["lengths", "v1"], ["lengths_column"]),
        node("Less", ["positions", "lengths_column"], ["valid"]),
        node("Cast", ["valid"], ["mask"], to=TensorProto.FLOAT),
        node("Mul", ["waveform", "mask"], ["x"]),
        node("Cast", ["lengths"], ["n"], to=TensorProto.FLOAT),
        node("Mul", ["x", "x"], ["squares"]),
        node("ReduceSum", ["squares", "v1"], ["energy"], keepdims=0),
        node("Div", ["energy", "n"], ["power"]),
        node("Sqrt", ["power"], ["rms"]),
    ]


def _framed() -> list[onnx.NodeProto]:
    """`frame_power`, [batch, time], and `frame_lengths`, the hops begun within each item's length."""
    node = helper.make_node
    return [
        node("Add", ["samples", "hop_less_one"], ["rounded"]),
        node("Div", ["rounded", "hop"], ["times"]),
        node("Mul", ["times", "hop"], ["whole"]),
        node("Sub", ["whole", "samples"], ["missing"]),
        node("Unsqueeze", ["missing", "v0"], ["missing_v"]),
        node("Concat", ["v000", "missing_v"], ["pads"], axis=0),
        node("Pad", ["squares", "pads"], ["padded"]),
        node("Reshape", ["padded", "to_frames"], ["framed"]),
        node("ReduceMean", ["framed"], ["frame_power"], axes=[2], keepdims=0),
        node("Add", ["lengths", "hop_less_one"], ["lengths_rounded"]),
        node("Div", ["lengths_rounded", "hop"], ["frame_lengths"]),
    ]


def _value(name: str, *axes: str | int, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, ["batch", *axes])


def _quality() -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto]]:
    node = helper.make_node
    nodes = [
        *_framed(),
        node("Add", ["frame_power", "tiny"], ["above"]),
        node("Log", ["above"], ["frames"]),
        node("Mul", ["rms", "four"], ["loss"]),
        node("Sub", ["five", "loss"], ["score"]),
    ]
    frame_lengths = _value("frame_lengths", dtype=TensorProto.INT64)
    return nodes, [_value("score"), _value("frames", "time"), frame_lengths]


def _scene() -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto]]:
    node = helper.make_node

    def two_classes(level: str, output: str, axis: int) -> list[onnx.NodeProto]:
        axes = f"v{axis}" if axis == 1 else "axis2"
        return [
            node("Sub", [level, "middle"], [f"{output}_off"]),
            node("Mul", [f"{output}_off", "steep"], [f"{output}_logit"]),
            node("Sigmoid", [f"{output}_logit"], [f"{output}_loud"]),
            node("Sub", ["one", f"{output}_loud"], [f"{output}_quiet"]),
            node("Unsqueeze", [f"{output}_loud", axes], [f"{output}_loud_column"]),
            node("Unsqueeze", [f"{output}_quiet", axes], [f"{output}_quiet_column"]),
            node("Concat", [f"{output}_loud_column", f"{output}_quiet_column"], [output], axis=axis),
        ]

    nodes = [
        *_framed(),
        node("Constant", [], ["axis2"], value_ints=[2]),
        node("Sqrt", ["frame_power"], ["frame_rms"]),
        *two_classes("rms", "clip", 1),
        *two_classes("frame_rms", "frames", 2),
    ]
    frame_lengths = _value("frame_lengths", dtype=TensorProto.INT64)
    return nodes, [_value("clip", 2), _value("frames", "time", 2), frame_lengths]


def _enhance() -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto]]:
    return [helper.make_node("Mul", ["x", "half"], ["enhanced"])], [_value("enhanced", "samples")]
