"""Windows for spectra, and what the measurements ask of each."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=64)
def window(size: int) -> NDArray[np.float32]:
    """The symmetric Hann window; shared, so it cannot be written to."""
    made = np.hanning(size).astype(np.float32)
    made.flags.writeable = False
    return made


def mean_squares(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the squares over the last axis, without an array of them."""
    means: NDArray[np.float32] = np.einsum("...i,...i->...", rows, rows) / np.float32(rows.shape[-1])
    return means
