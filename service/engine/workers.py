"""The one pool of threads, as wide as the cores: batches and plain calls (decode, resample, encode) share it.

Owns the threads, the lock around the queues they take from, and the watchdog. Knows neither models nor audio.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from service.clock import Clock
from service.engine.turns import Line, Ticket, Turns
from service.errors import Draining, InternalFault
from service.metrics import Metrics
from service.values import WHENEVER, Turn

T = TypeVar("T")

LEAST_LIMIT_S, LIMIT_FACTOR = 30.0, 10.0
"""A run that takes longer than this, and than so many times what was predicted, does not come back."""
CALL_LIMIT_S = 600.0
WATCH_S = 1.0
JOIN_S = 5.0
NICENESS = 10

logger = logging.getLogger("earmark.engine")


@dataclass(eq=False, slots=True)
class Run:
    """Something that one thread does to its end.

    Attributes:
        work: does it; must not raise.
        lost: called if `work` does not come back or breaks, perhaps more than once; must not raise.
        limit_s: how long it may take.
        turn: who is charged for the time it takes; None if that was done.
    """

    work: Callable[[], None]
    lost: Callable[[], None]
    limit_s: float
    turn: Turn | None = None


class Source(Protocol):
    """Where batches come from. All are called with the pool's lock held, and must be quick."""

    def take(self, now: float, idle_workers: int, rival: Line) -> Run | None:
        """What a free worker should run; it is one of *idle_workers*. None where the turn is in *rival*."""
        ...

    def expire(self, now: float) -> None:
        """Answer what has waited beyond its deadline."""
        ...

    def close(self) -> None:
        """The pool stops: answer what waits."""
        ...


def run_limit_s(expected_s: float) -> float:
    return max(LIMIT_FACTOR * expected_s, LEAST_LIMIT_S)


class _Waiting(Protocol):
    """A call whatever it returns."""

    def run(self) -> None: ...
    def fail(self, error: Exception) -> None: ...
    def lost(self) -> None: ...


@dataclass(eq=False, slots=True)
class _Call(Generic[T]):
    work: Callable[[], T]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[T]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    def run(self) -> None:
        try:
            result = self.context.run(self.work)
        except (StopIteration, GeneratorExit) as error:
            # A future cannot carry these; generators turn them into the same.
            self.fail(RuntimeError(f"work raised {type(error).__name__}"))
        except Exception as error:
            self.fail(error)
        else:
            hand_over(self.loop, lambda: None if self.future.done() else self.future.set_result(result))

    def fail(self, error: Exception) -> None:
        hand_over(self.loop, lambda: None if self.future.done() else self.future.set_exception(error))

    def lost(self) -> None:
        self.fail(InternalFault("The work did not come back."))


@dataclass(eq=False, slots=True)
class _Post:
    """A call that nobody awaits."""

    work: Callable[[], None]
    failed: Callable[[Exception], None]

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:
            self.failed(error)

    def fail(self, error: Exception) -> None:
        self.failed(error)

    def lost(self) -> None:
        self.failed(InternalFault("The work did not come back."))


def hand_over(loop: asyncio.AbstractEventLoop, deliver: Callable[[], None]) -> None:
    """Run *deliver* on *loop*; where that is closed, nobody waits any more."""
    try:
        loop.call_soon_threadsafe(deliver)
    except RuntimeError:
        logger.debug("answer for a closed event loop dropped")


def _step_back() -> None:
    """Let the thread of the event loop run before this one: what it does is short, and everybody waits for it.

    On Linux niceness is a thread's own, and counts within the control group only.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


@dataclass(eq=False, slots=True)
class _Seat:
    """A thread's place in the pool."""

    run: Run | None = None
    since: float = 0.0
    written_off: bool = False


class Workers:
    """The pool. Threads start at once and end with `stop`.

    Attributes:
        turns: the order of all that waits for a worker; its sources put their work there too. A call is charged for the
            time it held its worker: nobody knows before what it costs.
    """

    def __init__(self, count: int, clock: Clock, metrics: Metrics) -> None:
        if count < 1:
            raise ValueError("a pool needs at least one worker")
        self.count = count
        self.lock = threading.Condition()
        """Guards the queues of all sources; notify it when work was added."""
        self._clock = clock
        self._metrics = metrics
        self._sources: list[Source] = []
        self.turns: Turns[Any] = Turns()
        self._calls = Line("calls")
        self._idle = 0
        self._stopping = threading.Event()
        self._seats: dict[_Seat, threading.Thread] = {}
        for _ in range(count):
            self._seat()
        self._watchdog = threading.Thread(target=self._watch, name="earmark-watchdog", daemon=True)
        self._watchdog.start()

    def attach(self, source: Source) -> None:
        """Let batches come from *source* as well."""
        with self.lock:
            self._sources.append(source)
            self.lock.notify_all()

    def detach(self, source: Source) -> None:
        with self.lock:
            self._sources = [other for other in self._sources if other is not source]

    async def call(self, work: Callable[[], T], turn: Turn = WHENEVER) -> T:
        """Run plain *work* in a worker thread and return what it returns, or raise what it raises.

        Cancelling the awaiting task drops work that has not started; work that has runs to its end unheard.

        Args:
            turn: on whose behalf; its deadline is the caller's affair.

        Raises:
            Draining: the pool was stopped.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        call = _Call(work, loop, future)
        with self.lock:
            if self._stopping.is_set():
                raise Draining("The service is shutting down and takes no new work.")
            ticket = self.turns.add(turn, self._calls, call)
            self.lock.notify()
        try:
            return await future
        finally:
            if future.cancelled():
                self._forget(ticket)

    def post(
        self, work: Callable[[], None], failed: Callable[[Exception], None], turn: Turn = WHENEVER
    ) -> None:
        """Run plain *work* in a worker thread; may be called from any thread, returns at once.

        Args:
            failed: told what *work* raised, or why it was never run; perhaps with locks held, so it only passes it on.
        """
        call = _Post(work, failed)
        with self.lock:
            if not self._stopping.is_set():
                self.turns.add(turn, self._calls, call)
                self.lock.notify()
                return
        failed(Draining("The service is shutting down and takes no new work."))

    def stop(self) -> None:
        """End the threads after what they run now; what waits fails with `Draining`. Idempotent."""
        with self.lock:
            self._stopping.set()
            for source in self._sources:
                source.close()
            waiting = [ticket for ticket in self.turns if ticket.line is self._calls]
            for ticket in waiting:
                self.turns.remove(ticket)
            threads = list(self._seats.values())
            self.lock.notify_all()
        for ticket in waiting:
            ticket.item.fail(Draining("The service is shutting down."))
        for thread in (*threads, self._watchdog):
            thread.join(JOIN_S)

    def patrol(self) -> None:
        """Write off the workers whose run does not come back and replace them; expire jobs while nobody is free to."""
        now = self._clock.now()
        with self.lock:
            for source in self._sources:
                source.expire(now)
            stuck = [seat for seat in self._seats if seat.run and now - seat.since > seat.run.limit_s]
            lost = [run for seat in stuck if (run := self._write_off(seat))]
        for run in lost:
            run.lost()

    def _seat(self) -> None:
        seat = _Seat()
        thread = threading.Thread(target=self._live, args=(seat,), name="earmark-worker", daemon=True)
        self._seats[seat] = thread
        thread.start()

    def _write_off(self, seat: _Seat) -> Run | None:
        """Replace a worker, with the lock held; returns what it ran."""
        seat.written_off = True
        del self._seats[seat]
        run, seat.run = seat.run, None
        if run is not None:
            self._metrics.workers_busy.dec()
        self._metrics.workers_lost.inc()
        logger.error("worker lost", extra={"event": "worker_lost", "workers": self.count})
        if not self._stopping.is_set():
            self._seat()
        return run

    def _live(self, seat: _Seat) -> None:
        _step_back()
        while (run := self._next(seat)) is not None:
            try:
                run.work()
            except BaseException:
                logger.exception("a worker died", extra={"event": "worker_died"})
                run.lost()
            with self.lock:
                if seat.written_off:
                    return
                seat.run = None
                self._metrics.workers_busy.dec()
                if run.turn is not None:
                    self.turns.charge(run.turn, self._clock.now() - seat.since)

    def _next(self, seat: _Seat) -> Run | None:
        """Wait for something to run; None when the pool stops."""
        with self.lock:
            self._idle += 1
            try:
                while (run := self._take()) is None:
                    if self._stopping.is_set():
                        return None
                    self.lock.wait()
            finally:
                self._idle -= 1
            seat.run, seat.since = run, self._clock.now()
            self._metrics.workers_busy.inc()
            return run

    def _take(self) -> Run | None:
        for source in self._sources:
            if run := source.take(self._clock.now(), self._idle, self._calls):
                return run
        ticket = self.turns.first((self._calls,))
        if ticket is None:
            return None
        self.turns.remove(ticket)
        call: _Waiting = ticket.item
        return Run(call.run, call.lost, CALL_LIMIT_S, ticket.turn)

    def _forget(self, ticket: Ticket[Any]) -> None:
        with self.lock:
            if self.turns.holds(ticket):
                self.turns.remove(ticket)

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            self.patrol()
