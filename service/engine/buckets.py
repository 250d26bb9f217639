"""Few shapes instead of endlessly many, for devices that prepare anew for each: a GPU plans its kernels by shape.

Lengths go up to the next of a row a quarter apart, items to the next power of two. On a CPU that would be pure loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from service.backends.base import Backend, Detail, Tensor
from service.engine import padding
from service.values import Arrays

STEP = 1.25


def bucket_samples(samples: int, least: int, most: int) -> int:
    """The length to pad to: the next of *least*, 1.25 times that and so on, and *most* where that would pass it."""
    size = float(least)
    while round(size) < samples:
        size *= STEP
    return max(samples, min(round(size), most))


def bucket_items(items: int) -> int:
    """The next power of two."""
    return 1 << (items - 1).bit_length()


class Bucketed:
    """A backend that sees few shapes, in front of one whose answers do not depend on padding or neighbours.

    Args:
        least, most: samples of the shortest bucket and of the longest piece there is.
    """

    def __init__(self, inner: Backend, least: int, most: int) -> None:
        self._inner = inner
        self._least, self._most = least, most
        self.kind, self.provider, self.device = inner.kind, inner.provider, inner.device
        self.details: Mapping[str, Detail] = inner.details
        self.inputs: tuple[Tensor, ...] = inner.inputs
        self.outputs: tuple[Tensor, ...] = inner.outputs

    def run(self, inputs: Arrays) -> Arrays:
        waveform, lengths = inputs[padding.WAVEFORM], inputs[padding.LENGTHS]
        items, samples = waveform.shape
        shape = bucket_items(items), bucket_samples(samples, self._least, self._most)
        if shape == waveform.shape:
            return self._inner.run(inputs)
        filled = np.empty(shape, waveform.dtype)
        filled[:items, :samples] = waveform
        filled[:items, samples:] = 0
        filled[items:] = 0
        # Rows nobody asked for are silence as long as the shortest: every model takes that.
        counts = np.full(shape[0], lengths.min(), lengths.dtype)
        counts[:items] = lengths
        outputs = self._inner.run({padding.WAVEFORM: filled, padding.LENGTHS: counts})
        return {name: array[:items] for name, array in outputs.items()}

    def close(self) -> None:
        self._inner.close()
