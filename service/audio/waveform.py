"""The outline of a recording for drawing: least and greatest sample of equal stretches, however long it turns out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.values import Samples


class Envelope:
    """Keeps up to *points* pairs. When they are full, neighbours are folded into one and a stretch is twice as long.

    Args:
        points: most pairs kept, an even number above 0; between half of it and all of it come back for long recordings.
    """

    def __init__(self, points: int) -> None:
        if points < 2 or points % 2:
            raise ValueError("an envelope has an even number of points")
        self._low = np.zeros(points, np.float32)
        self._high = np.zeros(points, np.float32)
        self._filled = 0
        self._stretch = 1
        self._rest = np.zeros((2, 0), np.float32)

    @property
    def stretch_frames(self) -> int:
        """Frames that one pair stands for (the last one may stand for fewer)."""
        return self._stretch

    @property
    def low(self) -> NDArray[np.float32]:
        """The least sample over all channels of each stretch."""
        return np.append(self._low[: self._filled], self._rest[0].min(keepdims=True) if self._rest.size else [])

    @property
    def high(self) -> NDArray[np.float32]:
        """The greatest sample over all channels of each stretch."""
        return np.append(self._high[: self._filled], self._rest[1].max(keepdims=True) if self._rest.size else [])

    def push(self, block: Samples) -> None:
        """Take (channels, n) more."""
        frames = np.concatenate([self._rest, np.stack([block.min(axis=0), block.max(axis=0)])], axis=1)
        at = 0
        while frames.shape[1] - at >= self._stretch:
            if self._filled == len(self._low):
                self._fold()
                continue
            whole = min((frames.shape[1] - at) // self._stretch, len(self._low) - self._filled)
            part = frames[:, at : at + whole * self._stretch].reshape(2, whole, self._stretch)
            self._low[self._filled : self._filled + whole] = part[0].min(axis=1)
            self._high[self._filled : self._filled + whole] = part[1].max(axis=1)
            self._filled += whole
            at += whole * self._stretch
        self._rest = frames[:, at:].copy()

    def _fold(self) -> None:
        half = len(self._low) // 2
        self._low[:half] = self._low.reshape(half, 2).min(axis=1)
        self._high[:half] = self._high.reshape(half, 2).max(axis=1)
        self._filled = half
        self._stretch *= 2
