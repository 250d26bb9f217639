"""Mixtures for the enhancer: what adds up, what repeats, what stays in its split; and the whole recipe in small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.training.made_audio import made_corpus  # noqa: E402
from training.corpus import Corpus  # noqa: E402
from training.enhance import train  # noqa: E402
from training.enhance.measures import level_dbfs, si_sdr_db  # noqa: E402
from training.enhance.mixtures import LEVEL_DBFS, Material, Mixer, Stock, batches, fixed_list, open_material  # noqa: E402
from training.enhance.network import SAMPLE_RATE_HZ, Enhancer, Shape  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return made_corpus(folder)


@pytest.fixture(scope="module")
def material(corpus: Corpus, folder: Path) -> Material:
    return open_material(corpus, "train", folder / "runs")


def test_mixtures_are_aligned_finite_and_within_the_levels(material: Material) -> None:
    mixer, rng = Mixer(material, 8000), np.random.default_rng(0)
    for _ in range(60):
        one = mixer.draw(rng)
        assert one.noisy.shape == one.clean.shape == (8000,)
        assert one.noisy.dtype == one.clean.dtype == np.float32
        assert np.isfinite(one.noisy).all()
        assert np.abs(one.noisy).max() <= 1.0
        assert LEVEL_DBFS[0] - 0.1 <= level_dbfs(one.noisy) <= LEVEL_DBFS[1] + 0.1


def test_training_hears_noise_alone_and_speech_alone(material: Material) -> None:
    mixer, rng = Mixer(material, 4000), np.random.default_rng(1)
    drawn = [mixer.draw(rng) for _ in range(200)]
    assert any(not one.clean.any() for one in drawn)
    assert any(si_sdr_db(one.clean, one.noisy) > 50 for one in drawn if one.clean.any())


def test_a_batch_repeats_with_its_seed_and_only_with_it(material: Material) -> None:
    def first(seed: int) -> torch.Tensor:
        return next(iter(batches(material, 2, 0.3, 1)(np.random.default_rng(seed))))[0]

    assert torch.equal(first(5), first(5))
    assert not torch.equal(first(5), first(6))


def test_a_stock_makes_less_than_it_gives() -> None:
    made: list[int] = []

    def make(rng: np.random.Generator) -> np.ndarray:
        made.append(1)
        return np.full(1, len(made), np.float32)

    stock, rng = Stock(make, size=4, fresh=0.25), np.random.default_rng(0)
    given = {float(stock.draw(rng)[0]) for _ in range(400)}
    assert 60 < len(made) < 160
    assert len(given) == len(made)


def test_the_fixed_list_has_its_ratios_and_repeats(material: Material) -> None:
    cases = fixed_list(material, (0.0, 10.0), 3, seed=4)
    assert [case.snr_db for case in cases] == [0.0, 10.0] * 3
    for case, same in zip(cases, fixed_list(material, (0.0, 10.0), 3, seed=4), strict=True):
        np.testing.assert_array_equal(case.noisy, same.noisy)
        noise = case.noisy - case.clean
        assert 10 * np.log10(np.mean(case.clean**2) / np.mean(noise**2)) == pytest.approx(case.snr_db, abs=0.05)
        assert len(case.noisy) >= 3.5 * SAMPLE_RATE_HZ


def test_each_split_keeps_to_itself(corpus: Corpus, folder: Path) -> None:
    for split in ("train", "val", "test"):
        own = open_material(corpus, split, folder / "runs")
        assert {row.split for row in own.voices.sounds.corpus} == {split}
        assert own.noises.recorded is not None
        assert {row.split for row in own.noises.recorded.corpus} == {split}


def test_the_recipe_runs_and_goes_on_where_it_was_stopped(
    corpus: Corpus, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Shape(fine=4, coarse=4, recurrent=4)
    monkeypatch.setattr(train, "SHAPE", small)
    monkeypatch.setattr(train, "VALIDATION_SNRS_DB", (0.0,))
    words = ["--data", str(folder), "--runs", str(tmp_path), "--steps", "2", "--items", "2", "--seconds", "0.3"]
    train.main([*words, "--epochs", "1", "--validate-every", "1"])
    run = train.main([*words, "--epochs", "2", "--validate-every", "1"])
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2]
    assert all(np.isfinite(list(row.values())).all() for row in history)
    best = torch.load(run / "best.pt", weights_only=True)
    Enhancer(small).load_state_dict(best["model"])
