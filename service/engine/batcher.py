"""The queue in front of the models: who is admitted, whose turn it is, and what becomes of a batch that failed.

Owns the policy alone: no threads, no clock, no arrays. A job is a length with a deadline and an opaque payload; time is
handed in. Whoever uses it holds one lock around every call.
"""

from __future__ import annotations

import math
from itertools import count
from typing import Generic

from service.engine.lane import Batch, Cost, Job, Lane, LaneKey, LanePolicy, P
from service.errors import DeadlinePassed, Draining, ModelUnavailable, Overloaded
from service.values import Turn

LONGEST_RETRY_S = 60.0


class Batcher(Generic[P]):
    """One queue for all models, a lane for each.

    Every admitted job leaves in exactly one way: with `done`, out of `failed`, `expire`, `close_lane` or `close`, or by
    `cancel` and `drop`.

    Args:
        workers: threads that will ask for batches.
        queue_s: most expected seconds of computing that may wait, for each of them.
    """

    def __init__(self, workers: int, queue_s: float) -> None:
        self._workers = workers
        self._queue_s = queue_s
        self._lanes: dict[LaneKey, Lane[P]] = {}
        self._running: dict[int, Batch[P]] = {}
        self._seq = count()
        self._served_s = 0.0
        self._closed = False

    def open_lane(self, key: LaneKey, policy: LanePolicy, cost: Cost) -> None:
        if key in self._lanes:
            raise ValueError(f"lane {key} is open")
        self._lanes[key] = Lane(key, policy, cost)

    def close_lane(self, key: LaneKey) -> list[Job[P]]:
        """Forget a lane; its jobs that wait end here and are returned, those that run come back as usual."""
        lane = self._lanes.pop(key, None)
        return _ended(list(lane)) if lane else []

    def close(self) -> list[Job[P]]:
        """Admit nothing any more; the jobs that wait end here and are returned."""
        self._closed = True
        waiting = [job for lane in self._lanes.values() for job in lane]
        for job in waiting:
            self._lanes[job.lane].remove(job)
        return _ended(waiting)

    def submit(self, lane_key: LaneKey, length_s: float, turn: Turn, payload: P, now: float) -> Job[P]:
        """Admit a job, or refuse it at once.

        Raises:
            Overloaded: the queue is full, or the deadline cannot hold; says when to try again.
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
        self._admit(alone_s * lane.cost.correction, turn.deadline, now)
        job = Job(next(self._seq), lane_key, length_s, turn, now, round(alone_s * 1e9), payload)
        self._activate(lane)
        lane.add(job)
        return job

    def cancel(self, job: Job[P]) -> bool:
        """Nobody waits for *job* any more. True if it was still queued, so that it is never computed."""
        if job.state == "queued":
            self._lanes[job.lane].remove(job)
            job.state = "ended"
            return True
        job.abandoned = True
        return False

    def expire(self, now: float) -> list[Job[P]]:
        """End the jobs that wait and whose deadline has passed, and say which."""
        return _ended([job for lane in self._lanes.values() for job in lane.expire(now)])

    def next_batch(self, now: float, idle_workers: int) -> tuple[Batch[P] | None, list[Job[P]]]:
        """What a free worker should run now, and the jobs whose deadline passed before it could be.

        Args:
            now: seconds on the clock that deadlines are given in.
            idle_workers: free workers, the one that asks included: they share what waits.
        """
        late = self.expire(now)
        waiting = [lane for lane in self._lanes.values() if lane.items]
        if not waiting:
            return None, late
        lane = min(waiting, key=lambda lane: (lane.served_s, lane.oldest)) if len(waiting) > 1 else waiting[0]
        most = math.ceil(sum(lane.items for lane in waiting) / max(idle_workers, 1))
        batch = lane.form(now, most)
        self._served_s = lane.served_s
        lane.served_s += batch.expected_s
        self._running[id(batch)] = batch
        return batch, late

    def done(self, batch: Batch[P], seconds: float) -> None:
        """*batch* came back after *seconds*; its jobs have ended."""
        if self.drop(batch) and (lane := self._lanes.get(batch.lane)):
            lane.cost.observe(batch.predicted_s, seconds)
            lane.ran_clean()

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
        if len(batch.jobs) == 1:
            return batch.jobs
        self._activate(lane)
        half = (len(batch.jobs) + 1) // 2
        for part in (batch.jobs[:half], batch.jobs[half:]):
            if wanted := [job for job in part if not job.abandoned]:
                lane.add_group(wanted)
        return []

    def drop(self, batch: Batch[P]) -> bool:
        """Forget a running batch; its jobs have ended. False if that was known."""
        if self._running.pop(id(batch), None) is None:
            return False
        _ended(batch.jobs)
        return True

    def queued(self, lane_key: LaneKey) -> tuple[int, float]:
        """Jobs that wait in a lane, and expected seconds of computing for them."""
        lane = self._lanes.get(lane_key)
        return (lane.items, lane.queued_s) if lane else (0, 0.0)

    def wait_s(self, now: float) -> float:
        """Expected seconds until a job submitted now would start."""
        queued_s = self._queued_s()
        if not queued_s and len(self._running) < self._workers:
            return 0.0
        rest_s = sum(max(0.0, batch.started + batch.expected_s - now) for batch in self._running.values())
        return (queued_s + rest_s) / self._workers

    def _queued_s(self) -> float:
        return sum(lane.queued_s for lane in self._lanes.values())

    def _admit(self, own_s: float, deadline: float, now: float) -> None:
        if deadline <= now:
            raise DeadlinePassed("The deadline had passed before the work could be queued.")
        queued_s = self._queued_s()
        excess_s = (queued_s + own_s) / self._workers - self._queue_s
        if queued_s and excess_s > 0:
            raise Overloaded(
                f"{queued_s / self._workers:.1f} s of work wait for each worker; the queue holds {self._queue_s:g} s.",
                retry_after_s=_retry(excess_s),
            )
        late_s = now + self.wait_s(now) + own_s - deadline
        if late_s > 0:
            raise Overloaded(
                f"The answer would come {late_s:.1f} s after the deadline; allow more time or try again later.",
                retry_after_s=_retry(late_s),
            )

    def _activate(self, lane: Lane[P]) -> None:
        """A lane that was idle gets its share from now on, not what it left unused."""
        if not lane.items:
            lane.served_s = max(lane.served_s, self._served_s)


def _ended(jobs: list[Job[P]]) -> list[Job[P]]:
    for job in jobs:
        job.state = "ended"
    return jobs


def _retry(seconds: float) -> float:
    return min(max(seconds, 1.0), LONGEST_RETRY_S)
