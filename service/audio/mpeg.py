"""The frame headers of an MP3 file: where it begins, and whether its frames follow one another without a gap.

The decoder writes a line to the process's standard error for every frame that it does not like, and no setting of it
is within reach. So a file with a gap goes to the child process, where nobody listens to that.
"""

from __future__ import annotations

from dataclasses import dataclass

SEARCH_BYTES = 64 * 1024
"""How far into a body the first frame is looked for; taggers leave padding before it."""

FRAMES_TO_BELIEVE = 3
"""Frames in a row that make a body MP3: two bytes of a frame header are easily met by chance."""

BIT_RATES_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
BIT_RATES_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
TRAILERS = (b"TAG", b"APETAGEX", b"LYRICS", b"ID3")


@dataclass(frozen=True, slots=True)
class Mp3Walk:
    """What the frame headers say of a whole file."""

    start_byte: int
    unbroken: bool
    """Whether frames of one kind reach from the first to the end of the body, or to a tag there."""
    tells_length: bool
    """Whether the first frame is the table of contents that names the length (Xing, Info)."""


def walk_mp3(body: memoryview, start: int) -> Mp3Walk | None:
    """Follow the frames from the first one at or after *start*; None where there are none."""
    first = _first_frame(body, start)
    if first is None:
        return None
    kind = _kind(body, first)
    at, size, end = first, len(body), len(body) - 4
    length = _frame_bytes(body, at)
    while at <= end and length and _kind(body, at) == kind:
        at += length
        length = _frame_bytes(body, at) if at <= end else 0
    head = bytes(body[first : first + 64])
    tail = bytes(body[at : at + 8])
    return Mp3Walk(
        first,
        unbroken=at > end or tail.startswith(TRAILERS) or (size - at < SEARCH_BYTES and not any(body[at:])),
        tells_length=b"Xing" in head or b"Info" in head,
    )


def _first_frame(body: memoryview, start: int) -> int | None:
    area = bytes(body[start : start + SEARCH_BYTES])
    at = area.find(0xFF)
    while at >= 0:
        if _runs_on(body, start + at):
            return start + at
        at = area.find(0xFF, at + 1)
    return None


def _runs_on(body: memoryview, at: int) -> bool:
    kind = _kind(body, at)
    for met in range(FRAMES_TO_BELIEVE):
        length = _frame_bytes(body, at)
        if not length or _kind(body, at) != kind:
            return False
        at += length
        if at + 4 > len(body):
            return met > 0  # a short file, or one that is cut
    return True


def _kind(body: memoryview, at: int) -> tuple[int, ...]:
    """What does not change within a file: version, layer, sample rate, one channel or two."""
    head = body[at : at + 4]
    if len(head) < 4:
        return ()
    return head[1] & 0xFE, head[2] & 0x0C, head[3] >> 6 == 3


def _frame_bytes(body: memoryview, at: int) -> int:
    """Length of the Layer III frame at *at*; 0 where there is none, or one of free bit rate."""
    head = body[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, bit_rate, rate, padding = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or bit_rate in (0, 15) or rate == 3:
        return 0
    if version == 3:
        return 144_000 * BIT_RATES_1[bit_rate] // RATES[3][rate] + padding
    return 72_000 * BIT_RATES_2[bit_rate] // RATES[version][rate] + padding
