"""Several channels to one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequest
from service.values import OneChannel, Samples


def pick(block: Samples, channel: OneChannel) -> NDArray[np.float32]:
    """(channels, n) → (n,): the mean of all channels, or the one with that number, counted from 0.

    Raises:
        BadRequest: there is no such channel.
    """
    channels = block.shape[0]
    if channel == "mix":
        # of one channel the mean is itself: not a copy for the commonest case
        mean: NDArray[np.float32] = block[0] if channels == 1 else block.mean(axis=0, dtype=np.float32)
        return mean
    if not 0 <= channel < channels:
        raise BadRequest(
            f"Channel {channel} was asked for; the recording has {channels}, counted from 0.",
            parameter="channel",
            got=channel,
        )
    chosen: NDArray[np.float32] = block[channel]
    return chosen
