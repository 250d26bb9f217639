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
        self._begun: tuple[int, float, float] | None = None
        """Frames, least and greatest of a stretch that is not complete."""

    @property
    def stretch_frames(self) -> int:
        """Frames that one pair stands for (the last one may stand for fewer)."""
        return self._stretch

    @property
    def low(self) -> NDArray[np.float32]:
        """The least sample over all channels of each stretch."""
        return np.append(self._low[: self._filled], np.float32(self._begun[1]) if self._begun else self._low[:0])

    @property
    def high(self) -> NDArray[np.float32]:
        """The greatest sample over all channels of each stretch."""
        return np.append(self._high[: self._filled], np.float32(self._begun[2]) if self._begun else self._high[:0])

    def push(self, block: Samples) -> None:
        """Take (channels, n) more."""
        low, high = block.min(axis=0), block.max(axis=0)
        at = 0
        while at < len(low):
            if self._begun is None and len(low) - at >= self._stretch and self._filled < len(self._low):
                at += self._add_whole(low[at:], high[at:])
            else:
                at += self._add_part(low[at:], high[at:])

    def _add_whole(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> int:
        """As many complete stretches as come and have room; gives the frames taken."""
        count = min(len(low) // self._stretch, len(self._low) - self._filled)
        taken, room = count * self._stretch, slice(self._filled, self._filled + count)
        self._low[room] = low[:taken].reshape(count, self._stretch).min(axis=1)
        self._high[room] = high[:taken].reshape(count, self._stretch).max(axis=1)
        self._filled += count
        return taken

    def _add_part(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> int:
        """Go on with the stretch that is begun, or begin one; gives the frames taken."""
        frames, least, greatest = self._begun or (0, np.inf, -np.inf)
        taken = min(self._stretch - frames, len(low))
        frames += taken
        least, greatest = min(least, float(low[:taken].min())), max(greatest, float(high[:taken].max()))
        self._begun = frames, least, greatest
        if frames == self._stretch:
            if self._filled == len(self._low):
                self._fold()  # and what was a whole stretch is half of one
            else:
                self._low[self._filled], self._high[self._filled] = least, greatest
                self._filled += 1
                self._begun = None
        return taken

    def _fold(self) -> None:
        half = len(self._low) // 2
        self._low[:half] = self._low.reshape(half, 2).min(axis=1)
        self._high[:half] = self._high.reshape(half, 2).max(axis=1)
        self._filled = half
        self._stretch *= 2
