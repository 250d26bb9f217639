"""The queue in front of the models: who is admitted, what runs together, and what becomes of a batch that failed.

Owns the policy alone: no threads, no clock, no arrays. A job is a length on somebody's turn with an opaque payload;
time is handed in. Whose turn it is says `service.engine.turns`, where plain calls stand in the same order. Whoever uses
it holds one lock around every call.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Generic

from service.engine.lane import Batch, Cost, Job, Lane, LaneKey, LanePolicy, P
from service.engine.turns import Line, Turns
from service.errors import DeadlinePassed, Draining, ModelUnavailable, Overloaded, ShareUsedUp
from service.values import WHENEVER, Turn

LONGEST_RETRY_S = 60.0
SHARE = 0.5
"""Of the queue, what one caller may hold while others wait."""
BULK_ROOM = 0.7
"""Of the queue, what bulk may hold."""


class Batcher(Generic[P]):
    """One queue for all models, a lane for each.

    Every admitted job leaves in exactly one way: with `done`, out of `failed`, `expire`, `close_lane` or `close`, or by
    `cancel` and `drop`.

    Args:
        workers: threads that will ask for batches.
        queue_s: most expected seconds of computing that may wait, for each of them.
        turns: the order that these jobs share with other work.
        slots: by device, how many batches may run on it at once; the workers alone bound the others.
    """

    def __init__(
        self, workers: int, queue_s: float, turns: Turns[Any] | None = None, slots: Mapping[str, int] | None = None
    ) -> None:
        self._workers = workers
        self._queue_s = queue_s
        self._turns: Turns[Any] = Turns() if turns is None else turns
        self._slots = dict(slots or {})
        self._lines: dict[str, Line] = {}
        self._lanes: dict[LaneKey, Lane[P]] = {}
        self._running: dict[int, Batch[P]] = {}
        self._in_use: Counter[str] = Counter()
        self._room_s: dict[tuple[str, str], float] = {}
        """By model and device, the padded seconds that memory allowed last, where that was less than planned."""
        self._closed = False

    @property
    def counts_slots(self) -> bool:
        """Whether work may have to wait although a worker is idle."""
        return bool(self._slots)

    def open_lane(self, key: LaneKey, policy: LanePolicy, cost: Cost) -> None:
        if key in self._lanes:
            raise ValueError(f"lane {key} is open")
        lane = self._lanes[key] = Lane(key, policy, cost)
        lane.max_area_s = min(lane.max_area_s, self._room_s.get((key.model, policy.device), math.inf))
        self._lines.setdefault(policy.device, Line(policy.device))

    def close_lane(self, key: LaneKey) -> list[Job[P]]:
        """Forget a lane; its jobs that wait end here and are returned, those that run come back as usual."""
        lane = self._lanes.get(key)
        jobs = list(lane) if lane else []
        for job in jobs:
            self._remove(job)
        self._lanes.pop(key, None)
        return _ended(jobs)

    def close(self) -> list[Job[P]]:
        """Admit nothing any more; the jobs that wait end here and are returned."""
        self._closed = True
        waiting = [job for lane in self._lanes.values() for job in lane]
        for job in waiting:
            self._remove(job)
        return _ended(waiting)

    def submit(
        self, lane_key: LaneKey, length_s: float, turn: Turn, payload: P, now: float, *, is_admitted: bool = False
    ) -> Job[P]:
        """Admit a job, or refuse it at once.

        Args:
            is_admitted: more of what was let in already: it is not refused for want of room, and waits longer instead.

        Raises:
            Overloaded: the queue is full, or the deadline cannot hold; says when to try again.
            ShareUsedUp: the caller holds its part of the queue.
            DeadlinePassed: it had passed already.
            ModelUnavailable: there is no such lane any more.
            Draining: nothing is admitted any more.
        """
        lane = self._lanes.get(lane_key)
        if self._closed:
            raise Draining("The service is shutting down and takes no new work.")
        if lane is None:
            raise ModelUnavailable(f"{lane_key} was unloaded.")
        alone_s = lane.cost.cost(1, length_s)
        if not is_admitted:
            self.admit(turn, now, alone_s * lane.cost.correction)
        elif turn.deadline <= now:
            raise DeadlinePassed("The deadline passed before all of it could be queued.")
        job = Job(lane_key, length_s, turn, now, round(alone_s * 1e9), payload)
        job.ticket = self._turns.add(turn, self._lines[lane.policy.device], job, job.work_ns)
        lane.add(job)
        return job

    def admit(self, turn: Turn, now: float, own_s: float = 0.0) -> None:
        """Refuse what would be refused if it were submitted now.

        Args:
            own_s: expected seconds of computing, as far as they are known.

        Raises:
            Overloaded, ShareUsedUp, DeadlinePassed: see `submit`.
        """
        if turn.deadline <= now:
            raise DeadlinePassed("The deadline had passed before the work could be queued.")
        if now + own_s > turn.deadline:
            raise DeadlinePassed(f"This takes {own_s:.3f} s of computing, more than the deadline leaves.")
        scale = self._scale()
        if scale:
            self._admit_share(turn, own_s, scale)
        bound_s = now + self._bound_s(now) + own_s
        late_s = bound_s - turn.deadline
        if late_s > 0:
            late_s = now + self.wait_s(now, turn, own_s) + own_s - turn.deadline
        if late_s > 0:
            raise Overloaded(
                f"The answer would come {late_s:.1f} s after the deadline; allow more time or try again later.",
                retry_after_s=_retry(late_s),
            )

    def cancel(self, job: Job[P]) -> bool:
        """Nobody waits for *job* any more. True if it was still queued, so that it is never computed."""
        if job.state == "queued":
            self._remove(job)
            job.state = "ended"
            return True
        job.abandoned = True
        return False

    def expire(self, now: float) -> list[Job[P]]:
        """End the jobs that wait and whose deadline has passed, and say which."""
        late = [job for lane in self._lanes.values() for job in lane.expire(now)]
        for job in late:
            self._turns.remove(job.ticket)
        return _ended(late)

    def next_batch(
        self, now: float, idle_workers: int, rival: Line | None = None
    ) -> tuple[Batch[P] | None, list[Job[P]]]:
        """What a free worker should run now, and the jobs whose deadline passed before it could be.

        Args:
            now: seconds on the clock that deadlines are given in.
            idle_workers: free workers, the one that asks included: they share what waits.
            rival: other work in the same order; no batch is formed while the turn is there.
        """
        late = self.expire(now)
        lines = [line for device, line in self._lines.items() if self._free(device)]
        ticket = self._turns.first(lines if rival is None else [*lines, rival])
        if ticket is None or ticket.line is rival:
            return None, late
        anchor: Job[P] = ticket.item
        lane = self._lanes[anchor.lane]
        device = lane.policy.device
        takers = min(max(idle_workers, 1), self._free(device))
        most = math.ceil(self._turns.waiting(ticket.line) / takers)
        batch = lane.form(anchor, now, most, lambda job: self._turns.may_join(job.ticket, ticket))
        alone_ns = sum(job.work_ns for job in batch.jobs)
        for job in batch.jobs:
            self._turns.remove(job.ticket)
            self._turns.charge(job.turn, batch.expected_s * job.work_ns / alone_ns)
        self._running[id(batch)] = batch
        self._in_use[device] += 1
        return batch, late

    def done(self, batch: Batch[P], seconds: float) -> None:
        """*batch* came back after *seconds*; its jobs have ended."""
        if self.drop(batch) and (lane := self._lanes.get(batch.lane)):
            lane.cost.observe(batch.predicted_s, seconds)
            lane.ran_clean()
            self._remember_room(lane)

    def failed(self, batch: Batch[P], *, out_of_memory: bool = False) -> list[Job[P]]:
        """*batch* raised: split it so that one bad job fails alone.

        Returns:
            The jobs that end with the failure: the single one of its batch, or all where there is no lane to try again
            in. The others are queued again, in two halves.
        """
        if not self.drop(batch):
            return []
        lane = None if self._closed else self._lanes.get(batch.lane)
        if lane is None:
            return batch.jobs
        if out_of_memory:
            lane.ran_out_of_memory(batch.area_s)
            self._remember_room(lane)
        if len(batch.jobs) == 1:
            return batch.jobs
        half = (len(batch.jobs) + 1) // 2
        for part in (batch.jobs[:half], batch.jobs[half:]):
            if wanted := [job for job in part if not job.abandoned]:
                lane.add_group(wanted)
                for job in wanted:
                    self._turns.put_back(job.ticket)
        return []

    def drop(self, batch: Batch[P]) -> bool:
        """Forget a running batch; its jobs have ended. False if that was known."""
        if self._running.pop(id(batch), None) is None:
            return False
        self._in_use[batch.device] -= 1
        _ended(batch.jobs)
        return True

    def queued(self, lane_key: LaneKey) -> tuple[int, float]:
        """Jobs that wait in a lane, and expected seconds of computing for them."""
        lane = self._lanes.get(lane_key)
        return (lane.items, lane.queued_s) if lane else (0, 0.0)

    def wait_s(self, now: float, turn: Turn = WHENEVER, own_s: float = 0.0) -> float:
        """Expected seconds until a job submitted now would start: what is ahead of it if everybody gets its share."""
        scale = self._scale()
        if not scale:
            return self._bound_s(now)
        ahead_s = self._turns.ahead_ns(turn, round(own_s / scale * 1e9)) * 1e-9 * scale
        return (ahead_s + self._rest_s(now)) / self._workers

    def _bound_s(self, now: float) -> float:
        """The same if it went behind everything else: quicker to tell, and never less."""
        queued_s = self._queued_s()
        if not queued_s and len(self._running) < self._workers:
            return 0.0
        return (queued_s + self._rest_s(now)) / self._workers

    def _rest_s(self, now: float) -> float:
        return sum(max(0.0, batch.started + batch.expected_s - now) for batch in self._running.values())

    def _queued_s(self) -> float:
        return sum(lane.queued_s for lane in self._lanes.values())

    def _scale(self) -> float:
        """Expected over predicted seconds of all that waits; 0 where nothing does."""
        work_ns = self._turns.work_ns(bulk=False) + self._turns.work_ns(bulk=True)
        return self._queued_s() / (work_ns * 1e-9) if work_ns else 0.0

    def _admit_share(self, turn: Turn, own_s: float, scale: float) -> None:
        """Whether the queue has room. It always has while nothing waits, whatever the work.

        Who is alone may fill it. With others there, nobody goes beyond `SHARE` of it, and what somebody already holds
        beyond that does not count against the others: they find room in a queue that one caller has filled.
        """
        room_s = self._queue_s * self._workers
        held_s = {share: work_ns * 1e-9 * scale for share, work_ns in self._turns.shares_ns().items()}
        mine_s = held_s.pop(turn.share, 0.0)
        others_s = sum(min(other_s, SHARE * room_s) for other_s in held_s.values())
        bulk_s = self._turns.work_ns(bulk=True) * 1e-9 * scale
        if turn.bulk and bulk_s and (excess_s := bulk_s + own_s - BULK_ROOM * room_s) > 0:
            raise Overloaded(
                f"{bulk_s / self._workers:.1f} s of bulk work wait for each worker; "
                f"the queue holds {BULK_ROOM * self._queue_s:g} s of it.",
                retry_after_s=_retry(excess_s / self._workers),
            )
        if mine_s and others_s and (excess_s := mine_s + own_s - SHARE * room_s) > 0:
            raise ShareUsedUp(
                f"{mine_s / self._workers:.1f} s of this caller's work wait for each worker, and others wait as well; "
                f"its share is {SHARE * self._queue_s:g} s.",
                retry_after_s=_retry(excess_s * (1 + len(held_s)) / self._workers),
            )
        if (excess_s := mine_s + others_s + own_s - room_s) > 0:
            raise Overloaded(
                f"{(mine_s + others_s) / self._workers:.1f} s of work wait for each worker; "
                f"the queue holds {self._queue_s:g} s.",
                retry_after_s=_retry(excess_s / self._workers),
            )

    def _free(self, device: str) -> float:
        """Batches that may still start on *device*."""
        return self._slots.get(device, math.inf) - self._in_use[device]

    def _remove(self, job: Job[P]) -> None:
        self._lanes[job.lane].remove(job)
        self._turns.remove(job.ticket)

    def _remember_room(self, lane: Lane[P]) -> None:
        place = lane.key.model, lane.policy.device
        if lane.max_area_s < lane.policy.max_area_s:
            self._room_s[place] = lane.max_area_s
        else:
            self._room_s.pop(place, None)


def _ended(jobs: list[Job[P]]) -> list[Job[P]]:
    for job in jobs:
        job.state = "ended"
    return jobs


def _retry(seconds: float) -> float:
    return min(max(seconds, 1.0), LONGEST_RETRY_S)
