"""The length of an MP3 file, written into its first frame before the others are known (Xing and LAME tag).

An MP3 frame holds a fixed number of samples, and the codec puts silence before them. The tag tells players how much
to leave out at both ends; without it they play a file that is late and too long. Encoders go back to write it when
they are done; a stream cannot, but LAME's arithmetic is plain enough to be done beforehand.
"""

from __future__ import annotations

import struct

from service.audio.mpeg import frame_bytes, side_bytes

ENCODER_DELAY = 576
"""Samples that LAME puts before the first one."""
LEAST_PADDING = 576
"""Samples that must follow the last one, or the decoder cannot give it."""
HAS_FRAMES = 1


def with_length(made: bytes, frames: int | None) -> bytes:
    """Fill in the empty first frame at the start of *made*.

    Args:
        frames: at the file's rate; None, not known: the empty frame is left out.
    """
    if frames is None:
        return made[frame_bytes(memoryview(made), 0) :]
    at = side_bytes(made)
    samples = 1152 if made[1] >> 3 & 3 == 3 else 576
    count = -(-(frames + ENCODER_DELAY + LEAST_PADDING) // samples)
    padding = count * samples - frames - ENCODER_DELAY
    tag = struct.pack(">4sII", b"Xing", HAS_FRAMES, count)
    lame = b"LAME3.100".ljust(21, b"\0") + (ENCODER_DELAY << 12 | padding).to_bytes(3, "big") + bytes(12)
    return made[:at] + tag + lame + made[at + len(tag) + len(lame) :]
