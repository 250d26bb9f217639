from __future__ import annotations

import asyncio
import builtins
import hashlib
import tempfile
from collections.abc import AsyncIterator
from itertools import pairwise

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Gauge
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from service.api.problems import install
from service.api.upload import BodyMemory, Upload, UploadLimits, receive_upload
from service.errors import (
    BadRequest,
    BrokenBody,
    EmptyAudio,
    Overloaded,
    SlowBody,
    TooLarge,
    UnsupportedAudio,
)
from tests.api.forms import BOUNDARY, form, form_type, part

LIMITS = UploadLimits(max_body_bytes=1000, max_parts=3, body_timeout_s=5.0, body_stall_s=5.0)
GONE: Message = {"type": "http.disconnect"}


def memory(max_bytes: int = 10_000) -> BodyMemory:
    return BodyMemory(max_bytes)


class Sender:
    """A client by hand: what it sends, piece by piece, and how much of it was taken."""

    def __init__(self, *pieces: bytes | Message, ends: bool = True) -> None:
        self._pieces, self._ends = list(pieces), ends
        self.taken = 0

    async def __call__(self) -> Message:
        if self.taken >= len(self._pieces) and not (self._ends and not self._pieces):
            await asyncio.Event().wait()
        piece = self._pieces[self.taken] if self._pieces else b""
        self.taken += 1
        last = self._ends and self.taken >= len(self._pieces)
        return piece if isinstance(piece, dict) else {"type": "http.request", "body": piece, "more_body": not last}


def request(sender: Sender, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, sender)


async def taken(
    *pieces: bytes | Message, limits: UploadLimits = LIMITS, budget: BodyMemory | None = None, **headers: str
) -> Upload:
    async with receive_upload(request(Sender(*pieces), **headers), limits, budget or memory()) as upload:
        return upload


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/wav", "AUDIO/L16; rate=16000", "video/webm", "application/octet-stream", "binary/octet-stream",
        "application/ogg", "application/x-www-form-urlencoded", "application/octet-stream; charset=binary", "",
    ],
)  # fmt: skip
async def test_raw_body_is_the_recording(content_type: str) -> None:
    headers = {"content_type": content_type} if content_type else {}
    upload = await taken(b"abc", b"", b"def", **headers)
    (file,) = upload.files
    assert (bytes(file.body), file.content_type, file.name) == (b"abcdef", content_type, None)
    assert file.sha256 == hashlib.sha256(b"abcdef").hexdigest()
    assert (upload.is_form, upload.is_batch) == (False, False)


async def test_raw_body_may_have_a_name() -> None:
    upload = await taken(b"abc", content_disposition='attachment; filename="../K\xc3\xb6ln.wav"')
    assert upload.files[0].name == "Köln.wav"


@pytest.mark.parametrize("count", [1, 3])
async def test_form_brings_its_files(count: int) -> None:
    upload = await taken(form([part(b"abc")] * count), content_type=form_type())
    assert [bytes(file.body) for file in upload.files] == [b"abc"] * count
    assert (upload.is_form, upload.is_batch) == (True, count > 1)


async def test_form_may_quote_its_boundary() -> None:
    quoted = f'Multipart/Form-Data; charset=utf-8; boundary="{BOUNDARY.decode()}"'
    assert (await taken(form([part(b"abc")]), content_type=quoted)).files[0].name == "a.wav"


async def test_empty_file_in_a_batch_spoils_its_own_answer_only() -> None:
    upload = await taken(form([part(b""), part(b"abc")]), content_type=form_type())
    assert [len(file.body) for file in upload.files] == [0, 3]


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "application/json",
        "image/png",
        "multipart/mixed; boundary=x",
        "rubbish",
        "/",
        "audio",
        "*/*",
        "\xff",
    ],
)
async def test_other_types_are_refused_before_the_body_is_read(content_type: str) -> None:
    sender = Sender(b"abc")
    with pytest.raises(UnsupportedAudio) as caught:
        async with receive_upload(request(sender, content_type=content_type), LIMITS, memory()):
            raise AssertionError("not reached")
    assert sender.taken == 0
    assert "multipart/form-data" in caught.value.extra["supported"]  # type: ignore[operator]


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
async def test_encoded_body_is_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedAudio):
        await taken(b"abc", content_encoding=encoding)


@pytest.mark.parametrize("encoding", ["identity", "Identity ", ""])
async def test_identity_is_no_encoding(encoding: str) -> None:
    assert await taken(b"abc", content_encoding=encoding)


@pytest.mark.parametrize("headers", [{}, {"content_type": "audio/wav", "content_length": "0"}])
@pytest.mark.parametrize("pieces", [(), (b"",), (b"", b"")])
async def test_empty_body(headers: dict[str, str], pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(EmptyAudio):
        await taken(*pieces, **headers)


async def test_empty_form_file() -> None:
    with pytest.raises(EmptyAudio):
        await taken(form([part(b"")]), content_type=form_type())


async def test_announced_excess_is_refused_before_the_body_is_read() -> None:
    sender, budget = Sender(b"abc"), memory(0)
    with pytest.raises(TooLarge) as caught:
        async with receive_upload(request(sender, content_length="1001"), LIMITS, budget):
            raise AssertionError("not reached")
    assert sender.taken == 0
    assert caught.value.extra == {"limit": "max_body_bytes", "maximum": 1000, "got": 1001}


@pytest.mark.parametrize("content_type", ["audio/wav", form_type()])
async def test_unannounced_excess_is_refused_with_the_piece_that_passes_the_limit(content_type: str) -> None:
    whole = form([part(bytes(5000))])
    sender = Sender(*(whole[i : i + 300] for i in range(0, len(whole), 300)))
    with pytest.raises(TooLarge) as caught:
        async with receive_upload(request(sender, content_type=content_type), LIMITS, memory()):
            raise AssertionError("not reached")
    assert sender.taken == 4
    assert caught.value.extra["got"] == 1200


async def test_body_of_just_the_limit_is_taken() -> None:
    assert len((await taken(bytes(600), bytes(400))).files[0].body) == 1000
    assert len((await taken(bytes(1000), content_length="1000")).files[0].body) == 1000


@pytest.mark.parametrize("announced", ["-1", "+3", "3.0", "0x3", "1_0", "", " 3", "3 3", "\xb2", "9" * 5000, "three"])
async def test_length_must_be_a_number(announced: str) -> None:
    with pytest.raises(BrokenBody) as caught:
        await taken(b"abc", content_length=announced)
    assert len(caught.value.detail) < 200


async def test_length_and_chunks_at_once_are_refused() -> None:
    with pytest.raises(BrokenBody, match="not both"):
        await taken(b"abc", content_length="3", transfer_encoding="chunked")


@pytest.mark.parametrize("announced", ["2", "4"])
@pytest.mark.parametrize("pieces", [(b"abc",), (b"a", b"b", b"c")])
async def test_length_that_lies_is_broken(announced: str, pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(BrokenBody):
        await taken(*pieces, content_length=announced)


async def test_client_that_goes_leaves_nothing() -> None:
    budget = memory()
    with pytest.raises(ClientDisconnect):
        await taken(b"abc", GONE, budget=budget, content_length="100")
    assert budget.held_bytes == 0


async def slow(sender: Sender, body_timeout_s: float, body_stall_s: float, body_rate: float = 0.0) -> SlowBody:
    limits = UploadLimits(1000, 3, body_timeout_s, body_stall_s, body_rate)
    budget = memory()
    with pytest.raises(SlowBody) as caught:
        async with receive_upload(request(sender), limits, budget):
            raise AssertionError("not reached")
    assert budget.held_bytes == 0
    return caught.value


async def test_pause_is_refused() -> None:
    error = await slow(Sender(b"abc", ends=False), body_timeout_s=5.0, body_stall_s=0.01)
    assert error.extra == {"limit": "body_stall_s", "maximum": 0.01, "got_bytes": 3}


async def test_body_that_takes_too_long_is_refused() -> None:
    error = await slow(Sender(b"abc", ends=False), body_timeout_s=0.01, body_stall_s=5.0)
    assert error.extra == {"limit": "body_timeout_s", "maximum": 0.01, "got_bytes": 3}


async def test_body_that_drips_is_refused_though_it_never_pauses() -> None:
    async def drip() -> Message:
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"", "more_body": True}

    error = await slow(drip, body_timeout_s=0.02, body_stall_s=5.0)  # type: ignore[arg-type]
    assert error.extra["limit"] == "body_timeout_s"


async def test_body_that_drips_bytes_is_refused_once_it_had_time_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.upload.SETTLE_S", 0.03)

    async def drip() -> Message:
        await asyncio.sleep(0.002)
        return {"type": "http.request", "body": b"x", "more_body": True}

    error = await slow(drip, body_timeout_s=5.0, body_stall_s=5.0, body_rate=4000.0)  # type: ignore[arg-type]

    assert error.extra["limit"] == "body_rate"
    assert error.extra["minimum"] == 4000.0
    assert 0 < error.extra["got_bytes"] < 100


async def test_slow_but_steady_enough_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.upload.SETTLE_S", 0.5)
    pieces = iter([b"x" * 200] * 4)

    async def steady() -> Message:
        await asyncio.sleep(0.002)
        piece = next(pieces, b"")
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    limits = UploadLimits(1000, 3, 5.0, 5.0, body_rate=100.0)
    async with receive_upload(request(steady), limits, memory()) as upload:  # type: ignore[arg-type]
        assert len(upload.files[0].body) == 800


async def test_body_that_is_always_ready_is_refused_when_its_time_is_over() -> None:
    async def flood() -> Message:
        return {"type": "http.request", "body": b"", "more_body": True}

    error = await slow(flood, body_timeout_s=0.01, body_stall_s=5.0)  # type: ignore[arg-type]
    assert error.extra["limit"] == "body_timeout_s"


async def test_announced_bytes_are_held_before_the_body_is_read_and_until_the_end() -> None:
    budget, sender = memory(), Sender(b"abc", b"def")
    async with receive_upload(request(sender, content_length="6"), LIMITS, budget):
        assert budget.held_bytes == 6
    assert budget.held_bytes == 0

    budget.hold(9_999)
    sender = Sender(b"abc")
    with pytest.raises(Overloaded) as caught:
        async with receive_upload(request(sender, content_length="3"), LIMITS, budget):
            raise AssertionError("not reached")
    assert sender.taken == 0
    assert caught.value.retry_after_s > 0
    assert budget.held_bytes == 9_999


async def test_unannounced_bytes_are_held_as_they_come() -> None:
    budget = memory(10)
    async with receive_upload(request(Sender(b"abc", b"def")), LIMITS, budget):
        assert budget.held_bytes == 6
        with pytest.raises(Overloaded):
            await taken(b"abc", b"de", budget=budget)
        assert budget.held_bytes == 6
    assert budget.held_bytes == 0


async def test_body_that_never_fits_is_too_large_rather_than_early() -> None:
    with pytest.raises(TooLarge) as caught:
        await taken(b"abc", budget=memory(10), content_length="11")
    assert caught.value.extra["limit"] == "max_bodies_bytes"
    with pytest.raises(TooLarge):
        await taken(*[b"abcd"] * 3, budget=memory(10))


@pytest.mark.parametrize(
    ("error", "pieces", "headers"),
    [
        (BrokenBody, (b"rubbish",), {"content_type": form_type()}),
        (BadRequest, (form([part(b"x", b"other")]),), {"content_type": form_type()}),
        (TooLarge, (form([part(b"x")] * 4),), {"content_type": form_type()}),
        (BrokenBody, (b"abc",), {"content_length": "9"}),
        (EmptyAudio, (b"",), {}),
    ],
)
async def test_memory_is_given_back_after_every_refusal(
    error: type[Exception], pieces: tuple[bytes, ...], headers: dict[str, str]
) -> None:
    budget = memory()
    with pytest.raises(error):
        await taken(*pieces, budget=budget, **headers)
    assert budget.held_bytes == 0


@pytest.mark.parametrize("when", ["reading", "answering"])
async def test_memory_is_given_back_after_cancellation(when: str) -> None:
    budget = memory()
    sender = Sender(b"abc", ends=when == "answering")

    async def handler() -> None:
        async with receive_upload(request(sender, content_length="3"), LIMITS, budget):
            await asyncio.Event().wait()

    task = asyncio.create_task(handler())
    await asyncio.sleep(0)
    assert sender.taken == 1
    assert budget.held_bytes == 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget.held_bytes == 0


async def test_memory_is_given_back_when_the_handler_fails() -> None:
    budget = memory()
    with pytest.raises(ZeroDivisionError):
        async with receive_upload(request(Sender(b"abc")), LIMITS, budget):
            raise ZeroDivisionError
    assert budget.held_bytes == 0


async def test_gauge_follows_the_memory() -> None:
    gauge = Gauge("bodies", "Bytes.", registry=None)
    budget = BodyMemory(100, gauge)
    async with receive_upload(request(Sender(b"abc")), LIMITS, budget):
        assert gauge._value.get() == 3
    assert gauge._value.get() == 0


async def test_no_upload_touches_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(builtins, "open", refuse)
    large = UploadLimits(max_body_bytes=20 << 20)
    body = form([part(bytes(5 << 20))] * 3)
    upload = await taken(body, content_type=form_type(), limits=large, budget=memory(20 << 20))
    assert sum(len(file.body) for file in upload.files) == 15 << 20


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=900), st.lists(st.integers(0, 900), max_size=9), st.booleans())
def test_body_arrives_whole_however_it_is_cut(body: bytes, places: list[int], announce: bool) -> None:
    edges = [0, *sorted(min(place, len(body)) for place in places), len(body)]
    pieces = [body[start:end] for start, end in pairwise(edges)]
    headers = {"content_length": str(len(body))} if announce else {}
    (file,) = asyncio.run(taken(*pieces, **headers)).files
    assert bytes(file.body) == body


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    install(app)

    @app.post("/take")
    async def take(request: Request) -> list[str]:
        async with receive_upload(request, LIMITS, memory()) as upload:
            return [f"{file.name} {file.content_type} {len(file.body)}" for file in upload.files]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client


async def test_form_of_a_common_client_is_understood(client: httpx.AsyncClient) -> None:
    files = [("file", ("ä b.wav", b"abc", "audio/wav")), ("file", ("c.flac", b"de", "audio/flac"))]
    assert (await client.post("/take", files=files)).json() == ["ä b.wav audio/wav 3", "c.flac audio/flac 2"]


async def test_refusal_reaches_the_client_as_a_problem(client: httpx.AsyncClient) -> None:
    answer = await client.post("/take", files=[("sound", b"abc")])
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems#bad-request")
    assert "'sound'" in answer.json()["detail"]
