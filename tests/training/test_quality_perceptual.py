"""The perceptual curve: it finds the damage in time, grows with it, and ignores level."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.made_audio import RATE_HZ, voice
from training.quality.perceptual import HOP, clip_disturbance, curve, disturbances


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    clear = voice(3.0)
    return clear + 1e-5 * noise(len(clear), 1)


def test_nothing_differs_from_itself(speech: np.ndarray) -> None:
    whole, added = disturbances(speech, speech)

    assert not whole.any()
    assert not added.any()


def test_more_noise_disturbs_more(speech: np.ndarray) -> None:
    def disturbed(gain: float) -> float:
        return clip_disturbance(disturbances(speech, speech + np.float32(gain) * noise(len(speech)))[0])

    assert disturbed(1e-3) < disturbed(1e-2) < disturbed(1e-1)


@pytest.mark.parametrize("gain", [0.01, 10.0])
def test_level_is_no_damage(speech: np.ndarray, gain: float) -> None:
    noisy = speech + 0.01 * noise(len(speech))
    one, other = disturbances(speech, noisy), disturbances(speech, np.float32(gain) * noisy)

    np.testing.assert_allclose(one[0], other[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("score", [1.05, 2.0, 3.3, 4.6])
def test_the_curve_has_the_score_as_its_mean_and_falls_where_the_damage_is(speech: np.ndarray, score: float) -> None:
    heard = speech.copy()
    heard[RATE_HZ : 2 * RATE_HZ] += 0.05 * noise(RATE_HZ)

    found = curve(speech, heard, score)

    assert len(found) == len(speech) // HOP + 1
    assert found.mean() == pytest.approx(score, abs=2e-3)
    assert ((found > 0.99) & (found < 5.0)).all()
    second = RATE_HZ // HOP
    assert found[second + 4 : 2 * second - 4].mean() < np.r_[found[: second - 12], found[2 * second + 12 :]].mean()
