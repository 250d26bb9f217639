"""Items to a batch and back: one copy in, rows trimmed to each item's own length out.

Knows the graph's contract (`waveform`, `lengths`, `frame_lengths`), not what its values mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.backends.base import BackendError, Tensor
from service.values import Arrays

WAVEFORM, LENGTHS, FRAMES, FRAME_LENGTHS, ENHANCED = "waveform", "lengths", "frames", "frame_lengths", "enhanced"


def assemble(waveforms: Sequence[NDArray[np.float32]]) -> Arrays:
    """Pad *waveforms*, each (samples,), with zeros to one `waveform` [batch, samples] and their `lengths` [batch].

    A single one is not copied.
    """
    lengths = np.array([len(waveform) for waveform in waveforms], np.int64)
    if len(waveforms) == 1:
        return {WAVEFORM: np.ascontiguousarray(waveforms[0])[np.newaxis], LENGTHS: lengths}
    batch = np.empty((len(waveforms), int(lengths.max())), np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
        row[len(waveform) :] = 0.0
    return {WAVEFORM: batch, LENGTHS: lengths}


def framewise(outputs: Iterable[Tensor]) -> frozenset[str]:
    """Names of the outputs that are cut to `frame_lengths`: `frames`, and those whose axis 1 has the same name."""
    shapes = {tensor.name: tensor.shape for tensor in outputs}
    axis = shapes[FRAMES][1] if len(shapes.get(FRAMES, ())) > 1 else None
    alike = {name for name, shape in shapes.items() if isinstance(axis, str) and shape[1:2] == (axis,)}
    return frozenset(alike | {FRAMES})


def separate(outputs: Arrays, lengths: NDArray[np.int64], frame_names: frozenset[str]) -> list[Arrays]:
    """Cut a batch's *outputs* into one dict for each item, without the batch axis and without padding.

    Args:
        outputs: tensors whose first axis is the batch.
        lengths: samples of each item.
        frame_names: outputs to cut to the item's `frame_lengths`, where the graph gives those.

    Raises:
        BackendError: the graph gave another number of rows, or fewer values than it says or than samples went in.
    """
    items = len(lengths)
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != items:
            raise BackendError(f"output {name} has shape {array.shape}, but {items} items went in")
    frame_lengths = outputs.get(FRAME_LENGTHS)
    separated = []
    for i in range(items):
        sizes = {ENHANCED: int(lengths[i])}
        if frame_lengths is not None:
            sizes |= dict.fromkeys(frame_names, int(frame_lengths[i]))
        separated.append({name: _row(name, array, i, sizes.get(name)) for name, array in outputs.items()})
    return separated


def _row(name: str, array: NDArray[np.generic], i: int, size: int | None) -> NDArray[np.generic]:
    row: NDArray[np.generic] = array[i, ...]
    if size is not None:
        if row.ndim == 0 or not 0 <= size <= len(row):
            raise BackendError(f"output {name} has shape {array.shape}, but item {i} should have {size} values")
        row = row[:size]
    # A view would keep the whole batch in memory for as long as one of its items is held.
    return row if len(array) == 1 else row.copy()


def is_finite(outputs: Arrays) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(np.isfinite(array).all()) for array in outputs.values() if array.dtype.kind == "f")
