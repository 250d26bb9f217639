from __future__ import annotations

from starlette.types import Receive, Scope, Send

from service.api.faults import Faults


async def test_everything_but_requests_passes_through() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    await Faults(app, None)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]
