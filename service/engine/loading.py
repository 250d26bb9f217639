"""From a folder to a graph that is ready: sums checked, file chosen, probed, warm, its cost known.

Everything slow about a model happens here, in whatever thread calls it; publishing is the manager's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from service.backends.base import Backend, BackendError, Device, Place
from service.backends.external import external_files
from service.backends.factory import open_backend
from service.engine import padding, probe
from service.engine.cost import CostModel, FitPlan, fit
from service.engine.lane import LanePolicy, Mode
from service.engine.manifest import GraphFile, Manifest
from service.engine.repository import BadModel, verified

FIT_S, GPU_FIT_S = 0.16, 1.0
"""Seconds of computing for the cost table of a model."""
GPU_WARM_UP = 3
"""Runs after which a size is planned, compiled and no longer slower than later ones."""
GPU_FACTOR = 8
"""Batches on a GPU may be so many times what the manifest allows a CPU."""

logger = logging.getLogger("earmark.engine")


class Opener(Protocol):
    """Opens the graph in a file; `service.backends.factory.open_backend` is the one there is."""

    def __call__(
        self,
        path: Path,
        backend: Literal["onnx", "torchscript"],
        device: Device = "auto",
        output_names: Sequence[str] = (),
    ) -> Backend: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A graph that is ready to serve.

    Attributes:
        file: the one of the manifest's files that runs.
        policy: how its jobs may share a batch.
        note: what an operator should know, such as a file that could not be used; None if all is as declared.
    """

    manifest: Manifest
    file: GraphFile
    file_bytes: int
    backend: Backend
    policy: LanePolicy
    cost: CostModel
    note: str | None


def load(folder: Path, manifest: Manifest, device: Device = "auto", opener: Opener = open_backend) -> Loaded:
    """Open the first of the manifest's files that runs here, hold it to its contract and measure it.

    Raises:
        BadModel: no file runs here, or the graph is not what the manifest says.
    """
    refusals: list[str] = []
    for file in manifest.files:
        path = check_file(folder, manifest, file)
        try:
            backend = opener(path, file.backend, device, manifest.output_names(file))
        except BackendError as error:
            refusals.append(f"{file.path}: {error}")
            event = _event("file_refused", manifest)
            logger.warning("%s: %s does not run here: %s", manifest.id, file.path, error, extra=event)
            continue
        return _prove(manifest, file, path, backend, refusals)
    raise BadModel(f"{manifest.id}: none of its files runs here. " + " ".join(refusals))


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


def _prove(manifest: Manifest, file: GraphFile, path: Path, backend: Backend, refusals: list[str]) -> Loaded:
    try:
        declared = file.batching or manifest.batching.mode
        _hold_to_contract(manifest, file, backend)
        lengths = probe.probe_lengths(manifest)
        mode, gap = probe.true_mode(backend, declared, lengths)
        if mode != declared:
            refusals = [*refusals, _downgrade(manifest, declared, gap)]
        policy = _policy(manifest, mode, backend.device)
        cost = measure(manifest, backend, policy)
    except BackendError as error:
        backend.close()
        raise BadModel(f"{manifest.id}: {file.path} failed its first run: {error}") from error
    except BadModel:
        backend.close()
        raise
    return Loaded(manifest, file, path.stat().st_size, backend, policy, cost, " ".join(refusals) or None)


def _policy(manifest: Manifest, mode: Mode, device: Place) -> LanePolicy:
    """What the manifest says holds for a CPU; a GPU takes more at once, as far as its cost table says that it pays."""
    limits = manifest.batching
    if mode == "alone":
        return LanePolicy(mode, 1, limits.max_seconds, device)
    more = GPU_FACTOR if device == "cuda" else 1
    return LanePolicy(mode, limits.max_items * more, limits.max_seconds * more, device)


def _hold_to_contract(manifest: Manifest, file: GraphFile, backend: Backend) -> None:
    samples = max(probe.probe_lengths(manifest))
    faults = probe.contract_faults(backend, manifest)
    if not faults:
        (answer,) = probe.run_batch(backend, [probe.noise(samples, 0.1)])
        faults = probe.answer_faults(answer, manifest, samples)
    if faults:
        raise BadModel(f"{manifest.id}: {file.path} " + "; ".join(faults))


def _downgrade(manifest: Manifest, declared: Mode, gap: float) -> str:
    text = (
        f"{manifest.id} is declared `{declared}`, but an item's answer changes by {gap:.2g} with its neighbours "
        f"(allowed: {probe.INVARIANCE:g}); it runs alone, which is slower."
    )
    logger.warning(text, extra=_event("downgraded", manifest) | {"declared": declared, "gap": gap})
    return text


def measure(manifest: Manifest, backend: Backend, policy: LanePolicy) -> CostModel:
    """Fit the cost table by running noise; where the thread itself computes by its own time, which nobody disturbs."""
    rate = manifest.sample_rate
    timer = time.thread_time if backend.device == "cpu" else time.perf_counter

    # Not zeros, which some kernels hurry over; what the noise is does not matter.
    longest = probe.noise(round(manifest.window.max_s * rate), 0.1)

    known: set[int] = set()

    def run(items: int, length_s: float) -> float:
        inputs = padding.assemble([longest[: max(1, round(length_s * rate))]] * items)
        if backend.device != "cpu":
            inputs = padding.bucketed(inputs)
            for _ in range(GPU_WARM_UP if items not in known else 0):
                backend.run(inputs)
            known.add(items)
        start = timer()
        backend.run(inputs)
        return timer() - start

    budget_s = FIT_S if backend.device == "cpu" else GPU_FIT_S
    return fit(run, FitPlan(policy.max_items, manifest.window.min_s, manifest.window.max_s, budget_s))


def _event(event: str, manifest: Manifest) -> dict[str, object]:
    return {"event": event, "model": manifest.id}
