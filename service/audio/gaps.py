"""Finds gaps: dropouts, where the samples are zero in the midst of sound, and long quiet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.audio.stretches import Span, Stretches
from service.values import Finding

HOP_S = 0.001
"""About; what `Dropouts` is fed with is one value for each."""

LEAST_HOPS = 4
MOST_HOPS = 3000
"""A longer zero is silence and no dropout."""
AROUND_HOPS = 200
"""How far around a gap the loudness is asked."""
LEAST_POWER = 1e-6
"""-60 dBFS: below it there was nothing that could drop out."""
EDGE_SHARE = 0.03
"""Of the loudest power around, the power right at the edge of a dropout: it cuts off (15 dB), a fade does not."""
MERGE_S = 0.5

QUIET_POWER = 10**-6.5
"""-65 dBFS, in a tenth of a second."""
QUIET_S = 2.0
FLOOR_POWER = 1e-12


class Dropouts:
    """Takes, for each hop, the power and whether all samples of all channels are zero."""

    def __init__(self, hop_s: float) -> None:
        self._hop_s = hop_s
        self._zero = np.zeros(0, bool)
        self._power = np.zeros(0, np.float32)
        self._first = 0
        self._judged = 0
        self._stretches = Stretches(MERGE_S)

    def push(self, zero: NDArray[np.bool_], power: NDArray[np.float32]) -> None:
        self._zero = np.append(self._zero, zero)
        self._power = np.append(self._power, power)
        self._judge(len(self._zero) - AROUND_HOPS)
        # what is still open, with its surroundings; an open gap longer than a dropout can be needs no memory
        keep = min(AROUND_HOPS + MOST_HOPS + AROUND_HOPS, len(self._zero))
        self._first += len(self._zero) - keep
        self._zero, self._power = self._zero[-keep:], self._power[-keep:]

    def finish(self) -> list[Finding]:
        """Value: the share of the stretch that is lost (1 for a single dropout)."""
        self._judge(len(self._zero))
        return [
            Finding("dropout", span.onset_s, span.offset_s, span.amount / span.length_s)
            for span in self._stretches.finish()
        ]

    def _judge(self, until: int) -> None:
        """Look at the gaps that end before *until* and were not looked at yet."""
        edges = np.diff(self._zero.astype(np.int8), prepend=0, append=0)
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if end > until or self._first + end <= self._judged:
                continue
            self._judged = self._first + end
            if LEAST_HOPS <= end - start <= MOST_HOPS and self._cuts(start, end):
                onset_s, offset_s = (self._first + start) * self._hop_s, (self._first + end) * self._hop_s
                self._stretches.add(Span(onset_s, offset_s, offset_s - onset_s))

    def _cuts(self, start: int, end: int) -> bool:
        before, after = self._power[max(0, start - AROUND_HOPS) : start], self._power[end : end + AROUND_HOPS]
        return _is_abrupt(before[::-1]) and _is_abrupt(after)


def _is_abrupt(power: NDArray[np.float32]) -> bool:
    """Whether sound is as loud as around right at the edge. The hop at the edge may be partly gap: two are asked."""
    if not len(power):
        return False
    loudest = float(power.max())
    return loudest >= LEAST_POWER and float(power[:2].max()) >= EDGE_SHARE * loudest


class Quiet:
    """Takes the power of each tenth of a second (of *step_s*: hops are whole samples)."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._stretches = Stretches(step_s / 2)
        self._at = 0

    def push(self, power: NDArray[np.float32]) -> None:
        for index in np.flatnonzero(power < QUIET_POWER).tolist():
            onset = self._at + index
            span = Span(onset * self._step_s, (onset + 1) * self._step_s, float(power[index]) * self._step_s)
            self._stretches.add(span)
        self._at += len(power)

    def finish(self, duration_s: float) -> list[Finding]:
        """Value: the level of the quiet in dBFS."""
        found = []
        for span in self._stretches.finish():
            if span.length_s < QUIET_S:
                continue
            level = 10 * np.log10(max(span.amount / span.length_s, FLOOR_POWER))
            # less than a tenth of a second after the last whole one belongs to it
            offset_s = duration_s if duration_s - span.offset_s < self._step_s else span.offset_s
            found.append(Finding("silence", span.onset_s, offset_s, float(level)))
        return found
