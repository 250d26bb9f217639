"""One sample rate to another, block by block: no delay, the exact length, the same result however it is cut."""

from __future__ import annotations

import numpy as np
import soxr

from service.errors import InternalFault
from service.values import Samples


class Resampler:
    """Sample 0 of the output lies where sample 0 of the input lies. A tone keeps its level to within 0.01 dB up to
    90 % of half the lower rate; above that is the filter's edge.

    Args:
        rate_in: of what is pushed, in Hz.
        rate_out: of what comes back, in Hz.
        channels: of both.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._rate_in = rate_in
        self._rate_out = rate_out
        self._channels = channels
        self._taken = 0
        self._given = 0
        self._finished = False
        self._stream = (
            None if rate_in == rate_out else soxr.ResampleStream(rate_in, rate_out, channels, "float32", "HQ")
        )

    def push(self, block: Samples) -> Samples:
        """Take (channels, n) more; gives (channels, m), with m 0 at first: the filter must see some of the future."""
        if self._finished:
            raise InternalFault("a resampler was used after its end")
        self._taken += block.shape[1]
        if self._stream is None:
            return block
        return self._give(self._stream.resample_chunk(np.ascontiguousarray(block.T, np.float32)))

    def finish(self) -> Samples:
        """The rest, so that all together are round(taken * rate_out / rate_in) frames."""
        if self._finished:
            raise InternalFault("a resampler was finished twice")
        self._finished = True
        if self._stream is None:
            return np.zeros((self._channels, 0), np.float32)
        missing = round(self._taken * self._rate_out / self._rate_in) - self._given
        tail = self._stream.resample_chunk(np.zeros((0, self._channels), np.float32), last=True)[:missing]
        padding = np.zeros((missing - len(tail), self._channels), np.float32)
        return self._give(np.concatenate([tail, padding]))

    def _give(self, made: Samples) -> Samples:
        self._given += len(made)
        return np.ascontiguousarray(made.T)
