"""The outline holds every peak, however long the recording turns out and however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.audio.waveform import Envelope


@given(
    frames=st.integers(0, 1200),
    channels=st.integers(1, 3),
    points=st.integers(1, 20).map(lambda half: 2 * half),
    step=st.integers(1, 500),
)
@settings(deadline=None, max_examples=60)
def test_each_pair_is_least_and_greatest_of_its_stretch(frames: int, channels: int, points: int, step: int) -> None:
    samples = np.random.default_rng(frames).uniform(-1, 1, (channels, frames)).astype(np.float32)
    outline = Envelope(points)

    for at in range(0, frames, step):
        outline.push(samples[:, at : at + step])

    size = outline.stretch_frames
    assert size & (size - 1) == 0
    assert len(outline.low) == len(outline.high) == -(-frames // size)
    assert len(outline.low) <= points + 1
    assert frames <= points or len(outline.low) > points / 2
    for index, (low, high) in enumerate(zip(outline.low, outline.high, strict=True)):
        stretch = samples[:, index * size : (index + 1) * size]
        assert (low, high) == (stretch.min(), stretch.max())


@pytest.mark.parametrize("points", [0, -2, 7])
def test_an_odd_count_of_points_is_refused(points: int) -> None:
    with pytest.raises(ValueError, match="even"):
        Envelope(points)


def test_memory_does_not_grow_with_the_recording(peak_bytes) -> None:  # type: ignore[no-untyped-def]
    block = np.zeros((1, 16_000), np.float32)

    def push(count: int) -> None:
        outline = Envelope(1000)
        for _ in range(count):
            outline.push(block)

    assert peak_bytes(lambda: push(300)) < peak_bytes(lambda: push(30)) + 100_000
