"""Stops the work for a client that is gone, as plain ASGI.

A server does not cancel a handler when its client hangs up: it says so to whoever calls `receive`, and a handler that
waits for its answer does not. So a watcher listens instead, and cancels the request's own task.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def has_body(scope: Scope) -> bool:
    """Whether the request announces a body. Above HTTP/1 one may come unannounced."""
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers or not scope.get("http_version", "1.1").startswith("1"):
        return True
    return headers.get("content-length", "0") != "0"


class HangUp:
    """Cancels the application's task when the client goes before it has its whole answer.

    A client is watched from the moment its body is read to the end; before that, reading itself tells.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        if scope["type"] != "http" or task is None:
            await self._app(scope, receive, send)
            return
        others = task.cancelling()
        line = _Line(receive, send, task)
        if not has_body(scope):
            line.watch_from_start()
        try:
            await self._app(scope, line.receive, line.send)
        except asyncio.CancelledError:
            # A cancellation by somebody else, such as the server that shuts down, must go on its way.
            if not line.hung_up or task.cancelling() > others + 1:
                raise
        finally:
            line.close()
            if line.hung_up:
                task.uncancel()


class _Line:
    """Both directions of one request; its only listener once the body is over."""

    def __init__(self, receive: Receive, send: Send, task: asyncio.Task[object]) -> None:
        self._receive, self._send, self._task = receive, send, task
        self._watcher: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._answered = False
        self._empty_body: Message | None = None
        self.hung_up = False

    def watch_from_start(self) -> None:
        """For a request without a body: what says so is kept for the application."""
        self._empty_body = {"type": "http.request", "body": b"", "more_body": False}
        self._watch()

    async def receive(self) -> Message:
        if self._empty_body is not None:
            message, self._empty_body = self._empty_body, None
            return message
        if self._watcher is not None:
            await self._over.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._watch()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    def _watch(self) -> None:
        self._watcher = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._over.set()
        if not self._answered:
            self.hung_up = True
            self._task.cancel()

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
