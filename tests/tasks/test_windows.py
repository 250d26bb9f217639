"""Pieces cover a recording exactly once, with context on both sides, however it comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tasks.windows import Piece, Windows


def cut(total: int, size: int, context: int, grid: int, steps: list[int]) -> tuple[np.ndarray, list[Piece]]:
    recording = np.arange(1, total + 1, dtype=np.float32)
    windows = Windows(size, context, grid)
    pieces, at = [], 0
    for step in [*steps, total]:
        pieces += windows.push(recording[at : at + step])
        at += step
        if at >= total:
            break
    return recording, pieces + windows.finish()


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int, list[int]]:
    grid = draw(st.integers(1, 7))
    context = draw(st.integers(0, 20))
    size = draw(st.integers(2 * (context + grid) + 2 * grid, 120))
    total = draw(st.integers(1, 600))
    steps = draw(st.lists(st.integers(1, 200), max_size=12))
    return total, size, context, grid, steps


@given(shapes())
def test_kept_parts_cover_the_recording_once_and_in_order(shape: tuple[int, int, int, int, list[int]]) -> None:
    recording, pieces = cut(*shape)

    kept = np.concatenate([p.samples[p.keep_from - p.start : p.keep_to - p.start] for p in pieces])

    np.testing.assert_array_equal(kept, recording)
    assert [p.last for p in pieces] == [False] * (len(pieces) - 1) + [True]


@given(shapes())
def test_every_piece_lies_on_the_grid_and_holds_its_context(shape: tuple[int, int, int, int, list[int]]) -> None:
    _, size, context, grid, _ = shape
    recording, pieces = cut(*shape)

    for piece in pieces:
        assert piece.start % grid == 0
        assert 0 < piece.samples.size <= size
        np.testing.assert_array_equal(piece.samples, recording[piece.start : piece.start + piece.samples.size])
        assert piece.start == 0 or piece.keep_from - piece.start >= context
        assert piece.last or piece.start + piece.samples.size - piece.keep_to >= context


@given(shapes())
def test_the_way_it_came_in_does_not_matter(shape: tuple[int, int, int, int, list[int]]) -> None:
    total, size, context, grid, _ = shape
    _, in_steps = cut(*shape)
    _, at_once = cut(total, size, context, grid, [])

    assert [(p.start, p.keep_from, p.keep_to) for p in in_steps] == [(p.start, p.keep_from, p.keep_to) for p in at_once]


def test_a_short_recording_is_one_piece() -> None:
    recording, pieces = cut(100, 100, 20, 1, [])

    assert len(pieces) == 1
    np.testing.assert_array_equal(pieces[0].samples, recording)


def test_nothing_pushed_gives_nothing() -> None:
    assert Windows(100, 10).finish() == []


def test_memory_stays_the_same_for_a_long_recording() -> None:
    windows = Windows(1000, 100)
    held = []
    for _ in range(500):
        windows.push(np.ones(700, np.float32))
        held.append(windows._held.size)

    assert max(held[10:]) <= 1000 + 1 + 700 + 1000


def test_context_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="leave nothing"):
        Windows(100, 50)
