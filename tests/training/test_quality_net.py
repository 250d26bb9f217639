"""The quality net: neighbours and padding change nothing, the score is the mean of the curve, level does not count."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("pesq")

from tests.training.made_audio import made_corpus, voice  # noqa: E402
from training.quality import compare, evaluate, export, labels, report, train  # noqa: E402
from training.quality.features import Features, open_features, random_responses, respond  # noqa: E402
from training.quality.hand import fit_line, measure  # noqa: E402
from training.quality.measures import agreement, area_under_curve, interval, rank_correlation  # noqa: E402
from training.quality.model import (  # noqa: E402
    LEAST,
    MOST,
    START,
    QualityNet,
    Shape,
    curve_loss,
    loss,
    thinned,
)
from training.quality.probes import join, run  # noqa: E402
from training.quality.scorers import Heard  # noqa: E402
from training.quality.spectrum import Spectrum, served  # noqa: E402

SMALL = [
    Shape(channels=8, hidden=6), Shape(bands=20, channels=8, hidden=6), Shape(channels=8, strides=(1,), hidden=6),
    Shape("blstm-attn", channels=8, hidden=6), Shape("cnn", channels=8), Shape("cnn-se", channels=8),
]  # fmt: skip


def net(shape: Shape = SMALL[0]) -> QualityNet:
    torch.manual_seed(0)
    return QualityNet(shape).eval()


def clips(*sizes: int) -> list[np.ndarray]:
    return [voice(4.0, seed)[:size] for seed, size in enumerate(sizes)]


@pytest.mark.parametrize("shape", SMALL)
def test_an_item_gets_the_same_alone_and_in_a_padded_batch(shape: Shape) -> None:
    items, model = clips(4000, 33333, 64000), net(shape)
    batch = np.full((3, 70000), np.nan, np.float32)
    for row, item in enumerate(items):
        batch[row, : len(item)] = item
    sizes = torch.tensor([len(item) for item in items])

    with torch.no_grad():
        scores, frames, counts, speech = model(torch.from_numpy(batch), sizes)
        for row, item in enumerate(items):
            alone = model(torch.from_numpy(item)[None], sizes[row : row + 1])
            count = int(alone[2][0])
            assert int(counts[row]) == count == -(-(len(item) // 256 + 1) // shape.step)
            torch.testing.assert_close(scores[row], alone[0][0], atol=1e-5, rtol=0)
            torch.testing.assert_close(frames[row, :count], alone[1][0], atol=1e-5, rtol=0)
            torch.testing.assert_close(speech[row], alone[3][0], atol=1e-5, rtol=0)
            assert not frames[row, count:].any()


@pytest.mark.parametrize("shape", SMALL)
def test_the_served_net_answers_as_the_trained_one(shape: Shape) -> None:
    items, model = [*clips(4000, 33333), np.zeros(5000, np.float32)], net(shape)
    batch = np.full((3, 40000), np.nan, np.float32)
    for row, item in enumerate(items):
        batch[row, : len(item)] = item
    sizes = torch.tensor([len(item) for item in items])

    with torch.no_grad():
        wanted, given = model(torch.from_numpy(batch), sizes), served(model)(torch.from_numpy(batch), sizes)

    for one, other in zip(wanted, given, strict=True):
        # A norm over eight untrained channels makes small differences large; exports of real weights are held to 1e-4.
        torch.testing.assert_close(other, one, atol=3e-4, rtol=0)


def test_the_score_is_the_mean_of_the_curve_and_within_the_scale() -> None:
    scores, curves = run(net(), clips(20000, 50000))

    assert scores == pytest.approx([curve.mean() for curve in curves], abs=1e-5)
    assert all(((curve >= LEAST) & (curve <= MOST)).all() for curve in curves)


def test_an_untrained_net_answers_near_the_middle() -> None:
    assert run(net(), clips(30000))[0][0] == pytest.approx(START, abs=0.5)


@pytest.mark.parametrize("gain", [1e-3, 0.1, -1.0, 7.0])
def test_level_and_sign_do_not_count(gain: float) -> None:
    speech = clips(30000)[0]

    assert run(net(), [speech * np.float32(gain)])[0] == pytest.approx(run(net(), [speech])[0], abs=1e-4)


@pytest.mark.parametrize("waveform", [np.zeros(8000, np.float32), np.ones(1, np.float32)])
def test_silence_and_a_single_sample_give_finite_scores(waveform: np.ndarray) -> None:
    assert LEAST <= run(net(), [waveform])[0][0] <= MOST


def test_joined_pieces_equal_one_pass_where_one_piece_is_enough() -> None:
    speech = clips(40000)[0]

    np.testing.assert_array_equal(join(net(), speech, 0.064, 10.24, 1.28), run(net(), [speech])[1][0])
    assert join(net(), speech, 0.064, 1.28, 0.256).shape == run(net(), [speech])[1][0].shape


def test_the_loss_asks_frames_of_clean_clips_to_agree() -> None:
    frames, counts = torch.tensor([[2.0, 4.0, 0.0]]), torch.tensor([2])
    wavering, steady = loss(torch.tensor([3.0]), frames, counts, torch.tensor([3.0])), torch.tensor(10.0**-1.5)

    torch.testing.assert_close(wavering, steady)
    assert loss(torch.tensor([3.0]), torch.full((1, 3), 3.0), counts, torch.tensor([3.0])) == 0


def test_clips_without_speech_do_not_count_for_the_score() -> None:
    frames, counts, labels = torch.full((2, 3), 2.0), torch.tensor([3, 3]), torch.tensor([3.0, 0.0])
    wanted = curve_loss(frames[:1, 0], frames[:1], counts[:1], labels[:1], torch.full((1, 12), 3.0))

    given = curve_loss(frames[:, 0], frames, counts, labels, torch.full((2, 12), 3.0))

    torch.testing.assert_close(given, wanted)


def test_a_curve_is_thinned_to_the_steps_of_the_net() -> None:
    curve = torch.arange(62.0)[None]

    steps = thinned(curve, 16)

    assert steps.shape == (1, 16)
    torch.testing.assert_close(steps[0, 1:15], 4 * torch.arange(1.0, 15.0) - 0.5)


def test_a_response_on_features_is_that_response_on_the_waveform() -> None:
    speech = torch.from_numpy(clips(32000)[0])[None]
    lengths = torch.tensor([32000])
    spectra, counts = Spectrum()(speech, lengths)
    powers = (10 ** (3 * spectra - 4)).sum(1) / counts.unsqueeze(1)
    tilt_db = np.linspace(-6, 6, 257, dtype=np.float32)[None]
    spectrum = np.fft.rfft(speech[0].numpy())
    tilted = np.fft.irfft(spectrum * 10 ** (np.linspace(-6, 6, len(spectrum)) / 20)).astype(np.float32)
    wanted, _ = Spectrum()(torch.from_numpy(tilted)[None], lengths)

    heard = respond(spectra.numpy(), powers.numpy(), tilt_db)

    # Bins well above the window's own leakage.
    loud = wanted.numpy() > -0.3
    assert np.abs(heard - wanted.numpy())[loud].mean() < 0.02


def test_random_responses_are_smooth_and_differ() -> None:
    responses = random_responses(np.random.default_rng(0), 50, 4.0, 6.0)

    assert responses.shape == (50, 257)
    assert np.abs(np.diff(responses[:, 20:], axis=1)).max() < 2
    assert 0.5 < responses.std(axis=1).mean() < 6


def test_measures_know_simple_truths() -> None:
    labels_ = np.linspace(1, 4.6, 40)

    assert agreement(labels_, labels_) == {"clips": 40, "lcc": 1, "srcc": 1, "mse": 0, "mae": 0, "bias": 0}
    assert rank_correlation(labels_**3, labels_) == pytest.approx(1)
    assert area_under_curve(np.array([3.0, 2, 1]), np.array([True, False, False])) == 1
    assert area_under_curve(np.array([1.0, 1]), np.array([True, False])) == 0.5
    low, high = interval(labels_, labels_[::-1].copy(), list("abcd") * 10, rank_correlation, rounds=50)
    assert (low, high) == pytest.approx((-1, -1))


def test_a_straight_line_finds_a_straight_line() -> None:
    known = np.random.default_rng(0).normal(size=(300, 10))
    wanted = np.clip(2.5 + 0.3 * known[:, 2], 1, 4.64)

    np.testing.assert_allclose(fit_line(known, wanted.astype(np.float32), known[:20]), wanted[:20], atol=0.05)
    assert np.isfinite(measure(clips(32000)[0])).all()


def made_features(count: int, seed: int) -> Features:
    """Clips whose label is their mean feature: what a net can learn in a minute."""
    rng = np.random.default_rng(seed)
    quality = rng.uniform(0, 1, count).astype(np.float32)
    counts = rng.integers(30, 41, count)
    clips = list(zip(quality.tolist(), counts.tolist(), strict=True))
    spectra = [(one + 0.1 * rng.standard_normal((size, 257))).astype(np.float16) for one, size in clips]
    curves = [np.full(size, 1.2 + 3 * one, np.float16) for one, size in clips]
    speech = [np.ones(size, np.uint8) for size in counts]
    return Features(spectra, counts, 1.2 + 3 * quality, np.ones((count, 257), np.float32), curves, speech)


def test_the_net_learns(tmp_path: Path) -> None:
    from training.loop import Plan, fit

    features, held = made_features(128, 0), made_features(64, 1)
    model = net(Shape(channels=16, hidden=8, dropout=0.0))
    plan = Plan(epochs=12, steps_per_epoch=4, rate=3e-3, average=0.5)

    trained = fit(
        model, lambda rng: train.batches(features, np.arange(128), 0.0, rng), train.batch_loss, plan, tmp_path
    )

    assert train.agreement(train.predict(trained, held), held.labels)["lcc"] > 0.9


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with a few labels, far too few to learn from."""
    folder = tmp_path_factory.mktemp("workshop")
    made_corpus(folder)
    labels.main(["--data", str(folder), "--runs", str(folder / "runs"), "--train", "32", "--val", "12", "--test", "12"])
    return folder


def test_features_grow_with_the_clips(workshop: Path, tmp_path: Path) -> None:
    made = labels.Clips(labels.labels_folder(workshop / "runs"), "val")
    facts = made.facts
    made.facts = facts[:5]
    first = open_features(made, tmp_path, "val")
    made.facts = facts
    second = open_features(made, tmp_path, "val")

    assert (len(first), len(second)) == (5, 12)
    for one, other in zip(first.spectra, second.spectra, strict=False):
        np.testing.assert_array_equal(one, other)
    waveform = made.waveforms()[11].astype(np.float32) / 32768
    wanted, counts = Spectrum()(torch.from_numpy(waveform)[None], torch.from_numpy(made.lengths()[11:]))
    assert second.counts[11] == int(counts[0]) == len(second.curves[11])
    np.testing.assert_allclose(second.spectra[11], wanted[0].numpy(), atol=2e-3)


def test_the_whole_chain_writes_a_version_that_loads(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.engine.manifest import read_manifest

    monkeypatch.setattr(evaluate, "LADDERS", 2)
    monkeypatch.setattr(evaluate, "CLIPS", 2)
    monkeypatch.setattr(evaluate, "QUIET_CLIPS", 4)
    monkeypatch.setattr(evaluate, "dnsmos", lambda: lambda samples: Heard(float(np.abs(samples).mean()), samples[:0]))
    runs, data = str(workshop / "runs"), str(workshop)

    train.main(["--runs", runs, "--epochs", "1", "--channels", "8", "--hidden", "6"])
    for split in ("val", "test"):
        evaluate.main(["--runs", runs, "--data", data, "--split", split])
    export.main(["--runs", runs, "--data", data, "--into", str(workshop / "models"), "--version", "7"])

    folder = workshop / "models" / "quality-blstm" / "7"
    found = json.loads((workshop / "runs" / "quality" / "blstm" / "figures-test.json").read_text())
    manifest = read_manifest(folder)
    assert manifest.id == "quality-blstm@7"
    assert manifest.figures["mse"] == found["all"]["mse"]
    assert manifest.window.agreement == found["pieces"]["frame_max"]
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx", "model.pt", "model.toml", "CARD.md", "golden.npz",
    }  # fmt: skip
    card = (folder / "CARD.md").read_text("utf-8")
    assert "- Made (CC0-1.0)" in card
    assert "{" not in card

    monkeypatch.setattr(report, "PICTURES", workshop / "pictures")
    report.main(["--runs", runs, "--data", data, "--into", str(workshop / "models")])

    text = (workshop / "models" / "QUALITY.md").read_text("utf-8")
    assert f"| {found['all']['lcc']:.3f} |" in text
    assert "DNSMOS overall" in text
    assert "{" not in text
    drawn = {path.name for path in (workshop / "pictures").iterdir()}
    assert drawn == {"quality-labels.svg", "quality-blstm.svg", "quality-stretch.svg"}
    for path in (workshop / "pictures").iterdir():
        ElementTree.fromstring(path.read_text("utf-8"))  # noqa: S314  our own


def test_own_recordings_are_compared_by_name_and_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references, degraded = tmp_path / "clean", tmp_path / "heard"
    (references / "deep").mkdir(parents=True)
    (degraded / "noise").mkdir(parents=True)
    for seed in range(3):
        speech = voice(2.0, seed)
        noise = 0.01 * np.random.default_rng(seed).standard_normal(len(speech)).astype(np.float32)
        soundfile.write(references / "deep" / f"{seed}.flac", speech, 16000)
        soundfile.write(degraded / "noise" / f"{seed}.wav", speech + noise, 16000)
        soundfile.write(degraded / f"{seed}.wav", speech, 16000)
    soundfile.write(degraded / "noise" / "lonely.wav", voice(1.0), 16000)
    shipped = sorted((Path(__file__).parents[2] / "exported_models").glob("quality-*/*/model.toml"))[0].parent
    monkey = pytest.MonkeyPatch()
    monkey.setattr(compare, "dnsmos", lambda: None)

    compare.main([str(references), str(degraded), "--models", str(shipped), "--out", str(tmp_path / "found.json")])

    monkey.undo()
    found = json.loads((tmp_path / "found.json").read_text())
    (judged,) = found["models"].values()
    assert judged["all"]["clips"] == 6
    assert {kind: one["clips"] for kind, one in judged["by_kind"].items()} == {"all": 3, "noise": 3}
    assert "lonely.wav: no reference" in capsys.readouterr().out
    assert len(list(tmp_path.glob("found.*.svg"))) == 1


def test_parts_of_the_scale_may_be_drawn_alike() -> None:
    features = made_features(400, 0)
    features.labels[:300] = 4.0

    drawn = [batch[2] for batch in train.batches(features, np.arange(400), 0.0, np.random.default_rng(0), even=True)]

    labels_ = torch.cat(drawn).numpy()
    assert (labels_ == 4.0).mean() < 0.2


def test_kinds_of_damage_may_be_left_out() -> None:
    def fact(*families: str) -> labels.Fact:
        return labels.Fact(0, 3.0, 1, "", "", "", {}, [{"family": family, "parameters": {}} for family in families])

    facts = [fact("noise"), fact("noise", "codec"), fact(), fact("codec"), fact("band")]

    assert train.usable_clips(facts, None, ["codec"]).tolist() == [0, 2, 4]
    assert train.usable_clips(facts, 2, []).tolist() == [0, 1]
