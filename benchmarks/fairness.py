"""`python -m benchmarks.fairness`: a 3 s clip, alone and beside ten clients that send hour-long files.

Each client has a key of its own. The clip is sent at random moments drawn before (Poisson, seeded), and its latency is
counted from the moment it was due. Prints p50 and p99 of both phases and their ratios; `--out` writes them as JSON.
Ends by itself, within about a minute and a half.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx

from benchmarks import record
from tests.e2e.server import Server
from tests.e2e.sounds import long_wav, speechlike, wav

CLIP_S = 3.0
RATE = 16_000
CONNECTIONS = 16
SETTLE_S = 4.0
"""Until the long files are under way."""
TIMEOUT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="/quality", help="what is asked")
    parser.add_argument("--others", type=int, default=10, help="clients that send long files")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of those")
    parser.add_argument("--rate", type=float, default=6.0, help="clips a second")
    parser.add_argument("--idle-s", type=float, default=20.0, help="seconds of clips alone")
    parser.add_argument("--loaded-s", type=float, default=40.0, help="seconds of clips beside the others")
    parser.add_argument("--one-key", action="store_true", help="all with the same key: requests of one caller")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    given = parser.parse_args()
    keys = [f"key-{i}" for i in range(given.others + 1)]
    with Server(api_keys=",".join(keys), max_bodies_bytes=4 << 30) as server:
        ask(server.url, given.endpoint, keys[0], [0.0] * 10)
        idle = ask(server.url, given.endpoint, keys[0], schedule(given.rate, given.idle_s, seed=1))
        with Others(server.url, given.endpoint, keys[:1] * given.others if given.one_key else keys[1:], given.minutes):
            time.sleep(SETTLE_S)
            loaded = ask(server.url, given.endpoint, keys[0], schedule(given.rate, given.loaded_s, seed=2))
            audio_s = server.metric("earmark_batch_items_sum")
    figures = {"idle": summary(idle), "loaded": summary(loaded), "windows": audio_s}
    ratio = {name: figures["loaded"][name] / figures["idle"][name] for name in ("p50_ms", "p99_ms")}  # type: ignore[index]
    rows = [
        ("alone", len(idle), figures["idle"]["p50_ms"], figures["idle"]["p99_ms"]),  # type: ignore[index]
        (f"beside {given.others}", len(loaded), figures["loaded"]["p50_ms"], figures["loaded"]["p99_ms"]),  # type: ignore[index]
        ("ratio", "", ratio["p50_ms"], ratio["p99_ms"]),
    ]
    print(record.table(("3 s clip", "clips", "p50, ms", "p99, ms"), rows))
    record.save(figures | {"ratio": ratio}, given.out)


def schedule(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments from now on, in seconds."""
    draw = random.Random(seed)
    moments, at = [], draw.expovariate(rate)
    while at < seconds:
        moments.append(at)
        at += draw.expovariate(rate)
    return moments


def ask(url: str, endpoint: str, key: str, moments: list[float]) -> list[float]:
    """Send a clip at each moment; seconds from when it was due to its answer."""
    body, began = wav(speechlike(CLIP_S, RATE), RATE), time.monotonic()
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    with httpx.Client(base_url=url, headers=headers(key), timeout=TIMEOUT_S, limits=limits) as client:

        def send(due_s: float) -> float:
            time.sleep(max(0.0, began + due_s - time.monotonic()))
            client.post(endpoint, content=body).raise_for_status()
            return time.monotonic() - began - due_s

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return list(threads.map(send, moments))


def summary(taken_s: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(taken_s, n=100, method="inclusive")
    return {"requests": len(taken_s), "p50_ms": 1000 * cuts[49], "p99_ms": 1000 * cuts[98]}


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Content-Type": "audio/wav"}


class Others:
    """Clients in a process of their own that send long files, one after the other, until they are told to stop."""

    def __init__(self, url: str, endpoint: str, keys: list[str], minutes: float) -> None:
        spawn = multiprocessing.get_context("spawn")
        ready, self._over = spawn.Event(), spawn.Event()
        self._process = spawn.Process(target=keep_sending, args=(url, endpoint, keys, minutes, ready, self._over))
        self._process.start()
        ready.wait(TIMEOUT_S)

    def __enter__(self) -> Others:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._process.terminate()
        self._process.join()


def keep_sending(url: str, endpoint: str, keys: list[str], minutes: float, ready: Event, over: Event) -> None:
    body = long_wav(minutes, RATE)

    def send(key: str) -> None:
        with httpx.Client(base_url=url, headers=headers(key), timeout=None) as client:  # noqa: S113  as long as it takes
            while not over.is_set():
                client.post(endpoint, content=body)

    threads = [threading.Thread(target=send, args=(key,), daemon=True) for key in keys]
    for thread in threads:
        thread.start()
    ready.set()
    over.wait(2 * TIMEOUT_S)


if __name__ == "__main__":
    main()
