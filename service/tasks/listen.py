"""Walks once through a recording: decodes block by block, hands pieces to models, gives the answers back in order.

A walk moves in the workers: whoever decoded a block or computed a piece takes it the next step, and the event loop
hears of it when there is something for it. Memory is the same for a minute and for two hours: at most a few pieces of
one recording are under way at a time.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from service.audio.decode import Recording
from service.clock import Clock
from service.engine.dispatch import Claim
from service.engine.manager import ModelManager
from service.engine.model import Model
from service.engine.workers import Workers, hand_over
from service.errors import DeadlinePassed, Draining, EarmarkError
from service.metrics import Metrics
from service.tasks.windows import Piece
from service.values import Arrays, Samples, Turn

T = TypeVar("T")

PIECES_UNDER_WAY = 4
"""Of one listener: enough to fill a batch, few enough that a two-hour file takes no more memory than a short one."""
BLOCKS_A_STEP = 4
"""Blocks decoded in one go when no piece comes of them; bounds how long a worker is held."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """What every task works with."""

    models: ModelManager
    workers: Workers
    metrics: Metrics
    clock: Clock


@dataclass(frozen=True, slots=True)
class Job:
    """A piece on its way through a model, and who takes the answer; taking it may make further jobs."""

    model: Model
    piece: Piece
    take: Callable[[Piece, Arrays], Sequence[Job]]


class Listener(Protocol):
    """Somebody who wants the recording's blocks, and may want models to run on pieces of it.

    All methods are plain code that runs in a worker, never two at once for one recording.
    """

    def push(self, block: Samples) -> list[Job]:
        """Take the next block, (channels, frames) at the recording's own rate."""
        ...

    def finish(self) -> list[Job]:
        """The recording ended; the last jobs."""
        ...


@dataclass(frozen=True, slots=True)
class Company:
    """A recording and those who listen to it."""

    recording: Recording
    listeners: Sequence[Listener]


class Walk(Generic[T]):
    """One recording on its way past its listeners. Make it on the event loop; use it once.

    Args:
        turn: on whose behalf, and until when.
        gather: opens the recording and calls its listeners together; in a worker.
        conclude: makes the result when everything was taken; in a worker.
        pausing: stop whenever a piece was taken, until the consumer of `parts` asks for more.
    """

    def __init__(
        self,
        bench: Workbench,
        turn: Turn,
        gather: Callable[[], Company],
        conclude: Callable[[], T],
        *,
        pausing: bool = False,
    ) -> None:
        self._bench, self._turn = bench, turn
        self._gather, self._conclude = gather, conclude
        self._pausing, self._paused = pausing, False
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._result: asyncio.Future[T] = self._loop.create_future()
        self._woken = asyncio.Event()
        self._alone = threading.Lock()
        self._news = False
        self._company: Company | None = None
        self._blocks: Iterator[Samples] = iter(())
        self._under_way: deque[_Errand] = deque()
        self._is_admitted = False
        self._step_posted = self._step_due = False
        self._ended = self._over = False
        self._spent_s = 0.0

    async def run(self) -> T:
        """Walk to the end.

        Raises:
            DeadlinePassed: it took too long.
            EarmarkError: what opening, decoding, a listener or a model raised.
        """
        self._post_step()
        try:
            return await self._result
        finally:
            await self._leave()

    async def parts(self) -> AsyncGenerator[None]:
        """Walk to the end, yielding whenever something may have become ready; the walk rests meanwhile.

        Raises: as `run`.
        """
        self._post_step()
        try:
            while not self._result.done():
                await self._woken.wait()
                self._woken.clear()
                if self._paused:
                    yield
                    self._paused = False
                    self._bench.workers.post(self._move, self._fail_from_afar, self._turn)
            self._result.result()
        finally:
            await self._leave()

    @property
    def result(self) -> T:
        """What `conclude` made, after the last of `parts`."""
        return self._result.result()

    def _move(self) -> None:
        """Do what can be done now, in this thread, unless another is at it: then that one does it."""
        self._news = True
        while self._news and self._alone.acquire(blocking=False):
            try:
                self._news = False
                if self._over:
                    self._call_back()
                else:
                    self._context.run(self._advance)
            except Exception as error:
                self._finish(error)
            finally:
                self._alone.release()

    def _advance(self) -> None:
        if self._step_due:
            self._step_due = False
            # A step may be posted while another one, which ends the recording, is already due.
            if not self._ended:
                self._step()
        while not self._paused and self._under_way and (outputs := self._under_way[0].outputs) is not None:
            job = self._under_way.popleft().job
            self._send(job.take(job.piece, outputs))
            if self._pausing:
                self._paused = True
                hand_over(self._loop, self._woken.set)
        if self._paused:
            return
        if self._ended and not self._under_way:
            self._finish(None)
        elif not self._ended and len(self._under_way) <= self._most_under_way:
            self._post_step()

    @property
    def _most_under_way(self) -> int:
        return PIECES_UNDER_WAY * max(1, len(self._company.listeners) if self._company else 0)

    def _post_step(self) -> None:
        if not self._step_posted:
            self._step_posted = True
            self._bench.workers.post(self._step_now, self._fail_from_afar, self._turn)

    def _step_now(self) -> None:
        self._step_posted, self._step_due = False, True
        self._move()

    def _step(self) -> None:
        """Decode until a piece is ready, or the recording ends."""
        if self._bench.clock.now() > self._turn.deadline:
            raise DeadlinePassed("the recording could not be listened to before the deadline")
        began = time.thread_time()
        if self._company is None:
            self._company = self._gather()
            self._blocks = self._company.recording.blocks()
        jobs = self._decode(self._company.listeners)
        self._spent_s += time.thread_time() - began
        self._send(jobs)

    def _decode(self, listeners: Sequence[Listener]) -> list[Job]:
        for _ in range(BLOCKS_A_STEP):
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
                return [job for listener in listeners for job in listener.finish()]
            jobs = [job for listener in listeners for job in listener.push(block)]
            if jobs:
                return jobs
        return []

    def _send(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            errand = _Errand(self, job)
            # The first piece asks for all: whoever was let in is not sent away half-way.
            errand.claim = job.model.submit(job.piece.samples, self._turn, errand, is_admitted=self._is_admitted)
            self._is_admitted = True
            self._under_way.append(errand)

    def _finish(self, error: Exception | None) -> None:
        """In a worker, alone: nothing more is done."""
        result = None
        if error is None:
            try:
                result = self._conclude()
            except Exception as raised:
                error = raised
        self._over = True
        self._call_back()
        self._close()
        if error is not None:
            self._fail_from_afar(error)
        else:
            hand_over(self._loop, lambda: self._settle(result))

    def _settle(self, result: T | None) -> None:
        if not self._result.done():
            self._result.set_result(result)  # type: ignore[arg-type]
        self._woken.set()

    def _fail_from_afar(self, error: Exception) -> None:
        """From any thread, whatever locks it holds."""
        hand_over(self._loop, lambda: self._fail(error))

    def _fail(self, error: Exception) -> None:
        if not self._result.done():
            self._result.set_exception(error)
            self._result.exception()  # somebody may have gone before
        self._woken.set()

    async def _leave(self) -> None:
        """On the loop, however it ended: what is under way is called back at once, the recording is closed."""
        if self._over:
            return
        self._over = True
        self._move()
        try:
            await asyncio.shield(self._bench.workers.call(self._close_after_all, self._turn))
        except Draining:
            self._close_after_all()

    def _close_after_all(self) -> None:
        # A caller that was cancelled leaves its step running; closing a file under a decoder would crash the process.
        with self._alone:
            self._close()

    def _close(self) -> None:
        company, self._company = self._company, None
        self._blocks = iter(())
        if company is not None:
            company.recording.close()
            self._bench.metrics.decode_seconds.observe(self._spent_s)

    def _call_back(self) -> None:
        for errand in self._under_way:
            if errand.claim is not None:
                errand.claim.cancel()
        self._under_way.clear()


class _Errand:
    """One piece that is under way."""

    def __init__(self, walk: Walk[T], job: Job) -> None:
        self.job = job
        self.claim: Claim | None = None
        self.outputs: Arrays | None = None
        self._walk = walk

    def answered(self, outputs: Arrays) -> None:
        self.outputs = outputs
        self._walk._move()

    def failed(self, error: EarmarkError) -> None:
        self._walk._fail_from_afar(error)
