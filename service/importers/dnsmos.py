"""DNSMOS as a model of `/quality`, from the files in the installed package `speechmos`.

DNSMOS P.835 (Reddy, Gopal, Cutler, 2022) says what listeners would say of the voice (SIG), of the background (BAK) and
overall (OVRL); P.808 (2021) of the whole by another net. Its two graphs take 9.01 s each; what its authors do around
them in Python is put into one graph here: short recordings follow themselves, a window begins every second, mel bands,
the polynomials, and the mean over the windows. The package's own code is never run.
"""

from __future__ import annotations

import hashlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.errors import EarmarkError

if TYPE_CHECKING:
    import onnx

NAME, VERSION = "dnsmos", 1
RATE_HZ, WINDOW, HOP = 16000, 144160, 160
"""Samples of a window, and of a step of its mel bands."""
FFT, MELS = 321, 120
DOUBLINGS = 8
"""A recording of a sixteenth of a second is long enough after so many."""
POLYNOMIALS = np.array([
    [-0.08397278, 1.22083953, 0.0052439], [-0.13166888, 1.60915514, -0.39604546], [-0.06766283, 1.11546468, 0.04602535],
])  # fmt: skip
"""From raw to scale, highest power first: SIG, BAK, OVRL."""
PIECE_S, CONTEXT_S = 20.0, 4.5
"""Long recordings are cut so that the windows of all pieces are those of the whole."""

MANIFEST = f"""name = "{NAME}"
version = {VERSION}
task = "quality"
title = "DNSMOS: what listeners would say (P.835 overall, voice, background; P.808)"
licence = "CC-BY-4.0"
sample_rate = {RATE_HZ}

[batching]
mode = "alone"
max_items = 1

[window]
min_s = 0.25
max_s = {PIECE_S}
context_s = {CONTEXT_S}

[[files]]
path = "model.onnx"
backend = "onnx"
sha256 = "{{sha256}}"
"""
SCALES = {"ovrl": "P.835 overall", "sig": "P.835 voice", "bak": "P.835 background", "p808": "P.808 overall"}

CARD = """# DNSMOS

## What it does

Predicts what listeners would say of noisy or enhanced speech, 1…5: overall, of the voice, of the background (DNSMOS
P.835: C. K. A. Reddy, V. Gopal, R. Cutler, ICASSP 2022), and overall by P.808 (ICASSP 2021). Made from the files in
the package `speechmos` {package}; windows of 9.01 s, one a second, shorter recordings following themselves, as its
authors do. Their code loses a window now and then to rounding; here none is lost, which moves a score by some
hundredths.

**Not for** comparing recordings of different levels: its scores fall with the level (a clean clip 40 dB quieter loses
more than a point). Not for music, nor for where in a recording something happens: it has no curve.

## How good it is

See the papers. `exported_models/QUALITY.md` in Earmark's sources sets it beside PESQ.

## How it came to be

By Microsoft. `earmark models add-dnsmos` put the two graphs and what is done around them into one; nothing was trained.

## Licence and sources

The graphs are under CC BY 4.0, from https://github.com/microsoft/DNS-Challenge, by way of `speechmos` (MIT).
"""


class MissingExtra(EarmarkError):
    """A package is needed that is not installed; `detail` says which."""

    code = "missing-extra"
    title = "An optional package is not installed"


def add_dnsmos(out: Path) -> Path:
    """Write `out/dnsmos/1` and return it.

    Raises:
        MissingExtra: `speechmos` or `onnx` is not installed.
    """
    graphs = _files()
    folder = out / NAME / str(VERSION)
    folder.mkdir(parents=True, exist_ok=True)
    data = _whole(*graphs).SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    scales = "".join(
        f'\n[[scales]]\nkey = "{key}"\nname = "DNSMOS {name}"\nmin = 1.0\nmax = 5.0\nbetter = "higher"\n'
        for key, name in SCALES.items()
    )
    (folder / "CARD.md").write_text(CARD.format(package=version("speechmos")), "utf-8")
    # Last: with it the folder is a model.
    (folder / "model.toml").write_text(MANIFEST.format(sha256=hashlib.sha256(data).hexdigest()) + scales, "utf-8")
    return folder


def _files() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    try:
        import onnx

        version("speechmos")
    except (ImportError, PackageNotFoundError) as error:
        raise MissingExtra("DNSMOS needs two packages more: pip install 'earmark[dnsmos]'") from error
    found = importlib.util.find_spec("speechmos")
    folder = Path(str(found.origin if found else "")).parent / "dnsmos_models"
    return onnx.load(folder / "sig_bak_ovr.onnx"), onnx.load(folder / "model_v8.onnx")


class _Graph:
    """A graph that grows by one node at a time."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: object) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def within(self, model: onnx.ModelProto, given: str, prefix: str) -> str:
        """All of *model*, whose one input is *given*; its one output."""
        from onnx import compose

        inner = compose.add_prefix(model, prefix).graph
        for node in inner.node:
            node.input[:] = [given if name == inner.input[0].name else name for name in node.input]
        self.nodes.extend(inner.node)
        self.constants.extend(inner.initializer)
        return str(inner.output[0].name)


def _whole(voices: onnx.ModelProto, overall: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    graph = _Graph()
    windows = _windows(graph)
    raw = graph.within(voices, windows, "p835_")
    square, linear, free = (graph.constant(POLYNOMIALS[:, power].astype(np.float32)) for power in range(3))
    curved = graph.add("Mul", graph.add("Mul", raw, raw), square)
    scaled = graph.add("Add", graph.add("Add", curved, graph.add("Mul", raw, linear)), free)
    ordered = graph.add("Gather", scaled, graph.constant(np.array([2, 0, 1])), axis=1)
    whole = graph.add("Concat", ordered, graph.within(overall, _mels(graph, windows), "p808_"), axis=1)
    graph.nodes.append(helper.make_node("ReduceMean", [whole], ["scores"], axes=[0], keepdims=1))
    made = helper.make_graph(
        graph.nodes,
        NAME,
        [
            helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(SCALES)])],
        graph.constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)


def _windows(graph: _Graph) -> str:
    """[windows, `WINDOW`] of one recording: one a second, of as many times itself as a window needs."""
    flat = graph.add("Reshape", "waveform", graph.constant(np.array([-1])))
    length = graph.add("Reshape", "lengths", graph.constant(np.array([], np.int64)))
    doubled = graph.add("Mul", length, graph.constant(2 ** np.arange(DOUBLINGS)))
    is_short = graph.add("Less", doubled, graph.constant(np.int64(WINDOW)))
    times = graph.add("ReduceSum", graph.add("Cast", is_short, to=7), keepdims=0)
    total = graph.add("Mul", length, graph.add("Gather", graph.constant(2 ** np.arange(DOUBLINGS + 1)), times))
    seconds = graph.add("Div", total, graph.constant(np.int64(RATE_HZ)))
    one = graph.constant(np.int64(1))
    count = graph.add("Max", graph.add("Sub", seconds, graph.constant(np.int64(9))), one)
    starts = graph.add("Range", graph.constant(np.int64(0)), count, one)
    starts = graph.add("Mul", graph.add("Unsqueeze", starts, axes=[1]), graph.constant(np.int64(RATE_HZ)))
    places = graph.add("Add", starts, graph.constant(np.arange(WINDOW)[None]))
    return graph.add("Gather", flat, graph.add("Mod", places, length))


def _mels(graph: _Graph, windows: str) -> str:
    """[windows, 900, 120]: decibels below the loudest band, over the window less its last step."""
    half = FFT // 2
    held = graph.add(
        "Slice", windows, graph.constant(np.array([0])), graph.constant(np.array([WINDOW - HOP])),
        graph.constant(np.array([1])),
    )  # fmt: skip
    padded = graph.add("Pad", held, graph.constant(np.array([0, half, 0, half])))
    count = (WINDOW - HOP + 2 * half - FFT) // HOP + 1
    frames = graph.add("Gather", padded, graph.constant(np.arange(count)[:, None] * HOP + np.arange(FFT)), axis=1)
    angle = 2 * np.pi * np.outer(np.arange(FFT), np.arange(half + 1)) / FFT
    taps = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT))[:, None]
    parts = (graph.add("MatMul", frames, graph.constant((taps * wave(angle)).astype(np.float32)))
             for wave in (np.cos, np.sin))  # fmt: skip
    squares = [graph.add("Mul", part, part) for part in parts]
    power = graph.add("MatMul", graph.add("Add", *squares), graph.constant(_mel_bank().astype(np.float32)))
    least = graph.constant(np.float32(1e-10))
    logarithm = graph.add("Log", graph.add("Max", power, least))
    decibels = graph.add("Mul", logarithm, graph.constant(np.float32(10 / np.log(10))))
    below = graph.add("Sub", decibels, graph.add("ReduceMax", decibels, axes=[1, 2], keepdims=1))
    kept = graph.add("Max", below, graph.constant(np.float32(-80)))
    forty = graph.constant(np.float32(40))
    return graph.add("Div", graph.add("Add", kept, forty), forty)


def _mel_bank() -> NDArray[np.float64]:
    """Triangles of equal area on Slaney's mel scale (linear below 1 kHz), [161, 120]."""
    bins_hz = np.arange(FFT // 2 + 1) * RATE_HZ / FFT
    step = np.log(6.4) / 27
    top_mel = 15 + np.log(RATE_HZ / 2 / 1000) / step
    mels = np.linspace(0, top_mel, MELS + 2)
    edges_hz = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    rising = (bins_hz[:, None] - edges_hz[:-2]) / np.diff(edges_hz)[:-1]
    falling = (edges_hz[2:] - bins_hz[:, None]) / np.diff(edges_hz)[1:]
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) * 2 / (edges_hz[2:] - edges_hz[:-2]))
