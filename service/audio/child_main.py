"""The child process: decodes one recording from its standard input to its standard output, under limits, and ends.

Run as `python -m service.audio.child_main DECODER BODY_BYTES MEMORY_BYTES CPU_S`, where DECODER is `sndfile` or the
name of an FFmpeg demuxer. It reads the whole body before it writes anything, so neither side can wait for the other.

It writes a line of JSON: {"format", "subtype", "sample_rate", "channels", "frames"} or {"problem": "unsupported" or
"broken"}. Then pieces: a 4-byte count n above 0 and n float32 of each channel, one channel after another. Then a count
of 0 and one byte: 0 when it read to the end, 1 when it broke off. All numbers are little-endian. An answer without
that end means that the decoder died.

Start-up time is everybody's: FFmpeg's half runs without numpy.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from service.audio.byteview import ByteView

CODECS = {"aac", "alac", "amrnb", "amr_nb", "amrwb", "amr_wb", "flac", "mp3", "mp3float", "opus", "vorbis"}
PCM_CODECS = {"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_f32le", "pcm_f32be", "pcm_u8"}

PIECE_FRAMES = 16_384


class Unsupported(Exception):
    """The container holds no audio that is read here."""


class Broken(Exception):
    """Nothing in it can be decoded."""


def main() -> int:
    decoder, body_bytes, memory_bytes, cpu_s = sys.argv[1], *(int(text) for text in sys.argv[2:5])
    limit(memory_bytes, cpu_s)
    body = read_body(sys.stdin.buffer, body_bytes)
    out = sys.stdout.buffer
    decode = decode_sndfile if decoder == "sndfile" else decode_media
    try:
        decode(memoryview(body), decoder, out)
    except BrokenPipeError:
        # nobody listens any more; what is still buffered must not be flushed at exit
        os._exit(1)
    except Unsupported:
        say(out, {"problem": "unsupported"})
    except Broken:
        say(out, {"problem": "broken"})
    out.flush()
    return 0


def limit(memory_bytes: int, cpu_s: int) -> None:
    """Bound what this process may take: address space, processor time, no core dump, no byte written to any file."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def read_body(pipe: BinaryIO, body_bytes: int) -> bytearray:
    body = bytearray(body_bytes)
    view, at = memoryview(body), 0
    while at < body_bytes:
        got = pipe.readinto(view[at:])  # type: ignore[attr-defined]
        if not got:
            raise SystemExit(1)
        at += got
    return body


def say(out: BinaryIO, line: dict[str, object]) -> None:
    out.write(json.dumps(line).encode() + b"\n")


def send(out: BinaryIO, frames: int, planes: bytes) -> None:
    out.write(frames.to_bytes(4, "little"))
    out.write(planes)


def end(out: BinaryIO, *, broke_off: bool) -> None:
    out.write(bytes((0, 0, 0, 0, broke_off)))


def decode_sndfile(body: memoryview, _: str, out: BinaryIO) -> None:
    from service.audio.sndfile import RARE, SndfileSource
    from service.errors import TruncatedAudio, UnsupportedAudio

    try:
        source = SndfileSource(body, RARE)
    except UnsupportedAudio:
        raise Unsupported from None
    except TruncatedAudio:
        raise Broken from None
    facts = source.facts
    header(out, facts.format, facts.subtype, facts.sample_rate, facts.channels, facts.frames)
    for block in source.blocks():
        send(out, block.shape[1], block.tobytes())
    end(out, broke_off=source.broke_off)


def header(out: BinaryIO, name: str, subtype: str, sample_rate: int, channels: int, frames: int | None) -> None:
    line = {"format": name, "subtype": subtype, "sample_rate": sample_rate, "channels": channels, "frames": frames}
    say(out, line)
    out.flush()


def decode_media(body: memoryview, demuxer: str, out: BinaryIO) -> None:
    import av

    try:
        # naming the demuxer keeps FFmpeg from guessing a playlist that opens other files
        with av.open(ByteView(body), format=demuxer, metadata_errors="ignore") as container:
            send_stream(container, demuxer, out)
    except av.error.FFmpegError:
        raise Broken from None


def send_stream(container: Any, demuxer: str, out: BinaryIO) -> None:
    """The first audio stream of an opened container."""
    from av import AudioResampler

    if not container.streams.audio:
        raise Unsupported
    stream = container.streams.audio[0]
    codec = stream.codec_context.name
    if codec not in CODECS | PCM_CODECS:
        raise Unsupported
    stream.codec_context.thread_count = 1
    frames = Frames(container, stream)
    first = next(frames, None)
    if first is None:
        raise Broken
    # the container's rate and channels may be those of the core alone (HE-AAC); the first frame knows
    rate, layout, channels = first.sample_rate, first.layout.name, len(first.layout.channels)
    length = None if stream.duration is None else round(stream.duration * stream.time_base * rate)
    header(out, demuxer, codec, rate, channels, length)
    planar = AudioResampler(format="fltp", layout=layout, rate=rate)
    gathered = Gathered(out, channels, min(rate, PIECE_FRAMES))
    frame: Any = first
    while frame is not None:
        if frame.sample_rate != rate or frame.layout.name != layout:
            frames.broke_off = True
            break
        for part in planar.resample(frame):
            gathered.add(part)
        frame = next(frames, None)
    gathered.flush()
    end(out, broke_off=frames.broke_off)


class Frames:
    """Decoded frames up to the end or to the first error."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._decoded = container.decode(stream)
        self.broke_off = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        from av.error import FFmpegError

        try:
            return next(self._decoded)
        except FFmpegError:
            self.broke_off = True
            raise StopIteration from None


class Gathered:
    """Small frames of a codec put together to pieces."""

    def __init__(self, out: BinaryIO, channels: int, piece_frames: int) -> None:
        self._out = out
        self._planes = [bytearray() for _ in range(channels)]
        self._piece_bytes = 4 * piece_frames

    def add(self, frame: Any) -> None:
        for plane, more in zip(self._planes, frame.planes, strict=True):
            plane += memoryview(more)[: 4 * frame.samples]  # the rest of the plane is alignment
        while len(self._planes[0]) >= self._piece_bytes:
            self._send(self._piece_bytes)

    def flush(self) -> None:
        if self._planes[0]:
            self._send(len(self._planes[0]))

    def _send(self, size: int) -> None:
        send(self._out, size // 4, b"".join(plane[:size] for plane in self._planes))
        for plane in self._planes:
            del plane[:size]


if __name__ == "__main__":
    sys.exit(main())
