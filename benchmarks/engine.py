"""`python -m benchmarks.engine`: the queue and its batches in process, against the same sessions without it.

Two workers and one-thread sessions, 64 recordings waiting at any time. Against `session.run` on the very batches that
were formed (what the queue costs), and against other ways to form them (what it gains).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.lengths import MIXES
from benchmarks.models import blstm
from benchmarks.record import save, table
from service.backends.base import Backend
from service.backends.machine import usable_cores
from service.clock import MonotonicClock
from service.engine import padding
from service.engine.cost import CostModel
from service.engine.dispatch import Dispatcher
from service.engine.lane import LaneKey, LanePolicy
from service.engine.loading import Loaded, load
from service.engine.manifest import read_manifest
from service.engine.workers import Workers
from service.metrics import Metrics
from service.settings import embedded_models
from service.values import WHENEVER, Arrays

BACKLOG = 64
Waveform = NDArray[np.float32]


@dataclass
class Watched:
    """A backend that notes what it was given."""

    inner: Backend
    batches: list[Arrays] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kind, self.provider = self.inner.kind, self.inner.provider
        self.device, self.details = self.inner.device, self.inner.details
        self.inputs, self.outputs = self.inner.inputs, self.inner.outputs

    def run(self, inputs: Arrays) -> Arrays:
        self.batches.append(inputs)
        return self.inner.run(inputs)

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True)
class Round:
    """What one pass over the recordings took."""

    wall_s: float
    cpu_s: float
    audio_s: float
    padded_s: float

    @property
    def speed(self) -> float:
        """Seconds of audio a second."""
        return self.audio_s / self.wall_s

    @property
    def thrift(self) -> float:
        """Seconds of audio a second of processor."""
        return self.audio_s / self.cpu_s


def policies(loaded: Loaded) -> dict[str, tuple[LanePolicy, CostModel]]:
    """How batches may be formed: ours, none, and equal shapes only, whoever comes (Triton's rule)."""
    limits = loaded.manifest.batching
    anything_pays = CostModel(1.0, [1, limits.max_items], [1e-6, 1e-6])
    return {
        "ours": (loaded.policy, loaded.cost),
        "one at a time": (LanePolicy("alone", 1, limits.max_seconds), loaded.cost),
        "equal shapes": (LanePolicy("equal", limits.max_items, limits.max_seconds), anything_pays),
    }


def through_engine(
    backend: Backend,
    loaded: Loaded,
    rule: tuple[LanePolicy, CostModel],
    items: Sequence[Waveform],
    workers: int = 0,
) -> Round:
    """All *items* through a queue that is never empty, with so many *workers*, by default one a core."""
    metrics, clock = Metrics(), MonotonicClock()
    pool = Workers(workers or usable_cores(), clock, metrics)
    dispatcher = Dispatcher(pool, metrics, clock, queue_s=3600.0)
    lane = LaneKey(loaded.manifest.id)
    dispatcher.open_lane(lane, backend, loaded.manifest.sample_rate, *rule)

    async def all_of_them() -> None:
        left = iter(items)

        async def client() -> None:
            for item in left:
                await dispatcher.run(lane, item, WHENEVER)

        await asyncio.gather(*(client() for _ in range(BACKLOG)))

    watched = backend.batches if isinstance(backend, Watched) else []
    watched.clear()
    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(all_of_them())
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    dispatcher.detach()
    pool.stop()
    return _round(wall_s, cpu_s, loaded, items, watched)


def raw(backend: Backend, loaded: Loaded, batches: Sequence[Arrays], items: Sequence[Waveform]) -> Round:
    """The same batches by plain threads, assembled beforehand."""
    left = iter(batches)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                batch = next(left, None)
            if batch is None:
                return
            backend.run(batch)

    threads = [threading.Thread(target=work) for _ in range(usable_cores())]
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _round(time.perf_counter() - began, time.process_time() - cpu, loaded, items, batches)


def _round(wall_s: float, cpu_s: float, loaded: Loaded, items: Sequence[Waveform], batches: Sequence[Arrays]) -> Round:
    rate = loaded.manifest.sample_rate
    padded = sum(batch[padding.WAVEFORM].size for batch in batches) / rate
    return Round(wall_s, cpu_s, sum(map(len, items)) / rate, padded)


def in_eights(items: Sequence[Waveform]) -> Iterator[Arrays]:
    """Padded batches of eight in order of arrival, as servers make them that count requests."""
    for first in range(0, len(items), 8):
        yield padding.assemble(items[first : first + 8])


def recordings(loaded: Loaded, mix: str, pass_s: float, seed: int = 0) -> list[Waveform]:
    """Noise of the lengths in *mix*, none longer than the model's window; about *pass_s* of computing on all cores."""
    rng, rate = np.random.default_rng(seed), loaded.manifest.sample_rate
    lengths = np.minimum(MIXES[mix](rng, 4096), loaded.manifest.window.max_s)
    costs = np.cumsum([loaded.cost.cost(1, length) for length in lengths])
    lengths = lengths[: max(2 * BACKLOG, int(np.searchsorted(costs, pass_s * usable_cores())))]
    longest = rng.normal(0, 0.1, round(lengths.max() * rate)).astype(np.float32)
    return [longest[: round(length * rate)] for length in lengths]


def compare(loaded: Loaded, mix: str, rounds: int, pass_s: float) -> dict[str, float]:
    """Medians over interleaved *rounds* of the ratios that matter for one model and one mix of lengths."""
    items = recordings(loaded, mix, pass_s)
    watched = Watched(loaded.backend)
    rules = policies(loaded)
    eights = list(in_eights(items))
    found: dict[str, list[Round]] = {}
    for number in range(rounds + 1):
        taken: dict[str, Round] = {}
        for name, rule in rules.items():
            taken[name] = through_engine(watched, loaded, rule, items)
            if name == "ours":
                taken["raw"] = raw(loaded.backend, loaded, list(watched.batches), items)
        taken["eights"] = raw(loaded.backend, loaded, eights, items)
        if number:
            for name, one in taken.items():
                found.setdefault(name, []).append(one)

    def paired(name: str, other: str, what: str) -> float:
        pairs = zip(found[name], found[other], strict=True)
        return statistics.median(getattr(one, what) / getattr(two, what) for one, two in pairs)

    return {
        "speed": statistics.median(one.speed for one in found["ours"]),
        "of_raw": paired("ours", "raw", "speed"),
        "cpu_of_raw": paired("ours", "raw", "thrift"),
        "padded": statistics.median(one.padded_s / one.audio_s for one in found["ours"]),
        "audio_s_per_cpu_s": statistics.median(one.thrift for one in found["ours"]),
        "to_one_at_a_time": paired("ours", "one at a time", "thrift"),
        "to_eights": paired("ours", "eights", "thrift"),
        "to_equal_shapes": paired("ours", "equal shapes", "thrift"),
    }


def measure(rounds: int, pass_s: float, mixes: Sequence[str]) -> dict[str, dict[str, float]]:
    """By model and mix."""
    found = {}
    with tempfile.TemporaryDirectory() as made:
        folders = sorted(path.parent for path in embedded_models().glob("*/*/model.toml"))
        for folder in [*folders, blstm(Path(made))]:
            loaded = load(folder, read_manifest(folder), "cpu")
            for mix in mixes:
                found[f"{loaded.manifest.id}, {mix}"] = compare(loaded, mix, rounds, pass_s)
            loaded.backend.close()
    return found


HEAD = (
    "model, lengths", "x real time", "of raw", "CPU of raw", "padded", "s a CPU-s",
    "to one at a time", "to eights", "to equal shapes",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pass-s", type=float, default=1.0, help="seconds of one pass, about")
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=["equal", "mixed", "even"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = measure(given.rounds, given.pass_s, given.mixes)
    print(table(HEAD, [(name, *row.values()) for name, row in found.items()]))
    save({"engine": found}, given.out)


if __name__ == "__main__":
    main()
