"""The same seed draws the same load, and it is Poisson."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.client.schedule import poisson


@given(st.floats(0.5, 300), st.floats(0.5, 20), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_schedule_is_whole_and_repeatable(rate: float, duration_s: float, choices: int, seed: int) -> None:
    one, other = (poisson(rate, duration_s, choices, seed, leaving=0.3) for _ in range(2))
    for name in ("at_s", "which", "leaves_s"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (np.diff(one.at_s) >= 0).all()
    assert ((one.at_s >= 0) & (one.at_s < duration_s)).all()
    assert ((one.which >= 0) & (one.which < choices)).all()


def test_gaps_are_exponential_and_choices_weighted() -> None:
    drawn = poisson(200, 100, 2, seed=1, weights=np.array([3.0, 1.0]), leaving=0.25, leaves_within_s=2)
    gaps = np.diff(drawn.at_s)
    assert abs(gaps.mean() * 200 - 1) < 0.03
    assert abs(gaps.std() / gaps.mean() - 1) < 0.03
    assert abs(drawn.which.mean() - 0.25) < 0.02
    left = np.isfinite(drawn.leaves_s)
    assert abs(left.mean() - 0.25) < 0.02
    assert drawn.leaves_s[left].max() <= 2
    assert len(poisson(200, 100, 2, seed=2)) != len(drawn)


def test_arrivals_reach_the_end() -> None:
    assert all(poisson(50, 10, 1, seed).at_s[-1] > 9 for seed in range(50))
