"""The nets of the note against plain numpy; batches, formats and short clips of every kind; the importer."""

from __future__ import annotations

import tomllib
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
pytest.importorskip("pesq")

from service.engine.checks import check_folder  # noqa: E402
from service.engine.manifest import read_manifest  # noqa: E402
from training.export import sha256, sweep  # noqa: E402
from training.frontend import valid  # noqa: E402
from training.quality import importer, note  # noqa: E402
from training.quality.importer import BadCheckpoint, import_checkpoint, read_weights  # noqa: E402
from training.quality.model import KINDS, MOST, Attention, QualityNet, Shape  # noqa: E402
from training.quality.spectrum import Hearing, Judge, served  # noqa: E402

Weights = dict[str, NDArray[np.float64]]
Values = NDArray[np.float64]

LSTM = {
    f"lstm.{what}_l{layer}{way}": shape
    for layer, inputs in ((0, 257), (1, 200))
    for way in ("", "_reverse")
    for what, shape in {
        "weight_ih": (400, inputs), "weight_hh": (400, 100), "bias_ih": (400,), "bias_hh": (400,),
    }.items()
} | {"linear1.weight": (50, 200), "linear1.bias": (50,), "linear2.weight": (1, 50), "linear2.bias": (1,)}  # fmt: skip
ATTENTION = {f"attn.{name}.weight": (200, 200) for name in ("wq", "wk", "wv")}
ATTENTION |= {f"attn.{name}.bias": (200,) for name in ("wq", "wk", "wv")}
ATTENTION |= {"attn.out.1.weight": (200, 256), "attn.out.1.bias": (200,)}
CONVOLUTIONS = {
    f"conv{block}.conv.{place}": shape
    for block in (1, 2, 3, 4)
    for place, shape in {
        "0.weight": (64, 128, 1), "0.bias": (64,), "1.weight": (64, 64, 3), "1.bias": (64,),
        "2.weight": (128, 64, 1), "2.bias": (128,),
    }.items()
} | {"prepare.1.weight": (128, 257, 5), "prepare.1.bias": (128,)}  # fmt: skip
CONVOLUTIONS |= {"avg_linear.1.weight": (128,), "avg_linear.1.bias": (128,)}
CONVOLUTIONS |= {"avg_linear.5.weight": (50, 128), "avg_linear.5.bias": (50,)}
CONVOLUTIONS |= {"avg_linear.7.weight": (1, 50), "avg_linear.7.bias": (1,)}
EXCITATION = {
    f"conv{block}.se.{place}": shape
    for block in (1, 2, 3, 4)
    for place, shape in {
        "2.weight": (4, 128), "2.bias": (4,), "3.weight": (128, 4), "3.bias": (128,),
    }.items()
}  # fmt: skip
NOTE: dict[str, dict[str, tuple[int, ...]]] = {
    "blstm": LSTM, "blstm-attn": LSTM | ATTENTION, "cnn": CONVOLUTIONS, "cnn-se": CONVOLUTIONS | EXCITATION,
}  # fmt: skip
"""Every name and shape, as the note lists them."""


def weights_of(kind: str, seed: int = 0) -> dict[str, Any]:
    """Random weights with the note's names, large enough that no layer is idle."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Any:
        spread = 1.5 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.2
        return torch.tensor(rng.normal(0.8 if name == "avg_linear.1.weight" else 0.0, spread, shape).astype(np.float32))

    return {name: draw(name, shape) for name, shape in NOTE[kind].items()}


def faithful(kind: str, seed: int = 0) -> tuple[note.NoteNet, Weights]:
    weights = weights_of(kind, seed)
    net = note.build(kind).eval()
    importer.load(net, weights)
    return net, {name: values.numpy().astype(np.float64) for name, values in weights.items()}


# The note in numpy, one clip at a time; features are [time, 257].


def sigmoid(values: Values) -> Values:
    return 1 / (1 + np.exp(-values))


def elu(values: Values) -> Values:
    return np.where(values > 0, values, np.exp(np.minimum(values, 0)) - 1)


def softmax(values: Values) -> Values:
    raised = np.exp(values - values.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def one_way(values: Values, w: Weights, end: str) -> Values:
    hidden, cell, out = np.zeros(100), np.zeros(100), []
    for heard in values:
        gates = w[f"lstm.weight_ih{end}"] @ heard + w[f"lstm.bias_ih{end}"]
        gates = gates + w[f"lstm.weight_hh{end}"] @ hidden + w[f"lstm.bias_hh{end}"]
        let_in, keep, new, let_out = np.split(gates, 4)
        cell = sigmoid(keep) * cell + sigmoid(let_in) * np.tanh(new)
        hidden = sigmoid(let_out) * np.tanh(cell)
        out.append(hidden)
    return np.array(out)


def lstm_net(features: Values, w: Weights) -> tuple[float, Values]:
    values = features
    for layer in (0, 1):
        back = one_way(values[::-1], w, f"_l{layer}_reverse")[::-1]
        values = np.concatenate([one_way(values, w, f"_l{layer}"), back], 1)
    if "attn.wq.weight" in w:
        query, key, value = (values @ w[f"attn.{one}.weight"].T + w[f"attn.{one}.bias"] for one in ("wq", "wk", "wv"))
        place = np.arange(len(values))
        mask = (np.abs(place[:, None] - place[None]) <= 64).astype(float)
        values = (softmax(query @ key.T / 256) * mask) @ value
    hidden = elu(values @ w["linear1.weight"].T + w["linear1.bias"])
    frames = (hidden @ w["linear2.weight"].T + w["linear2.bias"])[:, 0]
    return float(frames.mean()), frames


def convolve(values: Values, weight: Values, bias: Values, dilation: int = 1, padding: int = 0) -> Values:
    """[channels, time], cross-correlated as torch does."""
    padded = np.pad(values, [(0, 0), (padding, padding)])
    taps = weight.shape[2]
    size = padded.shape[1] - (taps - 1) * dilation
    parts = [weight[:, :, tap] @ padded[:, tap * dilation : tap * dilation + size] for tap in range(taps)]
    return sum(parts) + bias[:, None]


def cnn_net(features: Values, w: Weights) -> tuple[float, Values]:
    values = elu(convolve(features.T, w["prepare.1.weight"], w["prepare.1.bias"]))
    for block, pool, dilation in ((1, 4, 64), (2, 4, 32), (3, 2, 16), (4, 2, 8)):
        inner = convolve(values, w[f"conv{block}.conv.0.weight"], w[f"conv{block}.conv.0.bias"])
        inner = convolve(inner, w[f"conv{block}.conv.1.weight"], w[f"conv{block}.conv.1.bias"], dilation, dilation)
        inner = convolve(inner, w[f"conv{block}.conv.2.weight"], w[f"conv{block}.conv.2.bias"])
        inner = np.maximum(inner, 0)
        if f"conv{block}.se.2.weight" in w:
            squeezed = w[f"conv{block}.se.2.weight"] @ inner.mean(1) + w[f"conv{block}.se.2.bias"]
            gate = sigmoid(w[f"conv{block}.se.3.weight"] @ squeezed + w[f"conv{block}.se.3.bias"])
            inner = inner * gate[:, None]
        values = np.maximum(values + inner, 0)
        size = values.shape[1] // pool
        values = values[:, : size * pool].reshape(len(values), size, pool).max(2)
    steps = values.T
    normal = (steps - steps.mean(1, keepdims=True)) / np.sqrt(steps.var(1, keepdims=True) + 1e-5)
    normal = normal * w["avg_linear.1.weight"] + w["avg_linear.1.bias"]

    def head(mean: Values) -> Values:
        hidden = mean @ w["avg_linear.5.weight"].T + w["avg_linear.5.bias"]
        return (hidden @ w["avg_linear.7.weight"].T + w["avg_linear.7.bias"])[..., 0]

    return float(head(normal.mean(0))), head(normal)


PLAIN: dict[str, Callable[[Values, Weights], tuple[float, Values]]] = {
    "blstm": lstm_net, "blstm-attn": lstm_net, "cnn": cnn_net, "cnn-se": cnn_net,
}  # fmt: skip


def heard(frames: int, seed: int = 0) -> Any:
    """Features that change over time, [1, frames, 257]."""
    rng = np.random.default_rng(seed)
    slow = np.repeat(rng.normal(0, 0.5, (frames // 20 + 1, 257)), 20, axis=0)[:frames]
    return torch.tensor((slow + rng.normal(0, 0.3, (frames, 257))).astype(np.float32))[None]


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_are_those_of_the_note(kind: str) -> None:
    state = note.build(kind).state_dict()

    assert {name: tuple(values.shape) for name, values in state.items()} == NOTE[kind]
    wanted = {"blstm": 538_901, "blstm-attn": 710_901, "cnn": 287_077, "cnn-se": 291_701}
    assert sum(values.numel() for values in state.values()) == wanted[kind]


@pytest.mark.parametrize("frames", [68, 151, 330])
@pytest.mark.parametrize("kind", KINDS)
def test_one_clip_gets_what_the_note_computes(kind: str, frames: int) -> None:
    net, weights = faithful(kind, seed=frames)
    features = heard(frames)

    with torch.no_grad():
        score, curve, left = net.judge(features, torch.tensor([frames]))
    wanted_score, wanted_curve = PLAIN[kind](features[0].numpy().astype(np.float64), weights)

    assert int(left[0]) == len(wanted_curve) == curve.shape[1]
    assert float(score[0]) == pytest.approx(wanted_score, abs=1e-5)
    np.testing.assert_allclose(curve[0].numpy(), wanted_curve, atol=1e-5)
    assert wanted_curve.mean() == pytest.approx(wanted_score, abs=1e-9)


@pytest.mark.parametrize("kind", ["cnn", "cnn-se"])
@pytest.mark.parametrize("frames", [1, 20, 67])
def test_clips_too_short_for_the_note_are_repeated(kind: str, frames: int) -> None:
    net, weights = faithful(kind)
    features = heard(frames)
    long = np.concatenate([features[0].numpy()] * 68)[:68].astype(np.float64)

    with torch.no_grad():
        score, _, left = net.judge(features, torch.tensor([frames]))

    assert int(left[0]) == 1
    assert float(score[0]) == pytest.approx(PLAIN[kind](long, weights)[0], abs=1e-5)


# Every kind, as the note has it and as we train it.


@cache
def any_net(variant: str, kind: str) -> Judge:
    torch.manual_seed(1)
    return faithful(kind)[0] if variant == "faithful" else QualityNet(Shape(kind, channels=32, hidden=12)).eval()


every_net = pytest.mark.parametrize(
    ("variant", "kind"), [(variant, kind) for variant in ("faithful", "corrected") for kind in KINDS]
)


@every_net
@settings(max_examples=12)
@given(counts=st.lists(st.integers(1, 260), min_size=2, max_size=4), rest=st.integers(0, 90))
def test_an_item_gets_the_same_alone_and_in_any_batch(variant: str, kind: str, counts: list[int], rest: int) -> None:
    net = any_net(variant, kind)
    items = [heard(count, seed) for seed, count in enumerate(counts)]
    batch = torch.full((len(counts), max(counts) + rest, 257), 7.0)
    for row, item in enumerate(items):
        batch[row, : item.shape[1]] = item[0]

    with torch.no_grad():
        scores, frames, left, *_ = net.judge(batch, torch.tensor(counts))
        for row, item in enumerate(items):
            score, curve, own, *_ = net.judge(item, torch.tensor(counts[row : row + 1]))
            size = int(own[0])
            assert int(left[row]) == size == curve.shape[1]
            torch.testing.assert_close(scores[row], score[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(frames[row, :size], curve[0], atol=1e-4, rtol=0)
            assert not frames[row, size:].any()
            torch.testing.assert_close(score[0], curve[0].mean(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_served_net_answers_as_the_net(kind: str) -> None:
    net = any_net("faithful", kind)
    items = [sweep(size, 16000, size) for size in (4800, 33333, 1)]
    batch = np.full((3, 40000), np.nan, np.float32)
    for row, item in enumerate(items):
        batch[row, : len(item)] = item
    sizes = torch.tensor([len(item) for item in items])

    with torch.no_grad():
        wanted, given_ = net(torch.from_numpy(batch), sizes), served(net)(torch.from_numpy(batch), sizes)

    for one, other in zip(wanted, given_, strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(other, one, atol=1e-4, rtol=0)


def test_shapes_from_before_there_were_kinds_load() -> None:
    old = {"bands": 0, "channels": 128, "strides": [2, 2], "hidden": 64, "layers": 1, "dropout": 0.2}

    assert Shape.from_table(old) == Shape()
    assert Shape.from_table(Shape("cnn-se").table()) == Shape("cnn-se")


def test_attention_looks_no_further_than_told() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 4, 5).eval()
    values, counts = torch.randn(1, 40, 16), torch.tensor([40])
    other = values.clone()
    other[0, 20] += 3

    with torch.no_grad():
        moved = (attention(values, counts) - attention(other, counts))[0].abs().amax(1) > 1e-6

    assert moved.nonzero().flatten().tolist() == list(range(15, 26))


# The importer.


def spectrum(waveform: NDArray[np.float32], hearing: Hearing) -> Values:
    """Features by numpy's own transform."""
    taps = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(512) / 512)
    if hearing.window == "hann":
        taps = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    sound = waveform.astype(np.float64)
    level = {"rms": 20 * np.sqrt(np.mean(sound**2)), "peak": np.abs(sound).max(), "none": 1.0}[hearing.level]
    padded = np.pad(sound / level, 256)
    frames = np.stack([padded[at : at + 512] for at in range(0, len(waveform) // 256 * 256 + 1, 256)])
    magnitudes = np.abs(np.fft.rfft(frames * taps))
    return magnitudes if hearing.feature == "magnitude" else (np.log10(magnitudes**2 + 1e-10) + 4) / 3


HEARINGS = {
    "blstm": Hearing(), "blstm-attn": Hearing("magnitude", "hamming"), "cnn": Hearing("magnitude", "hamming", "none"),
    "cnn-se": Hearing("log", "hann", "peak"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_becomes_a_model_that_the_service_finds_good(tmp_path: Path, kind: str) -> None:
    hearing, weights = HEARINGS[kind], weights_of(kind)
    torch.save({"epoch": 7, "state_dict": {f"module.{name}": values for name, values in weights.items()}},
               tmp_path / "best.pt")  # fmt: skip
    arguments = ["--kind", kind, str(tmp_path / "best.pt"), "--out", str(tmp_path), "--piece-s", "4.096"]
    arguments += [f"--{hearing.feature}", "--window", hearing.window, "--level", hearing.level, "--name", "theirs"]

    assert importer.main(arguments) == 0

    folder = tmp_path / "theirs" / "1"
    assert not check_folder(folder)
    assert read_manifest(folder).figures["variant"] == "faithful"
    assert tomllib.loads((folder / "model.toml").read_text("utf-8"))["scales"][0]["max"] == MOST
    card = (folder / "CARD.md").read_text("utf-8")
    assert "{" not in card
    assert f"--kind {kind}" in card
    # From the waveform to the score without a line of ours.
    with np.load(folder / "golden.npz") as golden:
        plain = {name: values.numpy().astype(np.float64) for name, values in weights.items()}
        # A second is less than the convolutions need.
        features = spectrum(golden["waveform"], hearing)
        if kind.startswith("cnn"):
            features = np.concatenate([features, features])[:68]
        score, curve = PLAIN[kind](features, plain)
        assert float(golden["score"]) == pytest.approx(score, abs=1e-4)
        np.testing.assert_allclose(golden["frames"], curve, atol=3e-4)


@pytest.mark.parametrize("holder", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_are_read_however_they_were_saved(tmp_path: Path, holder: str | None, prefix: str) -> None:
    held: Any = {f"{prefix}{name}": values for name, values in weights_of("cnn").items()}
    torch.save(held if holder is None else {holder: held, "epoch": 3}, tmp_path / "best.pt")

    assert read_weights(tmp_path / "best.pt").keys() == NOTE["cnn"].keys()


def changed(kind: str, **change: Any) -> dict[str, Any]:
    """Weights with some replaced, or left out where None."""
    weights = weights_of(kind) | {name.replace("__", "."): values for name, values in change.items()}
    return {name: values for name, values in weights.items() if values is not None}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("blstm", {"linear1__bias": None}, "missing: linear1.bias"),
        ("cnn-se", {"extra__weight": 1.0}, "unexpected: extra.weight"),
        ("blstm-attn", {"attn__out__1__weight": np.ones((200, 200))},
         r"misshapen: attn.out.1.weight is \(200, 200\), must be \(200, 256\)"),
        ("cnn", {"prepare__1__bias": np.full(128, np.nan)}, "not finite: prepare.1.bias"),
    ],
)  # fmt: skip
def test_weights_of_another_net_are_refused_by_name(
    tmp_path: Path, kind: str, change: dict[str, Any], message: str
) -> None:
    as_tensors = {name: None if values is None else torch.tensor(values) for name, values in change.items()}
    torch.save(changed(kind, **as_tensors), tmp_path / "best.pt")

    with pytest.raises(BadCheckpoint, match=message):
        import_checkpoint(tmp_path / "best.pt", kind, tmp_path, Hearing(), "theirs")

    assert not list(tmp_path.rglob("model.toml"))


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "best.pt"

    def refused(*more: str) -> str:
        assert importer.main(["--kind", "cnn-se", str(path), "--out", str(tmp_path / "models"), *more]) == 1
        return capsys.readouterr().err

    assert "cannot be read" in refused()
    path.write_bytes(b"no checkpoint")
    assert "save model.state_dict()" in refused()
    torch.save(note.build("cnn-se"), path)
    assert "save model.state_dict()" in refused()
    torch.save({"epoch": 3, "best": {"loss": 0.1}}, path)
    assert "holds epoch, best, no state dict" in refused()
    torch.save(weights_of("cnn-se"), path)
    assert "misshapen: prepare.1.weight is (128, 257, 5), must be (64, 257, 5)" in refused("--filter", "64")
    assert "needs at least 32" in refused("--filter", "16")
    assert "3.072 s is the least" in refused("--piece-s", "2")
    assert "name" in refused("--name", "No Name")


def test_sizes_of_the_convolutions_may_be_others(tmp_path: Path) -> None:
    torch.save(note.build("cnn-se", filter_size=64, feature_dim=32).state_dict(), tmp_path / "best.pt")

    folder, _ = import_checkpoint(tmp_path / "best.pt", "cnn-se", tmp_path, Hearing(), "theirs", sizes=(64, 32))

    assert read_manifest(folder).files[0].sha256 == sha256(folder / "model.onnx")


def test_a_softmax_of_the_note_knows_no_padding_but_loses_what_is_far() -> None:
    torch.manual_seed(0)
    attention = note.TimeRestrictedAttention(200, 64).eval()
    counts = torch.tensor([300, 150])

    with torch.no_grad():
        _, shares = attention(torch.randn(2, 300, 200), counts)

    inside = shares.sum(2)
    assert float(inside[0, 150]) == pytest.approx(129 / 300, abs=0.05)
    assert float(inside[1, 75]) == pytest.approx(129 / 150, abs=0.05)
    assert not shares[1][:, ~valid(counts, 300)[1]].any()
