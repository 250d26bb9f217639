"""What stands behind a recording: something that gives its samples once, in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from service.audio import pcm
from service.audio.pcm import BYTES, PcmLayout
from service.audio.raw import RawFormat
from service.values import AudioFacts, Samples

BLOCK_SAMPLES = 163_840
"""At most, over all channels: ten seconds of one at 16 kHz. Blocks cost calls, samples memory."""
BLOCK_S = 10

SUBTYPES: dict[pcm.Encoding, str] = {
    "u8": "pcm_u8", "s16le": "pcm_16", "s16be": "pcm_16", "s24le": "pcm_24", "s32le": "pcm_32",
    "f32le": "float", "f64le": "double", "alaw": "alaw", "ulaw": "ulaw",
}  # fmt: skip


class Source(Protocol):
    """Samples of one recording. Everything is called from one thread at a time."""

    facts: AudioFacts
    """As the header says."""
    promised_frames: int | None
    """Frames that must come for the recording to be whole; None where nothing is promised."""
    is_cut: bool
    """Whether the container says that it is not whole."""
    broke_off: bool
    """Whether decoding stopped before the end; meaningful after the last block."""

    def blocks(self) -> Iterator[Samples]:
        """(channels, n) each, contiguous, n from 1 to what `block_frames` says."""
        ...

    def close(self) -> None:
        """Let go of the body and of everything else; again does nothing."""
        ...


def block_frames(sample_rate: int, channels: int) -> int:
    """Most frames of one block."""
    return max(1, min(sample_rate * BLOCK_S, BLOCK_SAMPLES // channels))


class PcmSource:
    """Samples that lie open in the body: WAV and headerless."""

    def __init__(self, body: memoryview, layout: PcmLayout, file_format: str) -> None:
        self.facts = AudioFacts(
            file_format, SUBTYPES[layout.encoding], layout.sample_rate, layout.channels, layout.frames
        )
        self.promised_frames = layout.promised_frames
        self.is_cut = False
        self.broke_off = False
        self.is_ragged = layout.ragged
        self._body: memoryview | None = body
        self._layout = layout

    def blocks(self) -> Iterator[Samples]:
        if self._body is not None:
            layout = self._layout
            yield from pcm.blocks(self._body, layout, block_frames(layout.sample_rate, layout.channels))

    def close(self) -> None:
        self._body = None


def raw_layout(body: memoryview, raw: RawFormat) -> PcmLayout:
    frames, rest = divmod(len(body), BYTES[raw.encoding] * raw.channels)
    return PcmLayout(raw.encoding, raw.sample_rate, raw.channels, 0, frames, ragged=rest > 0)
