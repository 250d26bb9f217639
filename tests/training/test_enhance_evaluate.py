"""The judge: figures of enhancers whose quality is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pesq")
pytest.importorskip("pystoi")

from tests.training.made_audio import made_corpus  # noqa: E402
from training.enhance import evaluate  # noqa: E402
from training.enhance.evaluate import window_agreement  # noqa: E402
from training.enhance.export import card, manifest  # noqa: E402
from training.enhance.measures import level_dbfs, si_sdr_db  # noqa: E402
from training.enhance.mixtures import Case, Material, fixed_list, open_material  # noqa: E402
from training.enhance.network import Enhancer, Shape  # noqa: E402


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("corpus")
    return open_material(made_corpus(folder, ("test",)), "test", folder / "runs")


@pytest.fixture(scope="module")
def cases(material: Material) -> list[Case]:
    return fixed_list(material, (0.0, 10.0), 1, seed=1)


@pytest.mark.parametrize("ratio_db", [-5.0, 0.0, 20.0])
def test_si_sdr_is_the_ratio_mixed_and_ignores_scale_and_offset(ratio_db: float) -> None:
    time = np.arange(16_000) / 16_000
    wanted = np.sin(2 * np.pi * 100 * time).astype(np.float32)
    given = wanted + np.float32(10 ** (-ratio_db / 20)) * np.cos(2 * np.pi * 100 * time).astype(np.float32)
    assert si_sdr_db(wanted, given) == pytest.approx(ratio_db, abs=0.01)
    assert si_sdr_db(wanted, 0.2 * given + np.float32(0.3)) == pytest.approx(ratio_db, abs=0.01)


def test_si_sdr_notices_a_sample_of_delay() -> None:
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    assert si_sdr_db(noise, np.roll(noise, 1)) < -10


def test_levels_are_those_of_full_scale() -> None:
    assert level_dbfs(np.full(100, 0.1, np.float32)) == pytest.approx(-20.0, abs=1e-4)
    assert level_dbfs(np.zeros(100, np.float32)) == -140.0


def test_doing_nothing_gains_nothing_and_the_truth_gains_all(cases: list[Case]) -> None:
    idle = evaluate.by_ratio(cases, lambda noisy: noisy)
    assert idle["0_db"]["si_sdr_db"] == pytest.approx(0.0, abs=0.1)
    assert idle["10_db"]["si_sdr_db"] == pytest.approx(10.0, abs=0.1)
    answers = {case.noisy.tobytes(): case.clean for case in cases}
    perfect = evaluate.by_ratio(cases, lambda noisy: answers[noisy.tobytes()])
    assert perfect["all"]["pesq_wb"] > 4.6
    assert perfect["all"]["stoi"] > 0.99
    assert perfect["floor"]["si_sdr_db"] > 100


def test_noise_alone_falls_by_the_gain_applied(material: Material) -> None:
    assert evaluate.of_noise(material, lambda noisy: noisy * np.float32(0.1)) == pytest.approx(20.0, abs=0.01)


def test_pieces_of_what_remembers_nothing_agree_and_of_what_does_not_do_not(cases: list[Case]) -> None:
    assert window_agreement(lambda noisy: noisy * np.float32(0.5), cases, 10.0, 2.0) == 0.0
    assert window_agreement(lambda noisy: noisy - noisy.mean(), cases, 10.0, 2.0) > 0.0


def test_manifest_and_card_say_what_was_measured(material: Material) -> None:
    figures = {"si_sdr_db": 12.3456, "pesq_wb": 2.1, "stoi": 0.9}
    found = {
        "mixtures": 70,
        "speakers": 16,
        "noisy": {"0_db": figures, "floor": figures},
        "enhanced": {"0_db": figures, "floor": figures},
        "clean_in": figures,
        "noise_only_fall_db": 17.5,
        "gain_by_level": {"-45_dbfs": 5.0},
        "real_time_factor": 0.02,
        "window_agreement": 1e-4,
    }
    assert manifest(1, found)["figures"]["si_sdr_db"] == 12.3456
    corpus = material.voices.sounds.corpus
    text = card(1, Enhancer(Shape(fine=4, coarse=4, recurrent=4)), found, [{"epoch": 1}], corpus)
    assert "12.35" in text
    assert "+5.0 dB at -45 dBFS" in text
    assert all(line in text for line in corpus.credits())
