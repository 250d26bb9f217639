"""`POST /analyze`: one upload, one decode, all the answers."""

from __future__ import annotations

import secrets
from functools import partial

from fastapi import APIRouter, Request, Response

from service.api import shape
from service.api.desk import JSON, Visit, desk_of
from service.api.multipart import UploadedFile
from service.api.negotiate import choose
from service.api.parameters import AnalyzeQuery, analyze_parameters, analyze_query
from service.api.routes.contract import LISTEN_PROBLEMS, TAG_LISTEN, answers, listening
from service.api.schemas import Analysis
from service.api.sound import Sound, encoder_of, enhanced, made_whole
from service.tasks.hear import Report, Wishes, hear_out

MULTIPART = "multipart/mixed"

router = APIRouter(tags=[TAG_LISTEN])


@router.post(
    "/analyze",
    summary="Every answer to one upload",
    response_model=None,
    responses={200: answers("Analysis", MULTIPART), **LISTEN_PROBLEMS},
    openapi_extra=listening(parameters=analyze_parameters()),
)
async def analyze(request: Request) -> Response:
    query = analyze_query(request.query_params)
    wanted = choose(request.headers.get("accept"), (JSON, MULTIPART))
    async with desk_of(request).visit(request) as visit:
        if wanted == JSON:
            return await visit.answer(partial(_inside_json, visit, query))
        return await _in_parts(visit, query)


async def _inside_json(visit: Visit, query: AnalyzeQuery, file: UploadedFile) -> Analysis:
    report, sound = await _hear(visit, query, file)
    return _shaped(visit, query, file, report, sound, with_data=True)


async def _in_parts(visit: Visit, query: AnalyzeQuery) -> Response:
    """The JSON as the first part; the audio, where it was wanted, as the second."""
    file = visit.only_file
    report, sound = await _hear(visit, query, file)
    answer = _shaped(visit, query, file, report, sound, with_data=False)
    text = await visit.desk.bench.workers.call(answer.model_dump_json, visit.turn)
    parts = [(JSON, text.encode())] + ([(sound.media_type, sound.data)] if sound else [])
    boundary = secrets.token_hex(16)
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data + b"\r\n"
        for media_type, data in parts
    )
    return Response(body + f"--{boundary}--\r\n".encode(), media_type=f"{MULTIPART}; boundary={boundary}")


async def _hear(visit: Visit, query: AnalyzeQuery, file: UploadedFile) -> tuple[Report, Sound | None]:
    wishes = Wishes(
        quality=query.quality.wish() if "quality" in query.want else None,
        scene=query.scene.wish() if "scene" in query.want else None,
        enhance=query.enhance.wish() if "enhance" in query.want else None,
    )
    async with visit.opened(file) as recording:
        if wishes.enhance:
            encode = encoder_of(recording, wishes.enhance, query.enhance.format)
            sound = await made_whole(visit, recording, wishes, encode)
            report = sound.report
        else:
            sound = None
            report = await hear_out(recording, visit.desk.bench, wishes, visit.turn)
    models = (report.quality_model, report.scene_model, report.enhance.model if report.enhance else "")
    visit.note(",".join(filter(None, models)), report.facts.duration_s)
    return report, sound


def _shaped(
    visit: Visit, query: AnalyzeQuery, file: UploadedFile, report: Report, sound: Sound | None, *, with_data: bool
) -> Analysis:
    audio, request_id = shape.audio_info(report, file.sha256), visit.request_id
    return Analysis(
        audio=audio,
        quality=shape.quality(report, audio, request_id, curve=query.quality.curve) if report.quality else None,
        scene=shape.scene(report, audio, request_id, segments=query.scene.segments, frames=query.scene.frames)
        if report.scene
        else None,
        enhance=enhanced(visit, file, sound, with_data=with_data) if sound else None,
        request_id=request_id,
    )
