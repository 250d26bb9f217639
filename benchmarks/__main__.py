"""`python -m benchmarks`: start-up, memory, latency and throughput of the real command with the shipped models.

Prints a table and writes the same as JSON, with machine and versions, to `--out`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.record import machine
from tests.e2e.server import Server
from tests.e2e.sounds import speechlike, wav

ENDPOINTS = ("/quality", "/scene", "/enhance")
CLIP_S = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=5, help="how often the server is started")
    parser.add_argument("--requests", type=int, default=30, help="requests one after the other, for each endpoint")
    parser.add_argument("--load-s", type=float, default=10.0, help="seconds of load, for each endpoint")
    parser.add_argument("--clients", type=int, default=8, help="clients at once under load")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    given = parser.parse_args()
    figures = {"machine": machine()} | start_up(given.starts)
    with Server() as server:
        body = wav(speechlike(CLIP_S))
        for endpoint in ENDPOINTS:
            figures[endpoint] = latency(server, endpoint, body, given.requests) | load(
                server, endpoint, body, given.load_s, given.clients
            )
        figures["memory_after_load_mib"] = round(server.rss_bytes() / 2**20)
    print(table(figures))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def start_up(starts: int) -> dict[str, float]:
    """Seconds from the start of the process to ready, and what it holds when nothing was asked yet."""
    ready_s, memory_mib = [], []
    for _ in range(starts):
        with Server() as server:
            ready_s.append(time.monotonic() - server.began)
            memory_mib.append(server.rss_bytes() / 2**20)
    return {
        "ready_s": round(statistics.median(ready_s), 2),
        "ready_least_s": round(min(ready_s), 2),
        "memory_idle_mib": round(statistics.median(memory_mib)),
    }


def latency(server: Server, endpoint: str, body: bytes, requests: int) -> dict[str, float]:
    """Milliseconds of one request at a time, connection kept."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        ask(client, endpoint, body)
        taken = sorted(timed(lambda: ask(client, endpoint, body)) for _ in range(requests))
    median_s, p90_s = statistics.median(taken), taken[int(0.9 * requests)]
    return {"median_ms": round(1000 * median_s, 1), "p90_ms": round(1000 * p90_s, 1)}


def load(server: Server, endpoint: str, body: bytes, seconds: float, clients: int) -> dict[str, float]:
    """Seconds of audio answered a second while all clients keep asking; the clients share the machine."""
    until = time.monotonic() + seconds

    def keep_asking(_: int) -> int:
        done = 0
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while time.monotonic() < until:
                ask(client, endpoint, body)
                done += 1
        return done

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        done = sum(pool.map(keep_asking, range(clients)))
    return {"times_real_time": round(done * CLIP_S / (time.monotonic() - began))}


def ask(client: httpx.Client, endpoint: str, body: bytes) -> None:
    client.post(endpoint, content=body, headers={"Content-Type": "audio/wav"}).raise_for_status()


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table(figures: dict[str, object]) -> str:
    rows: list[tuple[str, object]] = []
    for name, value in figures.items():
        rows += [(f"{name} {key}", one) for key, one in value.items()] if isinstance(value, dict) else [(name, value)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


if __name__ == "__main__":
    main()
