"""Sends requests over kept connections and notes when each was due, sent and answered.

Two ways: `open_loop` keeps to a schedule whatever is outstanding, so a server that stalls shows in every latency;
`closed_loop` keeps so many requests outstanding, which finds a server's capacity but hides its stalls.
"""

from __future__ import annotations

import asyncio
import gc
import math
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from benchmarks.client.schedule import Schedule
from benchmarks.client.wire import Answer, AnswerParser, BadAnswer

SEND_BYTES = 4 << 20
"""A body goes to the kernel in one call: the client's processor time is the server's too."""
CONNECT_S = 10.0


@dataclass(slots=True)
class Outcome:
    """One request. Times are seconds after the start of the run; infinite where a thing never happened.

    Attributes:
        which: index of the request that was sent.
        due_s, sent_s, done_s: when it should go, when it went, when its answer was whole.
        status: of the answer; 0 where none came.
        failure: why none came: "left" (the client hung up), "late" (timeout), or what broke.
        body: of the answer, where answers are kept.
        headers: of an answer that is no success.
    """

    which: int
    due_s: float
    sent_s: float = math.inf
    done_s: float = math.inf
    status: int = 0
    failure: str = ""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def latency_s(self) -> float:
        """From the time at which it was due, not sent: what a client that came then has waited."""
        return self.done_s - self.due_s

    @property
    def lateness_s(self) -> float:
        """What the client itself was late by."""
        return self.sent_s - self.due_s


@dataclass(frozen=True, slots=True)
class Run:
    """What a load did.

    Attributes:
        duration_s: seconds that requests were sent over.
        wall_s: seconds until the last one ended.
        client_cpu_s: processor time of this process meanwhile.
        server_cpu_s: of the server's processes; None if they were not watched.
    """

    outcomes: list[Outcome]
    duration_s: float
    wall_s: float
    client_cpu_s: float
    server_cpu_s: float | None


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server listens, and how its processor time is read."""

    port: int
    host: str = "127.0.0.1"
    cpu_s: Callable[[], float] | None = None


def open_loop(
    target: Target,
    requests: Sequence[bytes],
    schedule: Schedule,
    *,
    timeout_s: float = 30.0,
    most_connections: int = 2000,
    keep_answers: bool = True,
) -> Run:
    """Send each request of *schedule* when it is due. Ends at most *timeout_s* after the last one.

    Args:
        requests: whole requests as bytes; the schedule says which.
        most_connections: a request that finds them all busy waits, and its latency says so.
    """

    async def drive(pool: _Pool) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        start = loop.time() + 0.05
        outcomes = [Outcome(int(which), float(at)) for which, at in zip(schedule.which, schedule.at_s, strict=True)]
        tasks = []
        for outcome, leaves_s in zip(outcomes, schedule.leaves_s.tolist(), strict=True):
            wait_s = start + outcome.due_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            limit_s = min(timeout_s, leaves_s)
            tasks.append(asyncio.create_task(_one(pool, requests[outcome.which], outcome, start, limit_s)))
            if limit_s == leaves_s:
                tasks[-1].add_done_callback(lambda _, outcome=outcome: _left(outcome))
        await asyncio.gather(*tasks)
        return outcomes

    return _timed(target, drive, schedule.duration_s, most_connections, keep_answers)


def closed_loop(
    target: Target,
    requests: Sequence[bytes],
    clients: int,
    duration_s: float,
    *,
    timeout_s: float = 30.0,
    most_requests: float = math.inf,
    keep_answers: bool = True,
) -> Run:
    """*clients* of them ask for *requests* in turn, each again as soon as it has its answer."""

    async def drive(pool: _Pool) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        turn = count()
        outcomes: list[Outcome] = []

        async def keep_asking() -> None:
            while (now := loop.time() - start) < duration_s and len(outcomes) < most_requests:
                outcome = Outcome(next(turn) % len(requests), now)
                outcomes.append(outcome)
                await _one(pool, requests[outcome.which], outcome, start, timeout_s)

        await asyncio.gather(*(keep_asking() for _ in range(clients)))
        return outcomes

    return _timed(target, drive, duration_s, clients, keep_answers)


async def _one(pool: _Pool, request: bytes, outcome: Outcome, start: float, limit_s: float) -> None:
    try:
        async with asyncio.timeout_at(start + outcome.due_s + limit_s):
            answer, sent, done = await pool.ask(request, partial(_note_sent, outcome, start))
    except TimeoutError:
        outcome.failure = "late"
        return
    except (OSError, BadAnswer) as error:
        outcome.failure = f"{type(error).__name__}: {error}"[:200]
        return
    outcome.sent_s, outcome.done_s, outcome.status = sent - start, done - start, answer.status
    if pool.keep_answers:
        outcome.body = answer.body
    if not 200 <= answer.status < 300:
        outcome.headers = answer.headers


def _note_sent(outcome: Outcome, start: float) -> None:
    outcome.sent_s = asyncio.get_running_loop().time() - start


def _left(outcome: Outcome) -> None:
    if outcome.failure == "late":
        outcome.failure = "left"


def _timed(
    target: Target,
    drive: Callable[[_Pool], Coroutine[None, None, list[Outcome]]],
    duration_s: float,
    most_connections: int,
    keep_answers: bool,
) -> Run:
    async def run() -> Run:
        pool = _Pool(target, most_connections, keep_answers)
        server_cpu_s = target.cpu_s() if target.cpu_s else 0.0
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            outcomes = await drive(pool)
        finally:
            await pool.close()
        used_s = target.cpu_s() - server_cpu_s if target.cpu_s else None
        return Run(outcomes, duration_s, time.perf_counter() - wall, time.process_time() - cpu, used_s)

    # A collection in the middle of a run would be taken for the server's delay.
    gc.collect()
    gc.disable()
    try:
        return asyncio.run(run())
    finally:
        gc.enable()


class _Pool:
    """Connections to one server: the one used last is used first, a new one is made when all are busy."""

    def __init__(self, target: Target, most: int, keep_answers: bool) -> None:
        self.keep_answers = keep_answers
        self._target = target
        self._room = asyncio.Semaphore(most)
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def ask(self, request: bytes, sent: Callable[[], None]) -> tuple[Answer, float, float]:
        """The answer, when the request was sent and when the answer was whole, on the loop's clock.

        A kept connection that the server closed before it said a word is no answer: the request goes out once more.
        """
        async with self._room:
            while True:
                connection, is_new = self._take(), False
                if connection is None:
                    connection, is_new = await self._connect(), True
                try:
                    answer, began, ended = await connection.ask(request, sent)
                except _ClosedUnused:
                    self._drop(connection)
                    if is_new:
                        raise ConnectionResetError("closed without an answer") from None
                    continue
                except BaseException:
                    self._drop(connection)
                    raise
                if answer.closes:
                    self._drop(connection)
                else:
                    self._idle.append(connection)
                return answer, began, ended

    async def close(self) -> None:
        for connection in list(self._all):
            self._drop(connection)
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            _, connection = await loop.create_connection(_Connection, self._target.host, self._target.port)
        self._all.add(connection)
        return connection

    def _drop(self, connection: _Connection) -> None:
        self._all.discard(connection)
        connection.abort()


class _ClosedUnused(Exception):
    """A kept connection turned out to be closed."""


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: AnswerParser | None = None
        self._answered: asyncio.Future[tuple[Answer, float]] | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, sent: Callable[[], None]) -> tuple[Answer, float, float]:
        loop = asyncio.get_running_loop()
        self._parser, self._answered = AnswerParser(), loop.create_future()
        if self._transport is None:
            raise _ClosedUnused
        began = loop.time()
        sent()
        self._transport.write(request)
        answer, ended = await self._answered
        return answer, began, ended

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._answered is None or self._answered.done():
            self.abort()
            return
        try:
            answer = self._parser.feed(data)
        except (BadAnswer, ValueError) as error:
            self._fail(error)
            self.abort()
            return
        if answer is not None:
            self._answered.set_result((answer, asyncio.get_running_loop().time()))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._parser is None or self._answered is None or self._answered.done():
            return
        if not self._parser.began:
            self._answered.set_exception(_ClosedUnused())
            return
        try:
            self._answered.set_result((self._parser.end(), asyncio.get_running_loop().time()))
        except BadAnswer as fault:
            self._fail(fault)

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error if isinstance(error, BadAnswer) else BadAnswer(str(error)))
