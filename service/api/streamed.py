"""An answer that is sent while it is made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class StreamedAnswer(StreamingResponse):
    """Keeps *held* (the body, the recording, the lease) until the last byte is out, or the client is gone.

    A generator cannot do that alone: one that was never started is never closed.
    """

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        media_type: str,
        held: AsyncExitStack,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(parts, media_type=media_type, headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)
