"""The frame headers of an MP3 file: where it begins, how many frames there are, and whether they follow without a gap.

Two habits of the decoder make this necessary. It writes a line to the process's standard error for every frame that
it does not like, so a file with a gap goes to the child process, where nobody listens to that. (Damage within a frame
does not show in the headers and is still complained of.) And where no tag names the length it guesses one from the
first frame and stops there, which cuts a file of variable bit rate in half; so such a file gets a tag in front of it.
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

TAG_BIT_RATE = 8
"""112 or 64 kbit/s: a frame that surely has room for the tag."""
LEAST_FRAME_BYTES = 24

MAX_FRAMES = 2_000_000
"""Followed one by one: 13 hours. What is longer is treated as if it had a gap."""


@dataclass(frozen=True, slots=True)
class Mp3Walk:
    """What the frame headers say of a whole file."""

    tag: bytes
    """The frame to decode first: it tells the decoder how many are to come, and how many bytes."""
    start_byte: int
    """Of the first frame after it."""
    end_byte: int
    unbroken: bool
    """Whether frames of one kind reach from the first to the end of the body, or to a tag or zeros there."""
    tells_length: bool
    """Whether the tag is right about the length; false where it had to be an upper bound."""


def walk_mp3(body: memoryview, start: int) -> Mp3Walk | None:
    """Follow the frames from the first one at or after *start*; None where there are none."""
    first = _first_frame(body, start)
    if first is None:
        return None
    count, end = _count(body, first)
    unbroken = end + 4 > len(body) or _is_trailer(body[end:])
    end = min(end, len(body)) if unbroken else len(body)
    told = _told_frames(body, first)
    # of files put together end to end, the first one's tag speaks of the first one alone
    if told is not None and told + 2 >= count:
        rest = first + frame_bytes(body, first)
        return Mp3Walk(_with_bytes(body[first:rest], end - first), rest, end, unbroken, tells_length=True)
    rest = first if told is None else first + frame_bytes(body, first)
    most = count if unbroken else (end - first) // LEAST_FRAME_BYTES
    return Mp3Walk(_tag(body, first, most), rest, end, unbroken, tells_length=unbroken)


def side_bytes(head: bytes | bytearray | memoryview) -> int:
    """Length of the header and side information of a frame; the tag with the length comes after them."""
    is_mpeg1, is_mono = head[1] >> 3 & 3 == 3, head[3] >> 6 == 3
    return 4 + ((17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17))


def _count(body: memoryview, at: int) -> tuple[int, int]:
    """Frames of one kind in a row from *at*, and where they end."""
    kind, end, count = _kind(body, at), len(body) - 4, 0
    lengths: dict[bytes, int] = {}  # of the headers met so far: there are few, and a long file has many frames
    while at <= end and count < MAX_FRAMES:
        head = bytes(body[at : at + 4])
        length = lengths.get(head)
        if length is None:
            length = lengths[head] = frame_bytes(body, at) if _kind(body, at) == kind else 0
        if not length:
            break
        count += 1
        at += length
    return count, at


def _is_trailer(rest: memoryview) -> bool:
    return bytes(rest[:8]).startswith(TRAILERS) or (len(rest) < SEARCH_BYTES and not any(rest))


def _told_frames(body: memoryview, first: int) -> int | None:
    """The count of frames in the tag of the first frame (Xing, Info), where there is one."""
    at = first + side_bytes(body[first : first + 4])
    if bytes(body[at : at + 4]) not in (b"Xing", b"Info") or not int.from_bytes(body[at + 4 : at + 8], "big") & 1:
        return None
    return int.from_bytes(body[at + 8 : at + 12], "big")


def _with_bytes(frame: memoryview, size: int) -> bytes:
    """The frame with the tag, its count of bytes made true: the decoder complains on standard error where it is not."""
    made = bytearray(frame)
    at = side_bytes(made) + 12
    if len(made) >= at + 4 and made[at - 5] & 2:
        made[at : at + 4] = min(size, 0xFFFF_FFFF).to_bytes(4, "big")
    return bytes(made)


def _tag(body: memoryview, first: int, frames: int) -> bytes:
    """A frame of the same kind that holds nothing but the count of the frames that follow."""
    head = bytearray(body[first : first + 4])
    head[1] |= 1  # no checksum
    head[2] = TAG_BIT_RATE << 4 | head[2] & 0x0C
    frame = head + bytes(frame_bytes(memoryview(head), 0) - 4)
    at = side_bytes(head)
    frame[at : at + 12] = b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return bytes(frame)


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
        length = frame_bytes(body, at)
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


def frame_bytes(body: memoryview, at: int) -> int:
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
