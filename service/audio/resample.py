"""Another sample rate, block by block: the result does not depend on how the blocks were cut."""

from __future__ import annotations

import numpy as np
import soxr

from service.values import Samples


class Resampler:
    """From one rate to another, aligned to the sample; n frames become exactly round(n * rate_out / rate_in).

    Args:
        rate_in, rate_out: in Hz.
        channels: of every block.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._rate_in, self._rate_out, self._channels = rate_in, rate_out, channels
        self._stream = None if rate_in == rate_out else soxr.ResampleStream(rate_in, rate_out, channels, "float32", "HQ")
        self._taken = 0
        self._given = 0

    def push(self, block: Samples) -> Samples:
        """(channels, frames) in, what is ready out; the last few samples stay inside until `finish`."""
        self._taken += block.shape[1]
        return self._give(self._run(block, last=False), self._due())

    def finish(self) -> Samples:
        """The rest, so that the length is exact."""
        due = self._due()
        rest = self._give(self._run(np.zeros((self._channels, 0), np.float32), last=True), due)
        return np.pad(rest, ((0, 0), (0, due - self._given))) if due > self._given else rest

    def _due(self) -> int:
        return (2 * self._taken * self._rate_out + self._rate_in) // (2 * self._rate_in)

    def _give(self, made: Samples, due: int) -> Samples:
        made = made[:, : max(0, due - self._given)]
        self._given += made.shape[1]
        return made

    def _run(self, block: Samples, *, last: bool) -> Samples:
        if self._stream is None:
            return block
        made: Samples = self._stream.resample_chunk(np.ascontiguousarray(block.T), last=last)
        return np.ascontiguousarray(made.reshape(-1, self._channels).T)
