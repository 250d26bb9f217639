"""Any format in, float samples out, and every limit held while reading."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from service.audio.decode import open_recording
from service.audio.raw import RawFormat
from service.audio.source import block_frames
from service.errors import BadAudio, InternalFault, NonFiniteAudio, TooLarge, TruncatedAudio
from service.values import AudioLimits
from tests.audio.made import LIMITS, encoded, heard, level, pcm16, speech, tone, wav

LOSSLESS = [
    ("FLAC", "PCM_S8", 8), ("FLAC", "PCM_16", 8), ("FLAC", "PCM_24", 8), ("AIFF", "PCM_U8", 16), ("AIFF", "PCM_24", 16),
    ("AIFF", "FLOAT", 16), ("AU", "PCM_16", 16), ("AU", "DOUBLE", 16), ("CAF", "PCM_16", 16), ("CAF", "FLOAT", 16),
]  # fmt: skip
LOSSY = [
    ("OGG", "VORBIS", (8000, 11_025, 16_000, 22_050, 44_100, 48_000)),
    ("OGG", "OPUS", (8000, 12_000, 16_000, 24_000, 48_000)),
    ("MP3", "MPEG_LAYER_III", (8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)),
]


@given(
    kind=st.sampled_from(LOSSLESS),
    rate=st.integers(4000, 192_000),
    channels=st.integers(1, 16),
    frames=st.integers(1, 40_000),
)
@settings(deadline=None, max_examples=60)
def test_lossless_formats_keep_every_sample(kind: tuple[str, str, int], rate: int, channels: int, frames: int) -> None:
    name, subtype, most = kind
    if name == "FLAC" and rate > 0xFFFF:
        rate -= rate % 10  # the format has no others
    noise = np.random.default_rng(frames).uniform(-1, 1, (min(channels, most), frames)).astype(np.float32)
    body = encoded(name, subtype, noise, rate)
    expected, _ = soundfile.read(io.BytesIO(body), dtype="float32", always_2d=True)

    got, recording = heard(body)

    np.testing.assert_array_equal(got, expected.T)
    assert recording.facts.frames == len(expected)  # libsndfile pads an odd count of 8 bit in AIFF
    assert recording.facts.sample_rate == rate
    assert recording.warnings.sentences == []


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"), [(kind, subtype, rate) for kind, subtype, rates in LOSSY for rate in rates]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_formats_keep_duration_and_level(kind: str, subtype: str, rate: int, channels: int) -> None:
    sent = tone(1.37, rate, channels)

    got, recording = heard(encoded(kind, subtype, sent, rate))

    assert got.shape == sent.shape
    assert recording.facts.sample_rate == rate
    for one, other in zip(got, sent, strict=True):
        assert abs(20 * np.log10(level(one) / level(other))) < 0.5
    assert recording.warnings.sentences == []


def test_blocks_are_contiguous_float_and_bounded() -> None:
    for rate, body in (
        (4000, wav(bytes(100_000), rate=4000)),
        (48_000, encoded("FLAC", "PCM_16", tone(2, 48_000, 2), 48_000)),
    ):
        with open_recording(body, LIMITS) as recording:
            for block in recording.blocks():
                assert block.dtype == np.float32
                assert block.flags.c_contiguous
                assert block.flags.writeable
                assert 0 < block.shape[1] <= block_frames(rate, recording.facts.channels)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview], ids=["bytes", "bytearray", "memoryview"])
def test_any_kind_of_bytes_is_read_and_let_go_of(make: type) -> None:
    body = make(encoded("FLAC", "PCM_16", tone(0.5, 16_000), 16_000))

    got, _ = heard(body)

    assert got.shape == (1, 8000)
    if isinstance(body, bytearray):
        body.clear()  # raises BufferError while anything still looks at it


def test_a_wav_body_is_let_go_of_even_when_reading_stopped_half_way() -> None:
    body = bytearray(wav(bytes(400_000)))
    recording = open_recording(body, LIMITS)
    blocks = recording.blocks()
    next(blocks)

    recording.close()
    del blocks

    body.clear()


def test_facts_are_declared_before_and_counted_after() -> None:
    body = bytearray(encoded("FLAC", "PCM_16", tone(1, 16_000), 16_000))
    body[18:26] = (int.from_bytes(body[18:26], "big") & ~((1 << 36) - 1)).to_bytes(8, "big")  # length unknown
    with open_recording(bytes(body), LIMITS) as recording:
        assert recording.facts.frames is None

        list(recording.blocks())

        assert recording.facts.frames == 16_000
        assert recording.facts.duration_s == 1.0


def test_a_recording_is_read_once() -> None:
    with open_recording(wav(bytes(100)), LIMITS) as recording:
        list(recording.blocks())
        with pytest.raises(InternalFault):
            recording.blocks()


def test_closing_twice_does_nothing() -> None:
    recording = open_recording(wav(bytes(100)), LIMITS)
    recording.close()
    recording.close()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_the_limit_of_duration_is_held_to_the_sample(kind: str) -> None:
    subtype = "VORBIS" if kind == "OGG" else "PCM_16"
    body = encoded(kind, subtype, tone(2.0, 8000), 8000)

    heard(body, AudioLimits(max_duration_s=2.0))
    with pytest.raises(TooLarge) as caught:
        heard(body, AudioLimits(max_duration_s=1.999))

    assert caught.value.extra["limit"] == "max_duration_s"
    assert caught.value.extra["maximum"] == 1.999
    assert caught.value.extra["got"] <= 2.0


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_samples_are_counted_over_all_channels(kind: str) -> None:
    body = encoded(kind, "PCM_16", tone(1.0, 8000, 4), 8000)

    heard(body, AudioLimits(max_samples=32_000))
    with pytest.raises(TooLarge) as caught:
        heard(body, AudioLimits(max_samples=31_999))

    assert caught.value.extra["limit"] == "max_samples"


def test_too_many_channels_are_refused_before_a_sample_is_read() -> None:
    with pytest.raises(TooLarge) as caught:
        open_recording(wav(bytes(6000), channels=3), AudioLimits(max_channels=2))
    assert caught.value.extra == {"limit": "max_channels", "maximum": 2, "got": 3}


def test_a_header_that_promises_too_much_is_not_believed() -> None:
    body = bytearray(encoded("FLAC", "PCM_16", tone(1, 16_000), 16_000))
    field = int.from_bytes(body[18:26], "big")
    body[18:26] = (field >> 36 << 36 | 16_000 * 10_000).to_bytes(8, "big")

    got, recording = heard(bytes(body))

    assert got.shape == (1, 16_000)
    assert "promises 10000.00 s, 1.00 s could be read" in recording.warnings.sentences[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    samples = tone(3, 16_000)
    samples[0, 40_000] = value
    with pytest.raises(NonFiniteAudio) as caught:
        heard(wav(samples.tobytes(), tag=3, bits=32))
    assert "at 2.50 s" in caught.value.detail


def test_float_samples_beyond_full_scale_pass() -> None:
    samples = 4 * tone(0.1, 16_000)
    got, _ = heard(wav(samples.tobytes(), tag=3, bits=32))
    np.testing.assert_array_equal(got, samples)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
    ],
)
def test_a_file_cut_in_the_middle_gives_its_first_half_and_a_warning(kind: str, subtype: str) -> None:
    sent = speech(8, 24_000)
    body = encoded(kind, subtype, sent, 24_000)

    got, recording = heard(body[: len(body) // 2])

    assert 0.3 * sent.shape[1] < got.shape[1] < 0.7 * sent.shape[1]
    assert len(recording.warnings.sentences) == 1
    assert recording.facts.frames == got.shape[1]


def test_the_samples_before_a_broken_flac_frame_are_not_lost() -> None:
    sent = speech(3, 16_000)
    body = bytearray(encoded("FLAC", "PCM_16", sent, 16_000))
    middle = len(body) // 2
    body[middle : middle + 40] = bytes(40)

    got, recording = heard(bytes(body))

    assert got.shape[1] > 16_000
    np.testing.assert_allclose(got, sent[:, : got.shape[1]], atol=1e-4)
    assert recording.warnings.sentences


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "AIFF", "CAF"])
def test_a_file_cut_to_almost_nothing_is_truncated(kind: str) -> None:
    subtype = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(kind, "PCM_16")
    with pytest.raises(TruncatedAudio):
        heard(encoded(kind, subtype, tone(2, 16_000), 16_000)[:48])


def test_no_text_of_a_decoder_leaves() -> None:
    body = encoded("FLAC", "PCM_16", tone(2, 16_000), 16_000)
    with pytest.raises(BadAudio) as caught:
        heard(body[:60])
    for word in ("libsndfile", "0x", "ByteView", "<", "unknown error"):
        assert word not in caught.value.detail


def test_an_id3_tag_before_flac_is_skipped() -> None:
    tag = b"ID3\4\0\0" + bytes((0, 0, 2, 1)) + bytes(257)
    got, recording = heard(tag + encoded("FLAC", "PCM_16", tone(0.5, 16_000), 16_000))
    assert got.shape == (1, 8000)
    assert recording.facts.format == "flac"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_recordings_put_together_in_one_ogg_file_are_not_silently_lost(subtype: str) -> None:
    one, two = (encoded("OGG", subtype, tone(seconds, 16_000), 16_000) for seconds in (1, 2))

    got, recording = heard(one + two)

    assert got.shape == (1, 16_000)
    assert "only the first" in recording.warnings.sentences[0]


def test_memory_does_not_grow_with_the_length(peak_bytes) -> None:  # type: ignore[no-untyped-def]
    minute = pcm16(tone(60, 16_000))
    short, long = wav(minute), wav(minute * 10)

    def read(body: bytes) -> None:
        with open_recording(body, LIMITS) as recording:
            for _ in recording.blocks():
                pass

    assert peak_bytes(lambda: read(long)) < peak_bytes(lambda: read(short)) + 100_000


def test_a_flac_bomb_is_stopped_by_the_count_and_not_by_its_end(peak_bytes) -> None:  # type: ignore[no-untyped-def]
    bomb = encoded("FLAC", "PCM_16", np.zeros((8, 48_000 * 30), np.float32), 48_000)
    assert len(bomb) < 48_000 * 30 * 8 * 4 / 1000  # a thousandfold

    def read() -> None:
        with pytest.raises(TooLarge):
            heard(bomb, AudioLimits(max_samples=1_000_000))

    assert peak_bytes(read) < 12_000_000


def test_raw_is_held_to_the_same_limits() -> None:
    raw = RawFormat(16_000, 40, "s16le")
    with pytest.raises(TooLarge):
        open_recording(bytes(80), LIMITS, raw)
    with pytest.raises(BadAudio):
        open_recording(bytes(80), LIMITS, RawFormat(100, 1, "s16le"))
