"""The last net: answers every exception that nothing else answered, so that no traceback leaves the process."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import EarmarkError, InternalFault


class Faults:
    """Innermost of the middleware: what is outside of it sees an ordinary answer with status 500.

    Args:
        answer: makes the response to one failed request.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[HTTPConnection, EarmarkError], Response]) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            response = self._answer(HTTPConnection(scope), named(error))
            if not started:
                await response(scope, receive, send)
            # Otherwise the answer stays incomplete on purpose: the server then breaks the connection,
            # and that is the only way left to tell the client that what it has is not the whole.


def named(error: Exception) -> EarmarkError:
    """The failure that *error* stands for: itself, the one it was raised from, or else a fault of ours."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, EarmarkError):
            return cause
        # The framework wraps what is raised once an answer has begun into a RuntimeError.
        cause = cause.__cause__ if isinstance(cause, RuntimeError) else None
    fault = InternalFault(f"{type(error).__name__} in the application")
    fault.__cause__ = error
    return fault
