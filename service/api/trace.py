"""Request ids, the one log line of a request, and the metrics of the door, as plain ASGI.

Owns who a request is. Knows nothing of what it asks for: handlers add their fields through `note`.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import MutableMapping
from contextlib import nullcontext

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.logs import request_id as current_request_id
from service.metrics import Metrics

CLIENT_GONE = 499
SWITCHED = 101
NO_ROUTE = "(none)"
_WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

logger = logging.getLogger("earmark.access")


def new_request_id() -> str:
    """26 letters and digits that sort by time: 48 bits of milliseconds, then 80 random ones (a ULID)."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def request_id_of(connection: HTTPConnection) -> str:
    """The id given to this request; empty where `Trace` is not in front."""
    found: str = connection.scope.get("state", {}).get("request_id", "")
    return found


def note(connection: HTTPConnection, **fields: object) -> None:
    """Add fields to the log line of this request, such as `model` or `audio_s`. Never names of files, bytes or keys."""
    _notes(connection.scope).update(fields)


def _notes(scope: Scope) -> MutableMapping[str, object]:
    notes: MutableMapping[str, object] = scope.setdefault("state", {}).setdefault("notes", {})
    return notes


class Trace:
    """Outermost of the middleware: gives every request its id, counts it, and writes its line."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        token = current_request_id.set(exchange.request_id)
        # A socket stays for as long as somebody speaks: it would drown the figures that are meant for requests.
        in_flight = self._metrics.in_flight.track_inprogress() if exchange.is_http else nullcontext()
        try:
            with in_flight:
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._count(exchange)
            logger.info(exchange.sentence(), extra={"fields": exchange.fields()})
            current_request_id.reset(token)

    def _count(self, exchange: _Exchange) -> None:
        self._metrics.requests.labels(exchange.route, str(exchange.outcome)).inc()
        self._metrics.body_bytes.inc(exchange.body_bytes)
        if exchange.is_http:
            self._metrics.request_seconds.labels(exchange.route).observe(exchange.duration_s)
        if "problem" in exchange.notes:
            self._metrics.refusals.labels(exchange.notes["problem"]).inc()


class _Exchange:
    """What is seen of one request on its way through: both directions are watched, nothing is held."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send, self._scope = receive, send, scope
        self._headers = Headers(scope=scope)
        self.is_http = scope["type"] == "http"
        self._started_s = time.monotonic()
        self._ended_s: float | None = None
        self._status = 0
        self._close_code: int | None = None
        self._gone = False
        self.body_bytes = 0
        self.notes = _notes(scope)
        asked = self._headers.get("x-request-id", "")
        self.request_id = asked if _WELL_FORMED_ID.fullmatch(asked) else new_request_id()
        scope["state"]["request_id"] = self.request_id

    async def receive(self) -> Message:
        message = await self._receive()
        match message["type"]:
            case "http.request":
                self.body_bytes += len(message.get("body", b""))
            case "http.disconnect":
                self._gone = self._ended_s is None
            case "websocket.disconnect" if self._close_code is None:
                self._close_code = message.get("code", 1006)
        return message

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self._status = message["status"]
                message = self._marked(message)
            case "websocket.accept":
                self._status = SWITCHED
                message = self._marked(message)
            case "websocket.close":
                self._close_code = message.get("code", 1000)
            case "http.response.body" if not message.get("more_body", False):
                self._ended_s = time.monotonic()
        await self._send(message)

    def _marked(self, message: Message) -> Message:
        return {**message, "headers": [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]}

    @property
    def duration_s(self) -> float:
        return (self._ended_s or time.monotonic()) - self._started_s

    @property
    def route(self) -> str:
        """The template, never the path that was asked for: labels come from a closed set."""
        return getattr(self._scope.get("route"), "path", None) or NO_ROUTE

    @property
    def outcome(self) -> int:
        return CLIENT_GONE if self._gone else self._status or 500

    def sentence(self) -> str:
        return f"{self._scope.get('method', 'SOCKET')} {self.route} {self.outcome}"

    def fields(self) -> dict[str, object]:
        fields: dict[str, object] = {
            "request_id": self.request_id,
            "method": self._scope.get("method", "SOCKET"),
            "route": self.route,
            "status": self.outcome,
            "body_bytes": self.body_bytes,
            "duration_ms": round(1000 * self.duration_s, 3),
            **self.notes,
        }
        if self._close_code is not None:
            fields["close_code"] = self._close_code
        traceparent = self._headers.get("traceparent", "")
        if _TRACEPARENT.fullmatch(traceparent):
            fields["traceparent"] = traceparent
        return fields
