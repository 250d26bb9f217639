"""Opens a recording in a worker, and closes it whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from service.audio.decode import Recording
from service.tasks.listen import Workbench
from service.values import Turn


@asynccontextmanager
async def opened(bench: Workbench, opening: Callable[[], Recording], turn: Turn) -> AsyncIterator[Recording]:
    """The recording that *opening* opens, in a worker.

    Raises:
        UnsupportedAudio, TooLarge, BadAudio: as `open_recording` does.
    """
    pending = asyncio.ensure_future(bench.workers.call(opening, turn))
    try:
        recording = await asyncio.shield(pending)
    except asyncio.CancelledError:
        # the worker may be opening it (and starting a child process) at this very moment
        pending.add_done_callback(_close_unwanted)
        raise
    try:
        yield recording
    finally:
        recording.close()


def _close_unwanted(opening: asyncio.Future[Recording]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
