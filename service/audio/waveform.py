"""The outline of a recording, for drawing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.values import Samples


class Envelope:
    """Lowest and highest sample over equal stretches of time; memory stays the same however long the recording is.

    Args:
        points: at most twice as many stretches are kept, at least as many once there are enough samples.

    Attributes:
        low, high: (stretches,), over all channels.
    """

    def __init__(self, points: int) -> None:
        self._most = 2 * points
        self._stretch = 1
        self._low: NDArray[np.float32] = np.zeros(0, np.float32)
        self._high: NDArray[np.float32] = np.zeros(0, np.float32)
        self._rest: NDArray[np.float32] = np.zeros((2, 0), np.float32)

    def push(self, block: Samples) -> None:
        """Take (channels, frames) more."""
        self._add(np.stack((block.min(axis=0), block.max(axis=0))))
        while len(self._low) > self._most:
            self._fold()

    @property
    def low(self) -> NDArray[np.float32]:
        return np.append(self._low, self._rest[0].min()) if self._rest.size else self._low

    @property
    def high(self) -> NDArray[np.float32]:
        return np.append(self._high, self._rest[1].max()) if self._rest.size else self._high

    def _add(self, pairs: NDArray[np.float32]) -> None:
        pairs = np.concatenate((self._rest, pairs), axis=1)
        whole = pairs.shape[1] // self._stretch * self._stretch
        self._rest = pairs[:, whole:]
        self._low = np.append(self._low, pairs[0, :whole].reshape(-1, self._stretch).min(axis=1))
        self._high = np.append(self._high, pairs[1, :whole].reshape(-1, self._stretch).max(axis=1))

    def _fold(self) -> None:
        """Two stretches become one; an odd one at the end goes back to the samples that wait."""
        if len(self._low) % 2:
            last = np.array([[self._low[-1]], [self._high[-1]]], np.float32).repeat(self._stretch, axis=1)
            self._rest = np.concatenate((last, self._rest), axis=1)
        even = len(self._low) // 2 * 2
        self._low = self._low[:even].reshape(-1, 2).min(axis=1)
        self._high = self._high[:even].reshape(-1, 2).max(axis=1)
        self._stretch *= 2
