"""What a body is, by its first bytes, and who may decode it. Nothing is decoded here, and no name or header is asked.

Three ways lead on: `wav` is read by our own slicing, `plain` by libsndfile within this process, and `child` and `media`
by libsndfile or FFmpeg within a child process. What is not on the list is refused before any decoder sees it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import Literal

from service.audio.mpeg import walk_mp3
from service.audio.ogg import walk_ogg
from service.audio.riff import MAX_CHUNKS, is_wav
from service.errors import EmptyAudio, TruncatedAudio, UnsupportedAudio

Decoder = Literal["wav", "plain", "child", "media"]

CORE = ("wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "caf", "w64")
MEDIA = ("m4a", "aac", "mp4", "webm", "mkv", "amr")

W64_MAGIC = bytes.fromhex("726966662e91cf11a5d628db04c10000")

AIFF_DECODERS: dict[bytes, Decoder] = {
    **dict.fromkeys(
        (b"NONE", b"twos", b"sowt", b"fl32", b"FL32", b"fl64", b"FL64", b"in24", b"in32", b"raw "), "plain"
    ),
    **dict.fromkeys((b"alaw", b"ALAW", b"ulaw", b"ULAW"), "child"),
}
AU_DECODERS: dict[int, Decoder] = {**dict.fromkeys((2, 3, 4, 5, 6, 7), "plain"), 1: "child", 27: "child"}
CAF_DECODERS: dict[bytes, Decoder] = {b"lpcm": "plain", b"alac": "child", b"alaw": "child", b"ulaw": "child"}

OTHER_FILES = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "gzip",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"MThd": "MIDI, which holds notes and no sound",
    b"0&\xb2u": "Windows Media",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A format, and how to decode it."""

    format: str
    decoder: Decoder
    start_byte: int = 0
    end_byte: int | None = None
    demuxer: str = ""
    """FFmpeg's name of the container (media alone)."""
    is_cut: bool = False
    """Whether the container's own lengths say that more should have come."""
    prefix: bytes = b""
    """What a decoder must read before the body."""
    tells_length: bool = True
    """Whether the length that a decoder finds is one."""
    remark: str = ""
    """A sentence for the caller."""


def supported_formats() -> list[str]:
    """The formats that this installation reads."""
    return [*CORE, *(MEDIA if has_media() else ())]


def has_media() -> bool:
    return importlib.util.find_spec("av") is not None


def probe(body: memoryview) -> Found:
    """Say what *body* is.

    Raises:
        EmptyAudio: not a single byte.
        TruncatedAudio: the body ends within the header.
        UnsupportedAudio: it is nothing that is read here; `supported` lists what is.
    """
    if not body:
        raise EmptyAudio("The body is empty: send the bytes of a recording.")
    if is_wav(body):
        return Found("wav", "wav")
    start = _after_id3(body)
    head = bytes(body[start : start + 64])
    for magic, read in READERS.items():
        if head.startswith(magic):
            found = read(body[start:])
            return replace(found, start_byte=start) if start else found
    return _without_magic(body, start, head)


def _without_magic(body: memoryview, start: int, head: bytes) -> Found:
    if head[4:8] == b"ftyp":
        return _media("mp4", "mov")
    if head[:2] in (b"\xff\xf1", b"\xff\xf9"):
        return _media("aac", "aac")
    walk = walk_mp3(body, start)
    if walk is not None:
        decoder: Decoder = "plain" if walk.unbroken else "child"
        return Found("mp3", decoder, walk.start_byte, walk.end_byte, prefix=walk.tag, tells_length=walk.tells_length)
    if start:
        raise TruncatedAudio("After its ID3 tag the body holds no audio that is read here.")
    kind = next((kind for magic, kind in OTHER_FILES.items() if head.startswith(magic)), None)
    raise unsupported(f"This is {kind}." if kind else "The first bytes are those of no audio format that is read here.")


def unsupported(sentence: str) -> UnsupportedAudio:
    names = supported_formats()
    return UnsupportedAudio(f"{sentence} Send one of: {', '.join(names)}.", supported=names)


def _after_id3(body: memoryview) -> int:
    """Where an ID3v2 tag ends (its length is four bytes of seven bits); 0 where there is none."""
    head = bytes(body[:10])
    if len(head) < 10 or head[:3] != b"ID3" or any(byte & 0x80 for byte in head[6:]):
        return 0
    footer = 10 if head[5] & 0x10 else 0
    return 10 + footer + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])


def _flac(_: memoryview) -> Found:
    return Found("flac", "plain")


def _ogg(body: memoryview) -> Found:
    walk = walk_ogg(body)
    if walk.codec[:7] != b"\x01vorbis" and walk.codec != b"OpusHead":
        raise unsupported("An Ogg file is read here with Vorbis or Opus.")
    remark = (
        "The Ogg file holds several recordings one after another; only the first was read." if walk.is_chained else ""
    )
    return Found("ogg", "plain", is_cut=walk.is_cut, remark=remark)


def _aiff(body: memoryview) -> Found:
    kind = bytes(body[8:12])
    if kind not in (b"AIFF", b"AIFC"):
        raise unsupported("This is an IFF file without audio.")
    is_cut = 8 + int.from_bytes(body[4:8], "big") > len(body) + 1
    if kind == b"AIFF":
        return Found("aiff", "plain", is_cut=is_cut)
    decoder = AIFF_DECODERS.get(_aifc_compression(body))
    if decoder is None:
        raise unsupported("An AIFF-C file is read here with PCM, float, A-law or µ-law.")
    return Found("aiff", decoder, is_cut=is_cut)


def _aifc_compression(body: memoryview) -> bytes:
    at = 12
    for _ in range(MAX_CHUNKS):
        name, size = bytes(body[at : at + 4]), int.from_bytes(body[at + 4 : at + 8], "big")
        if len(body) < at + 8:
            break
        if name == b"COMM":
            return bytes(body[at + 26 : at + 30])
        at += 8 + size + (size & 1)
    raise TruncatedAudio("The AIFF file ends before it says what its samples are.")


def _au(body: memoryview) -> Found:
    if len(body) < 24:
        raise TruncatedAudio("The AU file ends within its header.")
    start, size, encoding = (int.from_bytes(body[at : at + 4], "big") for at in (4, 8, 12))
    decoder = AU_DECODERS.get(encoding)
    if decoder is None:
        raise unsupported("An AU file is read here with PCM, float, A-law or µ-law.")
    return Found("au", decoder, is_cut=size != 0xFFFF_FFFF and start + size > len(body))


def _caf(body: memoryview) -> Found:
    if len(body) < 52:
        raise TruncatedAudio("The CAF file ends within its header.")
    decoder = CAF_DECODERS.get(bytes(body[28:32])) if bytes(body[8:12]) == b"desc" else None
    if decoder is None:
        raise unsupported("A CAF file is read here with PCM, float, A-law, µ-law or ALAC.")
    return Found("caf", decoder)


def _w64(_: memoryview) -> Found:
    return Found("w64", "child")


def _matroska(_: memoryview) -> Found:
    return _media("matroska", "matroska")


def _amr(_: memoryview) -> Found:
    return _media("amr", "amr")


def _media(name: str, demuxer: str) -> Found:
    if not has_media():
        names = supported_formats()
        raise UnsupportedAudio(
            f"The body is {name}; this installation reads it with the extra `media`: pip install 'earmark[media]'.",
            supported=names,
            extra="media",
        )
    return Found(name, "media", demuxer=demuxer)


READERS = {
    b"fLaC": _flac,
    b"OggS": _ogg,
    b"FORM": _aiff,
    b".snd": _au,
    b"caff": _caf,
    W64_MAGIC: _w64,
    b"\x1aE\xdf\xa3": _matroska,
    b"#!AMR": _amr,
}
