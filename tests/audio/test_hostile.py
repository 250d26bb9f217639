"""Whatever the bytes: only our own errors come out, memory is bounded, no NaN and no oversized block gets through."""

from __future__ import annotations

import os
import struct
import time

import numpy as np
import pytest

from service.audio.decode import open_recording
from service.audio.raw import RawFormat
from service.audio.source import BLOCK_SAMPLES
from service.errors import BadAudio, BadRequest, EarmarkError, TooLarge
from service.values import AudioLimits
from tests.audio.made import chunk, encoded, pcm16, speech, tone, wav

FUZZ_S = float(os.environ.get("FUZZ_S", "3"))
"""Seconds of mutation in every run; more by the variable."""

LIMITS = AudioLimits(max_duration_s=20, max_samples=2_000_000, child_memory_bytes=1 << 29, child_cpu_s=5)

ONES = 0xFFFFFFFF

SPEECH = speech(0.7, 16_000)
STEREO = tone(0.7, 16_000, 2)

FILES = {
    "wav": wav(pcm16(SPEECH)),
    "wav float": encoded("WAV", "FLOAT", STEREO, 16_000),
    "wavex": encoded("WAVEX", "PCM_24", STEREO, 16_000),
    "rf64": encoded("RF64", "PCM_16", SPEECH, 16_000),
    "flac": encoded("FLAC", "PCM_16", SPEECH, 16_000),
    "flac 24": encoded("FLAC", "PCM_24", STEREO, 16_000),
    "vorbis": encoded("OGG", "VORBIS", STEREO, 16_000),
    "opus": encoded("OGG", "OPUS", SPEECH, 16_000),
    "mp3": encoded("MP3", "MPEG_LAYER_III", SPEECH, 16_000),
    "aiff": encoded("AIFF", "PCM_16", SPEECH, 16_000),
    "aifc": encoded("AIFF", "FLOAT", STEREO, 16_000),
    "au": encoded("AU", "PCM_16", SPEECH, 16_000),
    "caf": encoded("CAF", "PCM_16", SPEECH, 16_000),
}


def survive(body: bytes, raw: RawFormat | None = None) -> None:
    """Read it all; only a client's error may come of it."""
    try:
        with open_recording(body, LIMITS, raw) as recording:
            count = 0
            for block in recording.blocks():
                assert block.dtype == np.float32
                assert block.shape[0] == recording.facts.channels <= LIMITS.max_channels
                assert 0 < block.size <= BLOCK_SAMPLES
                assert np.isfinite(block).all()
                count += block.size
            assert 0 < count <= LIMITS.max_samples
            assert recording.facts.frames == count // recording.facts.channels
    except (BadAudio, BadRequest, TooLarge) as error:
        refused = error.detail.lower()
    else:
        refused = ""
    assert "libsndfile" not in refused
    assert "0x" not in refused


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_survived(name: str) -> None:
    body = FILES[name]
    for end in [*range(0, 130), *np.linspace(130, len(body), 12).astype(int).tolist()]:
        # cuts of an MP3 within a frame are whole to the walk, so that none of these starts a process
        survive(body[:end])


@pytest.mark.parametrize("name", FILES)
def test_any_byte_of_a_header_may_lie(name: str) -> None:
    body = FILES[name]
    for at in range(4, 60):
        for value in (0x00, 0x7F, 0xFF):
            survive_in_process(body[:at] + bytes((value,)) + body[at + 1 :])


def survive_in_process(body: bytes) -> None:
    """As `survive`, but leave out the few that would start a process: the child has tests of its own."""
    from service.audio.probe import probe

    try:
        if probe(memoryview(body)).decoder in ("child", "media"):
            return
    except EarmarkError:
        return
    survive(body)


def test_seeded_mutations_are_survived() -> None:
    rng = np.random.default_rng(20_260_101)
    names = list(FILES)
    until = time.monotonic() + FUZZ_S
    while time.monotonic() < until:
        body = bytearray(FILES[names[rng.integers(len(names))]])
        for _ in range(rng.integers(1, 12)):
            mutate(body, rng)
        survive_in_process(bytes(body))


def mutate(body: bytearray, rng: np.random.Generator) -> None:
    """Flip, overwrite, cut out, double or extend; headers more often than the rest."""
    if not body:
        return
    reach = 100 if rng.random() < 0.5 else len(body)
    at = int(rng.integers(min(reach, len(body))))
    size = int(rng.integers(1, 33))
    match rng.integers(6):
        case 0:
            body[at] ^= 1 << int(rng.integers(8))
        case 1:
            body[at : at + size] = rng.bytes(len(body[at : at + size]))
        case 2:
            del body[at : at + size]
        case 3:
            body[at:at] = body[at : at + size]
        case 4:
            body[at : at + 4] = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"][rng.integers(4)]
        case _:
            del body[int(rng.integers(len(body))) :]


@pytest.mark.parametrize(
    "raw", [RawFormat(8000, 1, "s16be"), RawFormat(48_000, 16, "f32le"), RawFormat(8000, 3, "s16le")]
)
def test_raw_bytes_may_be_anything(raw: RawFormat) -> None:
    rng = np.random.default_rng(5)
    for size in (0, 1, 2, 3, 5, 63, 64, 65, 10_000):
        survive(rng.bytes(size), raw)


def flac_with(rate: int, channels: int, frames: int) -> bytes:
    """A real FLAC file whose STREAMINFO says something else."""
    body = bytearray(FILES["flac"])
    field = rate << 44 | (channels - 1) << 41 | 15 << 36 | frames
    body[18:26] = field.to_bytes(8, "big")
    return bytes(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(flac_with(655_350, 8, 14_000_000), id="FLAC of 655350 Hz and 8 channels"),
        pytest.param(flac_with(0, 1, 100), id="FLAC of 0 Hz"),
        pytest.param(flac_with(1, 1, 100), id="FLAC of 1 Hz"),
        pytest.param(flac_with(16_000, 8, (1 << 36) - 1), id="FLAC of 49 days in 8 channels"),
        pytest.param(wav(bytes(100), rate=1), id="WAV of 1 Hz"),
        pytest.param(wav(bytes(100_000), channels=1024), id="WAV of 1024 channels"),
        pytest.param(wav(b"", data_length=0xFFFFFFF0), id="WAV that claims 4 GiB and has nothing"),
        pytest.param(wav(bytes(4), align=0xFFFF), id="WAV with a frame of 65535 bytes"),
        pytest.param(wav(bytes(100), bits=0), id="WAV of 0 bit"),
        pytest.param(wav(bytes(100), bits=0xFFFF), id="WAV of 65535 bit"),
        pytest.param(b"RIFF" + bytes(4) + b"WAVE" + chunk(b"fmt ", b""), id="WAV with an empty format"),
        pytest.param(b"RF64" + bytes(4) + b"WAVE" + chunk(b"ds64", bytes(8)) + chunk(b"data", b""), id="RF64 cut"),
        pytest.param(wav(wav(wav(bytes(50)))), id="WAV in WAV in WAV"),
        pytest.param(b".snd" + struct.pack(">IIIII", ONES, 0, 3, 16_000, 1), id="AU that starts beyond its end"),
        pytest.param(b".snd" + struct.pack(">IIIII", 24, ONES, 3, ONES, ONES) + bytes(50), id="AU of all ones"),
        pytest.param(b"caff\0\1\0\0desc" + struct.pack(">qd", 32, np.nan) + b"lpcm" + bytes(40), id="CAF of NaN Hz"),
        pytest.param(b"OggS" + bytes(200), id="Ogg of zeros"),
        pytest.param(b"OggS\0\2" + bytes(20) + b"\1\x1e\x01vorbis" + bytes(100), id="Vorbis without its tables"),
        pytest.param(b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead" + bytes(100), id="Opus of 0 channels"),
        pytest.param(b"FORM\xff\xff\xff\xffAIFFCOMM\0\0\0\x12" + b"\xff" * 18, id="AIFF of all ones"),
    ],
)  # fmt: skip
def test_lies_are_survived(body: bytes) -> None:
    survive(body)


def test_memory_is_bounded_by_the_block_and_not_by_the_header(peak_bytes) -> None:  # type: ignore[no-untyped-def]
    lies = [flac_with(192_000, 8, (1 << 36) - 1), wav(bytes(4), data_length=0xFFFFFFF0, channels=16), FILES["flac"]]
    for body in lies:
        assert peak_bytes(lambda body=body: survive(body)) < 10_000_000
