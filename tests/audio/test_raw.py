"""What the media type says of samples without a header."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audio.raw import RawFormat, parse_raw_type
from service.errors import BadRequest, EmptyAudio
from tests.audio.made import heard, tone


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("audio/L16; rate=16000; channels=1", RawFormat(16000, 1, "s16be")),
        ("audio/l16;rate=44100;channels=2", RawFormat(44100, 2, "s16be")),
        ("AUDIO/L16 ; Rate = 8000", RawFormat(8000, 1, "s16be")),
        ("audio/pcm; rate=48000; channels=2; encoding=f32le", RawFormat(48000, 2, "f32le")),
        ("audio/pcm; encoding=s16le; rate=16000", RawFormat(16000, 1, "s16le")),
        ('audio/pcm; rate="22050";', RawFormat(22050, 1, "s16le")),
        ("audio/wav", None),
        ("application/octet-stream", None),
        ("audio/pcma; rate=8000", None),
        ("", None),
    ],
)
def test_media_types_that_are_raw_are_read_and_others_are_not_ours(
    content_type: str, expected: RawFormat | None
) -> None:
    assert parse_raw_type(content_type) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "channels=1",
        "rate=",
        "rate=0",
        "rate=-8000",
        "rate=16000.0",
        "rate=1e4",
        "rate=٨٠٠٠",
        "rate=" + "9" * 5000,
        "rate=16000; rate=8000",
        "rate=16000; channels=0",
        "rate=16000; chanels=2",
        "rate=16000; encoding=s24le",
        "rate",
        "rate=16000; =",
    ],
)
@pytest.mark.parametrize("media_type", ["audio/L16", "audio/pcm"])
def test_malformed_parameters_are_refused_with_the_right_ones(media_type: str, parameters: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_raw_type(f"{media_type}; {parameters}")
    assert len(str(caught.value.extra.get("got", ""))) <= 64


@given(st.text(max_size=60))
def test_nothing_but_a_bad_request_comes_of_any_text(text: str) -> None:
    for content_type in (text, f"audio/L16;{text}", f"audio/pcm; rate=16000; {text}"):
        with suppress(BadRequest):
            parse_raw_type(content_type)


@pytest.mark.parametrize(
    ("encoding", "numpy_type", "scale"), [("s16be", ">i2", 32768), ("s16le", "<i2", 32768), ("f32le", "<f4", 1)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_raw_samples_come_out_as_they_went_in(encoding: str, numpy_type: str, scale: int, channels: int) -> None:
    sent = tone(0.5, 16_000, channels)
    body = (sent.T * scale).astype(numpy_type).tobytes()

    got, recording = heard(body, raw=RawFormat(16_000, channels, encoding))  # type: ignore[arg-type]

    np.testing.assert_allclose(got, sent, atol=1 / 32768)
    assert recording.facts.format == "raw"
    assert recording.facts.frames == 8000
    assert recording.warnings.sentences == []


def test_half_a_sample_at_the_end_is_left_out_with_a_warning() -> None:
    got, recording = heard(bytes(1001), raw=RawFormat(16_000, 1, "s16le"))

    assert got.shape == (1, 500)
    assert len(recording.warnings.sentences) == 1


@pytest.mark.parametrize("body", [b"", b"\0"])
def test_no_whole_sample_is_empty(body: bytes) -> None:
    with pytest.raises(EmptyAudio):
        heard(body, raw=RawFormat(16_000, 1, "s16le"))
