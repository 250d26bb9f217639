"""Samples to bytes as they are made: the bytes of a block are out before the next one comes, and are never held.

Duration after decoding: wav, flac and f32 exactly; opus exactly where its rate is kept (8, 12, 16, 24, 48 kHz), else
that of the recording resampled to 48 kHz, which is within half a sample; mp3 likewise where `frames` was given, else
late by 576 samples and longer by at most three frames of the codec.
"""

from __future__ import annotations

import io
import struct
from typing import Literal, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from service.audio.lame_tag import with_length
from service.audio.pcm import to_pcm16
from service.audio.resample import Resampler
from service.errors import BadRequest, InternalFault
from service.values import Samples

Format = Literal["wav", "flac", "opus", "mp3", "f32"]

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
MOST_CHANNELS: dict[Format, int] = {"wav": 65_535, "flac": 8, "opus": 255, "mp3": 2, "f32": 65_535}
SLICE_FRAMES = 4096
"""Handed to a codec at once: libsndfile's Vorbis and Opus keep a whole call on the stack."""
HEADER_BYTES = 42
"""Of a FLAC file, up to the end of its STREAMINFO."""


class Encoder(Protocol):
    """Makes one file. The bytes of all pushes and of the finish, one after another, are the file."""

    media_type: str
    suffix: str

    def push(self, block: Samples) -> bytes:
        """Take (channels, n) more; gives the bytes that are ready, maybe none."""
        ...

    def finish(self) -> bytes:
        """The last bytes."""
        ...


def encoder(format: Format, sample_rate: int, channels: int, frames: int | None) -> Encoder:
    """An encoder of 16 bit (wav, flac), the codec's own precision (opus, mp3) or raw little-endian float32 (f32).

    Args:
        sample_rate: of what is pushed, in Hz; opus and mp3 may resample it to one of theirs.
        frames: that will be pushed, if that is known: then headers say the length.

    Raises:
        BadRequest: more channels, or a rate, than the format has room for.
    """
    most = MOST_CHANNELS[format]
    if channels > most:
        raise BadRequest(
            f"A file of format {format} has at most {most} channels.", limit="channels", maximum=most, got=channels
        )
    if format == "f32":
        return RawEncoder()
    if format == "wav":
        return WavEncoder(sample_rate, channels, frames)
    if format == "flac":
        return FlacEncoder(sample_rate, channels, frames)
    return OpusEncoder(sample_rate, channels) if format == "opus" else Mp3Encoder(sample_rate, channels, frames)


class RawEncoder:
    media_type = "application/octet-stream"
    suffix = ".f32"

    def push(self, block: Samples) -> bytes:
        return _interleaved(block).astype("<f4", copy=False).tobytes()

    def finish(self) -> bytes:
        return b""


class WavEncoder:
    """16 bit; RF64 where the samples are too many for the lengths of a plain header."""

    media_type = "audio/wav"
    suffix = ".wav"

    def __init__(self, sample_rate: int, channels: int, frames: int | None) -> None:
        self._header = _wav_header(sample_rate, channels, frames)

    def push(self, block: Samples) -> bytes:
        header, self._header = self._header, b""
        return header + to_pcm16(_interleaved(block)).tobytes()

    def finish(self) -> bytes:
        header, self._header = self._header, b""
        return header


class _LibraryEncoder:
    """What is common to the codecs of libsndfile."""

    def __init__(self, kind: str, subtype: str, sample_rate: int, file_rate: int, channels: int) -> None:
        self._sink = _Sink()
        self._resampler = Resampler(sample_rate, file_rate, channels)
        try:
            self._file = soundfile.SoundFile(self._sink, "w", file_rate, channels, subtype, format=kind)
        except soundfile.SoundFileError:
            raise BadRequest(f"{kind} cannot hold {channels} channels at {file_rate} Hz.", got=file_rate) from None

    def push(self, block: Samples) -> bytes:
        self._write(_interleaved(self._resampler.push(block)))
        return self._sink.take()

    def finish(self) -> bytes:
        self._write(_interleaved(self._resampler.finish()))
        self._file.close()
        return self._sink.take()

    def _write(self, interleaved: NDArray[np.float32]) -> None:
        for at in range(0, len(interleaved), SLICE_FRAMES):
            # beyond full scale codecs differ: some wrap, some distort
            self._file.write(np.clip(interleaved[at : at + SLICE_FRAMES], -1.0, 1.0))


class FlacEncoder(_LibraryEncoder):
    media_type = "audio/flac"
    suffix = ".flac"

    def __init__(self, sample_rate: int, channels: int, frames: int | None) -> None:
        if sample_rate > 0xFFFF and sample_rate % 10:
            raise BadRequest("FLAC holds rates above 65,535 Hz only in tens of Hz.", got=sample_rate)
        super().__init__("FLAC", "PCM_16", sample_rate, sample_rate, channels)
        self._frames = frames
        self._head = b""

    def push(self, block: Samples) -> bytes:
        return self._with_length(super().push(block))

    def finish(self) -> bytes:
        return self._with_length(super().finish())

    def _with_length(self, made: bytes) -> bytes:
        """Put the length into the last 36 bits of bytes 18 to 25, where the library would go back to put it."""
        if self._frames is None or not made:
            return made
        frames, self._frames = self._frames, None
        if len(made) < HEADER_BYTES:
            raise InternalFault("the header of a FLAC file came in parts")
        field = int.from_bytes(made[18:26], "big") | min(frames, (1 << 36) - 1)
        return made[:18] + field.to_bytes(8, "big") + made[26:]

    def _write(self, interleaved: NDArray[np.float32]) -> None:
        for at in range(0, len(interleaved), SLICE_FRAMES):
            self._file.write(to_pcm16(interleaved[at : at + SLICE_FRAMES]))


class OpusEncoder(_LibraryEncoder):
    media_type = "audio/ogg"
    suffix = ".opus"

    def __init__(self, sample_rate: int, channels: int) -> None:
        super().__init__("OGG", "OPUS", sample_rate, sample_rate if sample_rate in OPUS_RATES else 48_000, channels)


class Mp3Encoder(_LibraryEncoder):
    media_type = "audio/mpeg"
    suffix = ".mp3"

    def __init__(self, sample_rate: int, channels: int, frames: int | None) -> None:
        rate = _mp3_rate(sample_rate)
        super().__init__("MP3", "MPEG_LAYER_III", sample_rate, rate, channels)
        self._frames = None if frames is None else round(frames * rate / sample_rate)
        self._is_first = True

    def push(self, block: Samples) -> bytes:
        return self._with_length(super().push(block))

    def finish(self) -> bytes:
        return self._with_length(super().finish())

    def _with_length(self, made: bytes) -> bytes:
        """The library leaves an empty frame at the start, to go back to; it is filled here."""
        if not made or not self._is_first:
            return made
        self._is_first = False
        return with_length(made, self._frames)


class _Sink(io.RawIOBase):
    """What the library writes to. It only goes on: what it would go back to change has been sent already."""

    def __init__(self) -> None:
        self._ready = bytearray()
        self._at = 0
        self._end = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        new = data[max(0, self._end - self._at) :]
        self._ready += new
        self._at += len(data)
        self._end = max(self._end, self._at)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        self._at = min(max(base + offset, 0), self._end)
        return self._at

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        ready, self._ready = bytes(self._ready), bytearray()
        return ready


def _interleaved(block: Samples) -> NDArray[np.float32]:
    """(channels, n) → (n, channels)."""
    if not np.isfinite(block).all():
        raise InternalFault("samples to encode hold NaN or infinity")
    return np.ascontiguousarray(block.T)


def _mp3_rate(sample_rate: int) -> int:
    """The least rate of the format that loses nothing; above all of them, one of its greatest that divides well."""
    fitting = [rate for rate in MP3_RATES if rate >= sample_rate]
    if fitting:
        return fitting[0]
    return 44_100 if sample_rate % 44_100 == 0 else 48_000


def _wav_header(sample_rate: int, channels: int, frames: int | None) -> bytes:
    """Where the length is not known both length fields are full, as streams have it."""
    fmt = struct.pack("<HHIIHH", 1, channels, sample_rate, sample_rate * channels * 2, channels * 2, 16)
    unknown = 0xFFFF_FFFF
    data = unknown if frames is None else frames * channels * 2
    if frames is not None and data > unknown - 36:
        sizes = struct.pack("<QQQI", data + 72, data, frames, 0)
        head = struct.pack("<4sI4s4sI", b"RF64", unknown, b"WAVE", b"ds64", len(sizes)) + sizes
        data = unknown
    else:
        head = struct.pack("<4sI4s", b"RIFF", unknown if frames is None else data + 36, b"WAVE")
    return head + struct.pack("<4sI", b"fmt ", len(fmt)) + fmt + struct.pack("<4sI", b"data", data)
