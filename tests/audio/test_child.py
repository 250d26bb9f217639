"""The child process: what happens to it happens to one request, and nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.audio import child
from service.audio.child import ChildSource
from service.audio.decode import open_recording
from service.audio.probe import Found, probe
from service.errors import BadAudio, Overloaded, TooLarge, TruncatedAudio, UnsupportedAudio
from service.values import AudioLimits
from tests.audio.made import LIMITS, encoded, heard, tone

SAMPLES = tone(20, 16_000)
W64 = encoded("W64", "PCM_16", SAMPLES, 16_000)
FOUND = probe(memoryview(W64))


def is_alive(pid: int) -> bool:
    """Also true of a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def started(body: bytes = W64, limits: AudioLimits = LIMITS) -> ChildSource:
    return ChildSource(memoryview(body), FOUND, limits)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("W64", "PCM_24"), ("W64", "FLOAT"), ("AIFF", "ALAW"), ("AU", "ULAW"), ("CAF", "ALAC_24"), ("CAF", "ALAW")],
)
def test_rare_formats_come_out_whole(kind: str, subtype: str) -> None:
    sent = tone(1.2, 22_050, 2)

    got, recording = heard(encoded(kind, subtype, sent, 22_050))

    np.testing.assert_allclose(got, sent, atol=0.02 if "LAW" in subtype else 1e-4)
    assert (recording.facts.format, recording.facts.subtype) == (kind.lower(), subtype.lower())
    assert recording.facts.frames == sent.shape[1]


def test_after_the_last_block_the_child_is_gone() -> None:
    source = started()
    with open_recording(W64, LIMITS) as recording:
        list(recording.blocks())
    list(source.blocks())
    source.close()
    assert not is_alive(source.pid)


def test_closing_early_leaves_no_zombie() -> None:
    source = started()
    next(source.blocks())

    source.close()
    source.close()

    assert not is_alive(source.pid)


def test_a_child_that_is_killed_fails_its_own_request_alone() -> None:
    killed, other = started(), started()
    blocks = killed.blocks()
    next(blocks)

    os.kill(killed.pid, signal.SIGKILL)
    with pytest.raises(BadAudio, match="gave up"):
        list(blocks)

    assert not is_alive(killed.pid)
    assert sum(block.shape[1] for block in other.blocks()) == SAMPLES.shape[1]
    other.close()


def test_a_stopped_child_is_waited_for_only_so_long() -> None:
    source = started()
    blocks = source.blocks()
    next(blocks)
    os.kill(source.pid, signal.SIGSTOP)
    source._patience_ms = 50

    with pytest.raises(BadAudio, match="gave up"):
        list(blocks)

    assert not is_alive(source.pid)


def test_a_child_that_reads_nothing_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        pids.append(process.pid)
        return process

    pids: list[int] = []
    monkeypatch.setattr(child, "_start", start)
    monkeypatch.setattr(child, "MOST_PATIENCE_MS", 50)

    with pytest.raises(BadAudio, match="gave up"):
        started(bytes(1_000_000))

    assert not is_alive(pids[0])


def test_a_slow_reader_makes_the_child_wait_and_gets_everything() -> None:
    source = started()
    blocks = source.blocks()
    got = next(blocks).shape[1]
    time.sleep(0.05)

    assert "S" in Path(f"/proc/{source.pid}/stat").read_text().split()[2]  # it sleeps: the pipe is full
    assert got + sum(block.shape[1] for block in blocks) == SAMPLES.shape[1]
    source.close()


def test_too_little_memory_is_the_end_of_the_child_and_not_of_us() -> None:
    with pytest.raises(BadAudio, match="gave up"):
        started(limits=replace(LIMITS, child_memory_bytes=32 << 20))


def test_too_little_processor_time_is_the_end_of_the_child() -> None:
    long = encoded("W64", "PCM_16", np.zeros((16, 1_500_000), np.float32), 16_000)
    with pytest.raises(BadAudio, match="gave up"):
        # reading alone takes longer than nothing
        spent(ChildSource(memoryview(long), FOUND, replace(LIMITS, child_cpu_s=0)))


def spent(source: ChildSource) -> None:
    try:
        for _ in source.blocks():
            pass
    finally:
        source.close()


@pytest.mark.parametrize(
    "body",
    [W64[:30], W64[:100] + b"\xff" * 500, FOUND.format.encode() * 500, bytes(1000)],
    ids=["cut", "lies", "text", "zeros"],
)
def test_garbage_is_our_error(body: bytes) -> None:
    with pytest.raises((TruncatedAudio, UnsupportedAudio, BadAudio)):
        spent(started(body))


def test_a_compressed_w64_is_not_on_the_list() -> None:
    with pytest.raises(UnsupportedAudio):
        heard(encoded("W64", "MS_ADPCM", SAMPLES, 16_000))


def test_limits_are_held_outside_of_the_child() -> None:
    with pytest.raises(TooLarge):
        heard(W64, AudioLimits(max_duration_s=19))
    with pytest.raises(TooLarge):
        heard(encoded("W64", "PCM_16", tone(0.1, 16_000, 4), 16_000), AudioLimits(max_channels=3))


def test_there_is_a_most_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_places", child.threading.BoundedSemaphore(1))
    first = started()
    with pytest.raises(Overloaded):
        started()
    first.close()
    started().close()


def test_the_child_knows_no_secret_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARMARK_API_KEYS", "a-key")
    source = started()
    assert b"a-key" not in Path(f"/proc/{source.pid}/environ").read_bytes()
    source.close()


def test_no_file_stays_open() -> None:
    heard(W64)
    before = len(os.listdir("/proc/self/fd"))
    for body in (W64, W64[:50]):
        with suppress(BadAudio):
            heard(body)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{" * 5000, id="no end of a line"),
        pytest.param(b"[1]\n", id="another kind of JSON"),
        pytest.param(b"{}\n", id="no facts"),
        pytest.param(b'{"subtype": "", "sample_rate": "8000", "channels": 1, "frames": 1}\n', id="a rate that is text"),
        pytest.param(b'{"subtype": "", "sample_rate": 8000, "channels": -1, "frames": 1}\n', id="negative channels"),
        pytest.param(
            b'{"subtype": "", "sample_rate": 8000, "channels": 1, "frames": 1}\n\xff\xff\xff\xff', id="a giant piece"
        ),
        pytest.param(
            b'{"subtype": "", "sample_rate": 8000, "channels": 1, "frames": 1}\n\4\0\0\0ab', id="half a piece"
        ),
        pytest.param(b'{"subtype": "", "sample_rate": 8000, "channels": 1, "frames": 1}\n\0\0\0\0', id="no end"),
    ],
)
def test_a_child_is_believed_no_more_than_its_input(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"import sys; sys.stdin.buffer.read(); sys.stdout.buffer.write({answer!r})"

    def start(*_: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    monkeypatch.setattr(child, "_start", start)
    with pytest.raises(BadAudio, match="gave up"):
        spent(ChildSource(memoryview(b"body"), Found("w64", "child"), LIMITS))
