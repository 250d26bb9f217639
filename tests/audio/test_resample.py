"""However it is cut: the same samples, the exact length, no delay, the level kept."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.audio.resample import Resampler
from service.errors import InternalFault
from service.values import Samples
from tests.audio.made import tone

RATES = st.one_of(
    st.sampled_from([4000, 8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000]),
    st.integers(4000, 192_000),
)


def resampled(samples: Samples, rate_in: int, rate_out: int, cuts: list[int]) -> Samples:
    resampler = Resampler(rate_in, rate_out, samples.shape[0])
    edges = [0, *sorted(min(cut, samples.shape[1]) for cut in cuts), samples.shape[1]]
    made = [resampler.push(samples[:, a:b]) for a, b in pairwise(edges)]
    return np.concatenate([*made, resampler.finish()], axis=1)


@given(
    rate_in=RATES,
    rate_out=RATES,
    channels=st.integers(1, 4),
    frames=st.integers(0, 6000),
    cuts=st.lists(st.integers(0, 6000), max_size=12),
)
@settings(deadline=None, max_examples=120)
def test_length_is_exact_and_cuts_change_nothing(
    rate_in: int, rate_out: int, channels: int, frames: int, cuts: list[int]
) -> None:
    noise = np.random.default_rng(frames).uniform(-1, 1, (channels, frames)).astype(np.float32)

    whole = resampled(noise, rate_in, rate_out, [])
    pieces = resampled(noise, rate_in, rate_out, cuts)

    assert whole.shape == pieces.shape == (channels, round(frames * rate_out / rate_in))
    assert whole.dtype == pieces.dtype == np.float32
    np.testing.assert_allclose(pieces, whole, atol=1e-6)


@given(rate_in=RATES, rate_out=RATES)
@settings(deadline=None, max_examples=60)
def test_a_tone_keeps_its_level_and_its_place(rate_in: int, rate_out: int) -> None:
    hz = 0.3 * min(rate_in, rate_out) / 2
    got = resampled(tone(0.5, rate_in, hz=hz), rate_in, rate_out, [100, 1000])[0]

    expected = 0.5 * np.sin(2 * np.pi * hz * np.arange(got.size) / rate_out)
    edge = got.size // 10  # the tone starts and ends abruptly: the filter rings there
    np.testing.assert_allclose(got[edge:-edge], expected[edge:-edge], atol=2e-3)


def test_what_the_lower_rate_cannot_carry_is_gone() -> None:
    got = resampled(tone(0.5, 48_000, hz=9000), 48_000, 16_000, [])
    assert np.abs(got[:, 200:-200]).max() < 1e-4


def test_equal_rates_are_the_identity() -> None:
    samples = tone(0.1, 16_000, 2)
    np.testing.assert_array_equal(resampled(samples, 16_000, 16_000, [5, 700]), samples)


@pytest.mark.parametrize("rate_out", [8000, 16_000])
def test_after_the_end_it_is_not_used(rate_out: int) -> None:
    resampler = Resampler(16_000, rate_out, 1)
    resampler.finish()
    with pytest.raises(InternalFault):
        resampler.push(np.zeros((1, 10), np.float32))
    with pytest.raises(InternalFault):
        resampler.finish()


def test_blocks_may_be_views_of_anything() -> None:
    samples = tone(0.1, 48_000, 4)
    strided = samples[::2, ::3]
    np.testing.assert_array_equal(
        resampled(strided, 16_000, 8000, []), resampled(np.ascontiguousarray(strided), 16_000, 8000, [])
    )
