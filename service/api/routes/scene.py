"""`POST /scene`: what is heard, and when."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request, Response

from service.api import shape
from service.api.desk import JSON, Visit, as_json, desk_of
from service.api.multipart import UploadedFile
from service.api.negotiate import choose
from service.api.parameters import SceneQuery
from service.api.render import segments_audacity, segments_csv
from service.api.routes.contract import LISTEN_PROBLEMS, TAG_LISTEN, answers, listening
from service.api.schemas import Scene
from service.tasks.hear import Report, Wishes

T = TypeVar("T")

CSV, AUDACITY = "text/csv", "text/x-audacity"
TABLES = {CSV: segments_csv, AUDACITY: segments_audacity}

router = APIRouter(tags=[TAG_LISTEN])


@router.post(
    "/scene",
    summary="What is heard in a recording, and when",
    response_model=None,
    responses={200: answers("Scene", CSV, AUDACITY), **LISTEN_PROBLEMS},
    openapi_extra=listening(),
)
async def scene(request: Request, query: Annotated[SceneQuery, Query()]) -> Response:
    wanted = choose(request.headers.get("accept"), (JSON, CSV, AUDACITY))
    async with desk_of(request).visit(request) as visit:
        if wanted == JSON:
            return await visit.answer(partial(_one, visit, query, as_json))
        with_segments = query.model_copy(update={"segments": True})
        return Response(await _one(visit, with_segments, TABLES[wanted], visit.only_file), media_type=wanted)


async def _one(visit: Visit, query: SceneQuery, write: Callable[[Scene], T], file: UploadedFile) -> T:
    def conclude(report: Report) -> T:
        visit.note(report.scene_model, report.facts.duration_s)
        audio = shape.audio_info(report, file.sha256)
        return write(shape.scene(report, audio, visit.request_id, segments=query.segments, frames=query.frames))

    return await visit.hear_out(file, Wishes(scene=query.wish()), conclude)
