"""What a batch costs: seconds of computing for n items of one length, measured at load and corrected while serving.

Owns the table and its fit. Knows nothing of queues: whether a batch pays is the batcher's question.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat

SMOOTHING = 0.05
LEAST_CORRECTION, MOST_CORRECTION = 0.5, 4.0
MOST_ROUNDS = 6
WARM_UP_RUNS = 3
"""Of a shape on a GPU: the first plans it, and a compiled program settles with the third."""
LEAST_GAIN = 0.05
"""By so much must an item get cheaper for a batch of twice the size to be worth its memory."""
LEAST_COST_S = 1e-6
"""Of a batch, and of one second of it: costs never stand still or vanish, so that the greedy join has an order."""


@dataclass(slots=True)
class CostModel:
    """`cost(n, length_s) = fixed_s + per_second[n] * length_s`, interpolated over n.

    Args:
        fixed_s: what a batch costs whatever is in it.
        items: the batch sizes measured, ascending, the first is 1.
        per_second: for each of them, seconds of computing per second of length, all items together.

    Attributes:
        correction: observed over predicted, smoothed: it absorbs busy neighbours and hot processors
            without disturbing the shape of the table.
    """

    fixed_s: float
    items: Sequence[int]
    per_second: Sequence[float]
    correction: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        if list(self.items[:1]) != [1] or list(self.items) != sorted(set(self.items)):
            raise ValueError("items must ascend from 1")
        if len(self.items) != len(self.per_second):
            raise ValueError("per_second needs one value for each of items")
        self.fixed_s = max(self.fixed_s, LEAST_COST_S)
        self.per_second = _never_falling(self.per_second)

    @property
    def max_items(self) -> int:
        """The largest batch that was measured; beyond it nobody knows whether it pays."""
        return self.items[-1]

    def cost(self, n: int, length_s: float) -> float:
        """Predicted seconds of computing for *n* items padded to *length_s*, on an undisturbed core."""
        return self.fixed_s + self._per_second(n) * length_s

    def best(self, length_s: float) -> tuple[int, float]:
        """The batch size at which items of *length_s* are cheapest, and what a second of audio costs then."""
        each = {n: self.cost(n, length_s) / (n * length_s) for n in self.items}
        n = min(each, key=lambda items: (each[items], items))
        return n, each[n]

    def observe(self, predicted_s: float, actual_s: float) -> None:
        """Learn from one batch that ran: *predicted_s* as `cost` said it, *actual_s* by the clock."""
        ratio = min(max(actual_s / predicted_s, LEAST_CORRECTION), MOST_CORRECTION)
        self.correction += SMOOTHING * (ratio - self.correction)

    def _per_second(self, n: int) -> float:
        if n >= self.items[-1]:
            return self.per_second[-1] * n / self.items[-1]
        right = bisect_left(self.items, n)
        if self.items[right] == n:
            return self.per_second[right]
        low, high = self.items[right - 1], self.items[right]
        share = (n - low) / (high - low)
        return self.per_second[right - 1] * (1 - share) + self.per_second[right] * share


def _never_falling(values: Sequence[float]) -> tuple[float, ...]:
    """A larger batch never costs less: noise in the measurement must not make the batcher pad for fun."""
    clamped: list[float] = []
    least = LEAST_COST_S
    for value in values:
        least = max(least, value)
        clamped.append(least)
    return tuple(clamped)


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How much may be measured: the start of the service waits for it.

    Args:
        max_items: largest batch worth measuring.
        min_s, max_s: lengths that the model takes.
        budget_s: seconds of computing to spend, about; at least one run of one item is made.
        warm_up: run each size a few times before it counts, where a shape has to be prepared for.
    """

    max_items: int
    min_s: float
    max_s: float
    budget_s: float = 0.16
    warm_up: bool = False


def fit(run: Callable[[int, float], float], plan: FitPlan) -> CostModel:
    """Measure a table with as many runs as the plan's budget allows.

    Args:
        run: runs a batch of n items, each length_s long, and returns the seconds of computing it took.
    """
    short_s = max(min(0.5, plan.max_s / 4), plan.min_s)
    run(1, short_s)
    short = min(run(1, short_s) for _ in range(2))
    sizes = _doubling(plan.max_items)
    long_s = _affordable_length(short / short_s, sum(sizes), short_s, plan)
    if plan.warm_up:
        for n in sizes:
            for _ in range(WARM_UP_RUNS):
                run(n, long_s)
    best = _rounds(lambda n: run(n, long_s), sizes, plan.budget_s)
    fixed = _intercept(short_s, short, long_s, best[1])
    return CostModel(fixed, list(best), [(total - fixed) / long_s for total in best.values()])


def paying_items(run: Callable[[int], float], most: int) -> int:
    """The largest batch worth forming on a device that nobody knows yet: doubled until an item hardly gets cheaper.

    Args:
        run: runs a batch of n items and returns the seconds it took, or raises MemoryError where there is no room.
        most: where to stop in any case.
    """
    items, each_s = 1, _steady_s(run, 1)
    while 2 * items <= most:
        try:
            next_s = _steady_s(run, 2 * items) / (2 * items)
        except MemoryError:
            break
        if next_s > (1 - LEAST_GAIN) * each_s:
            break
        items, each_s = 2 * items, next_s
    return items


def _steady_s(run: Callable[[int], float], n: int) -> float:
    """Seconds of a run once the device has prepared for it."""
    for _ in range(WARM_UP_RUNS):
        run(n)
    return min(run(n) for _ in range(3))


def _rounds(run: Callable[[int], float], sizes: Sequence[int], budget_s: float) -> dict[int, float]:
    """The least time of each size, tried in turns: a slow moment of the machine hits all alike, not one of them.

    Sizes that the budget does not reach in the first round are left out; the smallest is always measured.
    """
    best: dict[int, float] = {}
    spent = 0.0
    for n in chain.from_iterable(repeat(sizes, MOST_ROUNDS)):
        # A size not yet tried may take as much longer than the one before as it is larger.
        expected = best[n] if n in best else 2 * next(reversed(best.values()), 0.0)
        if best and spent + expected > budget_s:
            break
        seconds = run(n)
        best[n] = min(seconds, best.get(n, seconds))
        spent += seconds
    return best


def _doubling(most: int) -> list[int]:
    sizes = [1]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == most else [*sizes, most]


def _affordable_length(per_second: float, items: int, short_s: float, plan: FitPlan) -> float:
    """The length, between twice the short one and 4 s, at which every size can be run three times within the budget."""
    wanted = plan.budget_s / max(3 * items * per_second, LEAST_COST_S)
    return min(max(2 * short_s, min(4.0, wanted)), max(plan.max_s, short_s))


def _intercept(short_s: float, short: float, long_s: float, long: float) -> float:
    """What a run of no length would cost; between nothing and most of the short run, where noise says otherwise."""
    if long_s <= short_s:
        return 0.0
    slope = (long - short) / (long_s - short_s)
    return min(max(short - slope * short_s, 0.0), 0.9 * short)
