"""One channel out of several."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequest
from service.values import Samples


def pick(block: Samples, channel: int | str) -> NDArray[np.float32]:
    """The mean of all channels for "mix", else the one with that number; (frames,).

    Raises:
        BadRequest: there is no such channel.
    """
    if channel == "mix":
        mixed: NDArray[np.float32] = block[0] if len(block) == 1 else block.mean(axis=0, dtype=np.float32)
        return mixed
    if not isinstance(channel, int) or not 0 <= channel < len(block):
        raise BadRequest(
            f"channel {channel} was asked for; the recording has {len(block)}, counted from 0",
            parameter="channel",
            got=channel,
        )
    chosen: NDArray[np.float32] = block[channel]
    return chosen
