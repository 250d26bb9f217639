"""Joins the frames of pieces into one curve, thins curves, and finds the stretches that pull a score down."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.engine.manifest import Frames
from service.tasks.windows import Piece
from service.values import Curve, Stretch

SMOOTH_S = 0.3
"""A single frame says little: stretches are looked for in means over this long."""
LEAST_STRETCH_S = 0.2
LEAST_DROP = 0.08
"""Share of the scale by which a stretch must lie below the whole."""
MOST_STRETCHES = 5


class FrameJoin:
    """Puts the kept frames of consecutive pieces behind each other, in order.

    Value i of the joined frames is centred at `offset_s + i * step_s` of the recording.
    """

    def __init__(self, frames: Frames, sample_rate: int) -> None:
        self._spec = frames
        self._step = frames.step_s * sample_rate
        self._offset = frames.offset_s * sample_rate
        self._parts: list[NDArray[np.float32]] = []
        self.count = 0

    def add(self, piece: Piece, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Keep what *values* (time, ...) says about the piece's own part; returns just that."""
        first = round(piece.start / self._step)
        begin = self.count - first
        end = len(values) if piece.last else self._frames_before(piece.keep_to) - first
        kept = values[max(0, begin) : max(0, end)]
        self._parts.append(kept)
        self.count += len(kept)
        return kept

    def joined(self) -> NDArray[np.float32]:
        """All kept frames, (time, ...)."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, np.float32)

    def curve(self) -> Curve:
        return Curve(self._spec.offset_s, self._spec.step_s, self.joined())

    def _frames_before(self, sample: int) -> int:
        return max(0, int(np.ceil((sample - self._offset) / self._step)))


def thin(curve: Curve, step_s: float) -> Curve:
    """The same curve at a coarser step, each point the mean of what lies under it; never looks past the ends."""
    if step_s <= curve.step_s or not len(curve.values):
        return curve
    times = np.arange(len(curve.values)) * curve.step_s
    bins = np.floor(times / step_s + 1e-9).astype(np.int64)
    sums = np.bincount(bins, weights=curve.values)
    means = (sums / np.bincount(bins)).astype(np.float32)
    return Curve(curve.start_s + (step_s - curve.step_s) / 2, step_s, means)


def worst_stretches(curve: Curve, scale_width: float, higher_is_better: bool = True) -> list[Stretch]:
    """The stretches that pull the mean of *curve* down most, worst pull first, at most `MOST_STRETCHES`.

    A stretch lies below the mean by half a deviation and by `LEAST_DROP` of the scale; its pull is depth times length.
    """
    values = curve.values if higher_is_better else -curve.values
    if not len(values):
        return []
    smooth = _moving_mean(values, max(1, round(SMOOTH_S / curve.step_s)))
    mean = float(smooth.mean())
    limit = mean - max(0.5 * float(smooth.std()), LEAST_DROP * scale_width)
    found = []
    for begin, end in runs(smooth < limit):
        if (end - begin) * curve.step_s >= LEAST_STRETCH_S:
            pull = float((mean - smooth[begin:end]).sum())
            found.append((pull, begin, end))
    found.sort(reverse=True)
    half = curve.step_s / 2
    return [
        Stretch(
            onset_s=max(0.0, curve.start_s + begin * curve.step_s - half),
            offset_s=curve.start_s + (end - 1) * curve.step_s + half,
            score=float(curve.values[begin:end].mean()),
        )
        for _, begin, end in found[:MOST_STRETCHES]
    ]


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The [begin, end) of every run of true values in a 1-d mask."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def _moving_mean(values: NDArray[np.float32], width: int) -> NDArray[np.float64]:
    """Centred mean over *width* values, over fewer at the ends."""
    sums = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    index = np.arange(len(values))
    low = np.maximum(0, index - width // 2)
    high = np.minimum(len(values), index - width // 2 + width)
    means: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means
