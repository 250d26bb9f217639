from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.api.multipart import MAX_PART_HEADER_BYTES, MAX_PART_HEADERS, FormReader, sanitised_name
from service.errors import BadRequest, BrokenBody, EarmarkError, TooLarge
from tests.api.forms import BOUNDARY, form, part

Outcome = list[tuple[str | None, str, bytes]] | type[EarmarkError]


def read(*pieces: bytes, boundary: bytes = BOUNDARY, max_parts: int = 64) -> Outcome:
    """The files of a form that came in these pieces, or what it was refused with."""
    try:
        reader = FormReader(boundary, max_parts)
        for piece in pieces:
            reader.feed(piece)
        files = reader.finish()
    except EarmarkError as error:
        return type(error)
    assert all(file.sha256 == hashlib.sha256(file.body).hexdigest() for file in files)
    return [(file.name, file.content_type, bytes(file.body)) for file in files]


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


def test_one_part() -> None:
    body = form([part(b"abc", b"file", b"a.wav", b"Content-Type: audio/wav")])
    assert read(body) == [("a.wav", "audio/wav", b"abc")]


def test_several_parts_keep_their_order() -> None:
    body = form([part(b"one"), part(b"", filename=None), part(b"\r\n--" + BOUNDARY[:-1])])
    assert read(body) == [("a.wav", "", b"one"), (None, "", b""), ("a.wav", "", b"\r\n--" + BOUNDARY[:-1])]


def test_parts_up_to_the_limit() -> None:
    assert len(read(form([part(b"x")] * 3), max_parts=3)) == 3  # type: ignore[arg-type]
    assert read(form([part(b"x")] * 4), max_parts=3) is TooLarge


def test_too_many_parts_are_refused_before_the_rest_is_read() -> None:
    reader = FormReader(BOUNDARY, max_parts=1)
    with pytest.raises(TooLarge) as caught:
        reader.feed(b"--" + BOUNDARY + b"\r\n" + part(b"x") + b"\r\n--" + BOUNDARY + b"\r\n")
    assert caught.value.extra == {"limit": "max_parts", "maximum": 1, "got": 2}


def test_epilogue_and_leading_line_breaks_are_passed_over() -> None:
    assert read(b"\r\n\r\n", form([part(b"abc")]) + b"\r\nepilogue\r\n--" + BOUNDARY) == [("a.wav", "", b"abc")]


def test_headers_up_to_the_limits() -> None:
    longest = b"X-Long: " + b"x" * (MAX_PART_HEADER_BYTES - len("X-Long: "))
    assert isinstance(read(form([part(b"x", b"file", b"a", longest)])), list)
    many = [b"X-%d: y" % number for number in range(MAX_PART_HEADERS - 1)]
    assert isinstance(read(form([part(b"x", b"file", b"a", *many)])), list)


WHOLE = form([part(b"abc")])
MALFORMED = {
    "nothing": b"",
    "only line breaks": b"\r\n\r\n",
    "other boundary": form([part(b"abc")], b"other"),
    "no closing boundary": WHOLE[: -len(BOUNDARY) - 6],
    "closing boundary cut": WHOLE[:-3],
    "preamble": b"preamble\r\n" + WHOLE,
    "bare line feeds": WHOLE.replace(b"\r\n", b"\n"),
    "no blank line": WHOLE.replace(b"\r\n\r\n", b"\r\n"),
    "header without colon": form([b"Content-Disposition\r\n\r\nabc"]),
    "header without name": form([b": form-data\r\n\r\nabc"]),
    "folded header": form([b'Content-Disposition: form-data;\r\n name="file"\r\n\r\nabc']),
    "no headers": form([b"\r\nabc"]),
    "no disposition": form([b"Content-Type: audio/wav\r\n\r\nabc"]),
    "attachment": form([b'Content-Disposition: attachment; name="file"\r\n\r\nabc']),
    "no name": form([b"Content-Disposition: form-data\r\n\r\nabc"]),
    "extended name only": form([b"Content-Disposition: form-data; name*=utf-8''file\r\n\r\nabc"]),
    "disposition twice": form([part(b"abc", b"file", b"a", b'content-disposition: form-data; name="file"')]),
    "type twice": form([part(b"abc", b"file", b"a", b"Content-Type: a/b", b"CONTENT-TYPE: c/d")]),
    "line feed in a header": form([b'Content-Disposition: form-data; name="file"\nX: y\r\n\r\nabc']),
    "zero in a header": form([b'Content-Disposition: form-data; name="file\0"\r\n\r\nabc']),
    "carriage return in a header": form([b'Content-Disposition: form-data; name="file"\rX: y\r\n\r\nabc']),
    "base64": form([part(b"YWJj", b"file", b"a", b"Content-Transfer-Encoding: base64")]),
    "header too long": form([part(b"abc", b"file", b"a", b"X: " + b"x" * MAX_PART_HEADER_BYTES)]),
    "name too long": form([b"X" * 10_000 + b": y\r\n\r\nabc"]),
    "too many headers": form([part(b"abc", b"file", b"a", *[b"X-%d: y" % n for n in range(MAX_PART_HEADERS)])]),
    "boundary then rubbish": b"--" + BOUNDARY + b"rubbish" + WHOLE,
    "second boundary then spaces and rubbish": WHOLE.replace(
        b"abc\r\n--" + BOUNDARY, b"abc\r\n--" + BOUNDARY + b"  x\r\n"
    ),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_form_is_broken_however_it_is_cut(body: bytes) -> None:
    assert read(body) is BrokenBody
    assert read(*(body[i : i + 1] for i in range(len(body)))) is BrokenBody


@pytest.mark.parametrize("name", [b"audio", b"", b"File", b"file[]", b"\xff", b"x" * 3000])
def test_part_of_another_name_is_named(name: bytes) -> None:
    reader = FormReader(BOUNDARY, 64)
    with pytest.raises(BadRequest) as caught:
        reader.feed(form([part(b"abc", name)]))
    assert type(caught.value) is BadRequest
    assert ascii(name[:120].decode("utf-8", "replace")) in caught.value.detail
    assert len(caught.value.detail) < 1000


def test_form_without_parts_says_what_is_missing() -> None:
    assert read(b"--" + BOUNDARY + b"--\r\n") is BadRequest


@pytest.mark.parametrize("boundary", [b"", b"x" * 71, b"a b ", b"a\r\nb", b"\xff", b'"', b"a;b"])
def test_boundary_must_be_one(boundary: bytes) -> None:
    assert read(form([part(b"abc")], boundary), boundary=boundary) is BrokenBody


@pytest.mark.parametrize("boundary", [b"x", b"-", b"a b", b"x" * 70, b"0aZ'()+_,-./:=?"])
def test_any_boundary_of_the_standard_will_do(boundary: bytes) -> None:
    assert read(form([part(b"abc")], boundary), boundary=boundary) == [("a.wav", "", b"abc")]


NASTY = st.sampled_from(
    [b"\r\n--" + BOUNDARY, b"\r\n--", b"--", b"\r", b"\n", b"-", BOUNDARY, b"\r\n", b" ", b"\t", b":", b";", b"a"]
)
BODIES = st.lists(NASTY | st.binary(max_size=6), max_size=8).map(b"".join)


@settings(max_examples=80)
@given(st.lists(BODIES, min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=12))
def test_well_formed_or_nearly_so_is_read_the_same_however_it_is_cut(bodies: list[bytes], places: list[int]) -> None:
    whole = form(part(body) for body in bodies)
    expected = read(whole)
    assert read(*cut(whole, places)) == expected
    assert read(*(whole[i : i + 1] for i in range(len(whole)))) == expected
    if not any(b"\r\n--" + BOUNDARY in b"\r\n" + body for body in bodies):
        assert expected == [("a.wav", "", body) for body in bodies]


@settings(max_examples=120)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 4), NASTY | st.binary(max_size=3)), max_size=4),
    st.lists(st.integers(0, 10_000), max_size=12),
)
@example([(0, 0, b"\r\nx")], [2])
def test_damaged_form_is_read_or_refused_the_same_however_it_is_cut(
    damages: list[tuple[int, int, bytes]], places: list[int]
) -> None:
    damaged = form([part(b"one", b"file", b"a.wav", b"Content-Type: audio/wav"), part(b"two")])
    for place, length, replacement in damages:
        damaged = damaged[:place] + replacement + damaged[place + length :]
    expected = read(damaged)
    assert read(*cut(damaged, places)) == expected
    assert read(*(damaged[i : i + 1] for i in range(len(damaged)))) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a.wav", "a.wav"),
        (b"", None),
        (b"/", None),
        (b"..", None),
        (b"../../etc/passwd", "passwd"),
        (b"C:\\music\\a.wav", "a.wav"),
        (b"a\r\nX: y.wav", "aX y.wav"),
        (b'a"b.wav', "ab.wav"),
        ("Köln ♫.wav".encode(), "Köln ♫.wav"),
        (b"\xff.wav", "\ufffd.wav"),
        ("gpj\u202e.wav".encode(), "gpj.wav"),
        (b" .hidden ", "hidden"),
        (b"x" * 500, "x" * 120),
    ],
)
def test_sanitised_name(raw: bytes, expected: str | None) -> None:
    assert sanitised_name(raw) == expected


@given(st.binary() | st.text().map(str.encode))
def test_any_name_becomes_fit_for_a_screen(raw: bytes) -> None:
    name = sanitised_name(raw)
    assert name is None or (name.isprintable() and 0 < len(name) <= 120 and not set(name) & set('/\\"'))
