"""Measures several things in turns, so that a slow moment of the machine hits all alike, and compares in pairs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Samples = dict[str, list[float]]


def interleaved(
    cases: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.thread_time
) -> Samples:
    """Seconds of each case in each round, after one round that does not count.

    Args:
        clock: the thread's own time, which neighbours on the machine do not disturb, or the wall's.
    """
    samples: Samples = {name: [] for name in cases}
    for round_number in range(rounds + 1):
        for name, case in cases.items():
            began = clock()
            case()
            if round_number:
                samples[name].append(clock() - began)
    return samples


def ratio(samples: Samples, name: str, other: str) -> float:
    """Median over the rounds of *name* divided by *other* of the same round."""
    return statistics.median(one / two for one, two in zip(samples[name], samples[other], strict=True))


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least *share* of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
