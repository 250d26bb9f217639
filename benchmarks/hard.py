"""`python -m benchmarks.hard NAME…`: hard times for the real command, each with the figure that it must keep to.

overload: twice what it can do, for a minute. liveness: `/health/live` while long files decode and the queue is full.
hangup: half of the clients go while they wait. hour: a recording of an hour. chaos: clients that go, lie, stall and
send rubbish, and what is left of them. soak: twenty minutes of everything, with 200 reloads. All on loopback, bounded.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import httpx
import numpy as np

from benchmarks.client.drive import closed_loop, open_loop
from benchmarks.client.figures import percentile, summarise
from benchmarks.client.schedule import poisson
from benchmarks.http import bodies, capacity, request, target
from benchmarks.record import save, table
from tests.e2e.server import Server
from tests.e2e.sounds import long_wav, speechlike, wav

MIB = 1 << 20
UNENDED = b"POST /quality HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nFFF\r\nabc"
DEADLINE = "Earmark-Deadline-Ms: 2000\r\n"
Figures = dict[str, object]


def overload(short: bool) -> Figures:
    """Goodput by a deadline of two seconds, refusals, memory, and how soon a lone request is as quick as before."""
    seconds = 10.0 if short else 60.0
    with Server() as server:
        requests = [request("/quality", sound, DEADLINE) for sound in bodies("mixed", 48, seed=1)]
        capacity(server, requests, 2.0)
        before_ms = _lone_ms(server, requests[0])
        most = statistics.median(capacity(server, requests, 3.0) for _ in range(5))
        rss = server.rss_bytes()
        run = open_loop(target(server), requests, poisson(2 * most, seconds, len(requests), seed=5), keep_answers=False)
        ended = time.monotonic()
        grown = server.rss_bytes() - rss
        while (after_ms := _lone_ms(server, requests[0], 5)) > 1.5 * before_ms and time.monotonic() < ended + 30:
            pass
        recovered_s = time.monotonic() - ended
        seen = summarise(run, deadline_s=2.0, warm_s=seconds / 10)
        refused = [one for one in run.outcomes if one.status in (429, 503)]
        return {
            "capacity": most,
            "goodput_of_capacity": seen.goodput / most,
            "refused_within_ms_p50": 1000 * percentile([one.done_s - one.sent_s for one in refused], 50),
            "refused_within_ms_p99": 1000 * percentile([one.done_s - one.sent_s for one in refused], 99),
            "with_retry_after": sum("retry-after" in one.headers for one in refused) / max(1, len(refused)),
            "statuses": seen.statuses,
            "p50_ms": seen.p50_ms,
            "p99_ms": seen.p99_ms,
            "grown_mib": grown / MIB,
            "recovered_s": recovered_s,
            "lone_ms_before": before_ms,
            "lone_ms_after": after_ms,
        }


def liveness(short: bool) -> Figures:
    """Half-hour files decode, short ones fill the queue, and somebody asks whether the process lives."""
    seconds = 6.0 if short else 20.0
    with Server() as server:
        long_one = request("/quality", long_wav(30))
        shorts = [request("/quality", sound, DEADLINE) for sound in bodies("mixed", 24)]
        alive = b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n"
        with _beside(server, [long_one], 4, seconds + 1), _beside(server, shorts, 32, seconds + 1):
            time.sleep(1.0)
            run = open_loop(target(server), [alive], poisson(50, seconds - 1, 1, seed=2))
        latencies = [outcome.latency_s for outcome in run.outcomes]
        return {
            "live_p50_ms": 1000 * percentile(latencies, 50),
            "live_p99_ms": 1000 * percentile(latencies, 99),
            "live_worst_ms": 1000 * max(latencies),
            "failed": sum(outcome.status != 200 for outcome in run.outcomes),
        }


def hangup(short: bool) -> Figures:
    """Clients that go while they wait: how much is computed for nobody."""
    rounds = 3 if short else 10
    with Server(workers=1) as server:
        sound = wav(speechlike(10.0))
        asked = gone = 0
        for _ in range(rounds):
            lines = []
            for _ in range(60):
                line = socket.create_connection(("127.0.0.1", target(server).port))
                line.sendall(request("/quality", sound))
                lines.append(line)
            leaving = lines[20::2]
            for line in leaving:
                line.close()
            asked, gone = asked + len(lines), gone + len(leaving)
            for line in lines:
                if line not in leaving:
                    _read_answer(line)
                    line.close()
        time.sleep(1.0)
        done = server.metric("earmark_jobs_total", end="done")
        return {"asked": asked, "left": gone, "computed_for_the_left": (done - (asked - gone)) / gone}


def hour(short: bool) -> Figures:
    """An hour of speech through `/quality`: answered, and what memory it took at most above rest."""
    minutes = 10 if short else 60
    with Server() as server:
        httpx.post(f"{server.url}/quality", content=wav(speechlike(3.0)), timeout=60).raise_for_status()
        rest = server.rss_bytes()
        body = long_wav(minutes, 16_000)
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")
        began = time.monotonic()
        answer = httpx.post(f"{server.url}/quality?step=1", content=body, timeout=600).raise_for_status().json()
        return {
            "minutes": minutes,
            "body_mib": len(body) / MIB,
            "seconds": time.monotonic() - began,
            "points": len(answer["curve"]["values"]),
            "peak_above_rest_mib": (_peak_bytes(server.pid) - rest) / MIB,
        }


def chaos(short: bool) -> Figures:
    """Ten thousand clients that mean no good; then a hundred that do."""
    count = 600 if short else 10_000
    rng = random.Random(7)
    with Server(body_stall_s=2, body_timeout_s=4) as server:
        port, sound = target(server).port, wav(speechlike(2.0))
        good = request("/quality", sound)
        closed_loop(target(server), [good], 4, 1.0)
        rss, files, threads = server.rss_bytes(), _open_files(server.pid), _threads(server.pid)
        tricks = [
            lambda line: line.sendall(good[: rng.randrange(len(good))]),
            lambda line: (line.sendall(good), time.sleep(rng.random() * 0.02)),
            lambda line: line.sendall(rng.randbytes(rng.randrange(1, 4000))),
            lambda line: line.sendall(good.replace(b"Content-Length: ", b"Content-Length: 9", 1)),
            lambda line: line.sendall(request("/quality", rng.randbytes(3000))),
            lambda line: line.sendall(UNENDED),
            lambda line: line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000),
            lambda line: (line.sendall(good * 3), _read_answer(line)),
            lambda line: [(line.sendall(good[at : at + 1]), time.sleep(0.001)) for at in range(40)],
            lambda line: line.sendall(good.replace(b"audio/wav", b"audio/L16; rate=99999999999", 1)),
        ]

        def crowd(share: int) -> None:
            for number in range(share):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as line:
                    tricks[number % len(tricks)](line)

        crew = [threading.Thread(target=crowd, args=(count // 16,)) for _ in range(16)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        time.sleep(5.0)
        after = closed_loop(target(server), [good], 1, 60.0, most_requests=100)
        return {
            "clients": count // 16 * 16,
            "good_after": sum(outcome.status == 200 for outcome in after.outcomes),
            "grown_mib": (server.rss_bytes() - rss) / MIB,
            "open_files_more": _open_files(server.pid) - files,
            "threads_more": _threads(server.pid) - threads,
            "children": len(server.children()),
            "server_errors": sum(server.metric("earmark_requests_total", status=status) for status in ("500", "502")),
            "tracebacks": server.log().count("Traceback"),
        }


def soak(short: bool) -> Figures:
    """Mixed endpoints, lengths and formats at about half of what it can do, and a reload now and then."""
    seconds, reloads = (30.0, 10) if short else (1200.0, 200)
    sounds = bodies("mixed", 64, seed=3)
    paths = ["/quality"] * 7 + ["/scene"] * 2 + ["/enhance"]
    requests = [request(paths[index % len(paths)], sound) for index, sound in enumerate(sounds)]
    with Server() as server:
        rate = 0.5 * capacity(server, requests, 5.0)
        ends = time.monotonic() + seconds
        statuses: Counter[str] = Counter()
        memory: list[tuple[float, float]] = []
        names = [one["name"] for one in httpx.get(f"{server.url}/models", timeout=30).json()["models"]]
        failed_reloads = 0

        def load() -> None:
            seed = 0
            while time.monotonic() < ends:
                seed += 1
                schedule = poisson(rate, min(20.0, max(1.0, ends - time.monotonic())), len(requests), seed)
                run = open_loop(target(server), requests, schedule, keep_answers=False)
                statuses.update(str(one.status) if one.status else one.failure for one in run.outcomes)

        thread = threading.Thread(target=load)
        thread.start()
        for number in range(reloads):
            time.sleep(max(0.0, ends - seconds + seconds * (number + 0.5) / reloads - time.monotonic()))
            answer = httpx.post(f"{server.url}/models/{names[number % len(names)]}/reload", timeout=60)
            failed_reloads += answer.status_code != 200
            memory.append((time.monotonic() - ends + seconds, server.rss_bytes() / MIB))
            if number % 20 == 0:
                print(f"{memory[-1][0]:.0f} s, {memory[-1][1]:.0f} MiB, {dict(statuses)}", flush=True)
        thread.join()
        warm = [(at / 60, size) for at, size in memory if at > 0.2 * seconds]
        slope = float(np.polyfit(*zip(*warm, strict=True), 1)[0])
        return {
            "seconds": seconds,
            "rate": rate,
            "statuses": dict(statuses),
            "reloads": reloads,
            "failed_reloads": failed_reloads,
            "mib_a_minute": slope,
            "mib_first_warm": warm[0][1],
            "mib_last": memory[-1][1],
        }


def _lone_ms(server: Server, one: bytes, count: int = 20) -> float:
    run = closed_loop(target(server), [one], 1, 60.0, most_requests=count)
    return 1000 * statistics.median(outcome.latency_s for outcome in run.outcomes)


@contextmanager
def _beside(server: Server, requests: list[bytes], clients: int, seconds: float) -> Iterator[None]:
    """Load from a process of its own: what this one measures must not wait for it."""
    address = replace(target(server), cpu_s=None)
    given = {"timeout_s": 120.0, "keep_answers": False}
    other = get_context("fork").Process(target=closed_loop, args=(address, requests, clients, seconds), kwargs=given)
    other.start()
    yield
    other.join()


def _read_answer(line: socket.socket) -> bytes:
    line.settimeout(60)
    got = b""
    while b"\r\n\r\n" not in got and (piece := line.recv(65536)):
        got += piece
    return got


def _peak_bytes(pid: int) -> int:
    for row in Path(f"/proc/{pid}/status").read_text().splitlines():
        if row.startswith("VmHWM"):
            return int(row.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


SCENES: dict[str, Callable[[bool], Figures]] = {
    "overload": overload, "liveness": liveness, "hangup": hangup, "hour": hour, "chaos": chaos, "soak": soak,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SCENES, []], default=[])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[str, Figures] = {}
    for name in given.names or [name for name in SCENES if name != "soak"]:
        found[name] = SCENES[name](given.short)
        print(table((name, "value"), [(key, json.dumps(value) if isinstance(value, dict) else value) for key, value in found[name].items()]), flush=True)  # noqa: E501
        save({"hard": found}, given.out)


if __name__ == "__main__":
    main()
