"""Segments are sorted, disjoint within a label, inside the recording, and where the probability is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.engine.manifest import Frames, Segmenting
from service.tasks.segments import find_segments, median_filter

SPEC = Frames(step_s=0.1, offset_s=0.05)


@given(
    arrays(np.float32, st.tuples(st.integers(0, 60), st.just(3)), elements=st.floats(0, 1, width=32)),
    st.floats(0.3, 0.9),
    st.floats(0, 0.5),
    st.floats(0, 1),
)
def test_segments_are_sorted_disjoint_and_inside(
    probabilities: np.ndarray, on: float, median_s: float, min_s: float
) -> None:
    rule = Segmenting(on=on, off=on / 2, median_s=median_s, min_s=min_s)
    duration_s = len(probabilities) * 0.1

    found = find_segments(probabilities, ("a", "b", "c"), SPEC, rule, duration_s)

    assert [one.onset_s for one in found] == sorted(one.onset_s for one in found)
    for label in "abc":
        own = [one for one in found if one.label == label]
        assert all(left.offset_s <= right.onset_s for left, right in pairwise(own))
    for one in found:
        assert 0 <= one.onset_s < one.offset_s <= duration_s + 1e-9
        assert one.offset_s - one.onset_s >= min_s
        assert 0 <= one.probability <= 1


def test_hysteresis_opens_high_and_closes_low() -> None:
    track = np.array([0, 0.35, 0.6, 0.4, 0.35, 0.1, 0.4, 0.45, 0.0], np.float32)[:, None]

    (found,) = find_segments(track, ("dog",), SPEC, Segmenting(on=0.5, off=0.3, min_s=0.0), 0.9)

    assert found.onset_s == pytest.approx(0.1)
    assert found.offset_s == pytest.approx(0.5)


def test_the_median_removes_a_lone_spike_and_fills_a_lone_gap() -> None:
    track = np.array([0, 1, 0, 0, 1, 1, 0, 1, 1, 0], np.float32)

    np.testing.assert_array_equal(median_filter(track, 3), [0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
