"""The parent's side of the child process (`child_main` says what is spoken): feeds it, reads from it, ends it.

A crash, a hang or a greedy file in there costs the one request. The child is believed no more than its input:
what it says of itself is checked, and its pieces are bounded.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from service.audio.probe import Found, unsupported
from service.audio.source import block_frames
from service.errors import BadAudio, Overloaded, TruncatedAudio
from service.values import AudioFacts, AudioLimits, Samples

MAX_CHILDREN = 32
"""At once in this process, unless `allow` says otherwise; each may take `child_memory_bytes`."""

HEADER_BYTES = 1024
PIPE_BYTES = 64 * 1024
MOST_PATIENCE_MS = 3_600_000

_places = threading.BoundedSemaphore(MAX_CHILDREN)


def allow(children: int) -> None:
    """Let so many children work at once; for the start of the service, before there are any."""
    global _places
    _places = threading.BoundedSemaphore(children)


class ChildSource:
    """One recording as a child process decodes it.

    Raises:
        BadAudio: the child gave up: it crashed, or met a limit of memory or time.
        TruncatedAudio, UnsupportedAudio: what the child found.
        Overloaded: as many as are allowed are at work.
    """

    def __init__(self, body: memoryview, found: Found, limits: AudioLimits) -> None:
        self._places = _places
        if not self._places.acquire(blocking=False):
            raise Overloaded("Too many recordings of formats that need a process of their own are being decoded.")
        self._closed = False
        # processor time is limited by the kernel; this is for a child that does nothing at all
        self._patience_ms = min(2000 * limits.child_cpu_s, MOST_PATIENCE_MS)
        try:
            self._process = _start(found.demuxer or "sndfile", len(found.prefix) + len(body), limits)
        except BaseException:
            self._closed = True
            self._places.release()
            raise
        try:
            self._feed(memoryview(found.prefix), body)
            self.facts = self._read_header(found)
        except BaseException:
            self.close()
            raise
        # FFmpeg's durations are rounded to the container's clock: they are no promise
        self.promised_frames = self.facts.frames if not found.demuxer else None
        self.is_cut = found.is_cut
        self.broke_off = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def blocks(self) -> Iterator[Samples]:
        channels = self.facts.channels
        most = block_frames(self.facts.sample_rate, channels)
        while not self._closed:
            frames = int.from_bytes(self._read(4), "little")
            if frames == 0:
                self.broke_off = self._read(1) != b"\0"
                return
            if frames > most:
                self._gave_up()
            samples = np.frombuffer(self._read(4 * frames * channels), "<f4").astype(np.float32, copy=False)
            yield samples.reshape(channels, frames)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.wait()
        finally:
            self._places.release()

    def _feed(self, *pieces: memoryview) -> None:
        """Hand over the whole body. The child writes nothing before it has all of it, so this cannot lock up."""
        pipe = self._process.stdin
        if pipe is None:
            self._gave_up()
        os.set_blocking(pipe.fileno(), False)  # or a write larger than the room in the pipe waits without end
        to_child = select.poll()
        to_child.register(pipe, select.POLLOUT)
        try:
            for piece in pieces:
                at = 0
                while at < len(piece):
                    if not to_child.poll(self._patience_ms):
                        self._gave_up()
                    at += os.write(pipe.fileno(), piece[at : at + PIPE_BYTES])
            pipe.close()
        except BrokenPipeError:
            self._gave_up()

    def _read_header(self, found: Found) -> AudioFacts:
        line = bytearray()
        while not line.endswith(b"\n"):
            if len(line) > HEADER_BYTES:
                self._gave_up()
            line += self._read(1)
        try:
            said = json.loads(line)
            problem = said.get("problem")
            if problem is None:
                return _facts(said, found)
        except (ValueError, TypeError, AttributeError, KeyError):
            self._gave_up()
        if problem == "unsupported":
            raise unsupported("The container holds no audio that is read here.")
        raise TruncatedAudio("The file is damaged or cut off: nothing in it can be decoded.")

    def _read(self, size: int) -> bytearray:
        """Exactly *size* bytes of what the child writes."""
        pipe = self._process.stdout
        if pipe is None:
            self._gave_up()
        got = bytearray(size)
        view, at = memoryview(got), 0
        from_child = select.poll()
        from_child.register(pipe, select.POLLIN)
        while at < size:
            came = from_child.poll(self._patience_ms) and os.readv(pipe.fileno(), [view[at:]])
            if not came:
                self._gave_up()
            at += came
        return got

    def _gave_up(self) -> NoReturn:
        self.close()
        raise BadAudio("The decoder gave up on this file: it is damaged, or takes more memory or time than is allowed.")


def _start(decoder: str, body_bytes: int, limits: AudioLimits) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    arguments = (decoder, body_bytes, limits.child_memory_bytes, limits.child_cpu_s)
    # S603: the arguments are our own; the environment is made anew so that no key of the service is in it
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", "service.audio.child_main", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
        close_fds=True,
        process_group=0,  # an interrupt at the terminal is for the service, which finishes what it has begun
    )


def _facts(said: dict[str, object], found: Found) -> AudioFacts:
    subtype, rate, channels, frames = (said[key] for key in ("subtype", "sample_rate", "channels", "frames"))
    if not (isinstance(rate, int) and isinstance(channels, int) and 0 < rate < 1 << 31 and 0 < channels < 1 << 16):
        raise ValueError("no rate or no channels")
    length = frames if found.tells_length and isinstance(frames, int) and 0 < frames < 1 << 36 else None
    return AudioFacts(found.format, str(subtype)[:32], rate, channels, length)
