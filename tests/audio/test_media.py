"""Containers of moving pictures and phones, decoded by FFmpeg in the child process (extra `media`)."""

from __future__ import annotations

import io

import numpy as np
import pytest

from service.errors import BadAudio, EarmarkError, TruncatedAudio, UnsupportedAudio
from service.values import AudioLimits, Samples
from tests.audio.made import LIMITS, heard, level, speech, tone

av = pytest.importorskip("av", reason="the extra `media` is not installed")


def media(container: str, codec: str, samples: Samples, rate: int, **options: str) -> bytes:
    """A file as FFmpeg writes it."""
    layout = {1: "mono", 2: "stereo"}[samples.shape[0]]
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate = rate
        sizes = av.AudioResampler(
            format=stream.codec_context.format,
            layout=layout,
            rate=rate,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        for part in [*sizes.resample(frame), *sizes.resample(None)]:
            for packet in stream.encode(part):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return target.getvalue()


@pytest.mark.parametrize(
    ("container", "codec", "rate", "channels", "name"),
    [
        ("ipod", "aac", 16_000, 1, "mp4"),
        ("mp4", "aac", 44_100, 2, "mp4"),
        ("ipod", "alac", 44_100, 2, "mp4"),
        ("mov", "pcm_s16le", 48_000, 2, "mp4"),
        ("webm", "libopus", 48_000, 1, "matroska"),
        ("matroska", "pcm_s16le", 16_000, 2, "matroska"),
        ("adts", "aac", 22_050, 1, "aac"),
    ],
)
def test_duration_and_level_are_kept(container: str, codec: str, rate: int, channels: int, name: str) -> None:
    sent = tone(2.3, rate, channels)

    got, recording = heard(media(container, codec, sent, rate))

    facts = recording.facts
    assert (facts.format, facts.sample_rate, facts.channels) == (name, rate, channels)
    assert 0 <= got.shape[1] - sent.shape[1] <= 3 * 1024  # AAC fills up its last frames
    middle = slice(rate // 2, 2 * rate)
    for one, other in zip(got, sent, strict=True):
        assert abs(20 * np.log10(level(one[middle]) / level(other[middle]))) < 0.5
    assert recording.warnings.sentences == []


def test_an_index_at_the_end_of_the_file_is_found() -> None:
    body = media("mp4", "aac", tone(1, 16_000), 16_000)
    assert body.index(b"mdat") < body.index(b"moov")
    assert heard(body)[0].shape[1] >= 16_000


def test_a_cut_file_is_our_error_or_a_part_of_it() -> None:
    body = media("webm", "libopus", speech(3, 48_000), 48_000)
    for share in (0.02, 0.3, 0.7):
        try:
            got, _ = heard(body[: int(share * len(body))])
        except BadAudio:
            continue
        assert 0 < got.shape[1] < 3 * 48_000


def test_a_film_without_sound_is_refused() -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as file:
        stream = file.add_stream("ffv1", rate=5)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for packet in [*stream.encode(av.VideoFrame(16, 16, "yuv420p")), *stream.encode(None)]:
            file.mux(packet)
    with pytest.raises(UnsupportedAudio):
        heard(target.getvalue())


def test_a_codec_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(UnsupportedAudio):
        heard(media("matroska", "ac3", tone(1, 48_000), 48_000))


@pytest.mark.parametrize("head", [b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3", b"\xff\xf1\x50\x80"])
def test_a_magic_with_nothing_behind_it_is_truncated(head: bytes) -> None:
    with pytest.raises(TruncatedAudio):
        heard(head + bytes(200))


def test_amr_is_read() -> None:
    # 12.2 kbit/s: a header byte and 31 of parameters stand for 20 ms; these parameters are the codec's own silence
    frame = b"\x3c" + bytes(31)
    got, recording = heard(b"#!AMR\n" + frame * 100)
    assert got.shape == (1, 16_000)
    assert (recording.facts.format, recording.facts.sample_rate) == ("amr", 8000)


def test_mutations_are_survived() -> None:
    rng = np.random.default_rng(7)
    body = media("mp4", "aac", tone(0.3, 16_000), 16_000)
    limits = AudioLimits(max_duration_s=5, child_memory_bytes=LIMITS.child_memory_bytes, child_cpu_s=5)
    for _ in range(6):
        broken = bytearray(body)
        for at in rng.integers(8, len(body), 30):
            broken[at] = rng.integers(256)
        try:
            got, _ = heard(bytes(broken), limits)
        except EarmarkError:
            continue
        assert np.isfinite(got).all()
