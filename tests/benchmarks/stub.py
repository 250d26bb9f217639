"""A small HTTP server on a free port, in a thread of its own, that may stall, refuse or hang up when told."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.client.drive import Target

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Stub:
    """*answer* gives the bytes for the nth request, or None to close the connection instead."""

    answer: Callable[[int], bytes | None]
    asked: int = 0
    port: int = 0
    stall_s: list[float] = field(default_factory=list)
    """Seconds to block for at the next request: one is taken each time."""
    connections: list[asyncio.BaseTransport] = field(default_factory=list)

    @property
    def target(self) -> Target:
        return Target(self.port)

    def ask(self) -> bytes | None:
        self.asked += 1
        if self.stall_s:
            # The whole server stands still, as one does that computes on its loop.
            time.sleep(self.stall_s.pop())
        return self.answer(self.asked)


class _Connection(asyncio.Protocol):
    def __init__(self, server: Stub) -> None:
        self._server = server
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.append(transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, end, body = self._held.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if not end or len(body) < int(length[1] if length else 0):
            return
        self._held = b""
        answer = self._server.ask()
        if answer is None:
            self._transport.close()
        else:
            self._transport.write(answer)


@contextmanager
def stub(answer: Callable[[int], bytes | None] = lambda _: OK) -> Iterator[Stub]:
    server = Stub(answer)
    loop = asyncio.new_event_loop()
    listening = threading.Event()
    stop = asyncio.Event()

    async def run() -> None:
        listener = await loop.create_server(lambda: _Connection(server), "127.0.0.1", 0)
        server.port = listener.sockets[0].getsockname()[1]
        listening.set()
        await stop.wait()
        listener.close()
        for connection in server.connections:
            connection.close()
        await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert listening.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
