"""Walks once through a recording: decodes block by block, hands pieces to models, gives the answers back in order.

Memory is the same for a minute and for two hours: at most a few pieces of one recording are under way at a time.
The event loop only waits here; decoding, cutting and joining run in the workers.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from service.audio.decode import Recording
from service.clock import Clock
from service.engine.manager import ModelManager
from service.engine.model import Model
from service.engine.workers import Workers
from service.errors import DeadlinePassed, Overloaded, ShareUsedUp
from service.metrics import Metrics
from service.tasks.windows import Piece
from service.values import Arrays, Samples, Turn

PIECES_UNDER_WAY = 4
"""Of one listener: enough to fill a batch, few enough that a two-hour file takes no more memory than a short one."""
PATIENCE_S = 0.25
"""Between two tries to queue the next piece of a recording that is being answered already."""
BLOCKS_A_STEP = 16
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


async def listen(
    recording: Recording, listeners: Sequence[Listener], bench: Workbench, turn: Turn
) -> AsyncGenerator[None]:
    """Play *recording* to all *listeners*; yields each time that something may have become ready.

    Args:
        turn: on whose behalf, and by when.

    Raises:
        DeadlinePassed: it took too long.
        EarmarkError: what decoding, a listener or a model raised.
    """
    under_way: deque[tuple[Job, asyncio.Task[Arrays]]] = deque()
    most = PIECES_UNDER_WAY * max(1, len(listeners))
    walk = _Walk(recording, listeners)
    is_first = True

    async def run(job: Job, *, may_be_refused: bool) -> Arrays:
        while True:
            try:
                return await job.model.run(job.piece.samples, turn)
            except (Overloaded, ShareUsedUp) as refusal:
                # the first piece asks for all: whoever was let in is not sent away half-way
                if may_be_refused or bench.clock.now() + PATIENCE_S > turn.deadline:
                    raise
                await asyncio.sleep(min(refusal.retry_after_s, PATIENCE_S))

    def send(jobs: Sequence[Job]) -> None:
        nonlocal is_first
        for job in jobs:
            under_way.append((job, asyncio.create_task(run(job, may_be_refused=is_first))))
            is_first = False

    async def settle(room: int) -> AsyncGenerator[None]:
        while len(under_way) > room:
            job, task = under_way[0]
            outputs = await task
            under_way.popleft()
            send(await bench.workers.call(partial(job.take, job.piece, outputs), turn))
            yield

    try:
        while not walk.ended:
            if bench.clock.now() > turn.deadline:
                raise DeadlinePassed("the recording could not be listened to before the deadline")
            send(await bench.workers.call(walk.step, turn))
            async for _ in settle(most):
                yield
        async for _ in settle(0):
            yield
    finally:
        for _, task in under_way:
            task.cancel()
        await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)
        await asyncio.shield(bench.workers.call(walk.close, turn))
        bench.metrics.decode_seconds.observe(walk.spent_s)


class _Walk:
    """One pass over the recording. Steps and the close may come from different workers, but never overlap:
    a caller that was cancelled leaves its step running, and closing a file under a decoder would crash the process."""

    def __init__(self, recording: Recording, listeners: Sequence[Listener]) -> None:
        self._recording = recording
        self._listeners = listeners
        self._blocks = recording.blocks()
        self._alone = threading.Lock()
        self.ended = False
        self.spent_s = 0.0

    def step(self) -> list[Job]:
        """Decode until a piece is ready, or the recording ends."""
        with self._alone:
            began = time.thread_time()
            jobs = self._advance()
            self.spent_s += time.thread_time() - began
            return jobs

    def close(self) -> None:
        with self._alone:
            self._recording.close()

    def _advance(self) -> list[Job]:
        for _ in range(BLOCKS_A_STEP):
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
                return [job for listener in self._listeners for job in listener.finish()]
            jobs = [job for listener in self._listeners for job in listener.push(block)]
            if jobs:
                return jobs
        return []
