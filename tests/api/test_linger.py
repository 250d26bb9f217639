from __future__ import annotations

import asyncio
import functools

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.linger import Linger
from tests.api.live import connected, serving

SIZE = 20 << 20
both_servers = pytest.mark.parametrize("http", ["httptools", "h11"])


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("too large", 413)(scope, receive, send)


async def read(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


def lingering(app: ASGIApp, linger_s: float = 10.0, stall_s: float = 1.0) -> ASGIApp:
    return Linger(app, linger_s, stall_s)


@both_servers
async def test_client_that_sends_all_before_it_reads_gets_the_refusal(http: str) -> None:
    async with serving(lingering(refuse), http) as port, connected(port) as line:
        await line.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE >> 20):
            await line.send(bytes(1 << 20))
        status, headers, body = await line.answer()
        assert (status, headers["connection"], body) == (413, "close", b"too large")
        assert await line.is_closed()


@both_servers
async def test_streamed_refusal_is_whole_as_well(http: str) -> None:
    async def pieces_of_refusal(scope: Scope, receive: Receive, send: Send) -> None:
        async def pieces():  # type: ignore[no-untyped-def]
            yield b"too "
            yield b"large"

        # The response's own listener would read the body, so it is given one that hears nothing.
        await StreamingResponse(pieces(), 413)(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]

    async with serving(lingering(pieces_of_refusal), http) as port, connected(port) as line:
        await line.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        await asyncio.sleep(0.01)
        await line.send(b"def")
        status, headers, body = await line.answer()
        assert (status, headers["connection"], body) == (413, "close", b"too large")
        assert await line.is_closed()


@both_servers
async def test_client_that_waits_for_continue_is_refused_at_once(http: str) -> None:
    async with serving(lingering(refuse, linger_s=3600, stall_s=3600), http) as port, connected(port) as line:
        await line.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert (await line.answer())[0] == 413, "and no 100 before it"
        assert await line.is_closed()


@both_servers
async def test_client_that_waits_for_continue_and_is_wanted_may_go_on(http: str) -> None:
    async with serving(lingering(read), http) as port, connected(port) as line:
        await line.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await line.answer())[0] == 100
        await line.send(b"abc")
        assert (await line.answer())[2] == b"3"


@both_servers
async def test_client_that_stalls_is_left_after_a_while(http: str) -> None:
    async with serving(lingering(refuse, stall_s=0.01), http) as port, connected(port) as line:
        await line.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        assert (await line.answer())[0] == 413
        assert await line.is_closed()


@both_servers
async def test_client_that_never_stops_is_left_after_a_while(http: str) -> None:
    async with serving(lingering(refuse, linger_s=0.05), http) as port, connected(port) as line:
        await line.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await line.answer())[0] == 413

        async def never_stop() -> None:
            while True:
                await line.send(b"1\r\nx\r\n")
                await asyncio.sleep(0)

        with pytest.raises(ConnectionError):
            await never_stop()


@both_servers
async def test_connection_is_kept_when_the_body_was_read(http: str) -> None:
    async with serving(lingering(read), http) as port, connected(port) as line:
        for _ in range(3):
            await line.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            status, headers, body = await line.answer()
            assert (status, headers.get("connection"), body) == (200, None, b"3")


@both_servers
async def test_connection_is_kept_when_there_is_no_body(http: str) -> None:
    async with serving(lingering(refuse), http) as port, connected(port) as line:
        for _ in range(3):
            await line.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert "connection" not in (await line.answer())[1]


async def test_everything_but_requests_passes_through() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    nothing = functools.partial(asyncio.sleep, 0)
    await Linger(app)({"type": "lifespan"}, nothing, nothing)  # type: ignore[arg-type]
    assert seen == ["lifespan"]
