"""Decodes with libsndfile, within this process or within the child. Its texts stay here: they show addresses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soundfile

from service.audio.byteview import ByteView
from service.audio.source import block_frames
from service.errors import TruncatedAudio, UnsupportedAudio
from service.values import AudioFacts, Samples

LINEAR = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"}
LAWS = {"ALAW", "ULAW"}

PLAIN: dict[str, set[str]] = {
    "FLAC": LINEAR,
    "OGG": {"VORBIS", "OPUS"},
    "MP3": {"MPEG_LAYER_III"},
    "AIFF": LINEAR,
    "AU": LINEAR,
    "CAF": LINEAR,
}
"""What is decoded within this process."""

RARE: dict[str, set[str]] = {
    "MP3": {"MPEG_LAYER_III"},
    "AIFF": LAWS,
    "AU": LAWS,
    "CAF": LAWS | {"ALAC_16", "ALAC_20", "ALAC_24", "ALAC_32"},
    "W64": LINEAR | LAWS,
}
"""What is decoded within the child."""

BELIEVABLE_FRAMES = (1 << 36) - 1
"""This and more say that the header names no length: it is the greatest that a FLAC header holds."""


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """Read once, from start to end. Left to itself the library seeks after every read, and decoders start anew."""

    def seekable(self) -> bool:
        return False


class SndfileSource:
    """One recording as libsndfile decodes it.

    Raises:
        TruncatedAudio: nothing in it can be decoded.
        UnsupportedAudio: what the library found is not what the first bytes promised.
    """

    def __init__(
        self, body: memoryview, allowed: dict[str, set[str]], *, is_cut: bool = False, prefix: bytes = b""
    ) -> None:
        self._view = ByteView(body, prefix)
        try:
            self._file = _Forward(self._view)
        except (soundfile.SoundFileError, ValueError):
            raise TruncatedAudio("The file is damaged or cut off: nothing in it can be decoded.") from None
        name, subtype = self._file.format, self._file.subtype
        if subtype not in allowed.get(name, ()):
            self.close()
            raise UnsupportedAudio("The file is not what its first bytes say that it is.")
        frames = self._file.frames if 0 < self._file.frames < BELIEVABLE_FRAMES else None
        self.facts = AudioFacts(name.lower(), subtype.lower(), self._file.samplerate, self._file.channels, frames)
        self.promised_frames = frames
        self.is_cut = is_cut
        self.broke_off = False

    def blocks(self) -> Iterator[Samples]:
        shape = block_frames(self.facts.sample_rate, self.facts.channels), self.facts.channels
        while not (self._file.closed or self.broke_off):
            # a read that fails has written what it could decode, but does not say how much
            room = np.full(shape, np.nan, np.float32)
            try:
                block = self._file.read(out=room)
            except soundfile.SoundFileError:
                self.broke_off = True
                unwritten = np.isnan(room).any(axis=1)
                block = room[: int(unwritten.argmax()) if unwritten.any() else len(room)]
            if not len(block):
                return
            yield np.ascontiguousarray(block.T)

    def close(self) -> None:
        self._file.close()
        self._view.close()
