"""MP3: found behind tags and padding, whole whatever its tags say, and never let near the log of the process."""

from __future__ import annotations

import numpy as np
import pytest

from service.audio.mpeg import Mp3Walk, frame_bytes, side_bytes, walk_mp3
from tests.audio.made import encoded, heard, level, speech

RATE = 24_000
SENT = speech(6, RATE)
FILE = encoded("MP3", "MPEG_LAYER_III", SENT, RATE)
TAG_FRAME = frame_bytes(memoryview(FILE), 0)
UNTAGGED = FILE[TAG_FRAME:]


def test_a_whole_file_is_unbroken_and_keeps_its_tag() -> None:
    assert walk_mp3(memoryview(FILE), 0) == Mp3Walk(FILE[:TAG_FRAME], TAG_FRAME, len(FILE), True, True)


@pytest.mark.parametrize(
    "around",
    [
        pytest.param((b"ID3\4\0\0\0\0\x02\x01" + bytes(257), b""), id="ID3v2 before"),
        pytest.param((bytes(3000), b""), id="zeros before"),
        pytest.param((b"junk\xff\xfb\x92\xff", b""), id="junk with half a header before"),
        pytest.param((b"", b"TAG" + bytes(125)), id="ID3v1 after"),
        pytest.param((b"", b"APETAGEX" + bytes(50)), id="APE tag after"),
        pytest.param((b"", bytes(900)), id="zeros after"),
    ],
)
def test_what_is_around_the_frames_changes_nothing(
    around: tuple[bytes, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    got, recording = heard(around[0] + FILE + around[1])

    assert got.shape == SENT.shape
    assert recording.warnings.sentences == []
    assert capfd.readouterr().err == ""


def test_a_file_of_variable_rate_without_a_tag_is_read_to_its_end() -> None:
    """Left alone, libsndfile takes the length from the first frame and stops there."""
    got, recording = heard(UNTAGGED)

    assert 0 <= got.shape[1] - SENT.shape[1] < 3 * 576
    assert recording.warnings.sentences == []
    last = slice(SENT.shape[1] - RATE, SENT.shape[1])
    assert level(got[0, last]) == pytest.approx(level(SENT[0, last]), rel=0.1)


def test_files_put_together_are_read_to_the_end_of_the_last() -> None:
    got, recording = heard(FILE + UNTAGGED + UNTAGGED)

    assert 3 * SENT.shape[1] <= got.shape[1] < 3 * SENT.shape[1] + 9 * 576
    assert recording.warnings.sentences == []


@pytest.mark.parametrize("with_tag", [True, False])
def test_a_hole_in_the_middle_goes_to_the_child_and_not_to_the_log(
    with_tag: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    body = bytearray(FILE if with_tag else UNTAGGED)
    middle = len(body) // 2
    body[middle : middle + 500] = b"\x55" * 500

    walk = walk_mp3(memoryview(body), 0)
    got, _ = heard(bytes(body))

    assert walk is not None
    assert not walk.unbroken
    assert got.shape[1] > 0.9 * SENT.shape[1]
    assert np.isfinite(got).all()
    assert capfd.readouterr().err == ""


def test_a_cut_is_no_gap_and_nothing_for_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    walk = walk_mp3(memoryview(FILE)[:-50], 0)
    assert walk is not None
    assert walk.unbroken

    got, recording = heard(FILE[: len(FILE) // 2])

    assert 0.4 * SENT.shape[1] < got.shape[1] < 0.6 * SENT.shape[1]
    assert "promises 6.00 s" in recording.warnings.sentences[0]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"\xff\xfb", bytes(70_000), b"\xff\xe3" * 500, b"\xff\xfb\xf0\x00" * 50]
)
def test_no_frames_are_found_where_there_are_none(body: bytes) -> None:
    assert walk_mp3(memoryview(body), 0) is None


@pytest.mark.parametrize(
    ("head", "length", "side"),
    [
        (b"\xff\xfb\x90\x00", 417, 36),  # MPEG 1, 128 kbit/s, 44.1 kHz, stereo
        (b"\xff\xfb\x92\xc0", 418, 21),  # the same with padding, mono
        (b"\xff\xf3\x80\xc4", 208, 13),  # MPEG 2, 64 kbit/s, 22.05 kHz, mono
        (b"\xff\xe3\x18\xc4", 72, 13),  # MPEG 2.5, 8 kbit/s, 8 kHz, mono
        (b"\xff\xfd\x90\x00", 0, 36),  # layer II
        (b"\xff\xfb\x00\x00", 0, 36),  # free bit rate
        (b"\xff\xfb\x9c\x00", 0, 36),  # reserved sample rate
        (b"\xff\xeb\x90\x00", 0, 17),  # reserved version
    ],
)
def test_frame_headers_are_read_as_the_standard_has_them(head: bytes, length: int, side: int) -> None:
    assert frame_bytes(memoryview(head), 0) == length
    assert not length or side_bytes(head) == side
