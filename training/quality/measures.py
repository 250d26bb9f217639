"""Figures of agreement between predictions and labels: plain statistics, nothing of audio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Values = NDArray[np.floating[Any]]
FEWEST = 12
"""Below this many clips no correlation is given."""
RANGES = ((1.0, 2.0), (2.0, 3.5), (3.5, 4.65))


def linear_correlation(first: Values, second: Values) -> float:
    """Pearson's; 0 where one side is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def rank_correlation(first: Values, second: Values) -> float:
    """Spearman's, ties sharing their mean rank."""
    return linear_correlation(rankdata(first), rankdata(second))


def agreement(predicted: Values, labels: Values) -> dict[str, float]:
    """LCC, SRCC, squared and absolute error, and bias (predicted less label) with the number of clips."""
    error = predicted - labels
    figures: dict[str, float] = {"clips": len(labels)}
    if len(labels) >= FEWEST:
        figures |= {"lcc": linear_correlation(predicted, labels), "srcc": rank_correlation(predicted, labels)}
    return figures | {
        "mse": float(np.mean(error**2)),
        "mae": float(np.mean(np.abs(error))),
        "bias": float(np.mean(error)),
    }


def by_kind(predicted: Values, labels: Values, kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    """`agreement` of each kind on its own, in alphabetical order."""
    named = np.array(kinds)
    return {str(kind): agreement(predicted[named == kind], labels[named == kind]) for kind in np.unique(named)}


def by_range(predicted: Values, labels: Values) -> dict[str, dict[str, float]]:
    """`agreement` inside parts of the scale: what a correlation over all of it hides."""
    figures = {}
    for least, most in RANGES:
        inside = (labels >= least) & (labels < most)
        if inside.any():
            figures[f"{least:g} to {most:g}"] = agreement(predicted[inside], labels[inside])
    return figures


def calibration(predicted: Values, labels: Values) -> dict[str, float]:
    """Straight line of label over prediction: slope 1 and intercept 0 would be perfect."""
    slope, intercept = np.polyfit(predicted, labels, 1)
    return {"slope": float(slope), "intercept": float(intercept)}


def interval(
    predicted: Values,
    labels: Values,
    speakers: Sequence[str],
    figure: Callable[[Values, Values], float],
    rounds: int = 1000,
) -> tuple[float, float]:
    """Middle 95 % of *figure* when speakers, not clips, are drawn again and again."""
    rng = np.random.default_rng(0)
    named = np.array(speakers)
    clips = [np.flatnonzero(named == speaker) for speaker in np.unique(named)]
    drawn = []
    for _ in range(rounds):
        rows = np.concatenate([clips[one] for one in rng.integers(len(clips), size=len(clips))])
        drawn.append(figure(predicted[rows], labels[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def area_under_curve(scores: Values, positive: NDArray[np.bool_]) -> float:
    """Chance that a positive scores higher than a negative (ROC area); 0.5 where one side is empty."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return 0.5
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))
