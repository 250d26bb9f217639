"""`python -m benchmarks.http`: the real command on a real socket, against plain runs of its model on the same cores.

Rounds in turns: the server with as many clients as keep it busy, then threads that only decode and run the graph. Then
one request at a time, and loads from light to twice what it can do, with arrivals that do not wait for answers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.client.drive import Target, closed_loop, open_loop
from benchmarks.client.figures import percentile, summarise, throughput, wrong_answers
from benchmarks.client.schedule import poisson
from benchmarks.lengths import MIXES
from benchmarks.record import save, table
from service.audio.decode import open_recording
from service.backends.machine import usable_cores
from service.engine import padding
from service.engine.loading import Loaded, load
from service.engine.manifest import read_manifest
from service.settings import embedded_models
from service.values import AudioLimits
from tests.e2e.server import Server
from tests.e2e.sounds import speechlike, wav

TICKS = os.sysconf("SC_CLK_TCK")
DEADLINE_S = 2.0


def request(path: str, body: bytes, headers: str = "") -> bytes:
    """A whole request: a raw body."""
    known = f"Host: here\r\nContent-Type: audio/wav\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\n{known}{headers}\r\n".encode() + body


def bodies(mix: str, count: int, longest_s: float = 30.0, seed: int = 0) -> list[bytes]:
    lengths = np.minimum(MIXES[mix](np.random.default_rng(seed), count), longest_s)
    return [wav(speechlike(float(length), seed=index)) for index, length in enumerate(lengths)]


def target(server: Server) -> Target:
    return Target(int(server.url.rsplit(":", 1)[1]), cpu_s=lambda: cpu_s(server.pid))


def cpu_s(pid: int) -> float:
    """Processor seconds of a process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def default_quality_folder() -> Path:
    """The shipped quality model that serves where nobody names one."""
    folders = [path.parent for path in sorted(embedded_models().glob("quality-*/*/model.toml"))]
    return next(folder for folder in folders if read_manifest(folder).default)


def default_quality() -> Loaded:
    folder = default_quality_folder()
    return load(folder, read_manifest(folder), "cpu")


def plain(loaded: Loaded, sounds: Sequence[bytes], seconds: float) -> float:
    """Recordings a second by threads that decode and run, and do nothing else; as many as there are cores."""
    limits, until, done = AudioLimits(), time.perf_counter() + seconds, [0] * usable_cores()

    def work(place: int) -> None:
        turn = place
        while time.perf_counter() < until:
            with open_recording(sounds[turn % len(sounds)], limits) as recording:
                samples = np.concatenate(list(recording.blocks()), axis=1)[0]
            loaded.backend.run(padding.assemble([samples]))
            done[place] += 1
            turn += len(done)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(done))]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def capacity(server: Server, requests: Sequence[bytes], seconds: float) -> float:
    """Requests a second when more of them wait than can be served at once."""
    run = closed_loop(target(server), requests, 4 * usable_cores(), seconds, keep_answers=False)
    return throughput(run, settle_s=min(0.5, seconds / 4))


def saturated(server: Server, loaded: Loaded, rounds: int, seconds: float) -> dict[str, float]:
    sounds = bodies("equal", 8)
    requests = [request("/quality", sound) for sound in sounds]
    capacity(server, requests, 1.0)
    pairs = [(capacity(server, requests, seconds), plain(loaded, sounds, seconds)) for _ in range(rounds)]
    return {
        "requests_a_second": statistics.median(one for one, _ in pairs),
        "plain_a_second": statistics.median(two for _, two in pairs),
        "of_plain": statistics.median(one / two for one, two in pairs),
    }


def idle(server: Server, loaded: Loaded, requests: int) -> dict[str, float]:
    """Milliseconds of one request at a time, and what of them is not the model's run."""
    sound = bodies("equal", 1)[0]
    with open_recording(sound, AudioLimits()) as recording:
        batch = padding.assemble([np.concatenate(list(recording.blocks()), axis=1)[0]])
    run = closed_loop(target(server), [request("/quality", sound)], 1, 3600.0, most_requests=requests)
    whole = [outcome.latency_s for outcome in run.outcomes[5:]]
    runs = []
    for _ in range(requests):
        began = time.perf_counter()
        loaded.backend.run(batch)
        runs.append(time.perf_counter() - began)
    whole_ms, run_ms = 1000 * statistics.median(whole), 1000 * statistics.median(runs)
    return {
        "request_ms": whole_ms,
        "run_ms": run_ms,
        "rest_ms": whole_ms - run_ms,
        "p99_ms": 1000 * percentile(whole, 99),
        "server_cpu_ms": 1000 * (run.server_cpu_s or 0.0) / len(run.outcomes),
    }


def loads(server: Server, mix: str, shares: Sequence[float], seconds: float, seed: int) -> list[dict[str, object]]:
    """One row for each share of what the server can do."""
    sounds = bodies(mix, 48, seed=seed)
    requests = [request("/quality", sound, f"Earmark-Deadline-Ms: {DEADLINE_S * 1000:.0f}\r\n") for sound in sounds]
    most = statistics.median(capacity(server, requests, seconds / 3) for _ in range(3))
    alone = [closed_loop(target(server), [one], 1, 60.0, most_requests=1).outcomes[0].body for one in requests]
    scores = [json.loads(answer)["score"] for answer in alone]

    def is_right(which: int, answer: bytes) -> bool:
        return abs(float(json.loads(answer)["score"]) - scores[which]) < 1e-3

    rows = []
    for share in shares:
        schedule = poisson(share * most, seconds, len(requests), seed=round(100 * share) + seed)
        run = open_loop(target(server), requests, schedule)
        seen = summarise(run, deadline_s=DEADLINE_S, warm_s=min(1.0, seconds / 5))
        row = {"share": share, "capacity": round(most, 1), "mix": mix} | seen.as_json()
        row |= {"goodput_of_capacity": round(seen.goodput / most, 3), "wrong": wrong_answers(run.outcomes, is_right)}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    parser.add_argument("--load-s", type=float, default=12.0, help="of each load")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.3, 0.5, 0.7, 0.9, 1.2, 2.0])
    parser.add_argument("--mix", choices=MIXES, default="mixed")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    loaded = default_quality()
    with Server(device=given.device) as server:
        found: dict[str, object] = {"saturated": saturated(server, loaded, given.rounds, given.seconds)}
        found["idle"] = idle(server, loaded, 200)
        print(table(("figure", "value"), [row for part in found.values() for row in part.items()]))  # type: ignore[attr-defined]
        rows = loads(server, given.mix, given.shares, given.load_s, seed=1) if given.shares else []
    found |= {"loads": rows, "device": given.device}
    head = ("share", "offered", "goodput_of_capacity", "p50_ms", "p99_ms", "refused", "wrong", "sound")
    print(table(head, [tuple(row[name] for name in head) for row in rows]))
    save({"http": found}, given.out)


if __name__ == "__main__":
    main()
