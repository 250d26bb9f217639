"""Plain samples to float32 and back: one numpy conversion for each encoding, no container, no C parser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.values import Samples

Encoding = Literal["u8", "s16le", "s16be", "s24le", "s32le", "f32le", "f64le", "alaw", "ulaw"]

BYTES: dict[Encoding, int] = {
    "u8": 1, "s16le": 2, "s16be": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8, "alaw": 1, "ulaw": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PcmLayout:
    """Where interleaved samples lie in a body, and how many whole frames of them are really there."""

    encoding: Encoding
    sample_rate: int
    channels: int
    start_byte: int
    frames: int
    promised_frames: int | None = None
    """Frames the header speaks of, where it speaks of more than came."""
    ragged: bool = False
    """Whether bytes of an incomplete last frame follow the whole ones."""

    @property
    def frame_bytes(self) -> int:
        return BYTES[self.encoding] * self.channels


def to_float(data: memoryview, encoding: Encoding) -> NDArray[np.float32]:
    """Samples in their own order, full scale at 1. Floats pass as they are, beyond 1 and not finite too."""
    if encoding == "s24le":
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float32) * np.float32(2.0**-31)
    if encoding == "u8":
        return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) * np.float32(2.0**-7)
    if encoding in ("s16le", "s16be"):
        return np.frombuffer(data, "<i2" if encoding == "s16le" else ">i2").astype(np.float32) * np.float32(2.0**-15)
    if encoding == "s32le":
        return np.frombuffer(data, "<i4").astype(np.float32) * np.float32(2.0**-31)
    if encoding in ("alaw", "ulaw"):
        return companded(encoding)[np.frombuffer(data, np.uint8)]
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite and is refused as such
        return np.frombuffer(data, "<f4" if encoding == "f32le" else "<f8").astype(np.float32)


@cache
def companded(law: Encoding) -> NDArray[np.float32]:
    """The 256 values of ITU-T G.711, A-law or µ-law, full scale at 1."""
    code = np.arange(256, dtype=np.int32)
    if law == "alaw":
        code ^= 0x55
        exponent, mantissa = (code >> 4) & 7, code & 15
        magnitude = np.where(
            exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0)
        )
        value = np.where(code & 0x80, magnitude, -magnitude)
    else:
        code = ~code & 0xFF
        magnitude = ((((code & 15) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84
        value = np.where(code & 0x80, -magnitude, magnitude)
    return (value / 32768).astype(np.float32)


def planar(interleaved: NDArray[np.float32], channels: int) -> Samples:
    """(frames × channels,) → (channels, frames), contiguous and its own."""
    return np.ascontiguousarray(interleaved.reshape(-1, channels).T)


def blocks(body: memoryview, layout: PcmLayout, block_frames: int) -> Iterator[Samples]:
    """The samples of *body*, (channels, n) with n up to *block_frames*; the body is never copied as a whole."""
    step = layout.frame_bytes * block_frames
    end = layout.start_byte + layout.frame_bytes * layout.frames
    for at in range(layout.start_byte, end, step):
        yield planar(to_float(body[at : min(at + step, end)], layout.encoding), layout.channels)


def to_pcm16(interleaved: NDArray[np.float32]) -> NDArray[np.int16]:
    """Rounded to 16 bit; beyond full scale is held at full scale and never wraps."""
    scaled = np.rint(interleaved * np.float32(32768))
    held: NDArray[np.int16] = np.clip(scaled, -32768, 32767).astype("<i2")
    return held
