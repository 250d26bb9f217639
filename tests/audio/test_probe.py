"""Formats are told by their first bytes, and what is not on the list never reaches a decoder."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import zipfile

import pytest

from service.audio import probe as room
from service.audio.probe import probe, supported_formats
from service.errors import EmptyAudio, TruncatedAudio, UnsupportedAudio
from tests.audio.made import encoded, tone, wav

SAMPLES = tone(0.3, 16_000)


@pytest.mark.parametrize(
    ("kind", "subtype", "name", "decoder"),
    [
        ("WAV", "PCM_16", "wav", "wav"),
        ("RF64", "FLOAT", "wav", "wav"),
        ("WAV", "ULAW", "wav", "wav"),
        ("FLAC", "PCM_24", "flac", "plain"),
        ("OGG", "VORBIS", "ogg", "plain"),
        ("OGG", "OPUS", "ogg", "plain"),
        ("MP3", "MPEG_LAYER_III", "mp3", "plain"),
        ("AIFF", "PCM_16", "aiff", "plain"),
        ("AIFF", "FLOAT", "aiff", "plain"),
        ("AIFF", "ULAW", "aiff", "child"),
        ("AU", "PCM_16", "au", "plain"),
        ("AU", "ALAW", "au", "child"),
        ("CAF", "PCM_24", "caf", "plain"),
        ("CAF", "ALAC_16", "caf", "child"),
        ("W64", "PCM_16", "w64", "child"),
    ],
)
def test_a_format_goes_to_its_decoder(kind: str, subtype: str, name: str, decoder: str) -> None:
    found = probe(memoryview(encoded(kind, subtype, SAMPLES, 16_000)))
    assert (found.format, found.decoder) == (name, decoder)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("AIFF", "IMA_ADPCM"), ("AIFF", "GSM610"), ("AU", "G721_32"), ("SVX", "PCM_16"), ("NIST", "PCM_16"),
        ("VOC", "PCM_16"), ("IRCAM", "PCM_16"), ("PVF", "PCM_16"), ("XI", "DPCM_16"), ("SDS", "PCM_16"),
        ("MAT5", "PCM_16"), ("HTK", "PCM_16"), ("PAF", "PCM_16"), ("AVR", "PCM_16"), ("WVE", "ALAW"),
        ("MPC2K", "PCM_16"),
    ],
)  # fmt: skip
def test_what_libsndfile_could_read_but_is_not_on_the_list_is_refused(kind: str, subtype: str) -> None:
    rate = 8000 if kind == "WVE" else 16_000
    with pytest.raises(UnsupportedAudio) as caught:
        probe(memoryview(encoded(kind, subtype, SAMPLES, rate)))
    assert caught.value.extra["supported"] == supported_formats()


def archive() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("a.wav", wav(bytes(100)))
    return target.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(archive(), id="zip"),
        pytest.param(gzip.compress(wav(bytes(100))), id="gzip"),
        pytest.param(gzip.compress(gzip.compress(bytes(1000))), id="gzip in gzip"),
        pytest.param(json.dumps({"audio": "x"}).encode(), id="json"),
        pytest.param(b"#EXTM3U\nhttp://localhost/a.wav\n", id="playlist"),
        pytest.param(b"ffconcat version 1.0\nfile /etc/passwd\n", id="concat script"),
        pytest.param(b"RIFF\0\0\0\0AVI " + bytes(50), id="avi"),
        pytest.param(b"RIFF\0\0\0\0WEBP" + bytes(50), id="webp"),
        pytest.param(b"FORM\0\0\0\0ILBM" + bytes(50), id="iff picture"),
        pytest.param(b"MThd" + bytes(50), id="midi"),
        pytest.param(b"%PDF-1.7", id="pdf"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="png"),
        pytest.param(bytes(1000), id="zeros"),
        pytest.param(b"\xff" * 1000, id="ones"),
        pytest.param(b"\xff\xfb\x90\x00" + bytes(20), id="one MP3 frame header"),
        pytest.param(b"a", id="a letter"),
    ],
)
def test_no_audio_is_refused_with_a_list_of_what_is(body: bytes) -> None:
    with pytest.raises(UnsupportedAudio) as caught:
        probe(memoryview(body))
    assert "flac" in caught.value.detail


def test_nothing_at_all_is_empty() -> None:
    with pytest.raises(EmptyAudio):
        probe(memoryview(b""))


def test_a_tag_with_nothing_after_it_is_truncated() -> None:
    with pytest.raises(TruncatedAudio):
        probe(memoryview(b"ID3\4\0\0\0\0\0\x0a" + bytes(10)))
    with pytest.raises(TruncatedAudio):
        probe(memoryview(b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(10)))


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"\0\0\0\x20ftypM4A ", "mp4"), (b"\x1aE\xdf\xa3", "matroska"), (b"#!AMR\n", "amr"), (b"\xff\xf1\x50\x80", "aac")],
)
def test_media_without_the_extra_says_what_to_install(head: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedAudio) as caught:
        probe(memoryview(head + bytes(100)))
    assert "pip install 'earmark[media]'" in caught.value.detail
    assert "m4a" not in caught.value.extra["supported"]


@pytest.mark.parametrize(
    ("head", "demuxer"),
    [
        (b"\0\0\0\x20ftypisom", "mov"),
        (b"\x1aE\xdf\xa3", "matroska"),
        (b"#!AMR-WB\n", "amr"),
        (b"\xff\xf9\x50\x80", "aac"),
    ],
)
def test_media_with_the_extra_names_the_one_demuxer(head: bytes, demuxer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "has_media", lambda: True)
    found = probe(memoryview(head + bytes(100)))
    assert (found.decoder, found.demuxer) == ("media", demuxer)


def test_an_aiff_of_endless_chunks_is_not_walked_for_ever() -> None:
    body = b"FORM\0\0\0\0AIFC" + (b"JUNK" + bytes(4)) * 100_000
    with pytest.raises(TruncatedAudio):
        probe(memoryview(body))
