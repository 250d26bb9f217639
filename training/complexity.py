"""What a net costs: true multiply-accumulates, the figure that DCASE's tool prints, parameters and bytes.

    python -m training.complexity exported_models/sounds-cpresnet/1 --seconds 1

The challenge's tool (NeSsi, by way of torchinfo) and the truth differ. It counts a linear layer's weights once whatever
the number of tokens, the product of two activations not at all, and a norm's weights once. Published figures are its
figures: to compare with them, count as it does; to know what a machine must do, count what is done.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from service.engine.manifest import read_manifest
from training.export import sweep

LIMIT_MACS, LIMIT_PARAMETERS = 30_000_000, 128_000
"""Of DCASE 2022 to 2025, task 1: of the figure, and of the parameters (128 kB in int8)."""
FRONT = "front"
"""What the name of a front end's module begins with."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run of one item.

    Attributes:
        figure: multiply-accumulates as the challenge's tool counts them, without the front end.
        macs: multiply-accumulates that are done, without the front end.
        front_macs: those of the front end.
        parameters: numbers that were trained; of an export, weights and folded norms without the front end's constants.
        size: bytes of the parameters; of an export, of the file.
    """

    figure: int
    macs: int
    front_macs: int
    parameters: int
    size: int

    def __str__(self) -> str:
        return (
            f"{self.figure / 1e6:.3f} M as DCASE's tool counts, {self.macs / 1e6:.3f} M multiply-accumulates "
            f"({self.front_macs / 1e6:.3f} M more in the front end), "
            f"{self.parameters:,} parameters, {self.size:,} bytes"
        )


def of_net(net: nn.Module, *inputs: Tensor) -> Cost:
    """The cost of `net(*inputs)`, in evaluation mode."""
    net.eval()
    macs, front = true_macs(net, *inputs)
    weights = list(net.parameters())
    return Cost(
        figure=figure(net, *inputs),
        macs=macs - front,
        front_macs=front,
        parameters=sum(values.numel() for values in weights),
        size=sum(values.numel() * values.element_size() for values in weights),
    )


def true_macs(net: nn.Module, *inputs: Tensor) -> tuple[int, int]:
    """Multiply-accumulates of all products and convolutions of `net(*inputs)`, and those of them in its front end."""
    counter = FlopCounterMode(display=False)
    # Attention in one fused call is not counted on a CPU; in separate products it is.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        net(*inputs)
    root = type(net).__name__
    front = sum(
        sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.startswith(f"{root}.{FRONT}") and name.count(".") == 1
    )
    return counter.get_total_flops() // 2, front // 2


def figure(net: nn.Module, *inputs: Tensor) -> int:
    """What the challenge's tool prints of `net(*inputs)`.

    Of each module without parts, each time it runs: a convolution's weights and biases times its output's positions, a
    recurrent layer's times its steps, those of anything else once an item. Nothing that is no module counts.
    """
    total = 0

    def counted(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal total
        total += _figure_of(module, output)

    leaves = [module for module in net.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(counted) for leaf in leaves]
    try:
        with torch.no_grad():
            net(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _figure_of(module: nn.Module, output: Any) -> int:
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(first, Tensor) or not first.ndim:
        return 0
    size = first.shape
    total = 0
    for name, values in module.named_parameters():
        if name in ("weight", "bias"):
            times = size[0] * math.prod(size[2:]) if "Conv" in type(module).__name__ else size[0]
        else:
            times = math.prod(size[:2])
        total += values.numel() * times
    return total


# Where input and weight of a counted operator stand among its inputs.
PRODUCTS = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "ConvTranspose": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "QLinearMatMul": (0, 3),
    "Gemm": (0, 1),
    "QGemm": (0, 3),
    "LSTM": (0, 1),
    "GRU": (0, 1),
    "RNN": (0, 1),
}


def of_onnx(path: Path, sample_rate: int, seconds: float = 1.0) -> Cost:
    """The cost of the export at *path* for one item of *seconds*; its figure leaves out norms, which are folded in it.

    The graph is run, every operator's shapes are taken as they come. Operators named after a module that begins with
    `front` are the front end.

    Raises:
        ValueError: an operator that would have to be counted stands in a branch or a loop.
    """
    model = onnx.load(str(path))
    hidden = sorted({node.op_type for node in _inner(model.graph) if node.op_type in PRODUCTS})
    if hidden:
        raise ValueError(f"{path}: {', '.join(hidden)} in a branch or a loop, where it cannot be counted")
    weights = _weights(model)
    shapes = _shapes(model, sample_rate, seconds)
    shown, macs, front = 0, 0, 0
    for node, into, weight in _products(model):
        done = _macs(node, shapes[into], shapes[weight], shapes[node.output[0]], shapes)
        if _is_front(node):
            front += done
            continue
        macs += done
        if weight in weights:
            once = node.op_type.endswith("Gemm") or "MatMul" in node.op_type
            shown += math.prod(shapes[weight]) if once else done
    return Cost(shown, macs, front, _parameters(model), _bytes(path, model))


def _inner(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of all branches and loops in *graph*."""
    for node in graph.node:
        for part in node.attribute:
            if part.HasField("g"):
                yield from part.g.node
                yield from _inner(part.g)


def _products(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    """Every counted node with the names of its input and its weight."""
    for node in model.graph.node:
        if node.op_type in PRODUCTS:
            into, weight = PRODUCTS[node.op_type]
            yield node, node.input[into], node.input[weight]


def _is_front(node: onnx.NodeProto) -> bool:
    return node.name.startswith(f"/{FRONT}")


def _macs(
    node: onnx.NodeProto,
    into: tuple[int, ...],
    weight: tuple[int, ...],
    out: tuple[int, ...],
    shapes: dict[str, tuple[int, ...]],
) -> int:
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return math.prod(into[:2]) * (math.prod(weight) + math.prod(shapes[node.input[2]]))
    if node.op_type == "ConvTranspose":
        return math.prod(into) * math.prod(weight[1:])
    if "Conv" in node.op_type:
        return math.prod(out) * math.prod(weight[1:])
    turned = any(part.name == "transA" and part.i for part in node.attribute)
    return math.prod(out) * into[0 if turned else -1]


def _weights(model: onnx.ModelProto) -> set[str]:
    """Names of values that do not depend on the input: constants, and what a node makes of nothing else."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" or (node.input and all(name in fixed for name in node.input if name)):
            fixed.update(node.output)
    return fixed


def _shapes(model: onnx.ModelProto, sample_rate: int, seconds: float) -> dict[str, tuple[int, ...]]:
    """Shapes of all that counted nodes take and give, for one item of *seconds*."""
    known = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    wanted = {name for node, into, weight in _products(model) for name in (into, weight, node.output[0])}
    wanted |= {node.input[2] for node, _, _ in _products(model) if node.op_type in ("LSTM", "GRU", "RNN")}
    given = {tensor.name for tensor in model.graph.input}
    wanted -= known.keys() | given
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = _input(sample_rate, seconds)
    answers = session.run(sorted(wanted), {name: fed[name] for name in given & fed.keys()})
    known |= {name: fed[name].shape for name in given & fed.keys()}
    return known | {name: values.shape for name, values in zip(sorted(wanted), answers, strict=True)}


def _input(sample_rate: int, seconds: float) -> dict[str, NDArray[Any]]:
    waveform = sweep(round(sample_rate * seconds), sample_rate)[None]
    return {"waveform": waveform, "lengths": np.array([waveform.shape[1]], np.int64)}


def _parameters(model: onnx.ModelProto) -> int:
    """Numbers that the nodes outside the front end are given: floats and whole numbers of a byte."""
    kept = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    of_front = {name for node in model.graph.node if _is_front(node) for name in node.input}
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type in kept and tensor.dims and tensor.name not in of_front
    )


def _bytes(path: Path, model: onnx.ModelProto) -> int:
    """Of the file and of those beside it that hold its weights."""
    beside = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in beside)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.complexity", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="+", help="a model's version folder")
    parser.add_argument("--seconds", type=float, default=1.0, help="of audio (default: %(default)s)")
    options = parser.parse_args(arguments)
    for folder in options.folder:
        manifest = read_manifest(folder)
        for file in manifest.files:
            if file.backend == "onnx":
                cost = of_onnx(folder / file.path, manifest.sample_rate, options.seconds)
                print(f"{manifest.id} {file.path}, {options.seconds:g} s: {cost}")


if __name__ == "__main__":
    main()
