"""The header of a WAV file (RIFF, WAVEX, RF64): where its samples lie and what they are.

Read here and not by a C library for three reasons: it is what most people send, its length fields are often wrong
(a stream cannot go back to fill them in), and a reader that only slices cannot be made to write where it must not.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from service.audio.pcm import BYTES, Encoding, PcmLayout
from service.errors import BadAudio, TruncatedAudio, UnsupportedAudio

MAX_CHUNKS = 1024
"""Chunks walked before the samples; real files have a handful."""

OPEN_END = 0x7FFF_0000
"""A data length from here up that is also more than came was written by a program that could not know it (2 GiB and
4 GiB less a header are the usual ones)."""

PCM, FLOAT, ALAW, ULAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")

ENCODINGS: dict[tuple[int, int], Encoding] = {
    (PCM, 1): "u8", (PCM, 2): "s16le", (PCM, 3): "s24le", (PCM, 4): "s32le",
    (FLOAT, 4): "f32le", (FLOAT, 8): "f64le", (ALAW, 1): "alaw", (ULAW, 1): "ulaw",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Fmt:
    encoding: Encoding
    sample_rate: int
    channels: int


def is_wav(body: memoryview) -> bool:
    return bytes(body[:4]) in (b"RIFF", b"RF64", b"BW64") and bytes(body[8:12]) == b"WAVE"


def read_wav(body: memoryview) -> PcmLayout:
    """Find the samples of a WAV file that `is_wav` recognised.

    Raises:
        TruncatedAudio: the body ends before the samples begin.
        UnsupportedAudio: the samples are compressed, or of a width that is not read here.
        BadAudio: the header contradicts itself.
    """
    fmt: _Fmt | None = None
    long_data = 0
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(body):
            raise TruncatedAudio("The WAV file ends before its samples begin.")
        name, size = bytes(body[at : at + 4]), _u32(body, at + 4)
        at += 8
        if name == b"data":
            if fmt is None:
                raise BadAudio("The WAV file does not say what its samples are: it has no format before its data.")
            is_long = size == 0xFFFF_FFFF and 0 < long_data < 1 << 63
            return _layout(body, fmt, at, long_data if is_long else size, is_long)
        if name == b"fmt " and fmt is None:
            fmt = _read_fmt(body[at : at + size], size)
        elif name == b"ds64" and size >= 16 and at + 16 <= len(body):
            long_data = int.from_bytes(body[at + 8 : at + 16], "little")
        at += size + (size & 1)
    raise BadAudio("The WAV file has too many chunks before its samples.")


def _u32(body: memoryview, at: int) -> int:
    return int.from_bytes(body[at : at + 4], "little")


def _read_fmt(chunk: memoryview, size: int) -> _Fmt:
    if size < 16:
        raise BadAudio("The format chunk of the WAV file is too short.")
    if len(chunk) < 16:
        raise TruncatedAudio("The WAV file ends within its header.")
    tag, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == EXTENSIBLE and len(chunk) >= 40 and bytes(chunk[26:40]) == GUID_TAIL:
        tag = int.from_bytes(chunk[24:26], "little")
    if channels == 0:
        raise BadAudio("The WAV file has no channels.", got=0)
    # 20 bit in 3 bytes and 24 bit in 4 are left-justified, so the width of the place is what counts
    width = align // channels if align and align % channels == 0 else (bits + 7) // 8
    encoding = ENCODINGS.get((tag, width))
    if encoding is None:
        raise UnsupportedAudio(
            "A WAV file is read here with PCM of 8, 16, 24 or 32 bit, float of 32 or 64 bit, A-law or µ-law.",
            got=f"format tag {tag}, {bits} bit",
        )
    return _Fmt(encoding, rate, channels)


def _layout(body: memoryview, fmt: _Fmt, start: int, declared: int, is_long: bool) -> PcmLayout:
    came = len(body) - start
    frame_bytes = BYTES[fmt.encoding] * fmt.channels
    finished = _u32(body, 4) + 8 in (len(body) - 1, len(body), len(body) + 1)
    open_end = (declared == 0 and not finished) or (declared > came and declared >= OPEN_END and not is_long)
    size = came if open_end else min(declared, came)
    promised = declared // frame_bytes if declared > came and not open_end else None
    return PcmLayout(
        fmt.encoding,
        fmt.sample_rate,
        fmt.channels,
        start,
        size // frame_bytes,
        promised,
        ragged=size % frame_bytes != 0,
    )
