"""The enhancer's promises that hold for any weights: identity at the start, causality, lengths, batches, silence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from training.enhance.network import FRAME_SAMPLES, HOP_SAMPLES, Enhancer, Shape  # noqa: E402
from training.export import BOUND, alone_to_batch, module_runner, package  # noqa: E402

SMALL = Shape(fine=6, coarse=8, dilations=(1, 2), recurrent=10)


@pytest.fixture(scope="module")
def stirred() -> Enhancer:
    """Small, with weights large enough that it changes what it hears."""
    torch.manual_seed(3)
    model = Enhancer(SMALL)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.3)
    return model.eval()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def through(model: Enhancer, waveform: np.ndarray) -> np.ndarray:
    lengths = np.array([len(waveform)], np.int64)
    return module_runner(model, ("enhanced",))(waveform[None], lengths)["enhanced"][0]


@given(samples=st.integers(1, 5000))
@settings(max_examples=25, deadline=None)
def test_before_training_it_gives_back_what_it_hears(samples: int) -> None:
    waveform = noise(samples, samples)
    np.testing.assert_allclose(through(Enhancer(SMALL).eval(), waveform), waveform, atol=1e-5)


def test_stirred_weights_change_the_sound(stirred: Enhancer) -> None:
    waveform = noise(8000)
    assert np.abs(through(stirred, waveform) - waveform).max() > 0.01


@given(samples=st.integers(1, 4000), more=st.integers(1, 3000), row=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_an_item_is_the_same_alone_and_padded(stirred: Enhancer, samples: int, more: int, row: int) -> None:
    run = module_runner(stirred, ("enhanced",))
    assert alone_to_batch(run, {"enhanced": ("batch", "samples")}, [samples, samples + more, 1 + row], 16_000) < BOUND


def test_nothing_sounds_behind_an_item_whatever_the_padding_holds(stirred: Enhancer) -> None:
    waveform = np.full((1, 3000), np.nan, np.float32)
    waveform[0, :1777] = noise(1777)
    given_back = module_runner(stirred, ("enhanced",))(waveform, np.array([1777], np.int64))["enhanced"]
    assert given_back.shape == (1, 3000)
    assert np.isfinite(given_back).all()
    assert not given_back[0, 1777:].any()


@given(at=st.integers(0, 7999))
@settings(max_examples=20, deadline=None)
def test_the_future_beyond_a_frame_changes_nothing(stirred: Enhancer, at: int) -> None:
    before, after = noise(8000), noise(8000)
    after[at:] = noise(8000 - at, seed=9)
    changed = np.abs(through(stirred, before) - through(stirred, after))
    settled = max((at // HOP_SAMPLES - 1) * HOP_SAMPLES, 0)
    assert changed[:settled].max(initial=0.0) < 1e-6
    assert at - settled <= FRAME_SAMPLES
    if at < 7900:
        assert changed[settled:].max() > 1e-4


def test_memory_reaches_further_than_the_convolutions(stirred: Enhancer) -> None:
    before, after = noise(16_000), noise(16_000)
    after[:256] = 0.0
    past_frames = sum(2 * step for step in SMALL.dilations) + 3
    assert np.abs(through(stirred, before) - through(stirred, after))[past_frames * HOP_SAMPLES :].max() > 0.0


@pytest.mark.parametrize("samples", [1, 255, 256, 257, 16_000])
def test_silence_stays_silence(stirred: Enhancer, samples: int) -> None:
    assert not through(stirred, np.zeros(samples, np.float32)).any()


@pytest.mark.parametrize(
    "waveform",
    [
        np.ones(4000, np.float32),
        np.where(np.arange(4000) % 2, 1.0, -1.0).astype(np.float32),
        np.full(4000, 1e-30, np.float32),
        np.concatenate([np.zeros(2000, np.float32), noise(2000)]),
        (1e4 * noise(4000)).astype(np.float32),
    ],
    ids=["constant", "half the rate", "denormal", "late start", "far too loud"],
)
def test_odd_sounds_stay_finite(stirred: Enhancer, waveform: np.ndarray) -> None:
    assert np.isfinite(through(stirred, waveform)).all()


@pytest.mark.slow
def test_both_formats_agree_and_the_folder_loads(stirred: Enhancer, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("onnx")
    from service.engine.manifest import read_manifest
    from training.enhance.export import OUTPUTS, manifest

    tables = manifest(1, None)
    folder = tmp_path_factory.mktemp("exports") / tables["name"] / "1"
    checked = package(stirred, OUTPUTS, tables, "# card\n", folder, lengths_s=(0.11, 0.3, 0.5))
    assert checked.worst() < BOUND
    assert read_manifest(folder).task == "enhance"
