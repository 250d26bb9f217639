"""`python -m benchmarks.sessions`: how onnxruntime is best used on this machine's cores, for the shipped models.

Threads: one session shared by a thread a core, a session each, or one session with as many threads of its own, with
and without spinning. Batch sizes, by the thread's own time. Memory: the arena as it is, without patterns, giving back
after each run or only after large ones, extended by what is asked for, none at all; each in a process of its own, on
recordings whose lengths never repeat. Rounds are interleaved; what is printed are medians of ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.record import save, table
from benchmarks.timing import interleaved
from service.backends.base import USUAL
from service.backends.machine import usable_cores
from service.engine import padding, probe
from service.engine.manifest import GraphFile, Manifest, read_manifest
from service.settings import embedded_models
from service.values import Arrays

CLIP_S = 10.0
SIZES = (1, 2, 4, 8)
SHRINK_BYTES = USUAL.shrink_bytes
ALONE, TOGETHER = 40, 12
"""Runs of one recording, and of a batch of eight, in each pass of the memory test."""

Session = onnxruntime.InferenceSession
MEMORY: dict[str, dict[str, Any]] = {
    "arena and patterns": {"pattern": True},
    "arena": {},
    "arena, exact growth": {"exact": True},
    "arena, back after large runs": {"shrink_bytes": SHRINK_BYTES},
    "arena, back after each run": {"shrink_bytes": -1},
    "no arena": {"arena": False},
}


def session(
    path: Path, threads: int = 1, *, spin: bool = False, pattern: bool = False, arena: bool = True, exact: bool = False
) -> Session:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.enable_mem_pattern, options.enable_cpu_mem_arena = pattern, arena
    options.log_severity_level = 4
    if exact:
        options.add_session_config_entry("session.use_env_allocators", "1")
    return Session(str(path), options, providers=["CPUExecutionProvider"])


def clips(manifest: Manifest, items: int, length_s: float, seed: int = 0) -> Arrays:
    samples = round(min(length_s, manifest.window.max_s) * manifest.sample_rate)
    return padding.assemble([probe.noise(samples, 0.1, seed + item) for item in range(items)])


def on_threads(sessions: Sequence[Session], inputs: Arrays, runs: int) -> None:
    """So many runs on each of the sessions, a thread for each place in the list."""

    def work(one: Session) -> None:
        for _ in range(runs):
            one.run(None, inputs)

    threads = [threading.Thread(target=work, args=(one,)) for one in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def threads(path: Path, manifest: Manifest, rounds: int) -> dict[str, dict[str, float]]:
    """By case: speed and processor time for the same work, as ratios to one shared session."""
    cores = usable_cores()
    inputs = clips(manifest, 1, CLIP_S)
    shared, own = session(path), [session(path) for _ in range(cores)]
    still, spinning = session(path, cores), session(path, cores, spin=True)
    runs = max(2, round(0.3 / seconds(lambda: shared.run(None, inputs))))
    cases: dict[str, Callable[[], object]] = {
        "one session, a thread a core": lambda: on_threads([shared] * cores, inputs, runs),
        "a session and a thread a core": lambda: on_threads(own, inputs, runs),
        "one thread": lambda: on_threads([shared], inputs, cores * runs),
        f"one session of {cores} threads": lambda: on_threads([still], inputs, cores * runs),
        f"one session of {cores} threads, spinning": lambda: on_threads([spinning], inputs, cores * runs),
    }
    walls: dict[str, list[float]] = {name: [] for name in cases}
    spent: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            wall, cpu = time.perf_counter(), time.process_time()
            case()
            if number:
                walls[name].append(time.perf_counter() - wall)
                spent[name].append(time.process_time() - cpu)
    base = next(iter(cases))
    return {
        name: {
            "speed": statistics.median(b / a for a, b in zip(walls[name], walls[base], strict=True)),
            "cpu": statistics.median(a / b for a, b in zip(spent[name], spent[base], strict=True)),
        }
        for name in cases
    }


def seconds(work: Callable[[], object]) -> float:
    work()
    began = time.thread_time()
    work()
    return time.thread_time() - began


def batch_sizes(path: Path, manifest: Manifest, rounds: int) -> dict[int, float]:
    """What an item costs in a batch, as a share of what it costs alone."""
    one = session(path)
    batches = {str(items): clips(manifest, items, CLIP_S) for items in SIZES}
    cases = {name: lambda inputs=inputs: one.run(None, inputs) for name, inputs in batches.items()}  # type: ignore[misc]
    taken = interleaved(cases, rounds)
    return {
        items: statistics.median(a / items / b for a, b in zip(taken[str(items)], taken["1"], strict=True))
        for items in SIZES
    }


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_of(folder: Path, case: str) -> dict[str, float]:
    """In a process of its own: growth of the memory held, and processor time, over recordings of any length."""
    manifest = read_manifest(folder)
    how = dict(MEMORY[case])
    limit = how.pop("shrink_bytes", None)
    if how.get("exact"):
        config = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
        info = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        onnxruntime.create_and_register_allocator(info, config)
    one = session(folder / first(manifest).path, **how)
    back = onnxruntime.RunOptions()
    back.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    rng = np.random.default_rng(0)
    longest_s = manifest.window.max_s

    def run(items: int) -> float:
        inputs = clips(manifest, items, float(rng.uniform(0.1, 1.0)) * longest_s)
        began = time.thread_time()
        size = sum(array.nbytes for array in inputs.values())
        one.run(None, inputs, back if limit is not None and size > limit else None)
        return time.thread_time() - began

    run(1)
    start = rss_mb()
    found = {"alone_s": sum(run(1) for _ in range(ALONE)), "alone_mb": rss_mb() - start}
    found |= {"together_s": sum(run(8) for _ in range(TOGETHER)), "together_mb": rss_mb() - start}
    return found | {"after_s": sum(run(1) for _ in range(ALONE)), "after_mb": rss_mb() - start}


def memory(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """By case: medians over the rounds; processor time as a ratio to the arena alone."""
    taken: dict[str, list[dict[str, float]]] = {case: [] for case in MEMORY}
    for _ in range(rounds):
        for case, found in taken.items():
            command = [sys.executable, "-m", "benchmarks.sessions", "--memory-of", str(folder), case]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(ran.stdout))
    shown = {}
    for case, found in taken.items():
        row = {f"{phase}_mb": statistics.median(one[f"{phase}_mb"] for one in found) for phase in PHASES}
        for phase in ("alone", "together"):
            pairs = zip(found, taken["arena"], strict=True)
            row[f"{phase}_cpu"] = statistics.median(one[f"{phase}_s"] / other[f"{phase}_s"] for one, other in pairs)
        shown[case] = row
    return shown


PHASES = ("alone", "together", "after")


def first(manifest: Manifest) -> GraphFile:
    return next(file for file in manifest.files if file.backend == "onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=2, metavar=("FOLDER", "CASE"), help="one case of the memory test, as JSON")
    given = parser.parse_args()
    if given.memory_of:
        print(json.dumps(memory_of(Path(given.memory_of[0]), given.memory_of[1])))
        return
    figures: dict[str, Any] = {}
    for folder in sorted(path.parent for path in embedded_models().glob("*/*/model.toml")):
        manifest = read_manifest(folder)
        path = folder / first(manifest).path
        found = figures[manifest.id] = {
            "threads": threads(path, manifest, given.rounds),
            "batch_sizes": batch_sizes(path, manifest, given.rounds),
            "memory": memory(folder, given.memory_rounds),
        }
        print(f"\n{manifest.id}")
        rows = [(case, row["speed"], row["cpu"]) for case, row in found["threads"].items()]
        print(table(("threads", "speed", "CPU"), rows))
        print("an item's cost in a batch: " + ", ".join(f"{n}: {cost:.2f}" for n, cost in found["batch_sizes"].items()))
        head = ("memory", *(f"{phase}, MB" for phase in PHASES), "CPU alone", "CPU of eights")
        print(table(head, [(case, *row.values()) for case, row in found["memory"].items()]), flush=True)
    save({"sessions": figures}, given.out)


if __name__ == "__main__":
    main()
