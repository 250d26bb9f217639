"""`POST /enhance`: the recording without its noise."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from functools import partial
from pathlib import PurePath
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from service.api.desk import JSON, Visit, as_json, desk_of
from service.api.multipart import UploadedFile
from service.api.negotiate import choose
from service.api.parameters import EnhanceQuery
from service.api.routes.contract import LISTEN_PROBLEMS, TAG_LISTEN, answers, listening
from service.api.sound import MEDIA_TYPES, Sound, encoder_of, enhanced, made_whole
from service.api.streamed import StreamedAnswer
from service.audio.encode import Encoder
from service.errors import NotAcceptable
from service.tasks.hear import Event, Report, SoundPart, Wishes, hear

router = APIRouter(tags=[TAG_LISTEN])
ANSWERS = answers("Enhanced")
ANSWERS["content"] |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()}


@router.post(
    "/enhance",
    summary="A recording without its noise",
    response_model=None,
    responses={200: ANSWERS, **LISTEN_PROBLEMS},
    openapi_extra=listening(),
)
async def enhance(request: Request, query: Annotated[EnhanceQuery, Query()]) -> Response:
    media_type = MEDIA_TYPES[query.format]
    wanted = choose(request.headers.get("accept"), (media_type, JSON))
    async with AsyncExitStack() as held:
        visit = await held.enter_async_context(desk_of(request).visit(request))
        if wanted == JSON:
            return await visit.answer(partial(_inside_json, visit, query))
        if len(visit.files) > 1:
            raise NotAcceptable(f"several files are answered as {JSON} only: send `Accept: {JSON}`", supported=[JSON])
        if query.score:
            return await _with_scores(visit, query)
        return await _streamed(visit, query, held)


async def _inside_json(visit: Visit, query: EnhanceQuery, file: UploadedFile) -> bytes:
    sound = await _whole(visit, query, file)
    return await visit.desk.bench.workers.call(
        lambda: as_json(enhanced(visit, file, sound, with_data=True)), visit.turn
    )


async def _with_scores(visit: Visit, query: EnhanceQuery) -> Response:
    """Headers come before audio, and the scores after it: so the audio is made whole first."""
    file = visit.only_file
    sound = await _whole(visit, query, file)
    headers = _headers(file, sound.suffix, sound.answer.model)
    for name, score in (("Before", sound.answer.quality_before), ("After", sound.answer.quality_after)):
        if score is not None:
            headers[f"Earmark-Quality-{name}"] = f"{score:.4f}"
    return Response(sound.data, media_type=sound.media_type, headers=headers)


async def _whole(visit: Visit, query: EnhanceQuery, file: UploadedFile) -> Sound:
    async with visit.opened(file) as recording:
        wish = query.wish()
        sound = await made_whole(visit, recording, Wishes(enhance=wish), encoder_of(recording, wish, query.format))
    visit.note(sound.answer.model, sound.report.facts.duration_s)
    return sound


async def _streamed(visit: Visit, query: EnhanceQuery, held: AsyncExitStack) -> Response:
    """Sent while it is made; what fails before the first sound is a problem with its status."""
    file, wish, models = visit.only_file, query.wish(), visit.desk.bench.models
    recording = await held.enter_async_context(visit.opened(file))
    model = held.enter_context(models.lease("enhance", query.model)).manifest.id
    encode = encoder_of(recording, wish, query.format)
    heard = hear(recording, visit.desk.bench, Wishes(enhance=wish), visit.turn)
    events = await held.enter_async_context(aclosing(heard))
    first = await anext(events)
    headers = _headers(file, encode.suffix, model)
    parts = _encoded(visit, first, events, encode)
    visit.stay.is_streaming = True
    return StreamedAnswer(parts, encode.media_type, held.pop_all(), headers)


async def _encoded(visit: Visit, first: Event, rest: AsyncIterator[Event], encode: Encoder) -> AsyncIterator[bytes]:
    workers = visit.desk.bench.workers
    event: Event | None = first
    while event is not None:
        if isinstance(event, SoundPart):
            yield await workers.call(partial(encode.push, event.samples), visit.turn)
        elif isinstance(event, Report) and event.enhance is not None:
            visit.note(event.enhance.model, event.facts.duration_s)
        event = await anext(rest, None)
    yield await workers.call(encode.finish, visit.turn)


def _headers(file: UploadedFile, suffix: str, model: str) -> dict[str, str]:
    stem = PurePath(file.name or "recording").stem or "recording"
    name = f"{stem}-enhanced{suffix}"
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = "".join(letter for letter in plain if letter.isalnum() or letter in " ._-()") or f"enhanced{suffix}"
    return {
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "Earmark-Model": model,
    }
