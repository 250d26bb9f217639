"""Answers that are given before the body was read, as plain ASGI: the client must get to see them.

A connection with a half-read body cannot be used again, and closing it at once makes the kernel throw away the answer
that is still on its way (RFC 9112, 9.6). So the rest of the body is read and dropped for a short while.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.hangup import has_body

LINGER_S = 10.0
STALL_S = 1.0


class Linger:
    """Says `Connection: close` with such an answer, and drops what still comes before it closes.

    Args:
        linger_s: longest time to go on reading.
        stall_s: longest wait for the next piece.
    """

    def __init__(self, app: ASGIApp, linger_s: float = LINGER_S, stall_s: float = STALL_S) -> None:
        self._app = app
        self._linger_s = linger_s
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_body(scope):
            await self._app(scope, receive, send)
            return
        body = _Body(receive, waits_for_continue="expect" in Headers(scope=scope))

        async def lingering(message: Message) -> None:
            if message["type"] == "http.response.start" and body.unread:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            elif body.unread and not body.waits_for_continue and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await self._drop(body)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self._app(scope, body.receive, lingering)

    async def _drop(self, body: _Body) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger_s):
                while body.unread:
                    async with asyncio.timeout(self._stall_s):
                        await body.receive()


class _Body:
    """How far the body of one request was read."""

    def __init__(self, receive: Receive, waits_for_continue: bool) -> None:
        self._receive = receive
        self.unread = True
        self.waits_for_continue = waits_for_continue
        """Such a client has sent nothing yet and, once it has another answer, never will."""

    async def receive(self) -> Message:
        self.waits_for_continue = False
        message = await self._receive()
        self.unread = self.unread and message["type"] == "http.request" and message.get("more_body", False)
        return message
