"""The highest rate at which the 99th percentile stays within a limit; a way to measure at a rate is handed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

CLOSE = 1.05
"""Rates as near as this are told apart by interpolation, not by another load."""

Point = tuple[float, float]
"""A rate, and the percentile in ms at it; infinite where requests were lost."""


def highest_rate(
    p99_ms: Callable[[float], float], start: float, limit_ms: float, steps: int
) -> tuple[float, list[Point]]:
    """Args:
        p99_ms: measures at a rate.
        start: the first rate tried, near where the limit is expected.
        steps: loads that may be measured.

    Returns:
        The rate at which the percentile crosses the limit, between the highest load that kept it and the lowest that
        did not (see `crossing`), and all points measured.
    """
    points: list[Point] = []
    rate = start
    for _ in range(steps):
        points.append((rate, p99_ms(rate)))
        kept, broke = _bracket(points, limit_ms)
        if kept and broke:
            if broke[0] / kept[0] <= CLOSE:
                break
            rate = math.sqrt(kept[0] * broke[0])
        else:
            rate = rate * 1.25 if kept else rate * 0.7
    return crossing(points, limit_ms), points


def crossing(points: Sequence[Point], limit_ms: float) -> float:
    """The rate at which the percentile reaches the limit, log-linear between the two points around it.

    Where no load kept the limit, 0; where all did, the highest of them. A percentile that is infinite says only that
    the limit was broken: the highest load that kept it is the answer.
    """
    kept, broke = _bracket(points, limit_ms)
    if kept is None:
        return 0.0
    if broke is None or math.isinf(broke[1]) or broke[1] <= kept[1]:
        return kept[0]
    share = math.log(limit_ms / kept[1]) / math.log(broke[1] / kept[1])
    return kept[0] + share * (broke[0] - kept[0])


def _bracket(points: Sequence[Point], limit_ms: float) -> tuple[Point | None, Point | None]:
    """The lowest load that broke the limit, and the highest below it that kept it."""
    broke = min((point for point in points if point[1] > limit_ms), default=None)
    below = [point for point in points if point[1] <= limit_ms and (broke is None or point[0] < broke[0])]
    return max(below, default=None), broke
