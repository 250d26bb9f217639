"""Measures models on this machine, longer than a load may: what `earmark tune` writes down and shows.

Opens each file that could serve, keeps its table of costs, finds which serves, from which size giving memory back costs
nothing, and how many workers gain.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from pathlib import Path

import numpy as np

from service.backends import machine
from service.backends.base import USUAL, Backend, Device, Options
from service.backends.factory import open_backend
from service.engine import choice, padding, probe
from service.engine.loading import CPU, Loaded, Opener, Terms, load
from service.engine.manifest import GraphFile, Manifest
from service.engine.repository import BadModel, scan
from service.engine.tuning import TunedFile, Tuning, runtime
from service.values import Arrays

CLIP_S = 10.0
BUDGET_S = 1.5
"""Seconds of computing for a table of costs: ten times what a load spends."""
SHRINK_STEPS = tuple((1 << 10) << step for step in range(6, 14, 2))
"""Sizes of inputs tried: 64 kB to 4 MB."""
SHRINK_COSTS = 0.05
"""Giving memory back may lengthen a run by this share."""
ROUNDS, WORKER_ROUNDS = 7, 3
WORKER_GAIN = 1.05
"""One more worker must do so much more, or it only takes memory."""
PASS_S = 0.4


@dataclass(frozen=True, slots=True)
class Measured:
    """One file that runs here, and why it serves or does not."""

    manifest: Manifest
    file: GraphFile
    entry: TunedFile
    why: str

    @property
    def alone(self) -> float:
        """Seconds of audio a second of computing, one recording at a time."""
        length_s = min(CLIP_S, self.manifest.window.max_s)
        return length_s / self.entry.cost().cost(1, length_s)

    @property
    def best(self) -> tuple[int, float]:
        """The batch size that suits it best, and the same speed then."""
        items, each_s = self.entry.cost().best(min(CLIP_S, self.manifest.window.max_s))
        return items, 1 / each_s


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to tune."""

    folder: Path
    manifest: Manifest


def subjects(folders: Sequence[Path], names: Sequence[str]) -> list[Subject]:
    """What serves in *folders*, of all *names* or of those given.

    Raises:
        BadModel: there is none of that name that can be read.
    """
    catalogue = scan(folders)
    serving = {name: catalogue.entries[name, version] for name, version in catalogue.serving.items()}
    if unknown := sorted(set(names) - set(serving)):
        raise BadModel(f"there is no model {', '.join(unknown)}; there is {', '.join(sorted(serving)) or 'none'}")
    chosen = [serving[name] for name in sorted(names or serving)]
    return [Subject(entry.folder, entry.manifest) for entry in chosen if entry.manifest]


def tune(
    models: Sequence[Subject],
    device: Device = "auto",
    opener: Opener = open_backend,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Tuning, list[Measured]]:
    """Measure *models*, and how many workers this machine is good for.

    Raises:
        BadModel: one of them runs in none of its files.
    """
    found: list[Measured] = []
    cores, workers = machine.usable_cores(), 1
    for subject in models:
        say(f"measuring {subject.manifest.id}")
        measured, served_by = _measure(subject, device, opener, cores)
        found += measured
        workers = max(workers, served_by)
    entries = tuple(one.entry for one in found)
    return Tuning(processor=machine.processor(), runtime=runtime(), workers=workers, files=entries), found


def _measure(subject: Subject, device: Device, opener: Opener, cores: int) -> tuple[list[Measured], int]:
    """The file to beat and those that might; and how many workers gain with the one that serves."""
    manifest = subject.manifest
    champion = load(subject.folder, manifest, device, opener, Terms("fp32", budget_s=BUDGET_S))
    rivals = choice.challengers(manifest.files, "auto", champion.file, champion.backend.device)
    loaded = [champion, *_rivals(subject, rivals, device, opener)]
    gains = [choice.gain(champion.cost, one.cost, manifest.window.max_s) for one in loaded]
    best = max(range(len(loaded)), key=lambda i: gains[i])
    winner = best if choice.wins(gains[best]) else 0
    measured = []
    for i, one in enumerate(loaded):
        # Whoever serves says what lower precision gains here.
        gain = gains[i] if i else max(gains[1:], default=None)
        shrink_bytes = _shrink_bytes(one, subject.folder / one.file.path, opener)
        measured.append(
            Measured(manifest, one.file, _entry(one, i == winner, shrink_bytes, gain), _why(i, winner, gains))
        )
    workers = _workers(loaded[winner], cores)
    for one in loaded:
        one.backend.close()
    return measured, workers


def _rivals(subject: Subject, files: Sequence[GraphFile], device: Device, opener: Opener) -> Iterator[Loaded]:
    for file in files:
        alone = subject.manifest.model_copy(update={"files": (file,)})
        try:
            yield load(subject.folder, alone, device, opener, Terms(file.precision, budget_s=BUDGET_S))
        except BadModel:
            continue


def _entry(loaded: Loaded, chosen: bool, shrink_bytes: int, gain: float | None) -> TunedFile:
    file, cost = loaded.file, loaded.cost
    return TunedFile(
        model=loaded.manifest.id,
        path=file.path,
        sha256=file.sha256,
        precision=file.precision,
        device=loaded.backend.device,
        chosen=chosen,
        gain=gain,
        mode=loaded.policy.mode,
        shrink_bytes=shrink_bytes,
        fixed_s=cost.fixed_s,
        items=tuple(cost.items),
        per_second=tuple(cost.per_second),
    )


def _why(i: int, winner: int, gains: Sequence[float]) -> str:
    if i == winner:
        return "serves" if not i else f"serves: {gains[i]:.2f} x as fast as full precision"
    if not i:
        return "stands by"
    return f"{gains[i]:.2f} x as fast as full precision; {choice.MARGIN:g} x would do"


def _shrink_bytes(loaded: Loaded, path: Path, opener: Opener) -> int:
    """The smallest input from which giving memory back after a run costs next to nothing.

    On a GPU this is no matter of the run's time, and programs have no such switch: there the usual stands.
    """
    if loaded.backend.device != CPU or loaded.backend.kind != "onnx":
        return USUAL.shrink_bytes
    names = loaded.manifest.output_names(loaded.file)
    always, never = (
        opener(path, loaded.file.backend, "cpu", names, Options(shrink_bytes=size)) for size in (-1, 1 << 62)
    )
    try:
        dear = [size for size in SHRINK_STEPS if _ratio(always, never, _inputs(loaded, size)) > 1 + SHRINK_COSTS]
    finally:
        always.close()
        never.close()
    return max(dear, default=0)


def _inputs(loaded: Loaded, size: int) -> Arrays:
    """A batch of about *size* bytes, of items no longer than the model takes."""
    manifest = loaded.manifest
    samples = size // np.dtype(np.float32).itemsize
    items = min(loaded.policy.max_items, -(-samples // round(manifest.window.max_s * manifest.sample_rate)))
    each = min(samples // items, round(manifest.window.max_s * manifest.sample_rate))
    return padding.assemble([probe.noise(each, 0.1)] * items)


def _ratio(one: Backend, other: Backend, inputs: Arrays) -> float:
    """How much longer *one* takes: the median of rounds in turns, by the thread's own time."""
    ratios = []
    for _ in range(ROUNDS + 1):
        taken = []
        for backend in (one, other):
            began = time.thread_time()
            backend.run(inputs)
            taken.append(time.thread_time() - began)
        ratios.append(taken[0] / taken[1])
    return statistics.median(ratios[1:])


def _workers(loaded: Loaded, cores: int) -> int:
    """As many threads as still gain when all of them run *loaded*: fewer where cores share what they compute with.

    By what a run costs its own thread while the others are at it, so that neighbours on the machine do not count.
    """
    inputs = padding.assemble([probe.noise(round(loaded.manifest.window.max_s * loaded.manifest.sample_rate), 0.1)])
    if loaded.backend.device != CPU:
        return cores
    counts = [*takewhile(lambda count: count < cores, (1 << step for step in range(16))), cores]
    cost_s = dict.fromkeys(counts, math.inf)
    for _, count in product(range(WORKER_ROUNDS), counts):
        cost_s[count] = min(cost_s[count], _run_s(loaded.backend, inputs, count))
    best = 1
    for count in counts[1:]:
        if count / cost_s[count] > WORKER_GAIN * best / cost_s[best]:
            best = count
    return best


def _run_s(backend: Backend, inputs: Arrays, threads: int) -> float:
    """What a run costs its thread, of so many at once."""
    until = time.perf_counter() + PASS_S
    taken: list[tuple[float, int]] = []

    def work() -> None:
        began, runs = time.thread_time(), 0
        while not runs or time.perf_counter() < until:
            backend.run(inputs)
            runs += 1
        taken.append((time.thread_time() - began, runs))

    pool = [threading.Thread(target=work) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return sum(seconds for seconds, _ in taken) / sum(runs for _, runs in taken)
