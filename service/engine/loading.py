"""From a folder to a graph that is ready: sums checked, file chosen, probed, warm, its cost known.

Everything slow about a model happens here, in whatever thread calls it; publishing is the manager's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from service.backends.base import USUAL, Backend, BackendError, BackendOutOfMemory, Device, Options
from service.backends.external import external_files
from service.backends.factory import open_backend
from service.engine import choice, padding, probe
from service.engine.buckets import Bucketed
from service.engine.choice import Wanted
from service.engine.cost import CostModel, FitPlan, fit, paying_items
from service.engine.lane import LanePolicy, Mode
from service.engine.manifest import GraphFile, Manifest
from service.engine.repository import BadModel, verified
from service.engine.tuning import TunedFile, Tuning

CPU = "cpu"
MOST_ITEMS_ON_GPU = 64
GPU_BUDGET_S = 0.6
SHORTEST_BUCKET_S = 0.5

logger = logging.getLogger("earmark.engine")


class Opener(Protocol):
    """Opens the graph in a file; `service.backends.factory.open_backend` is the one there is."""

    def __call__(
        self,
        path: Path,
        backend: Literal["onnx", "torchscript"],
        device: Device = "auto",
        output_names: Sequence[str] = (),
        options: Options = USUAL,
    ) -> Backend: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator wants of every load.

    Attributes:
        precision: auto takes lower precision where that is accepted and clearly faster here.
        tuning: what was measured on this machine before; None measures now.
    """

    precision: Wanted = "auto"
    options: Options = USUAL
    tuning: Tuning | None = None


AS_USUAL = Terms()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A graph that is ready to serve.

    Attributes:
        file: the one of the manifest's files that runs.
        policy: how its jobs may share a batch.
        note: what an operator should know, such as a file that could not be used; None if all is as declared.
        gain: how many times as fast as full precision the lower one runs here, whichever serves; None where there was
            nothing to compare.
        is_tuned: whether what it costs was read, not measured.
    """

    manifest: Manifest
    file: GraphFile
    file_bytes: int
    backend: Backend
    policy: LanePolicy
    cost: CostModel
    note: str | None
    gain: float | None = None
    is_tuned: bool = False


def load(
    folder: Path,
    manifest: Manifest,
    device: Device = "auto",
    opener: Opener = open_backend,
    terms: Terms = AS_USUAL,
) -> Loaded:
    """Open the file that serves best here, hold it to its contract and know what it costs.

    Raises:
        BadModel: no file runs here, or the graph is not what the manifest says.
    """
    return _Load(folder, manifest, device, opener, terms).best()


class _Load:
    """One load. `notes` gathers what an operator should know."""

    def __init__(self, folder: Path, manifest: Manifest, device: Device, opener: Opener, terms: Terms) -> None:
        self._folder, self._manifest = folder, manifest
        self._device, self._opener, self._terms = device, opener, terms
        self._notes: list[str] = []

    def best(self) -> Loaded:
        loaded = self._tuned() or self._measured()
        return replace(loaded, note=" ".join(self._notes) or None)

    def _tuned(self) -> Loaded | None:
        """What the tuning says serves, without measuring; None where it says nothing that holds."""
        manifest, wanted = self._manifest, self._terms.precision
        files = {file.sha256: file for file in manifest.files}
        entry = self._terms.tuning.chosen(set(files)) if self._terms.tuning else None
        if entry is None or wanted not in ("auto", entry.precision):
            return None
        file = files[entry.sha256]
        backend = self._open(file, replace(self._terms.options, shrink_bytes=entry.shrink_bytes))
        if backend is None:
            return None
        if backend.device != entry.device:
            backend.close()
            self._ignored(file, f"it is for {entry.device}, the model runs on {backend.device}")
            return None
        return self._proven(file, backend, entry)

    def _measured(self) -> Loaded:
        """The first file that runs, or one of lower precision that beats it."""
        champion = self._first()
        wanted, files = self._terms.precision, self._manifest.files
        if wanted not in ("auto", champion.file.precision):
            self._say("precision_missing", f"no {wanted} file of {self._manifest.id} runs here.")
        longest_s = self._manifest.window.max_s
        for file in choice.challengers(files, wanted, champion.file, champion.backend.device):
            challenger = self._challenger(file)
            if challenger is None:
                continue
            times = choice.gain(champion.cost, challenger.cost, longest_s)
            wins = choice.wins(times)
            winner, loser = (challenger, champion) if wins else (champion, challenger)
            loser.backend.close()
            champion = replace(winner, gain=times)
            facts = _event("precision_chosen", self._manifest) | {"precision": winner.file.precision, "gain": times}
            logger.info("%s: %s is %.2f times as fast", self._manifest.id, file.path, times, extra=facts)
        return champion

    def _first(self) -> Loaded:
        for file in choice.in_order(self._manifest.files, self._terms.precision):
            if backend := self._open(file, self._terms.options):
                return self._proven(file, backend)
        raise BadModel(f"{self._manifest.id}: none of its files runs here. " + " ".join(self._notes))

    def _challenger(self, file: GraphFile) -> Loaded | None:
        """A file that is not needed: what is wrong with it is noted, and full precision serves."""
        try:
            backend = self._open(file, self._terms.options)
            return self._proven(file, backend) if backend else None
        except BadModel as error:
            self._say("file_refused", error.detail)
            return None

    def _open(self, file: GraphFile, options: Options) -> Backend | None:
        """The graph; None where it does not run here.

        Raises:
            BadModel: see `check_file`.
        """
        path = check_file(self._folder, self._manifest, file)
        try:
            return self._opener(path, file.backend, self._device, self._manifest.output_names(file), options)
        except BackendError as error:
            self._say("file_refused", f"{file.path} does not run here: {error}")
            return None

    def _proven(self, file: GraphFile, backend: Backend, entry: TunedFile | None = None) -> Loaded:
        manifest = self._manifest
        try:
            declared = file.batching or manifest.batching.mode
            _hold_to_contract(manifest, file, backend)
            mode, gap = probe.true_mode(backend, declared, probe.probe_lengths(manifest))
            if mode != declared:
                self._say("downgraded", _downgrade(manifest, declared, gap))
            if entry is not None and entry.mode != mode:
                self._ignored(file, f"it is for batches that are `{entry.mode}`, the model's are `{mode}`")
                entry = None
            backend = _prepared(manifest, backend, mode)
            policy, cost = _known(manifest, backend, entry) if entry else measure(manifest, backend, mode)
        except BackendError as error:
            backend.close()
            raise BadModel(f"{manifest.id}: {file.path} failed its first run: {error}") from error
        except BadModel:
            backend.close()
            raise
        size = (self._folder / file.path).stat().st_size
        gain = entry.gain if entry else None
        return Loaded(manifest, file, size, backend, policy, cost, None, gain, is_tuned=entry is not None)

    def _ignored(self, file: GraphFile, why: str) -> None:
        facts = _event("tuning_ignored", self._manifest)
        logger.warning("tuning of %s, %s ignored: %s", self._manifest.id, file.path, why, extra=facts)

    def _say(self, event: str, text: str) -> None:
        logger.warning("%s", text, extra=_event(event, self._manifest))
        self._notes.append(text)


def check_file(folder: Path, manifest: Manifest, file: GraphFile) -> Path:
    """The path of a graph, when all sums are right and, if it is a program, it is trusted.

    Raises:
        BadModel: they are not, or the graph names files that the manifest does not.
    """
    if file.backend == "torchscript" and not manifest.trusted:
        raise BadModel(f"{manifest.id}: {file.path} is a program; it loads only with `trusted = true` in model.toml")
    path = verified(folder, file.path, file.sha256)
    for data in file.data:
        verified(folder, data.path, data.sha256)
    if file.backend == "onnx":
        beside = PurePosixPath(file.path).parent
        named = {str(beside / location) for location in external_files(path)}
        if unknown := sorted(named - {data.path for data in file.data}):
            raise BadModel(
                f"{manifest.id}: {file.path} keeps weights in {', '.join(unknown)}, which model.toml does not list; "
                "add `data = [{ path = …, sha256 = … }]` to its [[files]] table"
            )
    return path


def _hold_to_contract(manifest: Manifest, file: GraphFile, backend: Backend) -> None:
    samples = max(probe.probe_lengths(manifest))
    faults = probe.contract_faults(backend, manifest)
    if not faults:
        (answer,) = probe.run_batch(backend, [probe.noise(samples, 0.1)])
        faults = probe.answer_faults(answer, manifest, samples)
    if faults:
        raise BadModel(f"{manifest.id}: {file.path} " + "; ".join(faults))


def _downgrade(manifest: Manifest, declared: Mode, gap: float) -> str:
    return (
        f"{manifest.id} is declared `{declared}`, but an item's answer changes by {gap:.2g} with its neighbours "
        f"(allowed: {probe.INVARIANCE:g}); it runs alone, which is slower."
    )


def _prepared(manifest: Manifest, backend: Backend, mode: Mode) -> Backend:
    """In front of a GPU, lengths and batches come in few sizes, where padding does not change an answer."""
    if backend.device == CPU or mode != "padded":
        return backend
    rate = manifest.sample_rate
    least_s = min(SHORTEST_BUCKET_S, manifest.window.max_s)
    return Bucketed(backend, round(least_s * rate), round(manifest.window.max_s * rate))


def _known(manifest: Manifest, backend: Backend, entry: TunedFile) -> tuple[LanePolicy, CostModel]:
    cost = entry.cost()
    return _policy(manifest, backend, entry.mode, cost.max_items), cost


def measure(manifest: Manifest, backend: Backend, mode: Mode) -> tuple[LanePolicy, CostModel]:
    """How large batches may be, and what they cost, by running noise.

    The CPU is measured in the thread's own time, which nobody disturbs, a GPU by the clock, transfers included.
    """
    # Not zeros, which some kernels hurry over; what the noise is does not matter.
    rate, window = manifest.sample_rate, manifest.window
    longest = probe.noise(round(window.max_s * rate), 0.1)
    timer = time.thread_time if backend.device == CPU else time.perf_counter

    def run(items: int, length_s: float) -> float:
        inputs = padding.assemble([longest[: max(1, round(length_s * rate))]] * items)
        start = timer()
        backend.run(inputs)
        return timer() - start

    def run_longest(items: int) -> float:
        try:
            return run(items, window.max_s)
        except BackendOutOfMemory as error:
            raise MemoryError from error

    if backend.device == CPU:
        policy = _policy(manifest, backend, mode, manifest.batching.max_items)
        return policy, fit(run, FitPlan(policy.max_items, window.min_s, window.max_s))
    most = paying_items(run_longest, MOST_ITEMS_ON_GPU) if mode != "alone" else 1
    plan = FitPlan(most, window.min_s, window.max_s, GPU_BUDGET_S, warm_up=True)
    return _policy(manifest, backend, mode, most), fit(run, plan)


def _policy(manifest: Manifest, backend: Backend, mode: Mode, most: int) -> LanePolicy:
    """A manifest's bounds are for a CPU; on a GPU as many as pay may share a batch, however long they are."""
    limits = manifest.batching
    if backend.device == CPU:
        return LanePolicy(mode, limits.max_items if mode != "alone" else 1, limits.max_seconds, CPU)
    return LanePolicy(mode, most, most * manifest.window.max_s, backend.device)


def _event(event: str, manifest: Manifest) -> dict[str, object]:
    return {"event": event, "model": manifest.id}
