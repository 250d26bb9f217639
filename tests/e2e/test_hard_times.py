"""A live server under a killed decoder, a client that hangs up, and SIGTERM with requests in flight."""

from __future__ import annotations

import io
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.e2e.server import Server, eventually, serving
from tests.e2e.sounds import long_wav, speechlike, wav

RAW = {"Content-Type": "audio/wav"}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def post(server: Server, path: str, body: bytes) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", content=body, headers=RAW, timeout=120)


def test_sigterm_answers_what_is_in_flight_and_ends_with_zero(server: Server) -> None:
    body = long_wav(10)
    with ThreadPoolExecutor(4) as clients:
        answers = [clients.submit(post, server, "/quality?curve=false", body) for _ in range(4)]
        for _ in eventually("four requests in flight"):
            if server.metric("earmark_requests_in_flight") >= 5:  # the metrics' own is the fifth
                break
        server.terminate()
        statuses = [answer.result().status_code for answer in answers]

    assert statuses == [200] * 4
    assert server.exit_code() == 0


def test_a_client_that_hangs_up_costs_nothing_more(server: Server) -> None:
    body = long_wav(110)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /quality HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        for _ in eventually("the first pieces are computed"):
            if server.metric("earmark_jobs_total", end="done") >= 1:
                break
    for _ in eventually("nobody works any more", 5.0):
        if server.metric("earmark_requests_in_flight") <= 1 and server.metric("earmark_workers_busy") <= 1:
            break
    done = server.metric("earmark_jobs_total", end="done")
    pieces = 110 * 60 / 8

    assert done < 0.8 * pieces
    assert server.metric("earmark_queue_items") == 0
    assert server.metric("earmark_requests_total", status="499") == 1
    assert server.metric("earmark_jobs_total", end="done") == done


def test_killing_the_decoder_fails_that_request_alone(server: Server) -> None:
    body = m4a(np.tile(speechlike(60), 20))
    bystander = wav(speechlike(3))
    found: list[int] = []

    def kill_the_child() -> None:
        for _ in eventually("a child decodes", 20.0):
            found.extend(server.children())
            if found:
                os.kill(found[0], signal.SIGKILL)
                return

    killer = threading.Thread(target=kill_the_child)
    killer.start()
    with ThreadPoolExecutor(2) as clients:
        victim = clients.submit(post, server, "/quality", body)
        other = clients.submit(post, server, "/quality", bystander)
    killer.join()

    assert found
    assert victim.result().status_code == 422
    assert victim.result().json()["type"].endswith("bad-audio")
    assert other.result().status_code == 200
    assert post(server, "/quality", bystander).status_code == 200
    assert server.children() == []


def m4a(samples: np.ndarray) -> bytes:
    """AAC in MP4, made by the library that the child decodes with."""
    av = pytest.importorskip("av", reason="the extra `media` is not installed")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for start in range(0, len(samples), 16_000):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 16_000], format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
