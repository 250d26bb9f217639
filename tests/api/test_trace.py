from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.hangup import HangUp
from service.api.logs import request_id as current_request_id
from service.api.trace import Trace, new_request_id, note, request_id_of
from service.metrics import Metrics
from tests.api.live import PATIENCE_S, connected, serving

RECORDS = "earmark.access"


async def echo(request: Request) -> Response:
    body = await request.body()
    note(request, model="m@1", audio_s=2.5)
    assert current_request_id.get() == request_id_of(request)
    return PlainTextResponse(f"{request_id_of(request)} {len(body)}")


def traced(app: ASGIApp) -> tuple[ASGIApp, Metrics]:
    metrics = Metrics()
    return Trace(app, metrics), metrics


async def ask(
    app: ASGIApp, path: str = "/echo/1", body: bytes = b"abc", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str]]:
    """Status and headers of one request to the application itself."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": raw,
        "query_string": b"",
        "root_path": "",
    }
    await app(scope, receive, send)
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):  # type: ignore[no-untyped-def]
    caplog.set_level(logging.INFO, RECORDS)
    return lambda: [record.fields for record in caplog.records if record.name == RECORDS]


def routes() -> ASGIApp:
    return Router([Route("/echo/{n}", echo, methods=["POST"]), Mount("/below", routes=[Route("/echo", echo)])])


@pytest.mark.parametrize("asked", ["a", "A-z_0.9", "x" * 128, new_request_id()])
async def test_well_formed_request_id_is_taken(asked: str) -> None:
    app, _ = traced(routes())
    assert (await ask(app, headers={"X-Request-Id": asked}))[1]["x-request-id"] == asked


@pytest.mark.parametrize("asked", ["", "x" * 129, "a b", "a\nb", "é", "<script>", "a/b", "a\n"])
async def test_malformed_request_id_is_replaced(asked: str) -> None:
    app, _ = traced(routes())
    given = (await ask(app, headers={"X-Request-Id": asked}))[1]["x-request-id"]
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}", given)


def test_made_ids_differ_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for millisecond in range(0, 2**47, 2**43 + 12345):
        monkeypatch.setattr("time.time_ns", lambda ms=millisecond: ms * 1_000_000)
        ids += sorted({new_request_id() for _ in range(3)})
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert {len(made) for made in ids} == {26}


async def test_one_line_with_what_is_known(lines: Any) -> None:
    app, _ = traced(routes())
    await ask(app, headers={"X-Request-Id": "id-1"})
    (line,) = lines()
    assert line.pop("duration_ms") >= 0
    assert line == {
        "request_id": "id-1",
        "method": "POST",
        "route": "/echo/{n}",
        "status": 200,
        "body_bytes": 3,
        "model": "m@1",
        "audio_s": 2.5,
    }


async def test_the_id_is_nobodys_after_the_request() -> None:
    app, _ = traced(routes())
    await ask(app)
    assert current_request_id.get() == ""


@pytest.mark.parametrize("path", ["/nowhere", "/echo/1/secret"])
async def test_unknown_address_shares_one_label(lines: Any, path: str) -> None:
    app, metrics = traced(routes())
    assert (await ask(app, path))[0] == 404
    (line,) = lines()
    assert (line["route"], line["status"]) == ("(none)", 404)
    assert metrics.registry.get_sample_value("earmark_requests_total", {"route": "(none)", "status": "404"}) == 1


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("header", "logged"),
    [
        (TRACEPARENT, True),
        (TRACEPARENT.replace("00-", "cc-", 1) + "-what-the-future-will-be", True),
        (TRACEPARENT.upper(), False),
        (TRACEPARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), False),
        (TRACEPARENT.replace("b7ad6b7169203331", "0" * 16), False),
        ("ff" + TRACEPARENT[2:], False),
        ("rubbish", False),
        (TRACEPARENT + "\n", False),
    ],
)
async def test_traceparent_goes_to_the_log_if_well_formed(lines: Any, header: str, logged: bool) -> None:
    app, _ = traced(routes())
    await ask(app, headers={"traceparent": header})
    assert lines()[0].get("traceparent") == (header if logged else None)


async def test_metrics_of_a_request() -> None:
    seen = []

    async def watch(request: Request) -> Response:
        seen.append(metrics.registry.get_sample_value("earmark_requests_in_flight"))
        note(request, problem="too-large")
        return await echo(request)

    app, metrics = traced(Router([Route("/echo/{n}", watch, methods=["POST"])]))
    await ask(app, body=b"x" * 1000)
    value = metrics.registry.get_sample_value
    assert seen == [1]
    assert value("earmark_requests_in_flight") == 0
    assert value("earmark_requests_total", {"route": "/echo/{n}", "status": "200"}) == 1
    assert value("earmark_request_seconds_count", {"route": "/echo/{n}"}) == 1
    assert value("earmark_body_bytes_total") == 1000
    assert value("earmark_refusals_total", {"code": "too-large"}) == 1


async def test_failure_that_nothing_answered_counts_as_500(lines: Any) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    app, metrics = traced(fails)
    with pytest.raises(ZeroDivisionError):
        await ask(app)
    assert lines()[0]["status"] == 500
    assert metrics.registry.get_sample_value("earmark_requests_in_flight") == 0


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_client_that_goes_is_a_499(lines: Any, http: str) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Trace(HangUp(waits), metrics)(scope, receive, send)
        left.set()

    metrics = Metrics()
    async with serving(app, http) as port:
        async with connected(port) as line:
            await line.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.wait_for(begun.wait(), PATIENCE_S)
        await asyncio.wait_for(left.wait(), PATIENCE_S)
    assert lines()[0]["status"] == 499


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_client_that_goes_with_its_answer_is_no_499(lines: Any, http: str) -> None:
    closed = asyncio.Event()
    app, _ = traced(HangUp(PlainTextResponse("done", background=BackgroundTask(closed.wait))))
    async with serving(app, http) as port, connected(port) as line:
        await line.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, _ = await line.answer()
        await line.hang_up()
        await asyncio.sleep(0.01)
        closed.set()
    assert (status, lines()[0]["status"]) == (200, 200)
    assert headers["x-request-id"] == lines()[0]["request_id"]


async def socket(scope_headers: list[tuple[bytes, bytes]], told: list[Message], app: ASGIApp) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return told.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/live", "headers": scope_headers}, receive, send)
    return sent


async def test_socket_gets_its_id_and_line(lines: Any) -> None:
    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        note(HTTPConnection(scope), model="live@1")
        await send({"type": "websocket.close", "code": 1000})

    app, metrics = traced(live)
    sent = await socket([(b"x-request-id", b"id-7")], [{"type": "websocket.connect"}], app)
    assert (b"x-request-id", b"id-7") in sent[0]["headers"]
    (line,) = lines()
    assert (line["request_id"], line["status"], line["close_code"], line["model"]) == ("id-7", 101, 1000, "live@1")
    assert metrics.registry.get_sample_value("earmark_request_seconds_count", {"route": "(none)"}) is None


async def test_socket_that_the_client_leaves_says_how(lines: Any) -> None:
    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept", "headers": []})
        assert (await receive())["code"] == 1001

    app, _ = traced(live)
    await socket([], [{"type": "websocket.disconnect", "code": 1001}], app)
    assert lines()[0]["close_code"] == 1001


async def test_everything_else_passes_through() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    outer, _ = traced(app)
    await outer({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]


def test_note_without_trace_in_front_does_no_harm() -> None:
    connection = HTTPConnection({"type": "http", "headers": []})
    note(connection, model="m@1")
    assert request_id_of(connection) == ""
    assert json.dumps(connection.scope["state"]) == '{"notes": {"model": "m@1"}}'
