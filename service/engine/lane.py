"""One model's part of the queue: the jobs that wait for it, and the batch that pays best around one of them.

Pure policy like the batcher above it: lengths, costs and deadlines, no arrays, no clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from service.engine.turns import Ticket
from service.values import Turn

P = TypeVar("P")
Mode = Literal["padded", "equal", "alone"]

GAIN = 0.05
"""Least saving, as a share of an item's cost alone, for which it joins a batch."""
SCAN = 64
"""Neighbours in length that may be passed by for one batch."""
STRETCH = 8.0
"""A batch may cost the item whose turn it is this many times what it would cost alone."""
BATCH_S = 0.25
"""Items stop joining at this predicted cost: a thread in a long run serves nobody else meanwhile."""
REGROW_AFTER, REGROW = 20, 1.01
"""After so many clean batches the area that memory allows is tried this much larger."""


class LaneKey(NamedTuple):
    """`model` as `name@version`; `build` tells a reloaded one from the one it replaces."""

    model: str
    build: int = 1

    def __str__(self) -> str:
        return self.model


class Cost(Protocol):
    """What a lane asks of a cost model; `service.engine.cost.CostModel` is the one there is."""

    @property
    def correction(self) -> float: ...
    @property
    def max_items(self) -> int: ...
    def cost(self, n: int, length_s: float) -> float: ...
    def observe(self, predicted_s: float, actual_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class LanePolicy:
    """How jobs of one model may share a batch, as its manifest says and its probe confirmed."""

    mode: Mode
    max_items: int
    max_area_s: float
    """Padded seconds of one batch, items times longest; a single longer item runs alone."""
    device: str = "cpu"
    """What its batches run on: the batcher may bound how many do so at once."""


@dataclass(eq=False, slots=True)
class Job(Generic[P]):
    """One recording's piece. `work_ns` is what it costs alone."""

    lane: LaneKey
    length_s: float
    turn: Turn
    submitted: float
    work_ns: int
    payload: P
    ticket: Ticket[Any] = field(init=False)
    state: Literal["queued", "running", "ended"] = "queued"
    abandoned: bool = False
    """Nobody waits for it any more, but it is inside a run."""

    @property
    def seq(self) -> int:
        """Its place in the order of arrival."""
        return self.ticket.seq

    @property
    def deadline(self) -> float:
        return self.turn.deadline


@dataclass(eq=False, slots=True)
class Batch(Generic[P]):
    lane: LaneKey
    jobs: list[Job[P]]
    predicted_s: float
    """On an undisturbed core, as the cost model says it."""
    expected_s: float
    """The same, corrected by what batches took of late."""
    started: float
    device: str = "cpu"

    @property
    def area_s(self) -> float:
        return area(self.jobs)


def area(jobs: list[Job[P]]) -> float:
    """Padded seconds."""
    return len(jobs) * max(job.length_s for job in jobs)


@dataclass(eq=False, slots=True)
class Lane(Generic[P]):
    """The jobs that wait for one model, by arrival and by length.

    Attributes:
        queued_ns: exactly the sum of `work_ns` over the jobs that wait.
    """

    key: LaneKey
    policy: LanePolicy
    cost: Cost
    queued_ns: int = 0
    max_area_s: float = field(init=False)
    _waiting: dict[int, Job[P]] = field(init=False, default_factory=dict)
    _by_length: list[tuple[float, int]] = field(init=False, default_factory=list)
    _groups: list[list[Job[P]]] = field(init=False, default_factory=list)
    """What is left of batches that failed, each in order of arrival; a group runs as it is."""
    _soonest: float = field(init=False, default=math.inf)
    """No job that waits has an earlier deadline."""
    _clean: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.max_area_s = self.policy.max_area_s

    @property
    def items(self) -> int:
        """Jobs that wait."""
        return len(self._waiting) + sum(len(group) for group in self._groups)

    def __iter__(self) -> Iterator[Job[P]]:
        for group in self._groups:
            yield from group
        yield from self._waiting.values()

    @property
    def queued_s(self) -> float:
        """Expected seconds of computing that wait."""
        return self.queued_ns * 1e-9 * self.cost.correction

    def add(self, job: Job[P]) -> None:
        """Queue a job that is younger than all that were added before."""
        self._waiting[job.seq] = job
        insort(self._by_length, (job.length_s, job.seq))
        self._count(job)

    def add_group(self, jobs: list[Job[P]]) -> None:
        """Queue jobs again that ran together and failed."""
        self._groups.append(jobs)
        for job in jobs:
            job.state = "queued"
            self._count(job)

    def remove(self, job: Job[P]) -> None:
        """Forget a job that waits."""
        self.queued_ns -= job.work_ns
        if self._waiting.pop(job.seq, None):
            del self._by_length[bisect_left(self._by_length, (job.length_s, job.seq))]
            return
        group = next(group for group in self._groups if job in group)
        group.remove(job)
        if not group:
            self._groups.remove(group)

    def expire(self, now: float) -> list[Job[P]]:
        """Forget the jobs whose deadline has passed, and say which."""
        if now < self._soonest:
            return []
        late = [job for job in self if job.deadline <= now]
        for job in late:
            self.remove(job)
        self._soonest = min((job.deadline for job in self), default=math.inf)
        return late

    def form(self, anchor: Job[P], now: float, most: int, may_join: Callable[[Job[P]], bool]) -> Batch[P]:
        """Take the job whose turn it is and those that run cheaper with it than alone.

        Args:
            anchor: waits in this lane.
            now: time at which the batch starts.
            most: largest number of items, so that other idle workers get their part.
            may_join: whether others grant a job a place in this batch.
        """
        group = next((group for group in self._groups if anchor in group), None)
        jobs = self._fitting(group, anchor) if group else self._around(anchor, now, most, may_join)
        for job in jobs:
            self.remove(job)
            job.state = "running"
        predicted_s = self.cost.cost(len(jobs), max(job.length_s for job in jobs))
        return Batch(self.key, jobs, predicted_s, predicted_s * self.cost.correction, now, self.policy.device)

    def ran_clean(self) -> None:
        """A batch came back whole: after many of them, dare a little more memory."""
        self._clean += 1
        if self._clean % REGROW_AFTER == 0:
            self.max_area_s = min(self.max_area_s * REGROW, self.policy.max_area_s)

    def ran_out_of_memory(self, batch_area_s: float) -> None:
        self._clean = 0
        self.max_area_s = min(self.max_area_s, batch_area_s / 2)

    def _count(self, job: Job[P]) -> None:
        self.queued_ns += job.work_ns
        self._soonest = min(self._soonest, job.deadline)

    def _fitting(self, group: list[Job[P]], anchor: Job[P]) -> list[Job[P]]:
        """As much of a group as memory still allows, the anchor among it."""
        group = [anchor, *(job for job in group if job is not anchor)]
        size = len(group)
        while size > 1 and area(group[:size]) > self.max_area_s:
            size -= 1
        return sorted(group[:size], key=lambda job: job.seq)

    def _around(self, anchor: Job[P], now: float, most: int, may_join: Callable[[Job[P]], bool]) -> list[Job[P]]:
        jobs, length_s = [anchor], anchor.length_s
        alone_s = cost_s = self.cost.cost(1, length_s)
        ceiling_s = max(alone_s, min(STRETCH * alone_s, BATCH_S))
        must_end = self._must_end(anchor, now, math.inf)
        most = min(most, self.policy.max_items, self.cost.max_items)
        neighbours = self._neighbours(anchor) if most > 1 else None
        while neighbours and len(jobs) < most and (job := neighbours.nearest()):
            longest_s = max(length_s, job.length_s)
            with_s = self.cost.cost(len(jobs) + 1, longest_s)
            if (
                (len(jobs) + 1) * longest_s > self.max_area_s
                or with_s - cost_s >= (1 - GAIN) * self.cost.cost(1, job.length_s)
                or with_s > ceiling_s
            ):
                neighbours.leave_side()
                continue
            neighbours.pass_by()
            ends = self._must_end(job, now, must_end)
            if now + with_s * self.cost.correction <= ends and may_join(job):
                jobs.append(job)
                length_s, cost_s, must_end = longest_s, with_s, ends
        return sorted(jobs, key=lambda job: job.seq)

    def _must_end(self, job: Job[P], now: float, others: float) -> float:
        """The earlier of *others* and the job's deadline, unless it would miss that one alone as well."""
        alone_ends = now + job.work_ns * 1e-9 * self.cost.correction
        return min(others, job.deadline) if alone_ends <= job.deadline else others

    def _neighbours(self, anchor: Job[P]) -> _Neighbours[P] | None:
        if self.policy.mode == "alone":
            return None
        reach = 0.0 if self.policy.mode == "equal" else math.inf
        return _Neighbours(self._waiting, self._by_length, anchor, reach)


class _Neighbours(Generic[P]):
    """A walk from one job to those that may share its batch, the nearest in length first.

    The further a job is off on one side, the less it saves and the more it pads: once one there does not pay, none
    behind it does, and that side is left.
    """

    def __init__(
        self, waiting: dict[int, Job[P]], order: list[tuple[float, int]], anchor: Job[P], reach_s: float
    ) -> None:
        self._waiting, self._order = waiting, order
        self._middle_s, self._reach_s = anchor.length_s, reach_s
        here = bisect_left(order, (anchor.length_s, anchor.seq))
        self._below, self._above = here - 1, here + 1
        self._left = SCAN
        self._is_above = False

    def nearest(self) -> Job[P] | None:
        """The next job, on whichever side is nearer; None when both are done with."""
        order = self._order
        below = self._middle_s - order[self._below][0] if self._below >= 0 else math.inf
        above = order[self._above][0] - self._middle_s if self._above < len(order) else math.inf
        if not self._left or min(below, above) > self._reach_s or below == above == math.inf:
            return None
        self._is_above = above <= below
        return self._waiting[order[self._above if self._is_above else self._below][1]]

    def pass_by(self) -> None:
        """Go on beyond the job that `nearest` gave."""
        self._left -= 1
        if self._is_above:
            self._above += 1
        else:
            self._below -= 1

    def leave_side(self) -> None:
        """Look no further on that job's side."""
        if self._is_above:
            self._above = len(self._order)
        else:
            self._below = -1
