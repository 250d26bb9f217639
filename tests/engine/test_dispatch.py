"""Jobs through the queue, the threads and a fake backend: every one is answered, and only by its own answer."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from service.backends.base import BackendError
from service.engine.lane import LaneKey
from service.errors import DeadlinePassed, Draining, ModelFault, ModelUnavailable, OutOfMemory
from service.values import WHENEVER, Arrays, Turn
from tests.engine.conftest import LANE, RATE, Bench
from tests.fakes import HANG, NOT_A_NUMBER, POISON, FakeBackend


def ramp(samples: int, first: float = 0.0) -> NDArray[np.float32]:
    waveform = np.linspace(0.1, 0.9, samples, dtype=np.float32)
    waveform[0] = first
    return waveform


async def entered(backend: FakeBackend) -> None:
    """Wait until the backend is inside one more run."""
    assert await asyncio.to_thread(backend.entered.acquire, timeout=5)


async def settled(tasks: list[asyncio.Task[Arrays]]) -> None:
    _, pending = await asyncio.wait(tasks, timeout=5)
    assert not pending, "somebody was never answered"


async def blocked_worker(bench: Bench) -> asyncio.Task[Arrays]:
    """Occupy the only worker, so that what is submitted next queues up."""
    bench.block()
    first = asyncio.create_task(bench.dispatcher.run(LANE, ramp(7), WHENEVER))
    await entered(bench.backend)
    return first


@pytest.mark.parametrize("gone", range(4))
async def test_cancelled_job_in_a_running_batch_does_not_disturb_the_others(bench: Bench, gone: int) -> None:
    """One of four jobs inside one run is cancelled; the other three are answered with their own answers."""
    first = await blocked_worker(bench)
    waveforms = [ramp(100 + 10 * i) for i in range(4)]
    tasks = [asyncio.create_task(bench.dispatcher.run(LANE, waveform, WHENEVER)) for waveform in waveforms]
    await asyncio.sleep(0)
    bench.release(then_block=True)
    await entered(bench.backend)
    assert bench.backend.batches[1] == [100, 110, 120, 130]

    tasks[gone].cancel()
    await asyncio.sleep(0)
    bench.release()
    await settled([first, *tasks])

    assert tasks[gone].cancelled()
    for i, task in enumerate(tasks):
        if i != gone:
            np.testing.assert_array_equal(task.result()["enhanced"], waveforms[i] * np.float32(0.5))
    assert bench.count("cancelled") == 1
    assert bench.count("done") == 4


@pytest.mark.parametrize("gone", range(4))
async def test_job_cancelled_while_queued_is_never_computed(bench: Bench, gone: int) -> None:
    """One of four waiting jobs is cancelled; it does not reach the backend, and the others do."""
    first = await blocked_worker(bench)
    lengths = [100, 110, 120, 130]
    tasks = [asyncio.create_task(bench.dispatcher.run(LANE, ramp(length), WHENEVER)) for length in lengths]
    await asyncio.sleep(0)

    tasks[gone].cancel()
    await asyncio.sleep(0)
    bench.release()
    await settled([first, *tasks])

    assert tasks[gone].cancelled()
    remaining = [length for length in lengths if length != lengths[gone]]
    assert sorted(bench.computed()[1:]) == remaining
    assert [len(task.result()["enhanced"]) for task in tasks if not task.cancelled()] == remaining


async def test_all_cancelled_leave_a_pool_that_still_works(bench: Bench) -> None:
    """Eight in ten clients go away; afterwards every request is answered."""
    first = await blocked_worker(bench)
    tasks = [asyncio.create_task(bench.dispatcher.run(LANE, ramp(50 + i), WHENEVER)) for i in range(50)]
    await asyncio.sleep(0)
    for i, task in enumerate(tasks):
        if i % 5:
            task.cancel()
    bench.release()
    await settled([first, *tasks])

    after = await asyncio.gather(*(bench.dispatcher.run(LANE, ramp(60 + i), WHENEVER) for i in range(20)))

    assert [len(answer["enhanced"]) for answer in after] == [60 + i for i in range(20)]


@pytest.mark.parametrize("bad", range(4))
async def test_poison_fails_alone(bench: Bench, bad: int) -> None:
    """A waveform that breaks the model fails with a fault; the three that shared its batch are answered."""
    first = await blocked_worker(bench)
    waveforms = [ramp(100 + i, POISON if i == bad else 0.0) for i in range(4)]
    tasks = [asyncio.create_task(bench.dispatcher.run(LANE, waveform, WHENEVER)) for waveform in waveforms]
    await asyncio.sleep(0)
    bench.release()
    await settled([first, *tasks])

    assert isinstance(tasks[bad].exception(), ModelFault)
    for i, task in enumerate(tasks):
        if i != bad:
            np.testing.assert_array_equal(task.result()["enhanced"], waveforms[i] * np.float32(0.5))
    assert bench.count("failed") == 1
    assert bench.metrics.batches_split.labels(LANE.model, "fault")._value.get() == 2


async def test_halves_of_a_failed_batch_run_side_by_side() -> None:
    """The worker that saw the failure takes one half and wakes an idle one for the other."""
    bench = Bench(workers=2)
    halves, inside, go, gone = threading.Barrier(2), threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        go.wait(10)
        gone.set()

    def fail_together(inputs: Arrays) -> None:
        if len(inputs["lengths"]) == 4:
            go.set()
            gone.wait(5)
            time.sleep(0.02)  # for the other worker to fall asleep
            raise BackendError("too much at once")
        if len(inputs["lengths"]) == 2:
            halves.wait(5)

    held = asyncio.create_task(bench.workers.call(hold))
    assert await asyncio.to_thread(inside.wait, 5)
    first = await blocked_worker(bench)
    bench.backend.on_run = fail_together
    tasks = [asyncio.create_task(bench.dispatcher.run(LANE, ramp(100), WHENEVER)) for _ in range(4)]
    await asyncio.sleep(0)
    bench.release()
    await settled([first, *tasks])
    await held

    assert [len(batch) for batch in bench.backend.batches] == [1, 4, 2, 2]
    assert all(task.exception() is None for task in tasks)
    assert not halves.broken
    bench.dispatcher.detach()
    bench.workers.stop()


async def test_answer_that_is_no_number_fails_alone(bench: Bench) -> None:
    """NaN in one row is that row's failure, without a second run."""
    first = await blocked_worker(bench)
    tasks = [
        asyncio.create_task(bench.dispatcher.run(LANE, ramp(100, mark), WHENEVER)) for mark in (0.0, NOT_A_NUMBER, 0.0)
    ]
    await asyncio.sleep(0)
    bench.release()
    await settled([first, *tasks])

    assert [type(task.exception()) for task in tasks] == [type(None), ModelFault, type(None)]
    assert len(bench.backend.batches) == 2


async def test_wrong_number_of_rows_never_gives_an_answer_to_another(bench: Bench) -> None:
    """A backend that loses a row is not believed: its batches are split until the rows fit."""
    first = await blocked_worker(bench)
    bench.backend.wrong_count = True
    waveforms = [ramp(100 + i) for i in range(3)]
    tasks = [asyncio.create_task(bench.dispatcher.run(LANE, waveform, WHENEVER)) for waveform in waveforms]
    await asyncio.sleep(0)
    bench.release()
    await settled([first, *tasks])

    for waveform, task in zip(waveforms, tasks, strict=True):
        np.testing.assert_array_equal(task.result()["enhanced"], waveform * np.float32(0.5))


async def test_out_of_memory_halves_the_batches_and_answers_all(bench: Bench) -> None:
    """A batch too large for memory comes back in parts, and later batches keep below that size."""
    first = await blocked_worker(bench)
    bench.backend.most_area = 450
    tasks = [asyncio.create_task(bench.dispatcher.run(LANE, ramp(100), WHENEVER)) for _ in range(8)]
    await asyncio.sleep(0)
    bench.release()
    await settled([first, *tasks])
    assert all(task.exception() is None for task in tasks)
    runs = [len(batch) for batch in bench.backend.batches]
    assert runs == [1, 8, 4, 4]

    first = await blocked_worker(bench)
    tasks = [asyncio.create_task(bench.dispatcher.run(LANE, ramp(100), WHENEVER)) for _ in range(8)]
    await asyncio.sleep(0)
    bench.release()
    await settled([first, *tasks])

    assert [len(batch) for batch in bench.backend.batches[5:]] == [4, 4]


async def test_single_job_without_memory_says_so(bench: Bench) -> None:
    """What does not fit alone is refused as out of memory, which passes, not as a fault."""
    bench.backend.most_area = 10

    with pytest.raises(OutOfMemory):
        await bench.dispatcher.run(LANE, ramp(100), WHENEVER)


async def test_job_whose_deadline_passes_in_the_queue_is_not_computed(bench: Bench) -> None:
    """The deadline is looked at when the batch is formed."""
    first = await blocked_worker(bench)
    late = asyncio.create_task(bench.dispatcher.run(LANE, ramp(100), Turn(5.0)))
    timely = asyncio.create_task(bench.dispatcher.run(LANE, ramp(101), Turn(50.0)))
    await asyncio.sleep(0)

    bench.clock.advance(10.0)
    bench.release()
    await settled([first, late, timely])

    assert isinstance(late.exception(), DeadlinePassed)
    assert timely.exception() is None
    assert bench.backend.batches == [[7], [101]]
    assert bench.count("expired") == 1


async def test_patrol_answers_the_expired_while_all_workers_are_busy(bench: Bench) -> None:
    """Nobody is free to form a batch, yet the deadline is kept."""
    await blocked_worker(bench)
    late = asyncio.create_task(bench.dispatcher.run(LANE, ramp(100), Turn(5.0)))
    await asyncio.sleep(0)

    bench.clock.advance(10.0)
    bench.workers.patrol()
    await settled([late])

    assert isinstance(late.exception(), DeadlinePassed)


async def test_deadline_that_cannot_hold_is_refused_at_once(bench: Bench) -> None:
    """Even on an idle machine it would come too late: the backend is not asked."""
    await blocked_worker(bench)

    with pytest.raises(DeadlinePassed):
        await bench.dispatcher.run(LANE, ramp(5 * RATE), Turn(0.05))

    assert bench.count("refused") == 1


async def test_hanging_run_is_written_off_and_its_worker_replaced(bench: Bench) -> None:
    """After its limit the jobs of the run fail, and a new worker serves; the old one's late answer changes nothing."""
    hung = asyncio.create_task(bench.dispatcher.run(LANE, ramp(100, HANG), WHENEVER))
    await entered(bench.backend)

    bench.clock.advance(29.0)
    bench.workers.patrol()
    assert not hung.done()
    bench.clock.advance(2.0)
    bench.workers.patrol()
    await settled([hung])
    assert isinstance(hung.exception(), ModelFault)
    assert bench.metrics.workers_lost._value.get() == 1

    answer = await asyncio.wait_for(bench.dispatcher.run(LANE, ramp(100), WHENEVER), 5)
    bench.backend.let_go.set()

    assert len(answer["enhanced"]) == 100
    assert len(await bench.dispatcher.run(LANE, ramp(90), WHENEVER)) == 1


async def test_closed_lane_fails_what_waits_and_finishes_what_runs(bench: Bench) -> None:
    running = await blocked_worker(bench)
    waiting = asyncio.create_task(bench.dispatcher.run(LANE, ramp(100), WHENEVER))
    await asyncio.sleep(0)

    bench.dispatcher.close_lane(LANE)
    bench.release()
    await settled([running, waiting])

    assert isinstance(waiting.exception(), ModelUnavailable)
    assert len(running.result()["enhanced"]) == 7
    with pytest.raises(ModelUnavailable):
        await bench.dispatcher.run(LANE, ramp(100), WHENEVER)


async def test_stopping_the_pool_fails_what_waits(bench: Bench) -> None:
    running = await blocked_worker(bench)
    waiting = asyncio.create_task(bench.dispatcher.run(LANE, ramp(100), WHENEVER))
    await asyncio.sleep(0)

    bench.dispatcher.refuse()
    bench.release()
    await settled([running, waiting])

    assert isinstance(waiting.exception(), Draining)
    with pytest.raises(Draining):
        await bench.dispatcher.run(LANE, ramp(100), WHENEVER)


async def test_lanes_do_not_mix(bench: Bench) -> None:
    """Jobs of two models wait together and never share a run."""
    first = await blocked_worker(bench)
    other = FakeBackend()
    bench.open(LaneKey("other@1"), other)
    tasks = [
        asyncio.create_task(bench.dispatcher.run(lane, ramp(100 + i), WHENEVER))
        for i, lane in enumerate([LANE, LaneKey("other@1")] * 3)
    ]
    await asyncio.sleep(0)
    bench.release()
    await settled([first, *tasks])

    assert bench.computed()[1:] == [100, 102, 104]
    assert [length for batch in other.batches for length in batch] == [101, 103, 105]


def test_several_event_loops_share_one_pool() -> None:
    """Jobs from two loops at once are answered each on its own; a loop that has closed disturbs nobody."""
    bench = Bench(workers=2)

    async def some(count: int) -> list[int]:
        answers = await asyncio.gather(*(bench.dispatcher.run(LANE, ramp(50 + i), WHENEVER) for i in range(count)))
        return [len(answer["enhanced"]) for answer in answers]

    async def abandon() -> None:
        bench.block()
        task = asyncio.create_task(bench.dispatcher.run(LANE, ramp(5), WHENEVER))
        await entered(bench.backend)
        task.cancel()

    results: dict[int, list[int]] = {}
    asyncio.run(abandon())
    bench.release()
    threads = [threading.Thread(target=lambda n=n: results.update({n: asyncio.run(some(n))})) for n in (20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert results == {n: [50 + i for i in range(n)] for n in (20, 30)}
    bench.dispatcher.detach()
    bench.workers.stop()


async def test_gauges_return_to_nothing(bench: Bench) -> None:
    first = await blocked_worker(bench)
    tasks = [asyncio.create_task(bench.dispatcher.run(LANE, ramp(100 + i), WHENEVER)) for i in range(5)]
    await asyncio.sleep(0)
    assert bench.queued("items") == 5
    assert bench.queued("seconds") > 0

    tasks[0].cancel()
    bench.release()
    await settled([first, *tasks])

    assert bench.queued("items") == 0
    assert bench.queued("seconds") == 0
