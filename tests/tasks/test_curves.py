"""Joined frames equal one pass; thinning keeps the mean; the worst stretches are where the damage is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.manifest import Frames
from service.tasks.curves import MOST_STRETCHES, FrameJoin, runs, thin, worst_stretches
from service.tasks.windows import Windows
from service.values import Curve

RATE, STEP = 1000, 10


def frames_of(samples: np.ndarray, start: int) -> np.ndarray:
    """A model whose frame i says which sample it is centred at: as many frames as `n // hop + 1`."""
    return (start + STEP * np.arange(len(samples) // STEP + 1)).astype(np.float32)


@given(st.integers(1, 3000), st.integers(0, 15), st.integers(0, 9))
def test_joined_frames_equal_one_pass(total: int, context_frames: int, offset: int) -> None:
    spec = Frames(step_s=STEP / RATE, offset_s=offset / RATE)
    windows = Windows(400, context_frames * STEP, STEP)
    join = FrameJoin(spec, RATE)
    recording = np.zeros(total, np.float32)

    pieces = windows.push(recording) + windows.finish()
    kept = [join.add(piece, frames_of(piece.samples, piece.start)) for piece in pieces]

    np.testing.assert_array_equal(join.joined(), frames_of(recording, 0))
    np.testing.assert_array_equal(np.concatenate(kept), join.joined())


@given(st.integers(1, 400), st.floats(0.01, 3.0))
def test_thinning_keeps_values_in_range_and_the_ends_in_place(count: int, step_s: float) -> None:
    values = np.random.default_rng(count).uniform(1, 4, count).astype(np.float32)
    curve = Curve(0.0, 0.016, values)

    coarse = thin(curve, step_s)

    assert values.min() - 1e-5 <= coarse.values.min()
    assert coarse.values.max() <= values.max() + 1e-5
    assert len(coarse.values) <= count


def test_thinning_averages_whole_bins() -> None:
    coarse = thin(Curve(0.0, 0.1, np.array([1, 3, 5, 7, 9], np.float32)), 0.2)

    np.testing.assert_allclose(coarse.values, [2, 6, 9])
    assert coarse.start_s == pytest.approx(0.05)


def test_worst_stretch_is_where_the_damage_is() -> None:
    values = np.full(600, 4.0, np.float32)
    values[200:300] = 1.5

    found = worst_stretches(Curve(0.0, 0.016, values), 3.64)

    assert len(found) == 1
    assert found[0].onset_s == pytest.approx(3.2, abs=0.2)
    assert found[0].offset_s == pytest.approx(4.8, abs=0.2)
    assert found[0].score == pytest.approx(1.5, abs=0.3)


def test_worst_stretches_are_ordered_by_their_pull_and_few() -> None:
    values = np.full(4000, 4.0, np.float32)
    for index in range(8):
        values[index * 500 : index * 500 + 40 * (index + 1)] = 1.0

    found = worst_stretches(Curve(0.0, 0.016, values), 3.64)

    lengths = [one.offset_s - one.onset_s for one in found]
    assert len(found) == MOST_STRETCHES
    assert lengths == sorted(lengths, reverse=True)


def test_an_even_recording_has_no_worst_stretch() -> None:
    values = 3 + 0.02 * np.random.default_rng(0).standard_normal(2000).astype(np.float32)

    assert worst_stretches(Curve(0.0, 0.016, values), 3.64) == []


def test_where_lower_is_better_the_peaks_are_worst() -> None:
    values = np.full(600, 1.0, np.float32)
    values[100:200] = 4.0

    (found,) = worst_stretches(Curve(0.0, 0.016, values), 3.64, higher_is_better=False)

    assert found.score > 3


@given(st.lists(st.booleans(), max_size=50))
def test_runs_are_the_true_stretches(mask: list[bool]) -> None:
    rebuilt = np.zeros(len(mask), bool)
    for begin, end in runs(np.array(mask, bool)):
        assert begin < end
        rebuilt[begin:end] = True

    assert rebuilt.tolist() == mask
