"""Length mixes: how long the recordings are that a service of this kind is sent. Seeded, so that runs compare."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.float64]


def equal(rng: np.random.Generator, count: int) -> Lengths:
    return np.full(count, 10.0)


def short(rng: np.random.Generator, count: int) -> Lengths:
    return np.full(count, 3.0)


def mixed(rng: np.random.Generator, count: int) -> Lengths:
    """Log-normal about 5 s, 1 to 30 s."""
    return np.clip(rng.lognormal(np.log(5.0), 0.8, count), 1.0, 30.0)


def uneven(rng: np.random.Generator, count: int) -> Lengths:
    """Nine of 2 s and one of 30 s."""
    return np.where(rng.random(count) < 0.9, 2.0, 30.0)


def evenly_mixed(rng: np.random.Generator, count: int) -> Lengths:
    """Any length from 1 to 30 s is as likely."""
    return rng.uniform(1.0, 30.0, count)


MIXES: dict[str, Callable[[np.random.Generator, int], Lengths]] = {
    "equal": equal,
    "short": short,
    "mixed": mixed,
    "uneven": uneven,
    "even": evenly_mixed,
}
