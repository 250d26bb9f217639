"""Frame probabilities to segments with onset and offset: median filter, hysteresis, least length."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from service.engine.manifest import Frames, Segmenting
from service.tasks.curves import runs
from service.values import Segment


def find_segments(
    probabilities: NDArray[np.float32], labels: tuple[str, ...], frames: Frames, rule: Segmenting, duration_s: float
) -> list[Segment]:
    """Where each label is heard.

    Args:
        probabilities: (time, classes), each 0…1.
        labels: the classes' names, in order.
        frames: where the frames lie.
        rule: a segment opens above `on`, lasts while above `off`, and is at least `min_s` long.
        duration_s: segments are cut to the recording.

    Returns:
        Segments sorted by onset, disjoint within a label.
    """
    width = max(1, round(rule.median_s / frames.step_s)) | 1
    found = []
    for index, label in enumerate(labels):
        track = median_filter(probabilities[:, index], width)
        for begin, end in runs(track >= rule.off):
            if track[begin:end].max() < rule.on:
                continue
            onset = max(0.0, frames.offset_s + (begin - 0.5) * frames.step_s)
            offset = min(duration_s, frames.offset_s + (end - 0.5) * frames.step_s)
            if offset - onset >= rule.min_s:
                found.append(Segment(label, onset, offset, float(track[begin:end].mean())))
    return sorted(found, key=lambda segment: (segment.onset_s, segment.label))


def median_filter(track: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Median over *width* (odd) frames around each; the ends see themselves repeated."""
    if width == 1 or not len(track):
        return track
    padded = np.pad(track, width // 2, mode="edge")
    filtered: NDArray[np.float32] = np.median(sliding_window_view(padded, width), axis=1).astype(np.float32)
    return filtered
