"""Samples to bytes: the same duration after decoding, full scale held and never wrapped, bytes out as they are made."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from service.audio.encode import Encoder, Format, encoder
from service.audio.riff import read_wav
from service.errors import BadRequest, InternalFault
from service.values import Samples
from tests.audio.made import heard, level, speech, tone

ALL: list[Format] = ["wav", "flac", "opus", "mp3", "f32"]


def encoded(encode: Encoder, samples: Samples, step: int = 4800) -> bytes:
    pieces = [encode.push(samples[:, at : at + step]) for at in range(0, samples.shape[1], step)]
    return b"".join(pieces) + encode.finish()


def decoded(format: Format, body: bytes, channels: int) -> tuple[Samples, int | None]:
    if format == "f32":
        return np.frombuffer(body, "<f4").reshape(-1, channels).T, None
    samples, recording = heard(body)
    assert recording.warnings.sentences == []
    return samples, recording.facts.sample_rate


@given(
    format=st.sampled_from(["wav", "flac", "f32"]),
    rate=st.sampled_from([4000, 8000, 11_025, 16_000, 44_100, 48_000, 96_000, 192_000]),
    channels=st.integers(1, 8),
    frames=st.integers(1, 9000),
    known=st.booleans(),
    step=st.integers(1, 9000),
)
@settings(deadline=None, max_examples=80)
def test_lossless_formats_give_back_the_same_samples(
    format: Format, rate: int, channels: int, frames: int, known: bool, step: int
) -> None:
    noise = np.random.default_rng(frames).uniform(-1, 1, (channels, frames)).astype(np.float32)

    body = encoded(encoder(format, rate, channels, frames if known else None), noise, max(step, frames // 50))
    got, got_rate = decoded(format, body, channels)

    assert got.shape == noise.shape
    assert got_rate in (None, rate)
    np.testing.assert_allclose(
        got, noise, atol=0 if format == "f32" else 0.51 / 32768 + (noise > 32767 / 32768).any() / 32768
    )


@pytest.mark.parametrize("rate", [8000, 12_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("frames", [1, 100, 959, 960, 40_001])
@pytest.mark.parametrize("known", [True, False])
def test_opus_keeps_its_own_rates_and_the_exact_duration(rate: int, frames: int, known: bool) -> None:
    samples = tone(frames / rate, rate)
    body = encoded(encoder("opus", rate, 1, frames if known else None), samples)
    got, got_rate = decoded("opus", body, 1)
    assert (got.shape, got_rate) == (samples.shape, rate)


@pytest.mark.parametrize("rate", [11_025, 44_100, 96_000])
def test_opus_takes_other_rates_at_48_khz(rate: int) -> None:
    samples = tone(1.234, rate, 2)
    got, got_rate = decoded("opus", encoded(encoder("opus", rate, 2, None), samples), 2)
    assert got_rate == 48_000
    assert got.shape == (2, round(samples.shape[1] * 48_000 / rate))
    assert level(got[0]) == pytest.approx(level(samples[0]), rel=0.05)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("frames", [1, 575, 576, 577, 1152, 1153, 1729, 50_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_of_a_known_length_has_it_to_the_sample(rate: int, frames: int, channels: int) -> None:
    samples = tone(frames / rate, rate, channels)
    got, got_rate = decoded("mp3", encoded(encoder("mp3", rate, channels, frames), samples), channels)
    assert (got.shape, got_rate) == (samples.shape, rate)


def test_mp3_of_an_unknown_length_is_at_most_three_frames_longer() -> None:
    samples = speech(3, 24_000)
    got, _ = decoded("mp3", encoded(encoder("mp3", 24_000, 1, None), samples), 1)
    assert 0 <= got.shape[1] - samples.shape[1] <= 3 * 576


@pytest.mark.parametrize(("rate", "expected"), [(4000, 8000), (10_000, 11_025), (88_200, 44_100), (96_000, 48_000)])
def test_mp3_takes_other_rates_at_one_of_its_own(rate: int, expected: int) -> None:
    samples = tone(1.5, rate)
    got, got_rate = decoded("mp3", encoded(encoder("mp3", rate, 1, samples.shape[1]), samples), 1)
    assert got_rate == expected
    assert got.shape == (1, round(samples.shape[1] * expected / rate))


@pytest.mark.parametrize(("format", "within"), [("wav", 0), ("flac", 0), ("opus", 1), ("mp3", 0)])
def test_samples_lie_where_they_lay(format: Format, within: int) -> None:
    """By the peak of the correlation with what was sent."""
    samples = speech(3, 24_000)
    got, _ = decoded(format, encoded(encoder(format, 24_000, 1, samples.shape[1]), samples), 1)

    spectra = np.fft.rfft(got[0]), np.fft.rfft(samples[0])
    likeness = np.fft.irfft(spectra[0] * spectra[1].conj(), samples.shape[1])

    lag = int(np.argmax(likeness))
    assert min(lag, samples.shape[1] - lag) <= within
    assert level(got) == pytest.approx(level(samples), rel=0.05)


@pytest.mark.parametrize("format", ["wav", "flac", "opus", "mp3"])
def test_beyond_full_scale_is_held_and_never_wraps(format: Format) -> None:
    samples = tone(1, 48_000, level=3.0)
    got, _ = decoded(format, encoded(encoder(format, 48_000, 1, samples.shape[1]), samples), 1)

    loud = np.abs(samples) > 1.2
    assert np.mean(np.sign(got[loud]) == np.sign(samples[loud])) > 0.99
    if format in ("wav", "flac"):
        assert got.max() == np.float32(32767 / 32768)
        assert got.min() == -1


def test_raw_floats_are_not_touched() -> None:
    samples = np.array([[0.1, 3.0], [-5.0, 1e-9]], np.float32)
    assert encoded(encoder("f32", 16_000, 2, None), samples) == struct.pack("<4f", 0.1, -5.0, 3.0, 1e-9)


@pytest.mark.parametrize("format", ALL)
def test_bytes_come_as_they_are_made(format: Format) -> None:
    encode = encoder(format, 16_000, 1, None)
    block = speech(1)
    sizes = [len(encode.push(block)) for _ in range(12)]
    assert sum(size > 0 for size in sizes) >= 8
    assert sum(sizes[6:]) > 0.3 * sum(sizes)


@pytest.mark.parametrize("format", ALL)
def test_memory_does_not_grow_with_the_length(format: Format, peak_bytes) -> None:  # type: ignore[no-untyped-def]
    block = speech(1)

    def make(seconds: int) -> None:
        encode = encoder(format, 16_000, 1, None)
        for _ in range(seconds):
            encode.push(block)
        encode.finish()

    assert peak_bytes(lambda: make(12)) < peak_bytes(lambda: make(4)) + 100_000


@pytest.mark.parametrize("format", ALL)
def test_nothing_pushed_is_no_fault(format: Format) -> None:
    encode = encoder(format, 16_000, 1, 0)
    assert len(encode.push(np.zeros((1, 0), np.float32)) + encode.finish()) < 1000


def test_a_wav_says_its_length_or_that_it_does_not_know() -> None:
    samples = tone(0.5, 16_000, 2)
    known = encoded(encoder("wav", 16_000, 2, 8000), samples)
    unknown = encoded(encoder("wav", 16_000, 2, None), samples)

    assert soundfile.info(io.BytesIO(known)).frames == 8000
    assert struct.unpack("<I", known[4:8])[0] == len(known) - 8
    assert known[44:] == unknown[44:]
    assert unknown[4:8] == unknown[40:44] == b"\xff\xff\xff\xff"


def test_a_wav_beyond_4_gib_says_so_as_rf64() -> None:
    frames = 3 << 30
    head = encoder("wav", 48_000, 2, frames).finish()
    assert head[:4] == b"RF64"
    layout = read_wav(memoryview(head + bytes(16)))
    assert (layout.channels, layout.frames, layout.promised_frames) == (2, 4, frames)


def test_a_flac_says_its_length() -> None:
    samples = tone(0.5, 16_000)
    assert soundfile.info(io.BytesIO(encoded(encoder("flac", 16_000, 1, 8000), samples))).frames == 8000


@pytest.mark.parametrize(("format", "channels"), [("mp3", 3), ("flac", 9)])
def test_more_channels_than_the_format_has_are_refused(format: Format, channels: int) -> None:
    with pytest.raises(BadRequest) as caught:
        encoder(format, 16_000, channels, None)
    assert caught.value.extra["got"] == channels


def test_a_rate_that_flac_cannot_say_is_refused() -> None:
    with pytest.raises(BadRequest):
        encoder("flac", 100_001, 1, None)


@pytest.mark.parametrize("format", ALL)
def test_what_is_no_number_is_a_fault_of_ours(format: Format) -> None:
    with pytest.raises(InternalFault):
        encoder(format, 16_000, 1, None).push(np.full((1, 100), np.nan, np.float32))


@pytest.mark.parametrize("format", ALL)
def test_an_encoder_says_what_it_makes(format: Format) -> None:
    encode = encoder(format, 16_000, 1, None)
    assert encode.suffix == f".{format}"
    assert encode.media_type.partition("/")[0] in ("audio", "application")
