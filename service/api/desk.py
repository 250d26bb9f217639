"""Where a request is received: the door, the deadline, the body, and one answer a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from service.api.doors import AdminDoor, Door
from service.api.gate import Gate, Stay
from service.api.multipart import UploadedFile
from service.api.problems import logged_problem
from service.api.trace import note, request_id_of
from service.api.upload import BodyMemory, UploadLimits, announced_bytes, receive_upload
from service.audio.decode import Recording, open_recording
from service.audio.raw import parse_raw_type
from service.engine.plan import Plan
from service.errors import BadRequest, Draining, EarmarkError, NotAcceptable
from service.settings import Settings
from service.tasks.hear import Report, Wishes, hear_out
from service.tasks.listen import Workbench
from service.tasks.opening import opened
from service.values import Gpu, Turn

T = TypeVar("T")

JSON = "application/json"
DEADLINE_HEADER = "Earmark-Deadline-Ms"
PRIORITY_HEADER = "Earmark-Priority"
INTERACTIVE, BULK = "interactive", "bulk"
FILES_AT_ONCE = 4
"""Of one form: the rest wait, so that a folder in one request does not fill the queue."""


_flows = count(1)


@dataclass(slots=True)
class Desk:
    """What every route works with; one a process, at `app.state.desk`."""

    settings: Settings
    plan: Plan
    find_gpu: Callable[[], Gpu | None]
    bench: Workbench
    memory: BodyMemory
    door: Door
    admin: AdminDoor
    gate: Gate
    draining: bool = field(default=False)

    @asynccontextmanager
    async def visit(self, request: Request) -> AsyncIterator[Visit]:
        """Let the caller in, and take what was sent. The body's memory is held until the end.

        Raises:
            Unauthorized, ShareUsedUp, Draining: before the body is read.
            EarmarkError: see `receive_upload`.
        """
        if self.draining:
            raise Draining("the service is shutting down; another one will answer", retry_after_s=1.0)
        address = request.client.host if request.client else ""
        with self.door.enter(request.headers.get("authorization"), address) as caller:
            deadline = self.bench.clock.now() + _deadline_s(request, self.settings.deadline_s)
            turn = Turn(deadline, caller, next(_flows), _is_bulk(request))
            limits = _upload_limits(self.settings)
            length = announced_bytes(request, limits)
            with self.gate.enter(request.url.path, length, turn, self.bench.clock.now) as stay:
                async with receive_upload(request, limits, self.memory) as upload:
                    stay.arrived(sum(len(file.body) for file in upload.files))
                    yield Visit(self, request, upload.files, upload.is_form, turn, stay)
                    stay.is_answered = True


@dataclass(frozen=True, slots=True)
class Visit:
    """One request that was let in, with the files it brought."""

    desk: Desk
    request: Request
    files: list[UploadedFile]
    is_form: bool
    turn: Turn
    stay: Stay

    @property
    def request_id(self) -> str:
        return request_id_of(self.request)

    @property
    def only_file(self) -> UploadedFile:
        """The one file, where a form of several cannot be answered.

        Raises:
            NotAcceptable: several came.
        """
        if len(self.files) > 1:
            raise NotAcceptable(f"{len(self.files)} files in one form are answered as {JSON} only", supported=[JSON])
        return self.files[0]

    @asynccontextmanager
    async def opened(self, file: UploadedFile) -> AsyncIterator[Recording]:
        """The recording in *file*."""
        async with opened(self.desk.bench, self._opening(file), self.turn) as recording:
            yield recording

    async def hear_out(self, file: UploadedFile, wishes: Wishes, conclude: Callable[[Report], T]) -> T:
        """What *conclude* makes, in a worker, of all that was wished for."""
        return await hear_out(self._opening(file), self.desk.bench, wishes, self.turn, conclude)

    def _opening(self, file: UploadedFile) -> Callable[[], Recording]:
        raw = parse_raw_type(file.content_type)
        return partial(open_recording, file.body, self.desk.settings.audio_limits, raw)

    async def answer(self, one: Callable[[UploadedFile], Awaitable[bytes]]) -> Response:
        """The JSON *one* makes of the one file; of several, `{"results": [...]}` in order, each that or a problem."""
        if len(self.files) == 1:
            return Response(await one(self.files[0]), media_type=JSON)
        few = asyncio.Semaphore(FILES_AT_ONCE)

        async def settled(file: UploadedFile) -> bytes:
            async with few:
                try:
                    return await one(file)
                except EarmarkError as error:
                    return json.dumps(logged_problem(error, self.request_id)).encode()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(settled(file)) for file in self.files]
        return Response(b'{"results":[' + b",".join(task.result() for task in tasks) + b"]}", media_type=JSON)

    def note(self, model: str, duration_s: float | None) -> None:
        note(self.request, model=model, audio_s=round(duration_s or 0.0, 3))


def as_json(answer: BaseModel) -> bytes:
    """For a worker: the curve of a long recording takes its time."""
    return answer.model_dump_json().encode()


def desk_of(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _deadline_s(request: Request, most_s: float) -> float:
    """Seconds this request has: what it asks for, but never more than the setting."""
    said = request.headers.get(DEADLINE_HEADER)
    if said is None:
        return most_s
    if not (said.isascii() and said.isdecimal() and len(said) <= 12 and int(said) > 0):
        raise BadRequest(f"{DEADLINE_HEADER} must be a whole number of milliseconds above 0", parameter=DEADLINE_HEADER)
    return min(most_s, int(said) / 1000)


def _upload_limits(settings: Settings) -> UploadLimits:
    return UploadLimits(
        settings.max_body_bytes, settings.max_parts, settings.body_timeout_s, settings.body_stall_s, settings.body_rate
    )


def _is_bulk(request: Request) -> bool:
    said = request.headers.get(PRIORITY_HEADER, INTERACTIVE).strip().lower()
    if said not in (INTERACTIVE, BULK):
        raise BadRequest(
            f"{PRIORITY_HEADER} must be {INTERACTIVE} or {BULK}",
            parameter=PRIORITY_HEADER,
            supported=[INTERACTIVE, BULK],
        )
    return said == BULK
