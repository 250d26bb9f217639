"""One of several channels, or their mean."""

from __future__ import annotations

import numpy as np
import pytest

from service.audio.channels import pick
from service.errors import BadRequest

BLOCK = np.array([[0.5, -1.0, 0.25], [0.25, 1.0, 0.25]], np.float32)


def test_mix_is_the_mean() -> None:
    np.testing.assert_array_equal(pick(BLOCK, "mix"), [0.375, 0.0, 0.25])
    np.testing.assert_array_equal(pick(BLOCK[:1], "mix"), BLOCK[0])


@pytest.mark.parametrize("channel", [0, 1])
def test_a_number_is_that_channel(channel: int) -> None:
    np.testing.assert_array_equal(pick(BLOCK, channel), BLOCK[channel])


@pytest.mark.parametrize("channel", [-1, 2, 15])
def test_a_channel_that_is_not_there_is_refused(channel: int) -> None:
    with pytest.raises(BadRequest) as caught:
        pick(BLOCK, channel)
    assert caught.value.extra == {"parameter": "channel", "got": channel}


@pytest.mark.parametrize("channel", ["mix", 0])
def test_the_result_is_one_channel_of_float(channel: str | int) -> None:
    got = pick(BLOCK, channel)  # type: ignore[arg-type]
    assert (got.shape, got.dtype) == ((3,), np.float32)
