"""Bodies that no server should trip over, each with the statuses it may be refused with. All of them are made here."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import soundfile

from tests.api.forms import BOUNDARY, form, form_type, part

RATE = 16_000
SIZED = 1 << 20
"""The largest body that the server under test takes."""
SECONDS = 10
"""The longest recording that it takes."""

BAD_BODY = frozenset({400})
NOT_AUDIO = frozenset({415})
BAD_AUDIO = frozenset({415, 422})
BEYOND = frozenset({413})
BAD_HEADER = frozenset({413, 415, 422})


@dataclass(frozen=True)
class Case:
    """One hostile request."""

    name: str
    body: bytes = field(repr=False)
    allowed: frozenset[int]
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False


def noise(seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal((round(seconds * RATE), channels))).astype(np.float32)


def encoded(kind: str, subtype: str | None = None, samples: np.ndarray | None = None, rate: int = RATE) -> bytes:
    """A sound file as a library writes it."""
    target = io.BytesIO()
    soundfile.write(target, noise() if samples is None else samples, rate, format=kind, subtype=subtype)
    return target.getvalue()


def chunk(name: bytes, body: bytes, length: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if length is None else length) + body + b"\0" * (len(body) % 2)


def riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def fmt(
    tag: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, align: int | None = None, more: bytes = b""
) -> bytes:
    align = channels * ((bits + 7) // 8) if align is None else align
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * align % 2**32, align % 2**16, bits) + more)


GOOD_WAV = encoded("WAV", "PCM_16")
DATA = chunk(b"data", GOOD_WAV[44:])


def hostile() -> Iterator[Case]:
    """All of them, each with a name of its own."""
    yield from _types()
    yield from _encodings()
    yield from _forms()
    yield from _cut_forms()
    yield from _empty()
    yield from _too_much()
    yield from _other_files()
    yield from _archives()
    yield from _cut_headers()
    yield from _wav_headers()
    yield from _bad_samples()
    yield from _bombs()
    yield from _raw_types()


def _types() -> Iterator[Case]:
    for kind in (
        "text/html", "text/plain", "text/csv", "application/json", "application/xml", "application/pdf",
        "application/zip", "application/x-tar", "application/gzip", "application/graphql", "application/x-ndjson",
        "image/png", "image/svg+xml", "font/woff2", "model/gltf", "message/http", "multipart/mixed; boundary=x",
        "multipart/byteranges; boundary=x", "multipart/", "rubbish", "/", "audio", "*/*", "audio;/wav", "a" * 5000,
    ):  # fmt: skip
        yield Case(f"type {kind[:40]}", GOOD_WAV, NOT_AUDIO, {"Content-Type": kind})


def _encodings() -> Iterator[Case]:
    packed = {"gzip": gzip.compress(GOOD_WAV), "deflate": zlib.compress(GOOD_WAV), "br": GOOD_WAV, "zstd": GOOD_WAV}
    for name, body in packed.items():
        yield Case(f"encoding {name}", body, NOT_AUDIO, {"Content-Type": "audio/wav", "Content-Encoding": name})
    bomb = gzip.compress(bytes(16 << 20))
    for name in ("gzip", "x-gzip", "identity, gzip", "gzip, gzip"):
        yield Case(f"bomb encoded {name}", bomb, NOT_AUDIO, {"Content-Encoding": name})


def _forms() -> Iterator[Case]:
    whole = form([part(GOOD_WAV)])
    other_types = {
        "no boundary": "multipart/form-data",
        "empty boundary": "multipart/form-data; boundary=",
        "empty quoted boundary": 'multipart/form-data; boundary=""',
        "endless boundary": f"multipart/form-data; boundary={'x' * 4000}",
        "boundary of spaces": 'multipart/form-data; boundary="   "',
        "boundary of brackets": "multipart/form-data; boundary=<>",
        "another boundary": "multipart/form-data; boundary=another",
        "boundary in another case": form_type(BOUNDARY.swapcase()),
        "extended boundary": f"multipart/form-data; boundary*=utf-8''{BOUNDARY.decode()}",
    }
    for name, kind in other_types.items():
        yield Case(f"form with {name}", whole, BAD_BODY, {"Content-Type": kind})
    for name, body in _malformed_forms(whole).items():
        yield Case(f"form: {name}", body, BAD_BODY, {"Content-Type": form_type()})
    for name in (b"audio", b"FILE", b"file[]", b"", b"\xff\xfe", b"__proto__", b"x" * 4000, b"../file"):
        yield Case(
            f"form part named {name[:20]!r}", form([part(GOOD_WAV, name)]), BAD_BODY, {"Content-Type": form_type()}
        )
    yield Case(
        "form: file and another", form([part(GOOD_WAV), part(b"1", b"model")]), BAD_BODY, {"Content-Type": form_type()}
    )
    yield Case("form of 65 parts", form([part(b"x")] * 65), BEYOND, {"Content-Type": form_type()})
    yield Case("form of 10,000 parts", form([part(b"x")] * 10_000), BEYOND, {"Content-Type": form_type()})
    yield Case("form: raw body", GOOD_WAV, BAD_BODY, {"Content-Type": form_type()})
    yield Case("form within a form", form([part(whole)]), NOT_AUDIO | BAD_BODY, {"Content-Type": form_type()})
    yield Case("form taken for audio", whole, NOT_AUDIO, {"Content-Type": "audio/wav"})


def _malformed_forms(whole: bytes) -> dict[str, bytes]:
    disposition = b'Content-Disposition: form-data; name="file"'
    return {
        "only its end": b"--" + BOUNDARY + b"--\r\n",
        "only its boundary": b"--" + BOUNDARY + b"\r\n",
        "only a line break": b"\r\n",
        "only hyphens": b"-" * 100_000,
        "preamble": b"preamble\r\n" + whole,
        "bare line feeds": whole.replace(b"\r\n", b"\n"),
        "bare carriage returns": whole.replace(b"\r\n", b"\r"),
        "no blank line": whole.replace(b"\r\n\r\n", b"\r\n", 1),
        "no headers": form([b"\r\n" + GOOD_WAV]),
        "no colon": form([b"Content-Disposition\r\n\r\nx"]),
        "no header name": form([b": form-data\r\n\r\nx"]),
        "space before the colon": form([b'Content-Disposition : form-data; name="file"\r\n\r\nx']),
        "folded header": form([b'Content-Disposition: form-data;\r\n name="file"\r\n\r\nx']),
        "no disposition": form([b"Content-Type: audio/wav\r\n\r\nx"]),
        "attachment": form([b'Content-Disposition: attachment; name="file"\r\n\r\nx']),
        "no name": form([b"Content-Disposition: form-data\r\n\r\nx"]),
        "disposition twice": form([disposition + b"\r\n" + disposition + b"\r\n\r\nx"]),
        "zero in the name": form([part(b"x", b"fi\0le")]),
        "zero in the file's name": form([part(b"x", b"file", b"a\0.wav")]),
        "line feed in a header": form([disposition + b"\nX: y\r\n\r\nx"]),
        "base64": form([part(b"UklGRg==", b"file", b"a", b"Content-Transfer-Encoding: base64")]),
        "quoted printable": form([part(b"=00", b"file", b"a", b"Content-Transfer-Encoding: quoted-printable")]),
        "endless header value": form([part(b"x", b"file", b"a", b"X: " + b"y" * 100_000)]),
        "endless header name": form([b"X" * 100_000]),
        "header that never ends": b"--" + BOUNDARY + b"\r\nX: " + b"y" * 100_000,
        "nine headers": form([part(b"x", b"file", b"a", *[b"X-%d: y" % n for n in range(8)])]),
        "thousands of headers": form([part(b"x", b"file", b"a", *[b"X-%d: y" % n for n in range(5000)])]),
        "endless file name": form([part(b"x", b"file", b"n" * 100_000)]),
        "unclosed quote": form([b'Content-Disposition: form-data; name="file\r\n\r\nx']),
        "many semicolons": form([b"Content-Disposition: form-data" + b";" * 4000 + b"\r\n\r\nx"]),
        "rubbish after a boundary": whole.replace(BOUNDARY + b"\r\n", BOUNDARY + b"rubbish\r\n", 1),
        "no line break after a boundary": b"--" + BOUNDARY + disposition,
    }


def _cut_forms() -> Iterator[Case]:
    whole = form([part(GOOD_WAV[:200], b"file", b"a.wav", b"Content-Type: audio/wav")])
    edges = [*range(1, 60, 6), *range(60, len(whole) - 40, 25), *range(len(whole) - 40, len(whole) - 2, 3)]
    for edge in edges:
        yield Case(f"form cut at {edge}", whole[:edge], BAD_BODY, {"Content-Type": form_type()})


def _empty() -> Iterator[Case]:
    empty = frozenset({422})
    for kind in ("audio/wav", "video/mp4", "application/octet-stream", "application/x-www-form-urlencoded", ""):
        yield Case(f"empty {kind}", b"", empty, {"Content-Type": kind} if kind else {})
    yield Case("empty chunked", b"", empty, {"Content-Type": "audio/wav"}, chunked=True)
    yield Case("empty form file", form([part(b"")]), empty, {"Content-Type": form_type()})
    yield Case("empty form", b"", BAD_BODY, {"Content-Type": form_type()})
    yield Case("no samples in WAV", riff(fmt(), chunk(b"data", b"")), empty)
    yield Case("no samples in FLAC", encoded("FLAC", samples=noise(0)), BAD_AUDIO)
    yield Case("no samples in AIFF", encoded("AIFF", samples=noise(0)), BAD_AUDIO)
    yield Case("no samples in AU", encoded("AU", samples=noise(0)), BAD_AUDIO)
    yield Case("no samples in CAF", encoded("CAF", samples=noise(0)), BAD_AUDIO)


def _too_much() -> Iterator[Case]:
    large = GOOD_WAV + bytes(SIZED)
    yield Case("too large", large, BEYOND)
    yield Case("too large, chunked", large, BEYOND, chunked=True)
    yield Case("too large, in a form", form([part(large)]), BEYOND, {"Content-Type": form_type()})
    yield Case("too large, in a chunked form", form([part(large)]), BEYOND, {"Content-Type": form_type()}, chunked=True)
    yield Case("too large, in small files", form([part(bytes(SIZED // 8))] * 9), BEYOND, {"Content-Type": form_type()})


def _other_files() -> Iterator[Case]:
    text = "A man walked into a shop and asked for a recording. " * 40
    files = {
        "text": text.encode(),
        "UTF-16 text": text.encode("utf-16"),
        "HTML": b"<!doctype html><html><body>hello</body></html>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "entity bomb": b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>',
        "JSON": json.dumps({"audio": [0.0] * 100}).encode(),
        "deep JSON": b"[" * 100_000,
        "PDF": b"%PDF-1.7\n" + bytes(500),
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(500),
        "GIF": b"GIF89a" + bytes(500),
        "ELF": b"\x7fELF\x02\x01\x01" + bytes(500),
        "EXE": b"MZ\x90\x00" + bytes(500),
        "class file": b"\xca\xfe\xba\xbe" + bytes(500),
        "script": b"#!/bin/sh\nrm -rf /\n",
        "SQL": b"'; DROP TABLE recordings; --",
        "format string": b"%s%n%x" * 200,
        "pickle": pickle.dumps({"weights": [1.0] * 50}),
        "SQLite": b"SQLite format 3\0" + bytes(500),
        "MIDI": b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk" + bytes(100),
        "ASF": b"0&\xb2u\x8ef\xcf\x11" + bytes(500),
        "RIFF AVI": b"RIFF" + struct.pack("<I", 500) + b"AVI " + bytes(500),
        "IFF picture": b"FORM" + struct.pack(">I", 500) + b"ILBM" + bytes(500),
        "Ogg of something else": b"OggS\0\2" + bytes(20) + b"\x01\x1efishead" + bytes(100),
        "zeros": bytes(50_000),
        "ones": b"\xff" * 50_000,
        "one byte": b"R",
        "magic alone": b"RIFF",
        "ID3 and nothing": b"ID3\x04\0\0\0\0\0\0",
        "ID3 that never ends": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(500),
        "path": b"/etc/passwd",
        "address": b"http://169.254.169.254/latest/meta-data/",
        "byte order mark": b"\xef\xbb\xbfRIFF",
        "WAV after a space": b" " + GOOD_WAV,
    }
    for name, body in files.items():
        yield Case(f"not audio: {name}", body, BAD_AUDIO, {"Content-Type": "audio/wav"})
    for seed in range(10):
        # The first byte is one that no format begins with.
        body = b"\x01" + np.random.default_rng(seed).bytes(4000)
        yield Case(f"not audio: noise {seed}", body, BAD_AUDIO)


def _archives() -> Iterator[Case]:
    def zipped(name: str, body: bytes) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, body)
        return target.getvalue()

    def tarred(name: str, body: bytes) -> bytes:
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w") as archive:
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
        return target.getvalue()

    nested = zipped("a.wav", bytes(8 << 20))
    for depth in range(8):
        nested = zipped(f"{depth}.zip", nested)
    archives = {
        "ZIP": zipped("a.wav", GOOD_WAV),
        "ZIP with a way out": zipped("../../a.wav", GOOD_WAV),
        "nested ZIP": nested,
        "ZIP bomb": zipped("a.wav", bytes(16 << 20)),
        "gzip": gzip.compress(GOOD_WAV),
        "gzip bomb": gzip.compress(bytes(16 << 20)),
        "bzip2 bomb": bz2.compress(bytes(16 << 20)),
        "xz bomb": lzma.compress(bytes(8 << 20), preset=0),
        "tar": tarred("a.wav", GOOD_WAV),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(200),
        "RAR": b"Rar!\x1a\x07\x01\x00" + bytes(200),
        "zstd": b"\x28\xb5\x2f\xfd" + bytes(200),
    }
    for name, body in archives.items():
        yield Case(f"archive: {name}", body, BAD_AUDIO, {"Content-Type": "application/octet-stream"})


def _cut_headers() -> Iterator[Case]:
    for edge in range(1, 44):
        yield Case(f"WAV cut at {edge}", GOOD_WAV[:edge], BAD_AUDIO)
    cuts = {
        "FLAC": (encoded("FLAC"), [4, 8, 21, 41]),
        "Ogg": (encoded("OGG", "VORBIS"), [4, 27, 40, 58, 100]),
        "Opus": (encoded("OGG", "OPUS"), [4, 27, 40, 60]),
        "AIFF": (encoded("AIFF"), [4, 8, 11, 12, 20, 37]),
        "AU": (encoded("AU"), [4, 8, 16, 23]),
        "CAF": (encoded("CAF"), [4, 8, 12, 30, 51]),
        "MP3": (encoded("MP3"), [2, 3, 4]),
    }
    for name, (body, edges) in cuts.items():
        for edge in edges:
            yield Case(f"{name} cut at {edge}", body[:edge], BAD_AUDIO)


def _wav_headers() -> Iterator[Case]:
    headers = {
        "rate 0": fmt(rate=0),
        "rate 1": fmt(rate=1),
        "rate 3,999": fmt(rate=3999),
        "rate 192,001": fmt(rate=192_001),
        "rate of all ones": fmt(rate=2**32 - 1),
        "no channels": fmt(channels=0),
        "17 channels": fmt(channels=17),
        "1,024 channels": fmt(channels=1024),
        "65,535 channels": fmt(channels=65_535),
        "no bits": fmt(bits=0),
        "33 bits": fmt(bits=33),
        "65,535 bits": fmt(bits=65_535, align=0),
        "unknown tag": fmt(tag=0xDEAD),
        "MP3 within": fmt(tag=0x55),
        "GSM within": fmt(tag=0x31, bits=0, align=65),
        "MS ADPCM without tables": fmt(tag=2, bits=4, align=256),
        "IMA ADPCM without size": fmt(tag=0x11, bits=4, align=0),
        "extensible without its extension": fmt(tag=0xFFFE),
        "extensible with an unknown id": fmt(tag=0xFFFE, more=struct.pack("<HHI", 22, 16, 4) + b"\xff" * 16),
        "float of 16 bits": fmt(tag=3, bits=16),
        "format of no length": chunk(b"fmt ", b""),
        "format of 8 bytes": chunk(b"fmt ", fmt()[8:16]),
        "format that never ends": chunk(b"fmt ", fmt()[8:], 2**32 - 1),
    }
    for name, header in headers.items():
        yield Case(f"WAV with {name}", riff(header, DATA), BAD_HEADER)
    layouts = {
        "no format": riff(DATA),
        "no data": riff(fmt()),
        "nothing in it": riff(),
        "a thousand chunks and no data": riff(fmt(), *[chunk(b"junk", b"")] * 20_000),
        "a chunk that never ends": riff(fmt(), chunk(b"LIST", b"", 2**32 - 1)),
        "big endian magic": b"RIFX" + GOOD_WAV[4:],
    }
    for name, body in layouts.items():
        yield Case(f"WAV with {name}", body, BAD_AUDIO)


def _bad_samples() -> Iterator[Case]:
    for name, value in {"NaN": np.nan, "infinity": np.inf, "minus infinity": -np.inf}.items():
        for where in (0, RATE - 1):
            samples = noise()
            samples[where] = value
            for kind, subtype in (
                ("WAV", "FLOAT"),
                ("WAV", "DOUBLE"),
                ("AU", "FLOAT"),
                ("AIFF", "FLOAT"),
                ("CAF", "FLOAT"),
            ):
                body = encoded(kind, subtype, samples)
                yield Case(f"{name} at {where} of {kind} {subtype}", body, frozenset({422}))
    yield Case("all NaN", riff(fmt(3, bits=32), chunk(b"data", b"\xff" * 64_000)), frozenset({422}))


def _bombs() -> Iterator[Case]:
    hour = np.zeros((SECONDS * 2 * RATE, 1), np.float32)
    for kind, subtype in (("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)):
        yield Case(f"longer than it looks: {kind} {subtype}", encoded(kind, subtype, hour), BEYOND)
    wide = np.zeros((SECONDS * 2 * 8000, 8), np.float32)
    yield Case("longer and wider than it looks: FLAC", encoded("FLAC", "PCM_16", wide, 8000), BEYOND)
    flac = bytearray(encoded("FLAC", "PCM_16", noise(0.5)))
    flac[18:21] = (655_350 << 4 | 0xE).to_bytes(3, "big")
    yield Case("FLAC of 655,350 Hz", bytes(flac), BAD_HEADER)
    yield Case("hours of u-law", riff(fmt(7, bits=8, rate=4000), chunk(b"data", b"\xff" * 300_000)), BEYOND)


def _raw_types() -> Iterator[Case]:
    for kind in (
        "audio/L16", "audio/L16; rate=0", "audio/L16; rate=x", "audio/L16; rate=16000; channels=0",
        "audio/L16; rate=1e9", "audio/L16; rate=16000; channels=99999", "audio/L16; rate=-16000", "audio/pcm",
        "audio/pcm; rate=16000; encoding=mp3", "audio/pcm; rate=16000; channels=1; encoding=../../etc",
    ):  # fmt: skip
        yield Case(f"raw: {kind}", bytes(64_000), BAD_BODY | BAD_HEADER, {"Content-Type": kind})
    nan = np.full(RATE, np.nan, "<f4").tobytes()
    kind = "audio/pcm; rate=16000; channels=1; encoding=f32le"
    yield Case("raw: NaN", nan, frozenset({422}), {"Content-Type": kind})
    yield Case("raw: three bytes", b"abc", BAD_AUDIO, {"Content-Type": kind})
