"""Answers from pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.client.wire import Answer, AnswerParser, BadAnswer, request

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"X-Sum: 1\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN


def parse(pieces: list[bytes]) -> Answer | None:
    parser = AnswerParser()
    answer = None
    for piece in pieces:
        assert answer is None
        answer = parser.feed(piece)
    return answer


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED, TRAILERS, INTERIM])
@given(data=st.data())
def test_cuts_do_not_matter(whole: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1))))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    answer = parse(pieces)
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED, TRAILERS])
def test_a_part_is_no_answer(whole: bytes) -> None:
    for end in range(len(whole)):
        parser = AnswerParser()
        assert parser.feed(whole[:end]) is None
        with pytest.raises(BadAnswer):
            parser.end()


def test_a_body_without_length_ends_with_the_connection() -> None:
    parser = AnswerParser()
    assert parser.feed(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\nhel") is None
    assert parser.feed(b"lo") is None
    answer = parser.end()
    assert (answer.status, answer.body, answer.headers["retry-after"], answer.closes) == (503, b"hello", "7", True)


@pytest.mark.parametrize(
    "bad",
    [b"SSH-2.0\r\n\r\n", PLAIN + b"x", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", b"a" * 70_000],
)
def test_what_is_no_answer_is_refused(bad: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse([bad])


def test_a_request_is_whole() -> None:
    made = request("/quality?a=b", b"body", headers=(("X-Api-Key", "k"),))
    head, _, body = made.partition(b"\r\n\r\n")
    assert body == b"body"
    assert head.split(b"\r\n")[0] == b"POST /quality?a=b HTTP/1.1"
    assert b"Content-Length: 4" in head
    assert b"X-Api-Key: k" in head
    assert b"Content" not in request("/health/live", method="GET")
