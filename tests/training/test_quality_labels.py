"""Labelled clips: spread, repeatable, and whole after a kill at any byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.made_audio import RATE_HZ, made_corpus, voice

pytest.importorskip("pesq")

from training.quality.labels import BINS, LEAST, LONGEST, MOST, Clips, Maker, bin_of, fill, score


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    folder = tmp_path_factory.mktemp("corpus")
    return Maker(made_corpus(folder, ("train",)), "train", folder / "runs", seed=3)


@pytest.fixture(scope="module")
def whole(maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Clips:
    clips = Clips(tmp_path_factory.mktemp("labels"), "train")
    fill(clips, maker, 6, "train")
    return clips


def test_clips_hold_their_samples_and_facts(whole: Clips) -> None:
    again = Clips(whole.samples_path.parent, "train")

    assert again.facts == whole.facts
    assert len(whole.waveforms()) == len(whole.curves()) == 6
    for row, curve, fact in zip(whole.waveforms(), whole.curves(), whole.facts, strict=True):
        assert 2 * RATE_HZ <= len(row) == fact.length <= LONGEST
        assert np.abs(row).max() > 1000
        assert len(curve) == len(row) // 256 + 1
        assert curve.astype(float).mean() == pytest.approx(fact.label, abs=0.01)
    scored = whole.labels()[whole.labels() > 0]
    assert len(scored) >= 4
    assert ((scored >= LEAST) & (scored <= MOST)).all()


@pytest.mark.parametrize(("lost_samples", "lost_characters"), [(0, 0), (20000, 0), (5000, 30), (0, 5), (-100, 0)])
def test_a_killed_run_goes_on_to_the_same_clips(
    maker: Maker, whole: Clips, tmp_path: Path, lost_samples: int, lost_characters: int
) -> None:
    fill(Clips(tmp_path, "train"), maker, 3, "train")
    samples, facts, curves = (tmp_path / name for name in ("train.i16", "train.jsonl", "train.curves.f16"))
    held = samples.stat().st_size
    samples.write_bytes(samples.read_bytes() + b"\1" * max(-2 * lost_samples, 0))
    curves.write_bytes(curves.read_bytes() + b"\1" * 7)
    if lost_samples > 0 or lost_characters:
        # A kill between the samples and the end of their line: the samples are there in part, the line is not whole.
        samples.write_bytes(samples.read_bytes()[: held - lost_samples * 2])
        facts.write_text(facts.read_text()[: -max(lost_characters, 1)])

    fill(Clips(tmp_path, "train"), maker, 6, "train")

    assert facts.read_text() == whole.facts_path.read_text()
    assert samples.read_bytes() == whole.samples_path.read_bytes()
    assert curves.read_bytes() == whole.curves_path.read_bytes()


def test_several_processes_make_the_same_clips(maker: Maker, whole: Clips, tmp_path: Path) -> None:
    fill(Clips(tmp_path, "train"), maker, 6, "train", jobs=2)

    assert (tmp_path / "train.jsonl").read_text() == whole.facts_path.read_text()
    assert (tmp_path / "train.i16").read_bytes() == whole.samples_path.read_bytes()


def test_a_full_bin_refuses_more(maker: Maker, tmp_path: Path) -> None:
    clips = Clips(tmp_path, "train")

    fill(clips, maker, 24, "train")

    held = np.bincount([bin_of(fact.label) for fact in clips.facts], minlength=BINS)
    assert held.max() <= 1.4 * (24 + 20) / BINS + 1
    assert clips.facts[-1].attempt >= 23


def test_scores_are_those_of_pesq_and_none_where_it_has_none() -> None:
    speech = voice(2.0)
    noisy = speech + 0.01 * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)

    clean, worse = score(speech, speech), score(speech, noisy)

    assert clean == pytest.approx(4.644, abs=0.01)
    assert worse is not None
    assert worse < 3
    assert score(speech, np.zeros_like(speech)) is None
    assert score(np.zeros_like(speech), speech) is None
    assert score(speech[:2000], speech[:2000]) is None


def test_the_scale_falls_into_equal_bins() -> None:
    assert [bin_of(label) for label in (1.0, 1.19, 1.2, 4.64, 9.0)] == [0, 0, 1, 18, 18]
