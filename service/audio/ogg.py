"""The pages of an Ogg file: what the first holds, whether the last is the last, and whether others begin between.

The decoder reads the first of several recordings that were put together, and says nothing of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import TruncatedAudio

BEGINS, ENDS = 2, 4
"""Flags of a page."""
HEADER_BYTES = 27
MOST_PAGE_BYTES = 65_307
MAX_PAGES = 100_000
"""Followed one by one: a second each is usual."""


@dataclass(frozen=True, slots=True)
class OggWalk:
    """What the page headers say of a whole file."""

    codec: bytes
    """The first eight bytes of the first packet."""
    is_cut: bool
    """Whether the last page does not say that it is the last."""
    is_chained: bool
    """Whether another stream begins after the first."""


def walk_ogg(body: memoryview) -> OggWalk:
    """Follow the pages of a body that begins with one.

    Raises:
        TruncatedAudio: it ends within the first page.
    """
    if len(body) < HEADER_BYTES + 9:
        raise TruncatedAudio("The Ogg file ends within its header.")
    at = HEADER_BYTES + body[26]
    return OggWalk(bytes(body[at : at + 8]), not _ends(body), _has_second_beginning(body))


def _ends(body: memoryview) -> bool:
    tail = bytes(body[-MOST_PAGE_BYTES:])
    page = tail.rfind(b"OggS")
    return 0 <= page < len(tail) - 5 and bool(tail[page + 5] & ENDS)


def _has_second_beginning(body: memoryview) -> bool:
    at = 0
    for page in range(MAX_PAGES):
        head = bytes(body[at : at + HEADER_BYTES])
        if len(head) < HEADER_BYTES or head[:4] != b"OggS":
            return False
        if page and head[5] & BEGINS:
            return True
        segments = at + HEADER_BYTES
        at = segments + head[26] + sum(body[segments : segments + head[26]])
    return False
