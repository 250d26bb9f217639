"""Gathers what was noticed here and there into stretches: neighbours are merged, and there is a most of them."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

MAX_STRETCHES = 100
"""Kept of one kind: the longest. More would say no more, and memory must not grow with the recording."""


@dataclass(slots=True, order=True)
class Span:
    """From onset to offset, with what was met in it."""

    onset_s: float
    offset_s: float
    amount: float
    """Whatever is added up, such as the seconds of it that are spoilt."""
    count: int = 1

    @property
    def length_s(self) -> float:
        return self.offset_s - self.onset_s


class Stretches:
    """Takes spans in order of their onset.

    Args:
        gap_s: spans nearer than this are one.
        least_count: things that must have been met in a stretch for it to count.
    """

    def __init__(self, gap_s: float, least_count: int = 1) -> None:
        self._gap_s = gap_s
        self._least_count = least_count
        self._open: Span | None = None
        self._kept: list[tuple[float, Span]] = []

    def add(self, span: Span) -> None:
        last = self._open
        if last is not None and span.onset_s - last.offset_s <= self._gap_s:
            last.offset_s = max(last.offset_s, span.offset_s)
            last.amount += span.amount
            last.count += span.count
            return
        self._close()
        self._open = span

    def finish(self) -> list[Span]:
        """The stretches, in order."""
        self._close()
        return sorted(span for _, span in self._kept)

    def _close(self) -> None:
        span, self._open = self._open, None
        if span is None or span.count < self._least_count:
            return
        heapq.heappush(self._kept, (span.length_s, span))
        if len(self._kept) > MAX_STRETCHES:
            heapq.heappop(self._kept)
