from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.hangup import HangUp, has_body
from tests.api.live import PATIENCE_S, Line, connected, serving

Handler = Callable[[Request], Awaitable[Response]]


class Work:
    """A handler's work that never ends by itself, and what became of it."""

    def __init__(self) -> None:
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def seen_begun(self) -> None:
        await asyncio.wait_for(self.begun.wait(), PATIENCE_S)

    async def seen_cancelled(self) -> None:
        await asyncio.wait_for(self.cancelled.wait(), PATIENCE_S)


def asgi(handler: Handler) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)

    return HangUp(app)


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
EMPTY_POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"

both_servers = pytest.mark.parametrize("http", ["httptools", "h11"])


@both_servers
@pytest.mark.parametrize("request_bytes", [POST, CHUNKED, GET, EMPTY_POST], ids=["post", "chunked", "get", "empty"])
async def test_client_that_goes_cancels_the_handler_that_read_the_body(http: str, request_bytes: bytes) -> None:
    work = Work()

    async def handler(request: Request) -> Response:
        await request.body()
        await work()
        raise AssertionError("not reached")

    async with serving(asgi(handler), http) as port:
        async with connected(port) as line:
            await line.send(request_bytes)
            await work.seen_begun()
        await work.seen_cancelled()


@both_servers
async def test_client_that_goes_cancels_a_handler_that_never_asks_for_the_empty_body(http: str) -> None:
    work = Work()

    async def handler(request: Request) -> Response:
        await work()
        raise AssertionError("not reached")

    async with serving(asgi(handler), http) as port:
        async with connected(port) as line:
            await line.send(GET)
            await work.seen_begun()
        await work.seen_cancelled()


@both_servers
async def test_handler_that_never_reads_its_body_is_answered(http: str) -> None:
    async def handler(request: Request) -> Response:
        return PlainTextResponse("unread")

    async with serving(asgi(handler), http) as port, connected(port) as line:
        for _ in range(3):
            await line.send(POST)
            assert (await line.answer())[2] == b"unread"


@both_servers
async def test_requests_that_are_answered_are_never_cancelled(http: str) -> None:
    cancelled = 0

    async def handler(request: Request) -> Response:
        nonlocal cancelled
        try:
            body = await request.body()
            await asyncio.sleep(0)
            return Response(body)
        except asyncio.CancelledError:
            cancelled += 1
            raise

    async with serving(asgi(handler), http) as port:
        for _ in range(5):
            async with connected(port) as line:
                for request_bytes in (POST, CHUNKED, GET, EMPTY_POST) * 3:
                    await line.send(request_bytes)
                    assert (await line.answer())[0] == 200
    assert cancelled == 0


@both_servers
async def test_pipelined_requests_are_answered_in_order(http: str) -> None:
    seen = 0

    async def handler(request: Request) -> Response:
        nonlocal seen
        seen += 1
        number = seen
        await request.body()
        await asyncio.sleep(0.01)
        return PlainTextResponse(str(number))

    async with serving(asgi(handler), http) as port, connected(port) as line:
        await line.send(POST + GET + CHUNKED + GET)
        assert [(await line.answer())[2] for _ in range(4)] == [b"1", b"2", b"3", b"4"]


@both_servers
async def test_stream_is_cancelled_when_its_reader_goes(http: str) -> None:
    work = Work()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        await work()

    async def handler(request: Request) -> Response:
        await request.body()
        return StreamingResponse(pieces())

    async with serving(asgi(handler), http) as port:
        async with connected(port) as line:
            await line.send(POST)
            await line.reader.readuntil(b"first")
            await work.seen_begun()
        await work.seen_cancelled()


@both_servers
async def test_stream_ends_whole_and_the_connection_lives_on(http: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000
            await asyncio.sleep(0)

    async def handler(request: Request) -> Response:
        await request.body()
        return StreamingResponse(pieces())

    async with serving(asgi(handler), http) as port, connected(port) as line:
        for _ in range(3):
            await line.send(POST)
            assert len((await line.answer())[2]) == 20_000


@both_servers
async def test_work_after_the_answer_is_left_alone(http: str) -> None:
    go_on, ended = asyncio.Event(), asyncio.Event()

    async def afterwards() -> None:
        await go_on.wait()
        ended.set()

    async def handler(request: Request) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(afterwards))

    async with serving(asgi(handler), http) as port:
        async with connected(port) as line:
            await line.send(GET)
            await line.answer()
        go_on.set()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)


@both_servers
async def test_client_that_goes_in_the_middle_of_its_body_is_told_by_reading(http: str) -> None:
    told = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    async with serving(HangUp(app), http) as port:
        async with connected(port) as line:
            await line.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        await asyncio.wait_for(told.wait(), PATIENCE_S)


@both_servers
async def test_many_clients_that_go_leave_nothing_behind(http: str) -> None:
    works = [Work() for _ in range(20)]

    async def handler(request: Request) -> Response:
        await works[int(request.url.path[1:])]()
        raise AssertionError("not reached")

    async with serving(asgi(handler), http) as port:
        lines = [Line(*await asyncio.open_connection("127.0.0.1", port)) for _ in works]
        for number, (line, work) in enumerate(zip(lines, works, strict=True)):
            await line.send(GET.replace(b"/", b"/%d" % number, 1))
            await work.seen_begun()
        for line in lines:
            await line.hang_up()
        for work in works:
            await work.seen_cancelled()
        await asyncio.sleep(0)
        assert [task for task in asyncio.all_tasks() if "_listen" in repr(task.get_coro())] == []


async def test_everything_but_requests_passes_through() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    await HangUp(app)({"type": "lifespan"}, _gone, _never)
    assert seen == [{"type": "lifespan"}]


async def test_both_who_listen_hear_of_a_client_that_goes() -> None:
    heard = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        try:
            heard.append(await receive())
        except asyncio.CancelledError:
            heard.append(await receive())
            raise

    await HangUp(app)(_SCOPE, _gone, _never)
    assert heard[-1] == {"type": "http.disconnect"}


async def _never(_message: Message) -> None:
    raise AssertionError("nothing is to be sent")


_SCOPE: Scope = {"type": "http", "method": "GET", "http_version": "1.1", "headers": []}


async def test_cancellation_by_the_server_goes_on_its_way() -> None:
    work = Work()

    async def silent() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("not reached")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await work()

    task = asyncio.create_task(HangUp(app)(_SCOPE, silent, _never))
    await work.seen_begun()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.cancelled.is_set()


async def _gone() -> Message:
    return {"type": "http.disconnect"}


async def test_cancellation_by_the_server_prevails_when_the_client_goes_as_well() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            running.cancel()
            await asyncio.Event().wait()

    running = asyncio.create_task(HangUp(app)(_SCOPE, _gone, _never))
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("swallow", [True, False])
async def test_cancellation_by_the_client_ends_here(swallow: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallow:
                raise

    task = asyncio.current_task()
    assert task is not None
    await HangUp(app)(_SCOPE, _gone, _never)
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_failure_during_cancellation_is_not_hidden() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while leaving")

    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(ValueError, match="while leaving"):
        await HangUp(app)(_SCOPE, _gone, _never)
    assert task.cancelling() == 0


@pytest.mark.parametrize(
    ("headers", "version", "expected"),
    [
        ([], "1.1", False),
        ([(b"content-length", b"0")], "1.1", False),
        ([(b"content-length", b"1")], "1.1", True),
        ([(b"transfer-encoding", b"chunked")], "1.1", True),
        ([], "2", True),
    ],
)
def test_has_body(headers: list[tuple[bytes, bytes]], version: str, expected: bool) -> None:
    assert has_body({"type": "http", "http_version": version, "headers": headers}) is expected
