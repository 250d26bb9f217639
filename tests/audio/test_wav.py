"""WAV: every width, every container of it, and every broken length field that is met in the wild."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadAudio, EmptyAudio, TooLarge, TruncatedAudio, UnsupportedAudio
from tests.audio.made import chunk, encoded, heard, pcm16, tone, wav

SAMPLES = tone(0.3, 16_000)
DATA = pcm16(SAMPLES)
FRAMES = SAMPLES.shape[1]


@given(
    kind=st.sampled_from(["WAV", "WAVEX", "RF64"]),
    subtype=st.sampled_from(["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"]),
    rate=st.integers(4000, 192_000),
    channels=st.integers(1, 16),
    frames=st.integers(1, 3000),
)
@settings(deadline=None, max_examples=80)
def test_samples_equal_those_of_libsndfile(kind: str, subtype: str, rate: int, channels: int, frames: int) -> None:
    noise = np.random.default_rng(frames).uniform(-1, 1, (channels, frames)).astype(np.float32)
    body = encoded(kind, subtype, noise, rate)
    expected, _ = soundfile.read(io.BytesIO(body), dtype="float32", always_2d=True)

    got, recording = heard(body)

    np.testing.assert_array_equal(got, expected.T)
    assert (recording.facts.format, recording.facts.sample_rate, recording.facts.frames) == ("wav", rate, frames)
    assert recording.warnings.sentences == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(wav(DATA, data_length=0, riff_length=0), id="zero, as a stream writes it first"),
        pytest.param(wav(DATA, data_length=0, riff_length=36), id="zero in both, header of an empty file"),
        pytest.param(wav(DATA, data_length=0xFFFFFFFF, riff_length=0xFFFFFFFF), id="all ones"),
        pytest.param(wav(DATA, data_length=0xFFFFFFF0), id="4 GiB less 16"),
        pytest.param(wav(DATA, data_length=0x7FFFFFFF - 36), id="2 GiB less a header"),
        pytest.param(wav(DATA, riff_length=4), id="only the outer length is wrong"),
        pytest.param(wav(DATA, align=0), id="no block align"),
        pytest.param(wav(DATA, after=chunk(b"LIST", b"INFOISFTx")), id="a chunk after the samples"),
        pytest.param(wav(DATA, before=chunk(b"JUNK", bytes(27)) + chunk(b"bext", bytes(602))), id="odd chunks before"),
        pytest.param(wav(DATA, before=chunk(b"fact", bytes(4))) + b"\0" * 2, id="a little more at the end"),
    ],
)
def test_a_wrong_length_loses_no_sample_and_warns_of_none(body: bytes) -> None:
    got, recording = heard(body)

    np.testing.assert_allclose(got, SAMPLES, atol=1e-4)
    assert recording.facts.frames == FRAMES
    assert recording.warnings.sentences == []


def test_a_length_that_promises_more_gives_what_came_and_a_warning() -> None:
    got, recording = heard(wav(DATA[:4800], data_length=len(DATA)))

    assert got.shape == (1, 2400)
    assert recording.warnings.sentences == [
        "The recording breaks off: its header promises 0.30 s, 0.15 s could be read."
    ]


def test_an_odd_length_leaves_the_half_sample_out() -> None:
    got, recording = heard(wav(DATA[:1001]))

    assert got.shape == (1, 500)
    assert recording.warnings.sentences == ["The last sample was incomplete and was left out."]


def test_an_empty_file_that_says_so_is_empty_even_with_a_chunk_after_it() -> None:
    with pytest.raises(EmptyAudio):
        heard(wav(b"", after=chunk(b"LIST", b"INFO" + bytes(400))))


def test_a_cut_before_the_first_sample_is_truncated() -> None:
    with pytest.raises(TruncatedAudio):
        heard(wav(b"\1", data_length=1000))


@pytest.mark.parametrize("length", [12, 16, 20, 30, 36, 40])
def test_a_cut_within_the_header_is_truncated(length: int) -> None:
    with pytest.raises(TruncatedAudio):
        heard(wav(DATA)[:length])


@pytest.mark.parametrize("tag", [2, 0x11, 0x31, 0x55, 0x160, 0xFFFE])
def test_compressed_samples_are_refused_by_their_tag(tag: int) -> None:
    with pytest.raises(UnsupportedAudio):
        heard(wav(DATA, tag=tag))


@pytest.mark.parametrize(("channels", "error"), [(0, BadAudio), (17, TooLarge), (1024, TooLarge), (65_535, TooLarge)])
def test_a_count_of_channels_that_is_not_served_is_refused(channels: int, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        heard(wav(DATA, channels=channels))
    assert caught.value.extra["got"] == channels  # type: ignore[attr-defined]


@pytest.mark.parametrize("rate", [0, 1, 3999, 192_001, 0xFFFFFFFF])
def test_a_rate_that_is_not_served_is_refused(rate: int) -> None:
    with pytest.raises(BadAudio) as caught:
        heard(wav(DATA, rate=rate))
    assert caught.value.extra == {"minimum": 4000, "maximum": 192_000, "got": rate}


def test_samples_without_a_format_before_them_are_refused() -> None:
    inside = b"WAVE" + chunk(b"data", DATA)
    with pytest.raises(BadAudio):
        heard(b"RIFF" + struct.pack("<I", len(inside)) + inside)


def test_a_million_tiny_chunks_are_not_walked() -> None:
    with pytest.raises(BadAudio):
        heard(wav(DATA, before=chunk(b"JUNK", b"") * 100_000))


def test_24_bit_in_32_bit_places_keeps_its_level() -> None:
    places = (SAMPLES[0] * 0x7FFFFF).astype("<i4") << 8
    got, _ = heard(wav(places.tobytes(), bits=24, align=4))

    np.testing.assert_allclose(got, SAMPLES, atol=1e-6)


def test_doubles_beyond_float_are_refused_and_not_warned_of() -> None:
    with pytest.raises(BadAudio):
        heard(wav(np.array([0.1, 1e300]).tobytes(), tag=3, bits=64))
