"""From a request to the bytes of its recordings: bounded in length, in time, and over all requests together.

Every limit is held while reading. Knows HTTP bodies and forms; whether the bytes are audio is not asked here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import Gauge
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from service.api.framework import shortened
from service.api.multipart import FormReader, UploadedFile, sanitised_name
from service.errors import BrokenBody, EmptyAudio, Overloaded, SlowBody, TooLarge, UnsupportedAudio

FORM = "multipart/form-data"
RAW = frozenset(
    {
        "",
        "application/octet-stream",
        "binary/octet-stream",
        "application/ogg",
        "application/mp4",
        "application/x-www-form-urlencoded",
    }
)
"""Types that are taken as the recording itself, beside `audio/*` and `video/*`. The last: curl says so unless told."""

SUPPORTED = ["audio/*", "video/*", "application/octet-stream", FORM]
BUDGET_RETRY_S = 2.0
MAX_LENGTH_DIGITS = 20
SETTLE_S = 10.0
"""A connection may start slowly."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What one body may cost: bytes, parts of a form, seconds in all, seconds between two pieces; and how many bytes a
    second must have come, on average, once `SETTLE_S` have gone by."""

    max_body_bytes: int = 256 << 20
    max_parts: int = 64
    body_timeout_s: float = 300.0
    body_stall_s: float = 20.0
    body_rate: float = 4096.0


@dataclass(frozen=True, slots=True)
class Upload:
    """What a request brought. `is_form` tells a form of one file from a raw body."""

    files: list[UploadedFile]
    is_form: bool

    @property
    def is_batch(self) -> bool:
        return len(self.files) > 1


class BodyMemory:
    """The bytes that all bodies may hold together. For the event loop alone: it has no lock.

    Args:
        max_bytes: the budget.
        gauge: told how much of it is held.
    """

    def __init__(self, max_bytes: int, gauge: Gauge | None = None) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._gauge = gauge

    def hold(self, more_bytes: int, held_bytes: int = 0) -> None:
        """Take bytes out of the budget, for a body that holds some already.

        Raises:
            Overloaded: so much is not free now.
            TooLarge: so much never will be.
        """
        if held_bytes + more_bytes > self.max_bytes:
            raise TooLarge(
                "The body is larger than all bodies together may be.",
                limit="max_bodies_bytes",
                maximum=self.max_bytes,
                got=held_bytes + more_bytes,
            )
        if self.held_bytes + more_bytes > self.max_bytes:
            raise Overloaded("The memory for bodies is used up by other requests.", retry_after_s=BUDGET_RETRY_S)
        self._move(more_bytes)

    def release(self, held_bytes: int) -> None:
        self._move(-held_bytes)

    def _move(self, by_bytes: int) -> None:
        self.held_bytes += by_bytes
        if self._gauge is not None:
            self._gauge.set(self.held_bytes)


@asynccontextmanager
async def receive_upload(request: Request, limits: UploadLimits, memory: BodyMemory) -> AsyncIterator[Upload]:
    """Read the body of a request; its bytes count against `memory` until the context is left.

    Raises:
        UnsupportedAudio: the type or the encoding of the body is none that is taken.
        TooLarge: the body, or the number of its parts, is over the limit.
        Overloaded: the bodies of other requests hold the memory.
        SlowBody: it takes too long, or pauses for too long.
        BrokenBody, BadRequest: it is not as long as announced, or no well-formed form with parts named `file`.
        EmptyAudio: there is not a single byte.
        ClientDisconnect: the client has gone; there is nobody to answer.
    """
    media_type, boundary = _type_of(request)
    reader = FormReader(boundary, limits.max_parts) if media_type == FORM else _RawReader(request)
    body = _Body(request, limits, memory, announced_bytes(request, limits))
    try:
        await body.read_into(reader)
        files = reader.finish()
        if len(files) == 1 and not files[0].body:
            raise EmptyAudio("The body is empty: send the bytes of a recording.")
        yield Upload(files, is_form=media_type == FORM)
    finally:
        body.release()


class _RawReader:
    """Takes a body that is the recording itself; the counterpart of `FormReader`."""

    def __init__(self, request: Request) -> None:
        disposition = parse_options_header(request.headers.get("content-disposition"))[1]
        self._file = UploadedFile(
            sanitised_name(disposition.get(b"filename", b"")), request.headers.get("content-type", "")
        )

    def feed(self, piece: bytes) -> None:
        self._file.add(piece)

    def finish(self) -> list[UploadedFile]:
        return [self._file]


class _Body:
    """The body of one request while it comes in, and the memory it holds."""

    def __init__(self, request: Request, limits: UploadLimits, memory: BodyMemory, announced: int | None) -> None:
        self._receive = request.receive
        self._limits, self._memory, self._announced = limits, memory, announced
        self._received_bytes = self._held_bytes = 0

    def release(self) -> None:
        self._memory.release(self._held_bytes)
        self._held_bytes = 0

    async def read_into(self, reader: FormReader | _RawReader) -> None:
        self._hold(self._announced or 0)
        began = asyncio.get_running_loop().time()
        while True:
            message = await self._next(began)
            piece = message.get("body", b"")
            if piece:
                self._count(piece)
                reader.feed(piece)
            if not message.get("more_body", False):
                break
        if self._announced is not None and self._received_bytes < self._announced:
            raise BrokenBody(
                f"The body broke off: {self._announced} bytes were announced, {self._received_bytes} came."
            )

    async def _next(self, began: float) -> Message:
        now, limits = asyncio.get_running_loop().time(), self._limits
        dues = {
            "body_timeout_s": began + limits.body_timeout_s,
            "body_rate": began + SETTLE_S + self._received_bytes / limits.body_rate if limits.body_rate else math.inf,
            "body_stall_s": now + limits.body_stall_s,
        }
        limit = min(dues, key=lambda name: dues[name])
        try:
            if now > dues[limit]:
                raise TimeoutError
            async with asyncio.timeout_at(dues[limit]):
                message = await self._receive()
        except TimeoutError:
            raise self._too_slow(limit) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message

    def _too_slow(self, limit: str) -> SlowBody:
        allowed: float = getattr(self._limits, limit)
        words = {
            "body_timeout_s": f"did not arrive within {allowed:g} s",
            "body_stall_s": f"paused for {allowed:g} s",
            "body_rate": f"came at less than {allowed:g} bytes a second",
        }
        bound = {"minimum" if limit == "body_rate" else "maximum": allowed}
        return SlowBody(f"The body {words[limit]}.", limit=limit, got_bytes=self._received_bytes, **bound)

    def _count(self, piece: bytes) -> None:
        self._received_bytes += len(piece)
        if self._announced is not None and self._received_bytes > self._announced:
            raise BrokenBody(f"The body is longer than the {self._announced} bytes announced.")
        if self._received_bytes > self._limits.max_body_bytes:
            raise _too_large(self._limits, self._received_bytes)
        self._hold(self._received_bytes - self._held_bytes)

    def _hold(self, more_bytes: int) -> None:
        if more_bytes > 0:
            self._memory.hold(more_bytes, self._held_bytes)
            self._held_bytes += more_bytes


def _too_large(limits: UploadLimits, got_bytes: int) -> TooLarge:
    return TooLarge(
        f"A body may be at most {limits.max_body_bytes} bytes.",
        limit="max_body_bytes",
        maximum=limits.max_body_bytes,
        got=got_bytes,
    )


def _type_of(request: Request) -> tuple[str, bytes]:
    """The media type, in lower case, and the boundary if it is a form."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise UnsupportedAudio(
            f"The body is encoded as {shortened(encoding)}; send it as it is.", supported=["identity"]
        )
    content_type = request.headers.get("content-type", "")
    kind, options = parse_options_header(content_type)
    media_type = kind.decode("latin-1")
    if media_type == FORM:
        return media_type, options.get(b"boundary", b"")
    if media_type in RAW or media_type.startswith(("audio/", "video/")):
        return media_type, b""
    raise UnsupportedAudio(f"A body of the type {shortened(content_type)} is not taken here.", supported=SUPPORTED)


def announced_bytes(request: Request, limits: UploadLimits) -> int | None:
    """What Content-Length promises, refused before a byte is read if it is too much. Never believed beyond that."""
    announced = request.headers.get("content-length")
    if announced is None:
        return None
    if "transfer-encoding" in request.headers:
        # Servers differ in which of the two they believe, and that is how one request is smuggled within another.
        raise BrokenBody("A body may have Content-Length or Transfer-Encoding, not both.")
    if not (announced.isascii() and announced.isdecimal() and len(announced) < MAX_LENGTH_DIGITS):
        raise BrokenBody(f"Content-Length is {shortened(announced)}; it must be a number of bytes.")
    if int(announced) > limits.max_body_bytes:
        raise _too_large(limits, int(announced))
    return int(announced)
