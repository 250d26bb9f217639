"""`POST /quality`: how good the recording sounds, and where it breaks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service.api import shape
from service.api.desk import JSON, Visit, as_json, desk_of
from service.api.multipart import UploadedFile
from service.api.negotiate import choose
from service.api.parameters import QualityQuery
from service.api.problems import logged_problem
from service.api.render import curve_csv, curve_svg
from service.api.routes.contract import LISTEN_PROBLEMS, TAG_LISTEN, answers, listening
from service.api.schemas import Quality
from service.api.streamed import StreamedAnswer
from service.errors import EarmarkError
from service.tasks.hear import CurvePart, Event, Report, Wishes, hear

NDJSON, CSV, SVG = "application/x-ndjson", "text/csv", "image/svg+xml"
OUTLINE_POINTS = 880

router = APIRouter(tags=[TAG_LISTEN])


@router.post(
    "/quality",
    summary="How good a recording of speech sounds, and where it breaks",
    response_model=None,
    responses={200: answers("Quality", NDJSON, CSV, SVG), **LISTEN_PROBLEMS},
    openapi_extra=listening(),
)
async def quality(request: Request, query: Annotated[QualityQuery, Query()]) -> Response:
    wanted = choose(request.headers.get("accept"), (JSON, NDJSON, CSV, SVG))
    async with AsyncExitStack() as held:
        visit = await held.enter_async_context(desk_of(request).visit(request))
        if wanted == NDJSON:
            lines = _lines(visit, visit.only_file, query)
            first = await anext(lines)
            visit.stay.is_streaming = True
            return StreamedAnswer(_after(first, lines), NDJSON, held.pop_all())
        if wanted == JSON:
            return await visit.answer(partial(_one, visit, query))
        return await _drawn(visit, query, wanted)


async def _one(visit: Visit, query: QualityQuery, file: UploadedFile) -> bytes:
    return await visit.hear_out(
        file, Wishes(quality=query.wish()), lambda report: as_json(_shaped(visit, file, query, report))
    )


async def _drawn(visit: Visit, query: QualityQuery, wanted: str) -> Response:
    file, drawn = visit.only_file, query.model_copy(update={"curve": True})

    def draw(report: Report) -> str:
        answer = _shaped(visit, file, drawn, report)
        return curve_csv(answer) if report.outline is None else curve_svg(answer, report.outline)

    wishes = Wishes(quality=query.wish(), outline_points=OUTLINE_POINTS if wanted == SVG else 0)
    return Response(await visit.hear_out(file, wishes, draw), media_type=wanted)


def _shaped(visit: Visit, file: UploadedFile, query: QualityQuery, report: Report) -> Quality:
    visit.note(report.quality_model, report.facts.duration_s)
    return shape.quality(report, shape.audio_info(report, file.sha256), visit.request_id, curve=query.curve)


async def _lines(visit: Visit, file: UploadedFile, query: QualityQuery) -> AsyncIterator[bytes]:
    """A line of what is known of the audio, lines of the curve while it is computed, the answer last."""
    async with visit.opened(file) as recording:
        facts = recording.facts
        audio = {"sample_rate": facts.sample_rate, "channels": facts.channels, "format": facts.format}
        heard = hear(recording, visit.desk.bench, Wishes(quality=query.wish()), visit.turn)
        async with aclosing(heard) as events:
            first = await anext(events)
            yield _line({"type": "audio", **audio, "sha256": file.sha256})
            yield _event_line(visit, file, query, first)
            try:
                async for event in events:
                    yield _event_line(visit, file, query, event)
            except EarmarkError as error:
                yield _line({**logged_problem(error, visit.request_id), "type": "problem"})


def _event_line(visit: Visit, file: UploadedFile, query: QualityQuery, event: Event) -> bytes:
    if isinstance(event, CurvePart):
        curve = event.curve
        values = [round(value, 4) for value in curve.values.tolist()]
        place = {"channel": event.place, "start_s": round(curve.start_s, 4), "step_s": curve.step_s}
        return _line({"type": "curve", **place, "values": values})
    if isinstance(event, Report):
        return _line({"type": "answer", **_shaped(visit, file, query, event).model_dump()})
    raise AssertionError(event)


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What fails before the first line is a problem with its status; after it, a line."""
    yield first
    async for line in rest:
        yield line
