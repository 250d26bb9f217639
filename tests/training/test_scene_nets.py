"""The five scene nets against plain functional arithmetic, their sizes and costs as published, and the importer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import httpx  # noqa: E402
from torch.nn import functional  # noqa: E402

from service.engine.checks import check_folder  # noqa: E402
from service.engine.manifest import read_manifest  # noqa: E402
from tests.e2e.server import Server  # noqa: E402
from tests.e2e.sounds import wav  # noqa: E402
from training import complexity  # noqa: E402
from training.checkpoint import BadCheckpoint  # noqa: E402
from training.export import _write_onnx, onnx_runner, sweep  # noqa: E402
from training.scene import cp_resnet, cp_resnet_damped, importer, mobileast, mobileast_first, passt, published, windows  # noqa: E402
from training.scene.importer import KINDS  # noqa: E402
from training.scene.spectrum import COARSE, FINE, PASST, Hearing, KaldiLogMel  # noqa: E402

Weights = dict[str, Any]
RATE = 32_000
LABELS = ("airport", "bus", "metro", "park", "tram")

# Published checkpoints, by name and shape, of small nets.


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{what}": (channels,) for what in ("weight", "bias", "running_mean", "running_var")}


def _normed(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """A convolution and the norm behind it, as numbered in a Sequential."""
    block, number = name.rsplit(".", 1)
    return {f"{name}.weight": shape} | _norm(f"{block}.{int(number) + 1}", shape[0])


def _residual(name: str, into: int, out: int, kernels: tuple[int, int], groups: int = 1) -> dict[str, tuple[int, ...]]:
    shapes = {f"{name}.conv1.weight": (out, into // groups, kernels[0], kernels[0])} | _norm(f"{name}.bn1", out)
    shapes |= {f"{name}.conv2.weight": (out, out // groups, kernels[1], kernels[1])} | _norm(f"{name}.bn2", out)
    if into != out:
        shapes |= {f"{name}.shortcut.conv.weight": (out, into // groups, 1, 1)} | _norm(f"{name}.shortcut.bn", out)
    return shapes


CP_RESNET = (
    _normed("in_c.0", (8, 1, 5, 5))
    | _residual("stage1.block1", 8, 8, (3, 1))
    | _residual("stage1.block2", 8, 8, (3, 3))
    | _residual("stage2.block1", 8, 16, (3, 3), groups=2)
    | _residual("stage3.block1", 16, 12, (3, 1))
    | _normed("feed_forward.0", (5, 12, 1, 1))
)
MOBILEAST = _normed("conv1.0", (32, 1, 3, 3)) | _normed("conv2.0", (216, 64, 1, 1)) | {"fc.weight": (5, 216)}
for _block, _into in (("mv2_1", 32), ("mv2_2", 64), ("mv2_3", 64)):
    MOBILEAST |= _normed(f"{_block}.conv.0", (_into, 1, 3, 3)) | _normed(f"{_block}.conv.3", (64, _into, 1, 1))
MOBILEAST |= {"mvit_1.depth_conv.weight": (64, 1, 3, 3), "mvit_1.depth_conv.bias": (64,)}
MOBILEAST |= {"mvit_1.point_conv.weight": (32, 64, 1, 1), "mvit_1.point_conv.bias": (32,)}
MOBILEAST |= _normed("mvit_1.conv3.0", (64, 32, 1, 1)) | _normed("mvit_1.conv4.0", (64, 96, 1, 1))
MOBILEAST |= {
    f"mvit_1.transformer.layers.{layer}.{name}": shape
    for layer in (0, 1)
    for name, shape in {
        "0.weight": (32,), "0.bias": (32,), "2.weight": (32,), "2.bias": (32,), "1.to_qkv.weight": (96, 32),
        "1.to_out.0.weight": (32, 32), "1.to_out.0.bias": (32,), "3.net.0.weight": (64, 32), "3.net.0.bias": (64,),
        "3.net.3.weight": (32, 64), "3.net.3.bias": (32,),
    }.items()
}  # fmt: skip
FIRST = {"conv1.0.weight": (32, 1, 3, 3), "fc.weight": (5, 300)} | _norm("conv1.1.bn", 64)
FIRST |= _normed("mv2_1.conv.0", (32, 1, 3, 3)) | _normed("mv2_1.conv.3", (48, 32, 1, 1))
FIRST |= _normed("mv2_2.conv.0", (48, 1, 3, 3)) | _normed("mv2_2.conv.3", (48, 48, 1, 1))
FIRST |= {"mvit_1.depth_conv.weight": (48, 1, 3, 3), "mvit_1.depth_conv.bias": (48,)}
FIRST |= {"mvit_1.point_conv.weight": (48, 48, 1, 1), "mvit_1.point_conv.bias": (48,)}
FIRST |= _normed("mvit_1.conv3.0", (48, 48, 1, 1)) | _normed("mvit_1.conv4.0", (48, 96, 1, 1))
FIRST |= _normed("conv2.0", (300, 48, 1, 1))
FIRST |= {
    f"mvit_1.transformer.layers.{layer}.{name}": shape
    for layer in range(6)
    for name, shape in {
        "0.norm.weight": (48,), "0.norm.bias": (48,), "1.norm.weight": (48,), "1.norm.bias": (48,),
        "0.fn.to_qkv.weight": (96, 48), "0.fn.to_out.0.weight": (48, 32), "0.fn.to_out.0.bias": (48,),
        "1.fn.net.0.weight": (96, 48), "1.fn.net.0.bias": (96,), "1.fn.net.3.weight": (48, 96),
        "1.fn.net.3.bias": (48,),
    }.items()
}  # fmt: skip
ACDNET_CHANNELS = (4, 16, 6, 8, 8, 8, 8, 8, 8, 10, 10)
ACDNET_NUMBERS = (0, 4, 7, 11, 14, 18, 21, 25, 28, 32)
"""Of the convolutions after the filter bank, of a net for 0.2 s: its fifth pool would do nothing and is left out."""
ACDNET = _normed("sfeb.0", (4, 1, 1, 9)) | _normed("sfeb.3", (16, 4, 1, 5))
for _number, _into, _out in zip(ACDNET_NUMBERS, (1, *ACDNET_CHANNELS[2:]), (*ACDNET_CHANNELS[2:], 5), strict=True):
    ACDNET |= _normed(f"tfeb.{_number}", (_out, _into, *((1, 1) if _number == 32 else (3, 3))))
ACDNET |= {"tfeb.36.weight": (5, 5), "tfeb.36.bias": (5,)}
WIDTH = 128
PASST_SMALL = {
    "cls_token": (1, 1, WIDTH), "dist_token": (1, 1, WIDTH), "new_pos_embed": (1, 2, WIDTH),
    "freq_new_pos_embed": (1, WIDTH, 12, 1), "time_new_pos_embed": (1, WIDTH, 1, 10),
    "patch_embed.proj.weight": (WIDTH, 1, 16, 16), "patch_embed.proj.bias": (WIDTH,),
    "norm.weight": (WIDTH,), "norm.bias": (WIDTH,), "head.0.weight": (WIDTH,), "head.0.bias": (WIDTH,),
    "head.1.weight": (5, WIDTH), "head.1.bias": (5,), "head_dist.weight": (5, WIDTH), "head_dist.bias": (5,),
} | {
    f"blocks.{block}.{name}.{what}": shape if what == "weight" else shape[:1]
    for block in (0, 1)
    for name, shape in {
        "norm1": (WIDTH,), "attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH),
        "norm2": (WIDTH,), "mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH),
    }.items()
    for what in ("weight", "bias")
}  # fmt: skip
CHECKPOINTS: dict[str, dict[str, tuple[int, ...]]] = {
    "acdnet": ACDNET, "cp-resnet": CP_RESNET, "cp-resnet-damped": CP_RESNET, "mobileast": MOBILEAST,
    "first-mobileast": FIRST,
    "passt": PASST_SMALL,
}  # fmt: skip
PREFIXES = {"acdnet": "", "cp-resnet": "1.1.", "cp-resnet-damped": "module.", "mobileast": "1.", "passt": "net."}


@cache
def weights_of(kind: str) -> Weights:
    """Random weights with the published names, large enough that no layer is idle."""
    chance = np.random.default_rng(3)

    def draw(name: str, shape: tuple[int, ...]) -> Any:
        if name.endswith("running_var"):
            values = chance.uniform(0.5, 2.0, shape)
        elif len(shape) == 1:
            values = chance.normal(1.0 if name.endswith("weight") else 0.0, 0.2, shape)
        else:
            values = chance.normal(0.0, 1.4 / math.sqrt(math.prod(shape[1:])), shape)
        return torch.tensor(values.astype(np.float32))

    return {name: draw(name, shape) for name, shape in CHECKPOINTS[kind].items()}


# What those checkpoints compute, once more.


def features(waveform: NDArray[np.float32], hearing: Hearing) -> NDArray[np.float64]:
    """[mels, frames] by numpy's own transform and padding."""
    emphasised = waveform[1:].astype(np.float64) - 0.97 * waveform[:-1]
    padded = np.pad(emphasised, hearing.n_fft // 2, mode="reflect")
    window = np.zeros(hearing.n_fft)
    begin = (hearing.n_fft - hearing.window) // 2
    window[begin : begin + hearing.window] = np.hanning(hearing.window)
    starts = range(0, len(emphasised) + 1, hearing.hop)
    power = np.stack([np.abs(np.fft.rfft(padded[at : at + hearing.n_fft] * window)) ** 2 for at in starts])
    mels = [1127 * math.log(1 + hz / 700) for hz in (hearing.low_hz, hearing.high_hz)]
    edges = np.linspace(*mels, hearing.mels + 2)
    bank = np.zeros((hearing.n_fft // 2 + 1, hearing.mels))
    for at in range(hearing.n_fft // 2):
        mel = 1127 * math.log(1 + at * hearing.sample_rate / hearing.n_fft / 700)
        for band in np.flatnonzero((edges[:-2] < mel) & (mel < edges[2:])):
            low, middle, high = edges[band : band + 3]
            bank[at, band] = (mel - low) / (middle - low) if mel <= middle else (high - mel) / (high - middle)
    return (np.log(power @ bank + 1e-5).T + 4.5) / 5


def norm(values: Any, weights: Weights, name: str) -> Any:
    got = [weights[f"{name}.{what}"] for what in ("running_mean", "running_var", "weight", "bias")]
    return functional.batch_norm(values, *got)


def cp_resnet_logits(given: Any, weights: Weights, damped: bool = False) -> Any:
    def convolved(values: Any, name: str, stride: int = 1) -> Any:
        kernel = weights[f"{name}.weight"]
        size = kernel.shape[2]
        if damped and size > 1:
            profile = torch.tensor({3: [0.01, 1, 0.01], 5: [0.01, 0.505, 1, 0.505, 0.01]}[size])
            kernel = kernel * profile[None, None, :, None]
        groups = values.shape[1] // kernel.shape[1]
        return functional.conv2d(values, kernel, stride=stride, padding=size // 3, groups=groups)

    def block(values: Any, name: str) -> Any:
        made = norm(convolved(values, f"{name}.conv1"), weights, f"{name}.bn1").relu()
        made = norm(convolved(made, f"{name}.conv2"), weights, f"{name}.bn2")
        if f"{name}.shortcut.conv.weight" in weights:
            values = norm(convolved(values, f"{name}.shortcut.conv"), weights, f"{name}.shortcut.bn")
        return (made + values).relu()

    made = functional.max_pool2d(norm(convolved(given[None, None], "in_c.0", 2), weights, "in_c.1").relu(), 2)
    made = block(made, "stage1.block1")
    # The damped family halves the bands after its second block only.
    made = made if damped else functional.max_pool2d(made, (2, 1))
    made = functional.max_pool2d(block(made, "stage1.block2"), (2, 1))
    made = block(block(made, "stage2.block1"), "stage3.block1")
    return norm(convolved(made, "feed_forward.0"), weights, "feed_forward.1").mean((2, 3))[0]


def normed(values: Any, weights: Weights, name: str, number: int = 0, stride: int = 1) -> Any:
    kernel = weights[f"{name}.{number}.weight"]
    groups = values.shape[1] // kernel.shape[1]
    made = functional.conv2d(values, kernel, stride=stride, padding=kernel.shape[2] // 2, groups=groups)
    return norm(made, weights, f"{name}.{number + 1}")


def separable(values: Any, weights: Weights, name: str, stride: int, act: Callable[[Any], Any]) -> Any:
    return normed(act(normed(values, weights, f"{name}.conv", 0, stride)), weights, f"{name}.conv", 3)


def mixed(values: Any, weights: Weights, act: Callable[[Any], Any], transformer: Callable[[Any], Any]) -> Any:
    """[1, channels, 32, 16] to the same; *transformer* takes the tokens of one grid, [128, width]."""
    depth, point = (
        (weights[f"mvit_1.{name}.weight"], weights[f"mvit_1.{name}.bias"]) for name in ("depth_conv", "point_conv")
    )
    near = functional.conv2d(functional.conv2d(values, *depth, padding=1, groups=values.shape[1]), *point)
    far = torch.zeros_like(near)
    for row in (0, 1):
        for column in (0, 1):
            tokens = transformer(near[0, :, row::2, column::2].reshape(near.shape[1], -1).T)
            far[0, :, row::2, column::2] = tokens.T.reshape(-1, 16, 8)
    joined = torch.cat([act(normed(far, weights, "mvit_1.conv3")), near], 1)
    return values + act(normed(joined, weights, "mvit_1.conv4"))


def mobileast_logits(given: Any, weights: Weights) -> Any:
    def attention(tokens: Any, name: str) -> Any:
        """Of one grid [128, 32]: a head is a quarter of the tokens, each cut in four."""
        asked, keys, values = (tokens @ weights[f"{name}.to_qkv.weight"].T).split(32, 1)
        heads = []
        for head in range(4):
            one, two, three = (part[32 * head : 32 * head + 32].reshape(128, 8) for part in (asked, keys, values))
            heads.append(torch.softmax(one @ two.T / math.sqrt(8), 1) @ three)
        joined = torch.cat([head.reshape(32, 32) for head in heads])
        return joined @ weights[f"{name}.to_out.0.weight"].T + weights[f"{name}.to_out.0.bias"]

    def layer(tokens: Any, name: str) -> Any:
        def level(values: Any, at: int) -> Any:
            return functional.layer_norm(values, (32,), weights[f"{name}.{at}.weight"], weights[f"{name}.{at}.bias"])

        tokens = level(tokens, 0)
        tokens = level(tokens + attention(tokens, f"{name}.1"), 2)
        inner = (tokens @ weights[f"{name}.3.net.0.weight"].T + weights[f"{name}.3.net.0.bias"]).relu()
        return tokens + inner @ weights[f"{name}.3.net.3.weight"].T + weights[f"{name}.3.net.3.bias"]

    def transformer(tokens: Any) -> Any:
        for at in (0, 1):
            tokens = layer(tokens, f"mvit_1.transformer.layers.{at}")
        return tokens

    act = torch.relu
    made = act(normed(given[None, None], weights, "conv1", 0, 2))
    made = separable(separable(made, weights, "mv2_1", 1, act), weights, "mv2_2", 2, act)
    made = mixed(functional.max_pool2d(made, (2, 1)), weights, act, transformer)
    made = act(normed(separable(made, weights, "mv2_3", 2, act), weights, "conv2"))
    return (functional.avg_pool2d(made, (16, 8))[:, :, 0, 0] @ weights["fc.weight"].T)[0]


def first_mobileast_logits(given: Any, weights: Weights) -> Any:
    def adding(tokens: Any, name: str, make: Callable[[Any, str], Any]) -> Any:
        level = functional.layer_norm(tokens, (48,), weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])
        return tokens + make(level, f"{name}.fn")

    def attention(tokens: Any, name: str) -> Any:
        parts = (tokens @ weights[f"{name}.to_qkv.weight"].T).split(32, 1)
        heads = [part.reshape(128, 4, 8).transpose(0, 1) for part in parts]
        joined = functional.scaled_dot_product_attention(*heads).transpose(0, 1).reshape(128, 32)
        return joined @ weights[f"{name}.to_out.0.weight"].T + weights[f"{name}.to_out.0.bias"]

    def inner(tokens: Any, name: str) -> Any:
        made = functional.silu(tokens @ weights[f"{name}.net.0.weight"].T + weights[f"{name}.net.0.bias"])
        return made @ weights[f"{name}.net.3.weight"].T + weights[f"{name}.net.3.bias"]

    def transformer(tokens: Any) -> Any:
        for at in range(6):
            tokens = adding(tokens, f"mvit_1.transformer.layers.{at}.0", attention)
            tokens = adding(tokens, f"mvit_1.transformer.layers.{at}.1", inner)
        return tokens

    act = functional.silu
    entry = functional.conv2d(given[None, None], weights["conv1.0.weight"], stride=2, padding=1)
    halves = []
    for at in (0, 1):
        # Norms stand channel by channel, each with its lower half of the bands before its upper one.
        own = [weights[f"conv1.1.bn.{what}"][at::2] for what in ("running_mean", "running_var", "weight", "bias")]
        halves.append(functional.batch_norm(entry[:, :, 64 * at : 64 * at + 64], *own))
    made = act(torch.cat(halves, 2))
    made = separable(separable(made, weights, "mv2_1", 1, act), weights, "mv2_2", 2, act)
    made = act(normed(mixed(functional.max_pool2d(made, (2, 1)), weights, act, transformer), weights, "conv2"))
    return (functional.avg_pool2d(made, (32, 16))[:, :, 0, 0] @ weights["fc.weight"].T)[0]


def acdnet_logits(given: Any, weights: Weights) -> Any:
    made = given[None, None, None]
    for number in (0, 3):
        made = functional.conv2d(made, weights[f"sfeb.{number}.weight"], stride=(1, 2))
        made = norm(made, weights, f"sfeb.{number + 1}").relu()
    made = functional.max_pool2d(made, (1, 20)).transpose(1, 2)
    for number in ACDNET_NUMBERS:
        kernel = weights[f"tfeb.{number}.weight"]
        made = functional.conv2d(made, kernel, padding=kernel.shape[2] // 2)
        made = norm(made, weights, f"tfeb.{number + 1}").relu()
        if number in (0, 7, 14, 21):
            made = functional.max_pool2d(made, 2)
    assert made.shape[2:] == (1, 1)
    return weights["tfeb.36.weight"] @ made[0, :, 0, 0] + weights["tfeb.36.bias"]


def passt_logits(given: Any, weights: Weights) -> Any:
    def linear(values: Any, name: str) -> Any:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def level(values: Any, name: str, eps: float = 1e-6) -> Any:
        return functional.layer_norm(values, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    patches = functional.conv2d(given[None, None], kernel, bias, stride=10)
    assert patches.shape[2:] == (12, 9), "the tenth place in time is never reached"
    patches = patches + weights["freq_new_pos_embed"] + weights["time_new_pos_embed"][..., :9]
    first = [weights[f"{name}_token"][0] + weights["new_pos_embed"][0, at] for at, name in enumerate(("cls", "dist"))]
    tokens = torch.cat([*first, patches[0].reshape(WIDTH, -1).T])
    for block in (0, 1):
        parts = linear(level(tokens, f"blocks.{block}.norm1"), f"blocks.{block}.attn.qkv").split(WIDTH, 1)
        heads = [part.reshape(-1, 2, WIDTH // 2).transpose(0, 1) for part in parts]
        mixed = functional.scaled_dot_product_attention(*heads).transpose(0, 1).reshape(-1, WIDTH)
        tokens = tokens + linear(mixed, f"blocks.{block}.attn.proj")
        inner = functional.gelu(linear(level(tokens, f"blocks.{block}.norm2"), f"blocks.{block}.mlp.fc1"))
        tokens = tokens + linear(inner, f"blocks.{block}.mlp.fc2")
    return linear(level(level(tokens, "norm")[:2].mean(0), "head.0", 1e-5), "head.1")


def wanted(kind: str, waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of a clip as long as the net's window."""
    weights = weights_of(kind)

    def heard(hearing: Hearing) -> Any:
        return torch.tensor(features(waveform, hearing).astype(np.float32))

    makers: dict[str, Callable[[], Any]] = {
        "acdnet": lambda: acdnet_logits(torch.tensor(waveform), weights),
        "cp-resnet": lambda: cp_resnet_logits(heard(COARSE), weights),
        "cp-resnet-damped": lambda: cp_resnet_logits(heard(FINE), weights, damped=True),
        "mobileast": lambda: mobileast_logits(heard(FINE), weights),
        "passt": lambda: passt_logits(heard(PASST), weights),
    }
    return np.asarray(torch.softmax(makers[kind](), 0))


TOLD = {"acdnet": ["--sample-rate", "8000", "--samples", "1600"], "cp-resnet": ["--frames", "44"]}


def imported(kind: str, folder: Path, weights: Weights | None = None, labels: tuple[str, ...] = LABELS) -> int:
    """Import a checkpoint of *kind* into `folder/out`; the importer's exit code."""
    (folder / "labels.txt").write_text("\n".join(labels) + "\n")
    held = {PREFIXES[kind] + name: values for name, values in (weights or weights_of(kind)).items()}
    torch.save({"weight": held, "config": [1, 2]} if kind == "acdnet" else held, folder / "best.pt")
    arguments = [str(folder / "best.pt"), "--kind", kind, "--labels", str(folder / "labels.txt")]
    return importer.main([*arguments, "--out", str(folder / "out"), *TOLD.get(kind, [])])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five, imported."""
    folder = tmp_path_factory.mktemp("imported")
    assert [imported(kind, folder) for kind in KINDS] == [0] * len(KINDS)
    return folder / "out"


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_checkpoint_answers_as_its_net_does(kind: str, models: Path) -> None:
    folder = models / f"scene-{kind}" / "1"
    manifest = read_manifest(folder)
    assert manifest.labels_named == LABELS
    assert manifest.exclusive
    samples = 1600 if kind == "acdnet" else RATE
    assert manifest.sample_rate == (8000 if kind == "acdnet" else RATE)
    waveform = sweep(samples, manifest.sample_rate, 2)
    answer = onnx_runner(folder / "model.onnx")(waveform[None], np.array([samples], np.int64))
    np.testing.assert_allclose(answer["clip"][0], wanted(kind, waveform), atol=2e-4)
    assert np.ptp(answer["clip"]) > 0.1, "weights too dull to tell a right net from a wrong one"
    if not kind.startswith("cp-resnet"):
        np.testing.assert_allclose(answer["frames"][0, 0], answer["clip"][0], atol=1e-6)
    assert [str(finding) for finding in check_folder(folder)] == []


def test_a_first_mobileast_is_told_from_the_later_ones() -> None:
    weights = weights_of("first-mobileast")
    found = importer.read("mobileast", {f"1.1.{name}": values for name, values in weights.items()}, importer.Told())
    waveform = sweep(RATE, RATE, 4)
    with torch.no_grad():
        clip = found.module(torch.tensor(waveform)[None], torch.tensor([RATE]))[0][0]
        plain = first_mobileast_logits(torch.tensor(features(waveform, FINE).astype(np.float32)), weights)
    np.testing.assert_allclose(clip, torch.softmax(plain, 0), atol=2e-4)
    assert np.ptp(np.asarray(clip)) > 0.1
    later = importer.read("mobileast", weights_of("mobileast"), importer.Told())
    assert isinstance(later.module.net, mobileast.MobileAst)
    second = mobileast_first.FirstMobileAst(mobileast_first.LIGHT2).state_dict()
    assert importer.read("mobileast", second, importer.Told()).labels == 10


def test_the_service_answers_with_every_imported_net(models: Path) -> None:
    with Server(models) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        for kind in KINDS:
            rate = 8000 if kind == "acdnet" else RATE
            asked = {"model": f"scene-{kind}", "threshold": 0, "top": 5}
            answer = client.post("/scene", params=asked, content=wav(sweep(3 * rate, rate), rate)).raise_for_status()
            found = {one["label"]: one["probability"] for one in answer.json()["labels"]}
            assert sorted(found) == sorted(LABELS)
            assert sum(found.values()) == pytest.approx(1.0, abs=1e-3)
            assert answer.json()["exclusive"]


PUBLISHED = {
    "ACDNet, 1 s at 32 kHz": (4_712_378, 365.0, 365.0),
    "ACDNet, 5 s at 32 kHz": (4_712_378, 1875.0, 1875.0),
    "ACDNet, 1.51 s at 20 kHz": (4_712_378, 541.7, 541.7),
    "ACDNet, 50 labels": (4_735_378, 541.7, 541.7),
    "CP-ResNet, note, 44 frames": (131_316, 29.24, 29.24),
    "CP-ResNet, note, 64 frames": (131_316, 43.81, 43.80),
    "CP-ResNet, winner of 2022, 44 frames": (127_684, 28.84, 28.84),
    "CP-ResNet, winner of 2022, 64 frames": (127_684, 43.21, 43.21),
    "CP-ResNet, rho 7, 44 frames": (84_660, 22.4, 22.4),
    "CP-ResNet, rho 7, 64 frames": (84_660, 33.5, 33.5),
    "damped CP-ResNet, 14 layers": (2_573_204, 1423.7, 1423.7),
    "damped CP-ResNet, 20 layers": (3_002_772, 1621.8, 1621.8),
    "damped CP-ResNet, 26 layers": (4_480_916, 1488.3, 1488.3),
    "MobileAST light1-silu": (52_960, 23.048, 39.76),
    "MobileAST light1-relu": (57_216, 23.507, 40.22),
    "MobileAST light2-silu": (47_520, 26.914, 43.64),
    "MobileAST light2-relu": (52_384, 27.439, 44.16),
    "MobileAST light3-silu": (53_040, 12.350, 40.59),
    "MobileAST light3-relu": (57_904, 12.875, 41.11),
    "first MobileAST light": (127_728, 23.913, 96.12),
    "first MobileAST light2": (127_792, 29.098, 54.66),
    "PaSST, 1 s": (85_290_260, 106.4, 9587.1),
    "PaSST, 10 s, 527 labels": (86_153_758, 319.9, 127407.8),
}
"""Parameters, millions as the challenge's tool counts, and millions that are done."""


def test_every_published_net_is_held_to_its_figures() -> None:
    assert [net.name for net in published.NETS] == list(PUBLISHED)


@pytest.mark.parametrize("net", published.NETS, ids=lambda net: net.name)
def test_size_and_cost_are_the_published_ones(net: published.Published) -> None:
    size, shown, true = PUBLISHED[net.name]
    cost = net.cost()
    assert cost.parameters == size
    assert cost.size == 4 * size
    assert cost.figure / 1e6 == pytest.approx(shown, rel=2e-3)
    assert cost.macs / 1e6 == pytest.approx(true, rel=2e-3)
    assert cost.front_macs == 0


class Few(torch.nn.Module):
    """One of each: a grouped convolution, a linear layer on tokens, a product of activations, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.front = torch.nn.Linear(1, 6)
        self.convolution = torch.nn.Conv1d(6, 4, 3, stride=2, padding=1, groups=2)
        self.norm = torch.nn.BatchNorm1d(4)
        self.linear = torch.nn.Linear(4, 5)
        self.memory = torch.nn.GRU(5, 7, batch_first=True)

    def forward(self, waveform: Any, lengths: Any) -> Any:
        made = self.front(waveform.unsqueeze(2) + 0 * lengths.reshape(-1, 1, 1)).transpose(1, 2)
        made = self.norm(self.convolution(made)).transpose(1, 2)
        made = self.linear(made)
        made = torch.softmax(made @ made.transpose(1, 2), 2) @ made
        return self.memory(made)[0].sum((1, 2))


STEPS = 50
FEW_FRONT = 100 * 6
FEW_CONVOLUTION = STEPS * 4 * 3 * 3
FEW_MACS = FEW_CONVOLUTION + STEPS * 4 * 5 + 2 * STEPS * STEPS * 5 + STEPS * 3 * 7 * (5 + 7)
FEW_PARAMETERS = 12 + 40 + 8 + 25 + 3 * 7 * (5 + 7 + 2)


def test_a_net_costs_what_a_pencil_says() -> None:
    cost = complexity.of_net(Few(), torch.zeros(1, 100), torch.tensor([100]))
    assert (cost.macs, cost.front_macs, cost.parameters) == (FEW_MACS, FEW_FRONT, FEW_PARAMETERS)
    biases = STEPS * 4 + 5 + STEPS * 2 * 3 * 7
    norms = 2 * 4
    assert cost.figure == FEW_CONVOLUTION + 4 * 5 + STEPS * 3 * 7 * (5 + 7) + biases + norms + 12


def test_an_export_costs_what_its_net_does(tmp_path: Path) -> None:
    path = tmp_path / "few.onnx"
    _write_onnx(Few().eval(), {"score": ("batch",)}, path, 100)
    cost = complexity.of_onnx(path, 100)
    assert (cost.macs, cost.front_macs) == (FEW_MACS, FEW_FRONT)
    assert cost.figure == FEW_CONVOLUTION + 4 * 5 + STEPS * 3 * 7 * (5 + 7)
    # The norm's two numbers a channel are one more of the convolution before it, which had a bias already.
    assert cost.parameters == pytest.approx(FEW_PARAMETERS - 12, abs=8)
    assert cost.size == path.stat().st_size


def test_the_front_end_is_that_of_the_note_and_hears_no_padding() -> None:
    for hearing in (FINE, COARSE, PASST):
        front = KaldiLogMel(hearing)
        sizes = [32_000, 11_111, 5_001]
        batch = torch.full((3, 40_000), math.nan)
        for row, size in enumerate(sizes):
            batch[row, :size] = torch.tensor(sweep(size, RATE, row))
        given, counts = front(batch, torch.tensor(sizes))
        for row, size in enumerate(sizes):
            plain = features(sweep(size, RATE, row), hearing)
            assert counts[row] == plain.shape[1] == hearing.frames(size)
            np.testing.assert_allclose(given[row, :, : counts[row]], plain, atol=2e-3)
    assert [hearing.frames(RATE) for hearing in (FINE, COARSE, PASST)] == [64, 44, 100]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 12))
def test_windows_hold_every_sample_once_as_new(lengths: list[int], size: int) -> None:
    batch = torch.stack([torch.arange(max(lengths)).float() + 100 * row for row in range(len(lengths))])
    cut, fresh = windows.cut(batch, torch.tensor(lengths), size)
    for row, length in enumerate(lengths):
        own = np.asarray(batch[row, :length])
        count = -(-length // size)
        for at in range(count):
            begin = max(0, min(at * size, length - size))
            np.testing.assert_array_equal(cut[row, at], np.resize(own[begin:], size) if length < size else
                                          own[begin : begin + size])  # fmt: skip
        assert fresh[row].sum() == length
        assert (fresh[row, count:] == 0).all()


def test_a_folded_net_answers_as_the_damped_one() -> None:
    shape = cp_resnet_damped.shape(8, 14, base=8)
    damped = cp_resnet_damped.build(shape).eval()
    torch.manual_seed(1)
    for values in damped.parameters():
        torch.nn.init.normal_(values, std=0.2)
    given = torch.randn(2, 64, 60), torch.tensor([60, 41])
    for one, other in zip(damped(*given), cp_resnet_damped.folded(damped, shape)(*given), strict=True):
        torch.testing.assert_close(one, other)


def test_a_fresh_cp_resnet_says_nothing_yet_and_learns() -> None:
    net = cp_resnet.CpResNet(cp_resnet.WINNER).train()
    clip, frames, counts = net(torch.randn(2, 256, 44), torch.tensor([44, 44]))
    assert clip.abs().max() == 0
    assert frames.shape == (2, 10, 10)
    assert counts.tolist() == [10, 10]
    functional.cross_entropy(clip, torch.tensor([1, 2])).backward()
    assert net.feed_forward[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("shape", [cp_resnet.WINNER, cp_resnet.NOTE, cp_resnet_damped.shape(8, 14)])
def test_a_frame_hears_no_further_than_is_said(shape: cp_resnet.Shape) -> None:
    small = cp_resnet.Shape(
        tuple(cp_resnet.Stage(4, stage.kernels) for stage in shape.stages), shape.pools, 3  # type: ignore[arg-type]
    )  # fmt: skip
    net = cp_resnet.CpResNet(small).eval()
    torch.manual_seed(0)
    for values in net.parameters():
        torch.nn.init.uniform_(values, 0.1, 0.3)
    bands = torch.zeros(1, 64, 400)
    counts = torch.tensor([400])
    plain = net(bands, counts)[1]
    bands[0, :, 200] = 5.0
    moved = torch.nonzero((net(bands, counts)[1] - plain).abs().amax((0, 2)) > 1e-6)[:, 0]
    reach = (cp_resnet.STEP * moved + cp_resnet.CENTRE - 200).abs().max()
    assert small.reach - cp_resnet.STEP < reach <= small.reach


REFUSED: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "a lost name": (lambda held: {k: v for k, v in held.items() if k != "in_c.1.bias"}, "missing: in_c.1.bias"),
    "a lost kernel": (
        lambda held: {k: v for k, v in held.items() if k != "stage2.block1.conv2.weight"},
        "missing: stage2.block1.conv2.weight",
    ),
    "a strange name": (lambda held: held | {"stage4.weight": torch.zeros(2)}, "unexpected: stage4.weight"),
    "another shape": (
        lambda held: held | {"in_c.1.bias": torch.zeros(3)}, "misshapen: in_c.1.bias is (3,), must be (8,)",
    ),
    "not a number": (lambda held: held | {"in_c.1.bias": torch.full((8,), math.nan)}, "not finite: in_c.1.bias"),
    "another net": (lambda held: dict(weights_of("mobileast")), "in_c.0.weight should stand in one place"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_a_wrong_checkpoint_is_refused_by_name(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = REFUSED[fault]
    assert imported("cp-resnet", tmp_path, change(weights_of("cp-resnet"))) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_labels_must_be_as_many_as_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported("cp-resnet", tmp_path, labels=LABELS[:3]) == 1
    assert "5 outputs, but 3 labels" in capsys.readouterr().err


def test_other_sizes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = weights_of("mobileast") | {"fc.weight": torch.zeros(5, 100)}
    assert imported("mobileast", tmp_path, other) == 1
    assert "none of light1-silu" in capsys.readouterr().err
    fewer = {name: values for name, values in weights_of("acdnet").items() if not name.startswith("tfeb.36")}
    assert imported("acdnet", tmp_path, fewer) == 1
    assert "12 convolutions, 12 norms and 0 linear layers" in capsys.readouterr().err


def test_a_whole_model_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.txt").write_text("a\n")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "best.pt")
    arguments = [str(tmp_path / "best.pt"), "--kind", "passt", "--labels", str(tmp_path / "labels.txt")]
    assert importer.main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert "save model.state_dict()" in capsys.readouterr().err


def test_passt_starts_from_a_longer_one_and_leaves_rows_out_in_training() -> None:
    weights = weights_of("passt")
    shape = passt.Shape(places=4, width=WIDTH, depth=2, heads=2, labels=7)
    net = passt.starting_from(weights, shape, patchout=6)
    torch.testing.assert_close(net.time_new_pos_embed.data, weights["time_new_pos_embed"][..., :4])
    torch.testing.assert_close(net.blocks[1].mlp.fc2.bias.data, weights["blocks.1.mlp.fc2.bias"])
    assert net.head[1].weight.shape == (7, WIDTH)
    heard: list[int] = []
    net.blocks[0].register_forward_hook(lambda _, given, __: heard.append(given[0].shape[1]))
    given = torch.randn(2, 128, 46)
    once, again = net.train()(given), net(given)
    assert not torch.equal(once, again)
    torch.testing.assert_close(net.eval()(given), net(given), rtol=0, atol=0)
    assert heard == [2 + 6 * 4] * 2 + [2 + 12 * 4] * 2
    with pytest.raises(BadCheckpoint, match="places in time"):
        passt.starting_from(weights, passt.Shape(places=99, width=WIDTH, depth=2, heads=2))
    with pytest.raises(ValueError, match="at least one"):
        passt.Passt(shape, patchout=12)
