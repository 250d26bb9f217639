"""Headerless samples: what a `Content-Type` says of them. Knows the two media types, not HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.errors import BadRequest

RawEncoding = Literal["s16be", "s16le", "f32le"]

ENCODINGS: dict[str, RawEncoding] = {"s16le": "s16le", "f32le": "f32le"}


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How bytes without a header are to be read: interleaved samples, nothing before or after them."""

    sample_rate: int
    channels: int
    encoding: RawEncoding


def parse_raw_type(content_type: str) -> RawFormat | None:
    """Read `audio/L16` (big-endian, RFC 2586) or `audio/pcm`; None for every other media type.

    `rate` must be there; `channels` is 1 and the `encoding` of `audio/pcm` is s16le where they are not.

    Raises:
        BadRequest: it is one of the two, but a parameter is missing, unknown, doubled or no positive number.
    """
    media_type, *pieces = content_type.split(";")
    media_type = media_type.strip().lower()
    if media_type not in ("audio/l16", "audio/pcm"):
        return None
    known = ("rate", "channels") if media_type == "audio/l16" else ("rate", "channels", "encoding")
    parameters = _parameters(pieces, known)
    if "rate" not in parameters:
        raise BadRequest(f"{media_type} needs the sample rate, as in `{media_type}; rate=16000; channels=1`.")
    encoding: RawEncoding = "s16be"
    if media_type == "audio/pcm":
        name = parameters.get("encoding", "s16le").lower()
        if name not in ENCODINGS:
            raise BadRequest("The encoding of audio/pcm is s16le or f32le.", got=name[:32], supported=list(ENCODINGS))
        encoding = ENCODINGS[name]
    return RawFormat(
        _positive("rate", parameters["rate"]), _positive("channels", parameters.get("channels", "1")), encoding
    )


def _parameters(pieces: list[str], known: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for piece in pieces:
        if not piece.strip():
            continue
        name, equals, value = (part.strip() for part in piece.partition("="))
        name = name.lower()
        if not equals or name not in known or name in found:
            raise BadRequest(
                f"The parameters of raw audio are {', '.join(known)}, each once, as name=value.", got=piece.strip()[:64]
            )
        found[name] = value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value
    return found


def _positive(name: str, text: str) -> int:
    # isdecimal alone would let other scripts' digits through, and a long run of them is slow to convert
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0):
        raise BadRequest(f"The parameter {name} of raw audio is a whole number above 0.", got=text[:32])
    return int(text)
