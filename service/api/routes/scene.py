"""`POST /scene`: what is heard, and when."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.api import shape
from service.api.desk import JSON, Visit, desk_of
from service.api.multipart import UploadedFile
from service.api.negotiate import choose
from service.api.parameters import SceneQuery
from service.api.render import segments_audacity, segments_csv
from service.api.routes.contract import LISTEN_PROBLEMS, TAG_LISTEN, answers, listening
from service.api.schemas import Scene
from service.tasks.hear import Wishes, hear_out

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
            return await visit.answer(partial(_one, visit, query))
        answer = await _one(visit, query.model_copy(update={"segments": True}), visit.only_file)
        return Response(TABLES[wanted](answer), media_type=wanted)


async def _one(visit: Visit, query: SceneQuery, file: UploadedFile) -> Scene:
    async with visit.opened(file) as recording:
        report = await hear_out(recording, visit.desk.bench, Wishes(scene=query.wish()), visit.turn)
    visit.note(report.scene_model, report.facts.duration_s)
    audio = shape.audio_info(report, file.sha256)
    return shape.scene(report, audio, visit.request_id, segments=query.segments, frames=query.frames)
