"""Figures of a tagger from probabilities and truths, with intervals over recordings rather than clips. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


def confusion(truth: Ints, guess: Ints, classes: int) -> NDArray[np.int64]:
    """Counts [true class, guessed class]."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (truth, guess), 1)
    return table


def macro_accuracy(truth: Ints, guess: Ints) -> float:
    """Mean recall of the classes that occur."""
    return float(np.mean([np.mean(guess[truth == one] == one) for one in np.unique(truth)]))


def average_precision(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Mean precision at each positive, ties taken pessimistically; nan where there is no positive."""
    if not positive.any():
        return float("nan")
    order = np.lexsort((positive, -scores))
    hits = positive[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def mean_average_precision(scores: Floats, present: Floats, known: Floats) -> float:
    """Macro mean over the columns that have a positive; unknown pairs are left out."""
    each = [
        average_precision(scores[known[:, one] > 0, one], present[known[:, one] > 0, one] > 0.5)
        for one in range(scores.shape[1])
    ]
    return float(np.nanmean(each))


def f_score(
    said: NDArray[np.bool_], positive: NDArray[np.bool_], beta: float = 1.0, weights: Floats | None = None
) -> float:
    """F of decisions; 1 where nothing is there and nothing is said."""
    count = np.ones(len(said)) if weights is None else weights
    hit, miss, false = ((count * at).sum() for at in (said & positive, ~said & positive, said & ~positive))
    total = (1 + beta**2) * hit + beta**2 * miss + false
    return float((1 + beta**2) * hit / total) if total else 1.0


def best_threshold(
    scores: Floats, positive: NDArray[np.bool_], beta: float = 0.5, weights: Floats | None = None
) -> float:
    """The middle of the thresholds at which F of *beta* is highest; a beta below 1 favours saying nothing."""
    grid = np.linspace(0.2, 0.85, 66)
    values = np.array([f_score(scores >= one, positive, beta, weights) for one in grid])
    return round(float(np.median(grid[values >= values.max() - 1e-9])), 3)


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of independent trials."""
    if total == 0:
        return 0.0, 1.0
    share = hits / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def bootstrap(
    figure: Callable[[Ints], float], groups: Sequence[str], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of *figure* (of row numbers) when whole recordings are drawn again: their clips go together."""
    chance = np.random.default_rng(seed)
    names = np.array(groups)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    values = []
    for _ in range(draws):
        drawn = chance.integers(len(members), size=len(members))
        values.append(figure(np.concatenate([members[one] for one in drawn])))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
