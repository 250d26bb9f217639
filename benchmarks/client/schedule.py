"""Who asks for what, and when: drawn whole from a seed before the first request is sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Schedule:
    """Requests in the order in which they are due.

    Attributes:
        at_s: (requests,) seconds after the start at which each is sent, ascending.
        which: (requests,) index of the request to send.
        leaves_s: (requests,) seconds after its own due time at which its client hangs up; infinite where it stays.
        duration_s: seconds that the arrivals are spread over.
    """

    at_s: NDArray[np.float64]
    which: NDArray[np.int64]
    leaves_s: NDArray[np.float64]
    duration_s: float

    def __len__(self) -> int:
        return len(self.at_s)

    @property
    def rate(self) -> float:
        """Requests a second, as drawn."""
        return len(self) / self.duration_s


def poisson(
    rate: float,
    duration_s: float,
    choices: int,
    seed: int,
    *,
    weights: NDArray[np.float64] | None = None,
    leaving: float = 0.0,
    leaves_within_s: float = 0.5,
) -> Schedule:
    """Independent arrivals, *rate* a second on average.

    Args:
        choices: how many different requests there are.
        weights: (choices,) how often each is drawn; all alike by default.
        leaving: share of the clients that hang up, after a time uniform within *leaves_within_s*.
    """
    rng = np.random.default_rng(seed)
    # More gaps than needed in all but one of a million draws; the loop is for that one.
    at_s = np.zeros(0)
    while not len(at_s) or at_s[-1] < duration_s:
        gaps = rng.exponential(1 / rate, int(rate * duration_s + 6 * np.sqrt(rate * duration_s)) + 16)
        at_s = np.concatenate([at_s, (at_s[-1] if len(at_s) else 0.0) + np.cumsum(gaps)])
    at_s = at_s[at_s < duration_s]
    which = rng.choice(choices, len(at_s), p=None if weights is None else weights / weights.sum())
    stays = rng.random(len(at_s)) >= leaving
    leaves_s = np.where(stays, np.inf, rng.uniform(0, leaves_within_s, len(at_s)))
    return Schedule(at_s, which.astype(np.int64), leaves_s, duration_s)
