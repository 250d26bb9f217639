"""Finds clipping: tops that are cut flat, at full scale or below it.

A flat top is a run of equal samples at the greatest level around. That alone is no clipping: the top of a slow tone is
flat too once it is rounded to 8 or 16 bit. So the slopes beside the run are asked how far the wave would have gone on:
a parabola that rises by s a sample and comes down again n samples later is s·n/4 high. Where the wave is too wild for
slopes, a step up to the run and one down from it prove the same: a rounded top has none of more than three of its own
steps. Clipping that a lossy coder or a resampler has since smeared is not found.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from service.audio.stretches import Span, Stretches
from service.values import Finding, Samples

LEAST_RUN = 3
"""Equal samples in a row."""
LEAST_LEVEL = 0.05
NEAR_PEAK = 0.98
"""Of the greatest sample of the same sign within the second."""
OVERSHOOT = 0.003
"""By which share of its level the wave must have been cut..."""
EDGE = 0.01
"""...or how large a share of it the steps at both ends of the run must be..."""
FINEST_STEPS = 6
"""...and by how many of the finest differences between samples, in both cases."""
SAME = 1e-7
GAP_S = 0.25
LEAST_RUNS = 2


class Clipping:
    """Takes a recording slab by slab; runs are sought within each second."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._rate = sample_rate
        self._channels = channels
        self._stretches = Stretches(GAP_S, LEAST_RUNS)

    def push(self, slab: Samples, start_s: float, second: int) -> None:
        """Take (channels, n) more; *second* is about a second in samples."""
        for first in _suspects(slab, second):
            self._look(slab[:, first : first + second], start_s + first / self._rate)

    def _look(self, slab: Samples, start_s: float) -> None:
        found = [_flat_tops(samples) for samples in slab]
        starts = np.concatenate([start for start, _ in found])
        if not len(starts):
            return
        ends = np.concatenate([end for _, end in found])
        order = np.argsort(starts, kind="stable")
        for span in self._spans(starts[order], ends[order], start_s):
            self._stretches.add(span)

    def finish(self) -> list[Finding]:
        """Value: the share of all samples in the stretch that are clipped."""
        return [
            Finding("clipping", span.onset_s, span.offset_s, min(1.0, span.amount / max(span.length_s, 1 / self._rate)))
            for span in self._stretches.finish()
        ]

    def _spans(self, starts: NDArray[np.intp], ends: NDArray[np.intp], start_s: float) -> Iterator[Span]:
        """Runs of one slab, already merged: a badly clipped second has thousands."""
        reach = np.maximum.accumulate(ends)
        firsts = np.flatnonzero(np.append(True, starts[1:] - reach[:-1] > GAP_S * self._rate))
        lasts = np.append(firsts[1:], len(starts)) - 1
        samples = np.add.reduceat(ends - starts, firsts)
        for first, last, clipped in zip(firsts.tolist(), lasts.tolist(), samples.tolist(), strict=True):
            yield Span(
                start_s + float(starts[first]) / self._rate,
                start_s + float(reach[last]) / self._rate,
                clipped / (self._rate * self._channels),
                last - first + 1,
            )


def _flat_tops(samples: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First samples of the clipped runs of one channel, and the samples after their last."""
    steps = np.diff(samples)
    level = np.abs(samples)
    flat = (np.abs(steps) <= SAME) & (level[1:] >= LEAST_LEVEL)
    if not flat.any():
        nothing = np.zeros(0, np.intp)
        return nothing, nothing
    edges = np.diff(flat.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) + 1
    height = samples[starts]
    peak = np.where(height > 0, samples.max(), -samples.min())
    overshoot, edge = _cut_off(samples, starts, ends)
    level = np.abs(height)
    least = FINEST_STEPS * _finest(steps)
    clipped = (overshoot >= np.maximum(OVERSHOOT * level, least)) | (edge >= np.maximum(EDGE * level, least))
    clipped &= (ends - starts >= LEAST_RUN) & (level >= NEAR_PEAK * peak)
    return starts[clipped], ends[clipped]


def _suspects(slab: Samples, second: int) -> list[int]:
    """First samples of the seconds in which a few samples near the peak are alike in a row at all.

    Nearly always there are none, and that is cheap to see for many seconds at once.
    """
    whole = slab.shape[1] // second * second
    suspects = _near_flat(slab[:, :whole].reshape(len(slab), -1, second)) * second
    rest = _near_flat(slab[:, None, whole:]) + whole if whole < slab.shape[1] else suspects[:0]
    return [*suspects.tolist(), *rest.tolist()]


def _near_flat(seconds: NDArray[np.float32]) -> NDArray[np.intp]:
    """Which of (channels, seconds, samples) may hold a flat top in some channel."""
    near, least = NEAR_PEAK - 0.01, LEAST_LEVEL - 1e-3
    high = seconds >= np.maximum(near * seconds.max(axis=2, keepdims=True, initial=0), least)
    low = seconds <= np.minimum(near * seconds.min(axis=2, keepdims=True, initial=0), -least)
    there = np.flatnonzero(high | low)
    heights = seconds.reshape(-1)[there]
    alike = (np.diff(there) == 1) & (np.abs(np.diff(heights)) <= SAME)
    runs = there[:-2][alike[1:] & alike[:-1]] if len(there) >= LEAST_RUN else there[:0]
    return np.unique(runs // seconds.shape[2] % max(1, seconds.shape[1]))


def _cut_off(
    samples: NDArray[np.float32], starts: NDArray[np.intp], ends: NDArray[np.intp]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """How much higher the wave would have gone by the slopes beside each run, and the lesser step at its ends.

    Both are negative where the run is no top.
    """
    last = len(samples) - 1
    sign = np.sign(samples[starts])
    before, after = samples[np.maximum(starts - 1, 0)], samples[np.minimum(ends, last)]
    rise = sign * (before - samples[np.maximum(starts - 2, 0)])
    fall = sign * (after - samples[np.minimum(ends + 1, last)])
    edge: NDArray[np.floating] = sign * samples[starts] - np.maximum(sign * before, sign * after)
    return np.minimum(rise, fall) * (ends - starts) / 4, edge


def _finest(steps: NDArray[np.float32]) -> float:
    """The least difference between neighbours that is not zero: the step of a coarse quantiser shows in it."""
    sizes = np.abs(steps)
    return float(sizes[sizes > SAME].min(initial=1.0))
