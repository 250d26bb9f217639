"""Opens a received body as a recording, and closes it whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from service.audio.decode import Recording, open_recording
from service.audio.raw import RawFormat
from service.tasks.listen import Workbench
from service.values import AudioLimits, Turn


@asynccontextmanager
async def opened(
    bench: Workbench,
    body: bytes | bytearray | memoryview,
    limits: AudioLimits,
    turn: Turn,
    raw: RawFormat | None = None,
) -> AsyncIterator[Recording]:
    """The recording in *body*, opened in a worker.

    Raises:
        UnsupportedAudio, TooLarge, BadAudio: as `open_recording` does.
    """
    opening = asyncio.ensure_future(bench.workers.call(partial(open_recording, body, limits, raw), turn))
    try:
        recording = await asyncio.shield(opening)
    except asyncio.CancelledError:
        # the worker may be opening it (and starting a child process) at this very moment
        opening.add_done_callback(_close_unwanted)
        raise
    try:
        yield recording
    finally:
        recording.close()


def _close_unwanted(opening: asyncio.Future[Recording]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
