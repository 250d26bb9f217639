"""`python -m benchmarks.arithmetic`: how near a model's run comes to plain matrix products of the same shapes.

Every product in the graph (MatMul, Gemm, Conv, and the two of an LSTM) is done once more by `torch.mm` in fp32 on the
same core. What the graph takes beyond that goes to everything else: activations, layout, the transform's squares.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.record import save, table
from benchmarks.timing import interleaved, ratio
from service.backends.onnx import OnnxBackend
from service.engine import padding
from service.engine.manifest import read_manifest
from service.settings import embedded_models

MULTIPLYING = ("MatMul", "Gemm", "Conv", "LSTM")


@dataclass(frozen=True, slots=True)
class Product:
    """[rows, inner] times [inner, columns], so many times over."""

    rows: int
    inner: int
    columns: int
    times: int = 1

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.inner * self.columns * self.times


def products(model: onnx.ModelProto, inputs: dict[str, NDArray[Any]]) -> list[Product]:
    """All products of one run, with the shapes that *inputs* lead to."""
    nodes = [node for node in model.graph.node if node.op_type in MULTIPLYING]
    shapes = _shapes(model, inputs, [name for node in nodes for name in (node.input[0], node.input[1], node.output[0])])
    return [product for node in nodes for product in _of_node(node, shapes)]


def _of_node(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> Iterator[Product]:
    left, right = (shapes[name] for name in node.input[:2])
    if node.op_type in ("MatMul", "Gemm"):
        yield Product(math.prod(shapes[node.output[0]][:-1]), right[-2], right[-1])
    elif node.op_type == "Conv":
        made = shapes[node.output[0]]
        groups = next((one.i for one in node.attribute if one.name == "group"), 1)
        yield Product(made[0] * math.prod(made[2:]), math.prod(right[1:]), right[0] // groups, groups)
    else:
        steps, batch, inner = left
        directions, gates, _ = right
        yield Product(steps * batch, inner, gates, directions)
        yield Product(batch, gates // 4, gates, steps * directions)


def _shapes(
    model: onnx.ModelProto, inputs: dict[str, NDArray[Any]], names: list[str]
) -> dict[str, tuple[int, ...]]:
    """Shapes of values inside the graph, by running it with all of them as outputs."""
    known = {one.name: tuple(numpy_helper.to_array(one).shape) for one in model.graph.initializer}
    known |= {
        node.output[0]: tuple(numpy_helper.to_array(node.attribute[0].t).shape)
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    wanted = [name for name in dict.fromkeys(names) if name not in known]
    told = onnx.ModelProto()
    told.CopyFrom(model)
    del told.graph.output[:]
    told.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "told.onnx"
        onnx.save(told, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        values = session.run(wanted, inputs)
    return known | {name: value.shape for name, value in zip(wanted, values, strict=True)}


def plain(shapes: list[Product]) -> Callable[[], None]:
    """All the products on their own, each with its operands in place."""
    held = []
    for one in shapes:
        left, right = torch.randn(one.rows, one.inner), torch.randn(one.inner, one.columns)
        held.append((left, right, torch.empty(one.rows, one.columns), one.times))

    def run() -> None:
        for left, right, out, times in held:
            for _ in range(times):
                torch.mm(left, right, out=out)

    return run


def measure(folder: Path, seconds: float, rounds: int) -> dict[str, float]:
    manifest = read_manifest(folder)
    waveform = np.random.default_rng(0).standard_normal(round(seconds * manifest.sample_rate)).astype(np.float32) / 10
    backend, batch = OnnxBackend(folder / "model.onnx", "cpu"), padding.assemble([waveform])
    shapes = products(onnx.load(folder / "model.onnx"), dict(batch))
    taken = interleaved({"graph": lambda: backend.run(batch), "plain": plain(shapes)}, rounds)
    operations = sum(one.operations for one in shapes)
    return {
        "mflop": operations / 1e6,
        "graph_gflops": operations / min(taken["graph"]) / 1e9,
        "plain_gflops": operations / min(taken["plain"]) / 1e9,
        "of_plain": ratio(taken, "plain", "graph"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the recording")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folders = sorted(path.parent for path in embedded_models().glob("*/*/model.toml"))
    found = {folder.parent.name: measure(folder, given.seconds, given.rounds) for folder in folders}
    head = ("model", "MFLOP", "GFLOP/s", "of plain products", "GFLOP/s over theirs")
    print(table(head, [(name, *row.values()) for name, row in found.items()]))
    save({"arithmetic": found}, given.out)


if __name__ == "__main__":
    main()
