"""Items to a batch and back: nothing is lost, nothing of a neighbour gets in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.backends.base import BackendError, Tensor
from service.engine import padding


def waveforms(lengths: list[int]) -> list[np.ndarray]:
    return [np.arange(1, length + 1, dtype=np.float32) + 1000 * i for i, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
@settings(deadline=None)
def test_items_come_back_as_they_went_in(lengths: list[int]) -> None:
    """Assembled, passed through unchanged and separated, every item is itself again."""
    items = waveforms(lengths)

    inputs = padding.assemble(items)
    back = padding.separate({"enhanced": inputs["waveform"]}, np.array(lengths), frozenset())

    assert inputs["waveform"].shape == (len(lengths), max(lengths))
    assert inputs["lengths"].tolist() == lengths
    for item, answer in zip(items, back, strict=True):
        np.testing.assert_array_equal(answer["enhanced"], item)


def test_tails_are_zero() -> None:
    inputs = padding.assemble(waveforms([3, 5]))

    assert inputs["waveform"][0].tolist() == [1, 2, 3, 0, 0]


def test_single_item_is_not_copied() -> None:
    (item,) = waveforms([5])

    assert np.shares_memory(padding.assemble([item])["waveform"], item)


def test_shared_rows_do_not_keep_the_batch_in_memory() -> None:
    batch = np.zeros((2, 5), np.float32)

    rows = padding.separate({"enhanced": batch}, np.array([5, 3]), frozenset())

    assert not any(np.shares_memory(row["enhanced"], batch) for row in rows)


def test_frames_are_cut_to_frame_lengths() -> None:
    """`frames` and what shares its axis are trimmed; scores are not."""
    outputs = {
        "score": np.array([1.0, 2.0], np.float32),
        "frames": np.arange(8, dtype=np.float32).reshape(2, 4),
        "voiced": np.arange(8, dtype=np.float32).reshape(2, 4, 1),
        "frame_lengths": np.array([2, 4]),
    }

    first, second = padding.separate(outputs, np.array([20, 40]), frozenset({"frames", "voiced"}))

    assert first["frames"].tolist() == [0, 1]
    assert first["voiced"].shape == (2, 1)
    assert first["score"].shape == ()
    assert float(first["score"]) == 1.0
    assert second["frames"].tolist() == [4, 5, 6, 7]


def test_framewise_follows_the_axis_of_frames() -> None:
    outputs = (
        Tensor("score", "float32", ("batch",)),
        Tensor("frames", "float32", ("batch", "time", 3)),
        Tensor("voiced", "float32", ("batch", "time")),
        Tensor("embedding", "float32", ("batch", 64)),
    )

    assert padding.framewise(outputs) == {"frames", "voiced"}
    assert padding.framewise(()) == {"frames"}
    assert padding.framewise((Tensor("frames", "float32", ("batch", 10)), outputs[3])) == {"frames"}


@pytest.mark.parametrize(
    "outputs",
    [
        {"enhanced": np.zeros((1, 5), np.float32)},
        {"enhanced": np.zeros((3, 5), np.float32)},
        {"score": np.float32(1.0)[()].reshape(())},
        {"enhanced": np.zeros((2, 4), np.float32)},
        {"frames": np.zeros((2, 3), np.float32), "frame_lengths": np.array([4, 3])},
        {"frames": np.zeros((2, 3), np.float32), "frame_lengths": np.array([-1, 3])},
    ],
    ids=["a row too few", "a row too many", "no batch axis", "samples too few", "frames too few", "negative"],
)
def test_outputs_that_do_not_fit_are_not_believed(outputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(BackendError):
        padding.separate(outputs, np.array([5, 3]), frozenset({"frames"}))


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (np.nan, False), (np.inf, False)])
def test_finiteness_is_seen_in_any_output(value: float, finite: bool) -> None:
    outputs = {"frame_lengths": np.array(3), "score": np.array(1.0), "frames": np.array([0.0, value])}

    assert padding.is_finite(outputs) is finite
