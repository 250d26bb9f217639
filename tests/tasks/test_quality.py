"""When a score is doubted: by what the model's manifest says, and by what the recording holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.audio.levels import LevelFacts
from service.engine.manifest import parse_manifest
from service.tasks.quality import QualityAnswer, QualityListener
from service.tasks.windows import Piece
from service.values import AudioFacts, Finding

SCALE = {"key": "pesq", "name": "PESQ-WB", "min": 1.0, "max": 4.64}
FILE = {"path": "model.onnx", "backend": "onnx", "sha256": "0" * 64}
LOUD = LevelFacts(peak_dbfs=-3.0, rms_dbfs=-20.0, silent=False, findings=())


def answer(
    levels: LevelFacts = LOUD, validity: dict[str, float] | None = None, speech: tuple[float, ...] = (0.8,), **more: Any
) -> QualityAnswer:
    """Of pieces of five seconds, one for each share of *speech*."""
    tables = {
        "name": "made", "version": 1, "task": "quality", "title": "", "licence": "", "sample_rate": 16000,
        "files": [FILE], "scales": [SCALE], "validity": validity or {}, "window": {"max_s": 5.0},
    }  # fmt: skip
    model: Any = SimpleNamespace(manifest=parse_manifest(tables))
    seconds = more.get("seconds", 5.0 * len(speech))
    listener = QualityListener(model, AudioFacts("wav", "PCM_16", 16000, 1), "mix")
    jobs = listener.push(np.ones((1, round(16000 * seconds)), np.float32)) + listener.finish()
    for job, share in zip(jobs, speech, strict=True):
        piece: Piece = job.piece
        job.take(piece, {"score": np.float32(3.0), "speech": np.float32(share)})
    return listener.answer(levels, None)


def test_nothing_to_doubt() -> None:
    found = answer(validity={"speech": 0.2, "narrow_band_hz": 4000.0, "low_level_dbfs": -45.0})

    assert found.valid
    assert found.warnings == []


@pytest.mark.parametrize(
    ("speech", "doubted"), [((0.1,), True), ((0.3,), False), ((0.3, 0.0), True), ((0.5, 0.0), False)]
)
def test_too_little_speech_over_the_whole(speech: tuple[float, ...], doubted: bool) -> None:
    found = answer(validity={"speech": 0.2}, speech=speech)

    assert found.valid != doubted
    assert any("speech is heard in" in warning for warning in found.warnings) == doubted


def test_a_model_that_says_nothing_of_speech_is_not_asked() -> None:
    assert answer(speech=(0.0,)).valid


@pytest.mark.parametrize(("end_hz", "doubted"), [(3400.0, True), (5000.0, False)])
def test_a_band_narrower_than_what_the_model_knows(end_hz: float, doubted: bool) -> None:
    levels = LevelFacts(-3.0, -20.0, False, (Finding("narrow_band", 0.0, 5.0, end_hz),))

    assert answer(levels, {"narrow_band_hz": 4000.0}).valid != doubted
    assert answer(levels).valid


@pytest.mark.parametrize(("level_dbfs", "validity", "doubted"), [
    (-46.0, {"low_level_dbfs": -40.0}, True), (-46.0, {}, False),
    (-51.0, {}, True), (-51.0, {"low_level_dbfs": -60.0}, False),
])  # fmt: skip
def test_levels_that_are_too_low(level_dbfs: float, validity: dict[str, float], doubted: bool) -> None:
    assert answer(LevelFacts(-30.0, level_dbfs, False, ()), validity).valid != doubted


def test_short_and_mostly_silent_recordings() -> None:
    silence = LevelFacts(-3.0, -20.0, False, (Finding("silence", 0.0, 3.0, -80.0),))

    assert "shorter than 1 s" in answer(seconds=0.5).warnings[0]
    assert "silence" in answer(silence).warnings[0]
