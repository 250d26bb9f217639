"""Enhanced recordings that are held whole: for JSON, for multipart, and where scores must come first."""

from __future__ import annotations

import base64
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from service.api import shape
from service.api.desk import Visit
from service.api.multipart import UploadedFile
from service.api.parameters import AudioFormat
from service.api.schemas import Enhanced
from service.audio.decode import Recording
from service.audio.encode import Encoder, encoder
from service.errors import InternalFault, TooLarge
from service.tasks.hear import EnhanceAnswer, EnhanceWish, Report, SoundPart, Wishes, hear

MEDIA_TYPES: dict[AudioFormat, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "mp3": "audio/mpeg",
    "f32": "application/octet-stream",
}


def encoder_of(recording: Recording, wish: EnhanceWish, file_format: AudioFormat) -> Encoder:
    """The encoder of what will be made of *recording*; its header says the length where the recording's own does."""
    facts = recording.facts
    rate = wish.rate or facts.sample_rate
    channels = facts.channels if wish.channel == "each" else 1
    frames = None if facts.frames is None else round(facts.frames * rate / facts.sample_rate)
    return encoder(file_format, rate, channels, frames)


@dataclass(frozen=True, slots=True)
class Sound:
    """A whole enhanced file, and the report that came with it."""

    data: bytes
    media_type: str
    suffix: str
    report: Report

    @property
    def answer(self) -> EnhanceAnswer:
        if self.report.enhance is None:
            raise InternalFault("a sound without an enhancement")
        return self.report.enhance


async def made_whole(visit: Visit, recording: Recording, wishes: Wishes, encode: Encoder) -> Sound:
    """Hear *recording* out, and encode what is made of it.

    Raises:
        TooLarge: the file would pass `max_answer_bytes`.
        EarmarkError: as `hear` does.
    """
    workers, most = visit.desk.bench.workers, visit.desk.settings.max_answer_bytes
    chunks: list[bytes] = []
    size = 0
    async with aclosing(hear(recording, visit.desk.bench, wishes, visit.turn)) as events:
        async for event in events:
            if isinstance(event, SoundPart):
                chunks.append(await workers.call(partial(encode.push, event.samples), visit.turn))
                size += len(chunks[-1])
                if size > most:
                    raise TooLarge(
                        f"the enhanced recording is larger than {most} bytes, the most that is held whole; "
                        "ask for audio without score=true, which is streamed",
                        limit="max_answer_bytes",
                        maximum=most,
                        got=size,
                    )
            elif isinstance(event, Report):
                report = event
    chunks.append(await workers.call(encode.finish, visit.turn))
    return Sound(b"".join(chunks), encode.media_type, encode.suffix, report)


def enhanced(visit: Visit, file: UploadedFile, sound: Sound, *, with_data: bool) -> Enhanced:
    """The JSON about *sound*, with the file in base64 where *with_data*."""
    answer, report = sound.answer, sound.report
    return Enhanced(
        model=answer.model,
        audio=shape.audio_info(report, file.sha256),
        media_type=sound.media_type,
        sample_rate=answer.rate,
        channels=answer.channels,
        quality_before=answer.quality_before,
        quality_after=answer.quality_after,
        data=base64.b64encode(sound.data).decode("ascii") if with_data else None,
        warnings=report.warnings,
        request_id=visit.request_id,
    )
