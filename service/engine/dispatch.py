"""From an awaited job to a batch on a worker and back: the queue's policy, the threads and the backends joined.

Whoever waits is told in the worker that computed the answer, and one that has gone never disturbs its neighbours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.backends.base import Backend, BackendOutOfMemory
from service.clock import Clock
from service.engine import batcher, padding
from service.engine.lane import Batch, Cost, Job, LaneKey, LanePolicy
from service.engine.meters import End, Meters, Reason
from service.engine.turns import Line
from service.engine.workers import Run, Workers, hand_over, run_limit_s
from service.errors import (
    DeadlinePassed,
    Draining,
    EarmarkError,
    InternalFault,
    ModelFault,
    ModelUnavailable,
    OutOfMemory,
)
from service.metrics import Metrics
from service.values import Arrays, Turn

logger = logging.getLogger("earmark.engine")


class Waiter(Protocol):
    """Who waits for a job. Exactly one of both is called, once, unless the job was cancelled."""

    def answered(self, outputs: Arrays) -> None:
        """In the worker that computed it, which serves nobody else meanwhile."""
        ...

    def failed(self, error: EarmarkError) -> None:
        """In any thread, perhaps with locks held: to pass it on, no more."""
        ...


class _Awaited:
    """Waits on an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Arrays] = self._loop.create_future()

    def answered(self, outputs: Arrays) -> None:
        hand_over(self._loop, lambda: None if self.future.done() else self.future.set_result(outputs))

    def failed(self, error: EarmarkError) -> None:
        hand_over(self._loop, lambda: None if self.future.done() else self.future.set_exception(error))


@dataclass(frozen=True, slots=True)
class _Load:
    """What a job carries."""

    waveform: NDArray[np.float32]
    waiter: Waiter
    meters: Meters


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that was admitted."""

    _dispatcher: Dispatcher
    _job: Job[_Load]

    def cancel(self) -> None:
        """Nobody waits any more; if it still waits its turn it is never computed. From any thread, once."""
        self._dispatcher.cancel(self._job)


@dataclass(frozen=True, slots=True)
class _Station:
    """What runs a lane's batches."""

    backend: Backend
    sample_rate: int
    frame_names: frozenset[str]
    meters: Meters


class Dispatcher:
    """The queue of all models, in front of the pool.

    Args:
        queue_s, slots: see `Batcher`.
    """

    def __init__(
        self,
        workers: Workers,
        metrics: Metrics,
        clock: Clock,
        queue_s: float,
        slots: Mapping[str, int] | None = None,
    ) -> None:
        self._workers = workers
        self._metrics = metrics
        self._clock = clock
        self._batcher: batcher.Batcher[_Load] = batcher.Batcher(workers.count, queue_s, workers.turns, slots)
        self._stations: dict[LaneKey, _Station] = {}
        self._meters: dict[str, Meters] = {}
        workers.attach(self)

    def open_lane(self, key: LaneKey, backend: Backend, sample_rate: int, policy: LanePolicy, cost: Cost) -> None:
        with self._workers.lock:
            self._batcher.open_lane(key, policy, cost)
            if key.model not in self._meters:
                self._meters[key.model] = Meters(self._metrics, key.model, partial(self._queued, key.model))
            frame_names = padding.framewise(backend.outputs)
            self._stations[key] = _Station(backend, sample_rate, frame_names, self._meters[key.model])

    def close_lane(self, key: LaneKey) -> None:
        """Jobs that still wait fail; those that run come back."""
        with self._workers.lock:
            jobs = self._batcher.close_lane(key)
            self._stations.pop(key, None)
            self._end(jobs, "failed", lambda: ModelUnavailable("The model was unloaded."))

    def refuse(self) -> None:
        """Admit nothing more; what waits fails with `Draining`, what runs comes back. Idempotent."""
        with self._workers.lock:
            self.close()

    def detach(self) -> None:
        """Refuse, and leave the pool. Idempotent."""
        self.refuse()
        self._workers.detach(self)

    async def run(self, lane: LaneKey, waveform: NDArray[np.float32], turn: Turn) -> Arrays:
        """Queue one job and wait for its outputs; see `Model.run`."""
        waiter = _Awaited()
        claim = self.submit(lane, waveform, turn, waiter)
        try:
            return await waiter.future
        finally:
            if waiter.future.cancelled():
                claim.cancel()

    def submit(
        self, lane: LaneKey, waveform: NDArray[np.float32], turn: Turn, waiter: Waiter, *, is_admitted: bool = False
    ) -> Claim:
        """Queue one job; from any thread. See `Model.submit`."""
        load = _Load(waveform, waiter, self._meters[lane.model])
        with self._workers.lock:
            station = self._stations.get(lane)
            length_s = len(waveform) / station.sample_rate if station else 0.0
            try:
                job = self._batcher.submit(lane, length_s, turn, load, self._clock.now(), is_admitted=is_admitted)
            except EarmarkError:
                load.meters.ended["refused"].inc()
                raise
            self._workers.lock.notify()
        return Claim(self, job)

    def cancel(self, job: Job[_Load]) -> None:
        """See `Claim.cancel`."""
        with self._workers.lock:
            self._batcher.cancel(job)
        job.payload.meters.ended["cancelled"].inc()

    def take(self, now: float, idle_workers: int, rival: Line) -> Run | None:
        batch, late = self._batcher.next_batch(now, idle_workers, rival)
        self._end(late, "expired", _deadline_passed)
        if batch is None:
            return None
        station = self._stations[batch.lane]
        _measure_start(batch, station.meters, now)
        return Run(lambda: self._execute(batch, station), lambda: self._lost(batch), run_limit_s(batch.expected_s))

    def expire(self, now: float) -> None:
        self._end(self._batcher.expire(now), "expired", _deadline_passed)

    def close(self) -> None:
        self._end(self._batcher.close(), "failed", lambda: Draining("The service is shutting down."))

    def _execute(self, batch: Batch[_Load], station: _Station) -> None:
        """Run a batch in the calling worker and answer its jobs, or have it tried again in parts."""
        inputs = padding.assemble([job.payload.waveform for job in batch.jobs])
        try:
            outputs = station.backend.run(inputs)
            items = padding.separate(outputs, inputs[padding.LENGTHS].astype(np.int64, copy=False), station.frame_names)
        except (BackendOutOfMemory, MemoryError) as error:
            self._failed(batch, station.meters, error, "memory")
        except Exception as error:
            self._failed(batch, station.meters, error, "fault")
        else:
            answers = [item if padding.is_finite(item) else _not_finite(batch.lane) for item in items]
            self._done(batch, station.meters, answers)

    def _done(self, batch: Batch[_Load], meters: Meters, answers: Sequence[Arrays | EarmarkError]) -> None:
        seconds = self._clock.now() - batch.started
        meters.run_seconds.observe(seconds)
        with self._workers.lock:
            self._batcher.done(batch, seconds)
            self._wake()
        for job, answer in zip(batch.jobs, answers, strict=True):
            if not job.abandoned:
                meters.ended["failed" if isinstance(answer, EarmarkError) else "done"].inc()
                began = self._clock.now()
                _answer(job.payload.waiter, answer)
                job.turn.spend(self._clock.now() - began)

    def _failed(self, batch: Batch[_Load], meters: Meters, error: Exception, reason: Reason) -> None:
        out_of_memory = reason == "memory"
        with self._workers.lock:
            ended = self._batcher.failed(batch, out_of_memory=out_of_memory)
            self._end(ended, "failed", _no_room if out_of_memory else lambda: _model_failed(batch.lane))
            self._workers.lock.notify_all()
        if len(batch.jobs) > 1:
            meters.split[reason].inc()
        facts = {"event": "batch_failed", "model": batch.lane.model, "items": len(batch.jobs), "area_s": batch.area_s}
        trace = None if out_of_memory else error
        logger.warning("batch failed: %s", error, extra=facts | {"reason": reason}, exc_info=trace)

    def _lost(self, batch: Batch[_Load]) -> None:
        with self._workers.lock:
            if self._batcher.drop(batch):
                self._end(batch.jobs, "failed", lambda: _model_failed(batch.lane))
                self._wake()

    def _wake(self) -> None:
        """A batch left its device: where such places are counted, an idle worker may have waited for it."""
        if self._batcher.counts_slots:
            self._workers.lock.notify()

    def _end(self, jobs: Sequence[Job[_Load]], end: End, error: Callable[[], EarmarkError]) -> None:
        for job in jobs:
            if not job.abandoned:
                job.payload.meters.ended[end].inc()
                job.payload.waiter.failed(error())

    def _queued(self, model: str) -> tuple[int, float]:
        """Jobs that wait for *model*, in all its builds, and the expected seconds for them."""
        with self._workers.lock:
            waiting = [self._batcher.queued(key) for key in self._stations if key.model == model]
        return sum(items for items, _ in waiting), sum(seconds for _, seconds in waiting)


def _measure_start(batch: Batch[_Load], meters: Meters, now: float) -> None:
    for job in batch.jobs:
        meters.wait_seconds.observe(now - job.submitted)
    meters.batch_items.observe(len(batch.jobs))
    useful_s = sum(job.length_s for job in batch.jobs)
    meters.batch_padding.observe(max(0.0, 1 - useful_s / batch.area_s))


def _answer(waiter: Waiter, answer: Arrays | EarmarkError) -> None:
    """One that breaks over its answer does not disturb its neighbours."""
    if isinstance(answer, EarmarkError):
        waiter.failed(answer)
        return
    try:
        waiter.answered(answer)
    except Exception:
        logger.exception("an answer could not be taken", extra={"event": "waiter_broke"})
        waiter.failed(InternalFault("The answer could not be taken."))


def _deadline_passed() -> EarmarkError:
    return DeadlinePassed("The deadline passed while the work waited its turn.")


def _no_room() -> EarmarkError:
    return OutOfMemory("There is no memory for a recording of this length now; try again, or send a shorter one.")


def _model_failed(lane: LaneKey) -> EarmarkError:
    return ModelFault(f"{lane} failed on this recording.")


def _not_finite(lane: LaneKey) -> EarmarkError:
    return ModelFault(f"{lane} gave values that are no numbers.")
