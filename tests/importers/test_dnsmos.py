"""DNSMOS as one graph gives what its two graphs give with their authors' steps around them, done here in numpy."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service import cli
from service.engine.checks import check_folder
from service.engine.manifest import read_manifest
from service.importers.dnsmos import MissingExtra, add_dnsmos
from tests.e2e.sounds import speechlike

needs_package = pytest.mark.skipif(
    not importlib.util.find_spec("speechmos"), reason="the package speechmos is not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_dnsmos(tmp_path_factory.mktemp("models"))


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def slaney_bank() -> NDArray[np.float64]:
    """Band by band, from the definition."""

    def to_hz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * np.log(8) / np.log(6.4)
    edges = [to_hz(mel) for mel in np.linspace(0, top, 122)]
    bank = np.zeros((161, 120))
    for band in range(120):
        low, middle, high = edges[band : band + 3]
        for place in range(161):
            hz = place * 16000 / 321
            height = min((hz - low) / (middle - low), (high - hz) / (high - middle))
            bank[place, band] = max(0.0, height) * 2 / (high - low)
    return bank


def plain(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """OVRL, SIG, BAK, P.808: the authors' steps, a window at a time."""
    spec = importlib.util.find_spec("speechmos")
    models = Path(str(spec.origin if spec else "")).parent / "dnsmos_models"
    voices, overall, bank = session(models / "sig_bak_ovr.onnx"), session(models / "model_v8.onnx"), slaney_bank()
    while len(samples) < 144160:
        samples = np.append(samples, samples)
    found = []
    for second in range(max(1, len(samples) // 16000 - 9)):
        window = samples[second * 16000 :][:144160]
        sig, bak, ovrl = voices.run(None, {"input_1": window[None]})[0][0].tolist()
        padded = np.pad(window[:-160].astype(float), 160)
        frames = np.lib.stride_tricks.sliding_window_view(padded, 321)[::160]
        power = np.abs(np.fft.rfft(frames * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(321) / 321)))) ** 2 @ bank
        decibels = 10 * np.log10(np.maximum(power, 1e-10))
        mels = (np.maximum(decibels - decibels.max(), -80) + 40) / 40
        p808 = overall.run(None, {"input_1": mels[None].astype(np.float32)})[0][0, 0]
        found.append([
            np.polyval([-0.06766283, 1.11546468, 0.04602535], ovrl),
            np.polyval([-0.08397278, 1.22083953, 0.0052439], sig),
            np.polyval([-0.13166888, 1.60915514, -0.39604546], bak), p808,
        ])  # fmt: skip
    return np.mean(found, axis=0)


@needs_package
@pytest.mark.parametrize("seconds", [0.3, 4.0, 9.02, 11.5])
def test_one_graph_gives_what_the_two_give(folder: Path, seconds: float) -> None:
    samples = speechlike(seconds).astype(np.float32)

    given = {"waveform": samples[None], "lengths": np.array([len(samples)])}
    scores = session(folder / "model.onnx").run(None, given)[0]

    np.testing.assert_allclose(scores[0], plain(samples), atol=1e-4)


@needs_package
def test_the_folder_is_a_model_with_scales_of_its_own(folder: Path) -> None:
    manifest = read_manifest(folder)

    assert [scale.key for scale in manifest.scales] == ["ovrl", "sig", "bak", "p808"]
    assert not manifest.default
    assert not [finding for finding in check_folder(folder) if finding.fatal]
    assert "CC BY 4.0" in (folder / "CARD.md").read_text("utf-8")


@needs_package
def test_the_command_says_how_to_serve_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "add-dnsmos", "--out", str(tmp_path)]) == 0

    assert f"EARMARK_MODELS={tmp_path}" in capsys.readouterr().out
    assert (tmp_path / "dnsmos" / "1" / "model.toml").is_file()


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise MissingExtra("DNSMOS needs two packages more: pip install 'earmark[dnsmos]'")

    monkeypatch.setattr("service.importers.dnsmos._files", missing)

    assert cli.main(["models", "add-dnsmos", "--out", str(tmp_path)]) == 1

    assert "earmark[dnsmos]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
