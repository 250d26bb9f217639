"""`POST /analyze`: one upload, one decode, all the answers."""

from __future__ import annotations

import secrets
from functools import partial

from fastapi import APIRouter, Request, Response

from service.api import shape
from service.api.desk import JSON, Visit, as_json, desk_of
from service.api.multipart import UploadedFile
from service.api.negotiate import choose
from service.api.parameters import AnalyzeQuery, analyze_parameters, analyze_query
from service.api.routes.contract import LISTEN_PROBLEMS, TAG_LISTEN, answers, listening
from service.api.schemas import Analysis
from service.api.sound import Sound, encoder_of, enhanced, made_whole
from service.tasks.hear import Report, Wishes

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


async def _inside_json(visit: Visit, query: AnalyzeQuery, file: UploadedFile) -> bytes:
    return (await _hear(visit, query, file, with_data=True))[0]


async def _in_parts(visit: Visit, query: AnalyzeQuery) -> Response:
    """The JSON as the first part; the audio, where it was wanted, as the second."""
    text, sound = await _hear(visit, query, visit.only_file, with_data=False)
    parts = [(JSON, text)] + ([(sound.media_type, sound.data)] if sound else [])
    boundary = secrets.token_hex(16)
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data + b"\r\n"
        for media_type, data in parts
    )
    return Response(body + f"--{boundary}--\r\n".encode(), media_type=f"{MULTIPART}; boundary={boundary}")


async def _hear(
    visit: Visit, query: AnalyzeQuery, file: UploadedFile, *, with_data: bool
) -> tuple[bytes, Sound | None]:
    """The JSON, with the sound inside where *with_data*, and the sound."""
    wishes = Wishes(
        quality=query.quality.wish() if "quality" in query.want else None,
        scene=query.scene.wish() if "scene" in query.want else None,
        enhance=query.enhance.wish() if "enhance" in query.want else None,
    )

    def written(report: Report, sound: Sound | None = None) -> bytes:
        models = (report.quality_model, report.scene_model, report.enhance.model if report.enhance else "")
        visit.note(",".join(filter(None, models)), report.facts.duration_s)
        return as_json(_shaped(visit, query, file, report, sound, with_data=with_data))

    if wishes.enhance is None:
        return await visit.hear_out(file, wishes, written), None
    async with visit.opened(file) as recording:
        encode = encoder_of(recording, wishes.enhance, query.enhance.format)
        sound = await made_whole(visit, recording, wishes, encode)
    return await visit.desk.bench.workers.call(lambda: written(sound.report, sound), visit.turn), sound


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
