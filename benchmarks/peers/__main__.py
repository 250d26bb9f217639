"""`python -m benchmarks.peers`: Earmark and other servers with the same model, at the same 99th percentile.

For each peer and each mix of lengths, in rounds: the peer alone on the machine, then Earmark alone on it; of both the
highest Poisson rate whose p99 stays within the limit. Figures are ratios within a round. Results are written after each
round; `--resume` goes on where a run stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.client.drive import Target, closed_loop, open_loop
from benchmarks.client.figures import summarise, throughput, wrong_answers
from benchmarks.client.schedule import poisson
from benchmarks.http import default_quality_folder
from benchmarks.lengths import MIXES
from benchmarks.peers import environments
from benchmarks.peers.catalogue import EARMARK, PEERS, Peer, Place
from benchmarks.peers.process import DidNotStart, Process, free_port, started
from benchmarks.peers.scoring import decode
from benchmarks.peers.search import highest_rate
from benchmarks.record import save, table
from service.backends.factory import open_backend
from service.backends.machine import usable_cores
from service.engine import padding
from service.engine.manifest import read_manifest
from tests.e2e.sounds import speechlike, wav

CLIPS = 48
START_S = 60.0
"""Ray takes some ten seconds."""
TOLERANCE = 1e-3
CLIENTS = 16
"""Enough to keep every server busy while its capacity is found."""
CAPACITY_S, SETTLE_S, WARM_S = 2.5, 0.5, 0.3


@dataclass(frozen=True)
class Case:
    """A model and the recordings it is asked about, with the scores they must get."""

    mix: str
    folder: Path
    bodies: list[bytes]
    scores: list[float]
    mean_s: float


def make_case(mix: str, folder: Path) -> Case:
    """Recordings of *mix*, none longer than the model's window: all servers give the graph the same."""
    manifest = read_manifest(folder)
    lengths = np.minimum(MIXES[mix](np.random.default_rng(0), CLIPS), manifest.window.max_s)
    bodies = [wav(speechlike(float(length), manifest.sample_rate, seed=i)) for i, length in enumerate(lengths)]
    backend = open_backend(folder / "model.onnx", "onnx", "cpu")
    scores = [float(backend.run(padding.assemble([decode(body)]))["score"][0]) for body in bodies]
    return Case(mix, folder, bodies, scores, float(lengths.mean()))


@dataclass(frozen=True)
class Session:
    """A server that runs, and how it is asked about a case."""

    peer: Peer
    case: Case
    target: Target
    requests: list[bytes]
    process: Process

    def capacity(self) -> float:
        """Requests a second when more wait than can be served at once; an answer that is wrong ends the benchmark."""
        closed_loop(self.target, self.requests, CLIENTS, 1.0, keep_answers=False)
        run = closed_loop(self.target, self.requests, CLIENTS, CAPACITY_S)
        wrong = wrong_answers(run.outcomes, self.is_right)
        assert not wrong, f"{self.peer.name}: {wrong} answers are not what the model says"
        return throughput(run, SETTLE_S)

    def is_right(self, which: int, answer: bytes) -> bool:
        return abs(self.peer.score(json.loads(answer)) - self.case.scores[which]) <= TOLERANCE

    def load(self, rate: float, seconds: float, seed: int, limit_ms: float) -> dict[str, object]:
        """One load, and then nothing until the server is idle again."""
        schedule = poisson(rate, seconds, len(self.requests), seed)
        run = open_loop(
            self.target, self.requests, schedule, timeout_s=max(2.0, 8 * limit_ms / 1000), keep_answers=False
        )
        self._settle()
        return summarise(run, warm_s=WARM_S).as_json()

    def _settle(self) -> None:
        until = time.monotonic() + 15
        while time.monotonic() < until:
            run = closed_loop(self.target, self.requests[:1], 1, 1.0, most_requests=3, keep_answers=False)
            if all(outcome.status == 200 and outcome.latency_s < 0.2 for outcome in run.outcomes):
                return


def with_server(peer: Peer, setting: str, case: Case, venvs: Path, work: Callable[[Session], Any]) -> Any:
    """Start it, wait for a right answer, do *work*, stop it.

    Raises:
        DidNotStart: see there.
    """
    with tempfile.TemporaryDirectory(prefix="peer-") as scratch:
        place = Place(case.folder, Path(scratch), venvs, free_port(), usable_cores())
        target = Target(place.port)
        environment = peer.environment(place, setting)
        if peer is EARMARK:
            environment["EARMARK_MODELS"] = str(case.folder.parent.parent)
        requests = [peer.ask(body, place.model_name) for body in case.bodies]

        def is_ready() -> bool:
            run = closed_loop(target, requests[:1], 1, 5.0, most_requests=1, timeout_s=5.0)
            return all(outcome.status == 200 for outcome in run.outcomes)

        with started(peer.command(place), environment, is_ready, START_S) as process:
            watched = Target(place.port, cpu_s=process.cpu_s)
            return work(Session(peer, case, watched, requests, process))


def measure(session: Session, *, start: float | None, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Highest rate within the limit, and all loads on the way; *start* from an earlier round saves some."""
    capacity = session.capacity()
    loads: list[dict[str, object]] = []

    def p99_ms(rate: float) -> float:
        # The client's own lateness is in every latency: a load that measured the client is tried once more.
        for attempt in range(2):
            seen = session.load(rate, given.load_s, seed + 100 * len(loads), given.limit_ms)
            loads.append({"rate": round(rate, 2)} | seen)
            if seen["sound"] or attempt:
                break
        value = seen["p99_ms"]
        return math.inf if value is None or seen["refused"] else float(value)  # type: ignore[arg-type]

    rate, _ = highest_rate(p99_ms, start or 0.8 * capacity, given.limit_ms, given.steps)
    memory_mib = round(session.process.memory_bytes() / 2**20)
    return {"capacity": round(capacity, 2), "rate": round(rate, 2), "memory_mib": memory_mib, "loads": loads}


def best_setting(peer: Peer, case: Case, venvs: Path) -> tuple[str, dict[str, float]]:
    """The setting with the higher capacity, so that each is compared at its best."""
    found = {setting: float(with_server(peer, setting, case, venvs, Session.capacity)) for setting in peer.settings}
    return max(found, key=lambda setting: found[setting]), {name: round(value, 2) for name, value in found.items()}


def compare(peer: Peer, case: Case, given: argparse.Namespace, found: dict[str, Any], keep: Callable[[], None]) -> None:
    """Rounds of one peer and one case into *found*, kept after each."""
    if "setting" not in found:
        found["setting"], found["settings_capacity"] = best_setting(peer, case, given.venvs)
        found["rounds"] = []
        keep()
    starts: dict[str, float | None] = {"peer": None, "earmark": None}
    for number in range(len(found["rounds"]), given.rounds):
        pair: dict[str, Any] = {}
        # Who comes first changes: the machine may be warmer for the second.
        sides = [("peer", peer, found["setting"]), ("earmark", EARMARK, "defaults")]
        for side, who, setting in sides if number % 2 == 0 else reversed(sides):
            work = partial(measure, start=starts[side], given=given, seed=number)
            pair[side] = with_server(who, setting, case, given.venvs, work)
            starts[side] = pair[side]["rate"] or None
        pair["ratio"] = round(pair["earmark"]["rate"] / pair["peer"]["rate"], 3) if pair["peer"]["rate"] else None
        found["rounds"].append(pair)
        print(f"  {peer.name}, {case.mix}, round {number + 1}: {_said(pair)}", flush=True)
        keep()


def _said(pair: dict[str, Any]) -> str:
    return f"{pair['peer']['rate']:g}/s, Earmark {pair['earmark']['rate']:g}/s, ratio {pair['ratio']}"


def rows(results: dict[str, dict[str, Any]]) -> list[tuple[object, ...]]:
    lines: list[tuple[object, ...]] = []
    for mix, peers in results.items():
        for name, found in peers.items():
            if "failed" in found:
                lines.append((mix, name, "did not start: " + found["failed"].splitlines()[-1][:60], *[""] * 6))
                continue
            rounds = found["rounds"]
            if not rounds:
                continue
            ratios = [pair["ratio"] for pair in rounds if pair["ratio"] is not None]

            def middle(side: str, what: str, rounds: Sequence[Any] = rounds) -> float:
                return round(statistics.median(pair[side][what] for pair in rounds), 1)

            span = (
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                if ratios
                else "never within"
            )
            sides = [middle(side, what) for what in ("rate", "capacity", "memory_mib") for side in ("peer", "earmark")]
            lines.append((mix, name, found["setting"], span, *sides))
    return lines


HEAD = (
    "lengths", "peer", "its better setting", "Earmark over it, at equal p99", "its req/s", "Earmark's",
    "its capacity", "Earmark's", "its MiB", "Earmark's",
)  # fmt: skip


def cases(mixes: Sequence[str], scratch: Path) -> list[Case]:
    """Equal lengths with the shipped quality model; mixed ones with a BLSTM that takes up to 30 s at once."""
    shipped = default_quality_folder()
    made = []
    for mix in mixes:
        folder = shipped
        if mix not in ("equal", "short"):
            try:
                from benchmarks.models import blstm

                folder = blstm(scratch)
            except ImportError as error:
                print(f"{mix}: {error}; the shipped model instead, no clip beyond its window", file=sys.stderr)
        made.append(make_case(mix, folder))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit-ms", type=float, default=250.0, help="of the 99th percentile")
    parser.add_argument("--load-s", type=float, default=3.5, help="seconds of one load")
    parser.add_argument("--steps", type=int, default=4, help="most loads to find a rate")
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=["equal", "mixed"])
    parser.add_argument(
        "--peers", nargs="+", choices=[peer.name for peer in PEERS], default=[peer.name for peer in PEERS]
    )
    parser.add_argument("--venvs", type=Path, default=environments.VENVS)
    parser.add_argument("--resume", action="store_true", help="keep what --out holds and do what is missing")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    failures = environments.make(given.venvs, given.peers)
    settings = {"limit_ms": given.limit_ms, "load_s": given.load_s, "steps": given.steps, "clips": CLIPS}
    results: dict[str, dict[str, Any]] = {}
    if given.resume and given.out and given.out.is_file():
        results = json.loads(given.out.read_text("utf-8"))["peers"]

    def keep() -> None:
        save({"settings": settings, "peers": results}, given.out)

    with tempfile.TemporaryDirectory() as scratch:
        made = cases(given.mixes, Path(scratch))
        for case in made:
            for peer in PEERS:
                if peer.name not in given.peers:
                    continue
                found = results.setdefault(case.mix, {}).setdefault(peer.name, {"model": case.folder.parent.name})
                found.pop("failed", None)
                try:
                    if peer.name in failures:
                        raise DidNotStart(failures[peer.name])
                    compare(peer, case, given, found, keep)
                except DidNotStart as error:
                    found["failed"] = str(error)
                    print(f"{peer.name} does not run here: {error}", file=sys.stderr)
                    keep()
    print(table(HEAD, rows(results)))


if __name__ == "__main__":
    main()
