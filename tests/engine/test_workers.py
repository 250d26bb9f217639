"""The pool: calls and batches share the threads, and no thread's end is anybody else's."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from service.clock import ManualClock
from service.engine.turns import Line
from service.engine.workers import CALL_LIMIT_S, Run, Workers
from service.errors import Draining, InternalFault
from service.metrics import Metrics
from service.values import Turn


class Batches:
    """A source with a list of runs."""

    def __init__(self, *work: Callable[[], None]) -> None:
        self.waiting = deque(work)
        self.lost = 0
        self.idle: list[int] = []
        self.closed = False

    def take(self, now: float, idle_workers: int, rival: Line) -> Run | None:
        if not self.waiting:
            return None
        self.idle.append(idle_workers)
        return Run(self.waiting.popleft(), self._lose, limit_s=30.0)

    def expire(self, now: float) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def _lose(self) -> None:
        self.lost += 1


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def workers(clock: ManualClock, metrics: Metrics) -> Iterator[Workers]:
    workers = Workers(1, clock, metrics)
    yield workers
    workers.stop()


async def held(workers: Workers) -> tuple[threading.Event, asyncio.Task[None]]:
    """Occupy the only worker until the event is set."""
    inside, go = threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        go.wait(10)

    task = asyncio.create_task(workers.call(work))
    assert await asyncio.to_thread(inside.wait, 5)
    return go, task


async def test_call_returns_and_raises_what_the_work_does(workers: Workers) -> None:
    assert await workers.call(lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        await workers.call(lambda: 1 // 0)


@pytest.mark.parametrize("error", [StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_worker_survives_what_would_end_a_thread(workers: Workers, error: type[BaseException]) -> None:
    """The caller gets an error instead of waiting for ever, and the worker goes on."""

    def work() -> None:
        raise error

    with pytest.raises((RuntimeError, InternalFault)):
        await asyncio.wait_for(workers.call(work), 5)
    assert await asyncio.wait_for(workers.call(lambda: 1), 5) == 1


async def test_call_runs_off_the_event_loop(workers: Workers) -> None:
    assert await workers.call(threading.current_thread) is not threading.current_thread()


async def test_cancelled_call_that_waits_is_never_run(workers: Workers) -> None:
    go, first = await held(workers)
    ran: list[int] = []
    doomed = asyncio.create_task(workers.call(lambda: ran.append(1)))
    other = asyncio.create_task(workers.call(lambda: ran.append(2)))
    await asyncio.sleep(0)

    doomed.cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait_for(asyncio.gather(first, other), 5)

    assert doomed.cancelled()
    assert ran == [2]


async def test_cancelled_call_that_runs_disturbs_nobody(workers: Workers) -> None:
    go, first = await held(workers)

    first.cancel()
    go.set()

    assert await asyncio.wait_for(workers.call(lambda: 3), 5) == 3
    assert first.cancelled()


async def test_calls_of_a_caller_with_many_do_not_keep_another_waiting(workers: Workers, clock: ManualClock) -> None:
    """A hundred slow calls wait; somebody else's goes after the one that runs, not after all of them."""
    go, first = await held(workers)
    order: list[str] = []

    def slow() -> None:
        clock.advance(0.3)
        order.append("slow")

    many = [asyncio.create_task(workers.call(slow, Turn(share="many", flow=i))) for i in range(100)]
    await asyncio.sleep(0)
    one = asyncio.create_task(workers.call(lambda: order.append("one"), Turn(share="one")))
    await asyncio.sleep(0)

    go.set()
    await asyncio.gather(first, *many, one)

    assert order.index("one") <= 1


async def test_source_is_told_how_many_are_idle(clock: ManualClock, metrics: Metrics) -> None:
    pool = Workers(2, clock, metrics)
    go, first = await held(pool)
    done = threading.Event()
    batches = Batches(done.set)

    pool.attach(batches)
    assert await asyncio.to_thread(done.wait, 5)

    assert batches.idle == [1]
    go.set()
    await first
    pool.stop()


async def test_run_that_does_not_come_back_is_written_off(
    workers: Workers, clock: ManualClock, metrics: Metrics
) -> None:
    """Its source is told, another worker takes the seat, and its late return changes nothing."""
    go, inside = threading.Event(), threading.Event()
    seats: list[threading.Thread] = []

    def hang() -> None:
        seats.append(threading.current_thread())
        inside.set()
        go.wait(10)

    batches = Batches(hang)
    workers.attach(batches)
    assert await asyncio.to_thread(inside.wait, 5)

    clock.advance(31.0)
    workers.patrol()
    workers.patrol()

    assert batches.lost == 1
    assert metrics.workers_lost._value.get() == 1
    assert await asyncio.wait_for(workers.call(lambda: 5), 5) == 5
    go.set()
    await asyncio.to_thread(seats[0].join, 5)
    assert not seats[0].is_alive(), "the pool has a worker too many"
    assert await asyncio.wait_for(workers.call(threading.current_thread), 5) is not seats[0]
    workers.stop()
    assert metrics.workers_busy._value.get() == 0


async def test_call_that_does_not_come_back_fails(workers: Workers, clock: ManualClock) -> None:
    go, hung = await held(workers)

    clock.advance(CALL_LIMIT_S + 1)
    workers.patrol()

    with pytest.raises(InternalFault):
        await asyncio.wait_for(hung, 5)
    go.set()


async def test_source_that_breaks_does_not_end_the_worker(workers: Workers) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    batches = Batches(broken)
    workers.attach(batches)

    assert await asyncio.wait_for(workers.call(lambda: 1), 5) == 1
    assert batches.lost == 1


async def test_stop_answers_all_and_refuses_more(clock: ManualClock, metrics: Metrics) -> None:
    pool = Workers(1, clock, metrics)
    go, running = await held(pool)
    waiting = asyncio.create_task(pool.call(lambda: 1))
    await asyncio.sleep(0)
    batches = Batches()
    pool.attach(batches)

    stopping = asyncio.create_task(asyncio.to_thread(pool.stop))
    with pytest.raises(Draining):
        await asyncio.wait_for(waiting, 5)
    go.set()
    await asyncio.wait_for(stopping, 5)

    await asyncio.wait_for(running, 5)
    assert batches.closed
    with pytest.raises(Draining):
        await pool.call(lambda: 1)
    pool.stop()


async def test_busy_gauge_counts_what_runs(workers: Workers, metrics: Metrics) -> None:
    go, running = await held(workers)
    assert metrics.workers_busy._value.get() == 1

    go.set()
    await running
    await workers.call(lambda: None)
    workers.stop()

    assert metrics.workers_busy._value.get() == 0


def test_pool_without_workers_is_refused(clock: ManualClock, metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Workers(0, clock, metrics)
