"""Hundreds of hostile requests against the whole service: each is refused with a problem, and nothing stays behind.

Point them at another server by replacing the fixture `server`: all that is asked of it is `url`, `pid`, `metric` and
`rss_bytes`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from service.api.problems import PROBLEMS, Problem
from tests.api.hostile import GOOD_WAV, SECONDS, SIZED, Case, hostile
from tests.e2e.server import Server, eventually
from tests.models import make_repository

CASES = list(hostile())
CODES = {f"/problems#{kind.code}": kind.status for kind in PROBLEMS}
ROUTE = "/quality"
GROWTH_BYTES = 96 << 20
"""Room for what allocators keep: less than a single one of the bombs would take, unpacked."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models: Path = make_repository(tmp_path_factory.mktemp("models"))
    limits = {"max_body_bytes": SIZED, "max_duration_s": SECONDS, "body_stall_s": 0.2, "body_timeout_s": 5}
    with Server(models, workers=1, **limits) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def sent(client: httpx.Client, case: Case) -> httpx.Response:
    pieces = (case.body[start : start + 65_536] for start in range(0, len(case.body), 65_536))
    return client.post(ROUTE, content=pieces if case.chunked else case.body, headers=case.headers)


def test_there_are_hundreds_of_them() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_good_one_is_answered(client: httpx.Client) -> None:
    """Otherwise the refusals below would say nothing."""
    assert client.post(ROUTE, content=GOOD_WAV).status_code == 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_body_is_refused_with_a_problem(client: httpx.Client, case: Case) -> None:
    answer = sent(client, case)
    assert answer.status_code in case.allowed, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate(answer.json())
    assert CODES[problem.type] == problem.status == answer.status_code
    assert problem.request_id == answer.headers["x-request-id"]
    for leak in ("Traceback", ".py", "0x", "/usr", "/tmp", "libsndfile", "Error("):  # noqa: S108 (never opened)
        assert leak not in answer.text


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /quality HTTP/1.1", "Host: localhost", *lines, "", ""]).encode("latin-1")


MISTIMED = {
    "body that breaks off": head("Content-Length: 1000") + GOOD_WAV[:500],
    "body of which nothing comes": head("Content-Length: 1000"),
    "chunks that break off": head("Transfer-Encoding: chunked") + b"ff\r\nabc",
    "chunks without an end": head("Transfer-Encoding: chunked") + b"3\r\nabc\r\n",
    "form that breaks off": head("Content-Length: 999", "Content-Type: multipart/form-data; boundary=x") + b"--x\r\n",
}


def opened(server: Server, request: bytes) -> socket.socket:
    url = httpx.URL(server.url)
    line = socket.create_connection((url.host, url.port or 80), timeout=30)
    line.sendall(request)
    return line


def heard(line: socket.socket) -> bytes:
    """All that comes until the server closes."""
    answer = b""
    while piece := line.recv(65_536):
        answer += piece
    return answer


def exchange(server: Server, request: bytes) -> bytes:
    with opened(server, request) as line:
        return heard(line)


def test_body_that_never_ends_is_too_slow(server: Server) -> None:
    with ExitStack() as held:
        lines = {name: held.enter_context(opened(server, request)) for name, request in MISTIMED.items()}
        answers = {name: heard(line) for name, line in lines.items()}
    for name, answer in answers.items():
        assert answer.startswith(b"HTTP/1.1 408 "), name
        assert b"/problems#slow-body" in answer, name
        assert b"connection: close" in answer.lower(), name


@pytest.mark.parametrize("request_bytes", MISTIMED.values(), ids=MISTIMED.keys())
def test_client_that_goes_leaves_nothing_behind(server: Server, request_bytes: bytes) -> None:
    opened(server, request_bytes).close()
    for _ in eventually("the request is over"):
        if server.metric("earmark_requests_in_flight") == 1:  # the question itself
            break


NO_HTTP = {
    "two lengths": head("Content-Length: 3", "Content-Length: 4") + b"abcd",
    "length and chunks": head("Content-Length: 3", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    "negative length": head("Content-Length: -3") + b"abc",
    "length that is no number": head("Content-Length: three") + b"abc",
    "length beyond all numbers": head("Content-Length: " + "9" * 40) + b"abc",
    "chunk of no size": head("Transfer-Encoding: chunked") + b"rubbish\r\nabc\r\n0\r\n\r\n",
    "chunk of negative size": head("Transfer-Encoding: chunked") + b"-3\r\nabc\r\n0\r\n\r\n",
    "header without a colon": head("rubbish") + b"abc",
    "zero in a header": head("X: a\0b") + b"abc",
    "bare body": GOOD_WAV,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
}


@pytest.mark.parametrize("request_bytes", NO_HTTP.values(), ids=NO_HTTP.keys())
def test_what_is_no_proper_http_is_refused_and_the_connection_closed(server: Server, request_bytes: bytes) -> None:
    assert exchange(server, request_bytes).startswith(b"HTTP/1.1 400 ")


def test_length_beyond_the_limit_is_refused_before_the_body_is_sent(server: Server) -> None:
    answer = exchange(server, head("Content-Length: 99999999999", "Expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"max_body_bytes" in answer


def test_after_all_of_them_memory_is_as_before_and_the_service_answers(server: Server, client: httpx.Client) -> None:
    before = server.rss_bytes()
    for case in CASES:
        sent(client, case)
    assert server.rss_bytes() - before < GROWTH_BYTES
    assert server.metric("earmark_bodies_in_memory_bytes") == 0
    assert server.children() == []
    assert client.post(ROUTE, content=GOOD_WAV).status_code == 200
