"""`python -m benchmarks.gpu`: the shipped models on a GPU, beside one core of the same machine.

For each model and file: throughput by batch size on ten-second clips, how much of it is transfer; for ONNX also what
the provider's options do on changing shapes, and half precision; then recordings of mixed lengths through the real
engine with one batch in flight and with two. Stops at `--most-s`; says what it left out. Where a runtime sees no GPU,
its part is left out too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.lengths import MIXES
from benchmarks.record import save, table
from service.backends.base import USUAL, Backend, BackendError, Options
from service.backends.factory import open_backend
from service.backends.gpu import find_gpu
from service.backends.onnx import CUDA, OnnxBackend, cuda_options
from service.clock import MonotonicClock
from service.engine import padding, probe
from service.engine.dispatch import Dispatcher
from service.engine.lane import LaneKey
from service.engine.loading import Loaded, load
from service.engine.manifest import GraphFile, Manifest, read_manifest
from service.engine.workers import Workers
from service.metrics import Metrics
from service.settings import embedded_models
from service.values import WHENEVER, Arrays

SIZES = (1, 2, 4, 8, 16, 32, 64)
CLIP_S = 10.0
TRANSFER_ITEMS = 16
SHAPES = 24
ENGINE_CLIPS = 768
HALF_S = 40.0
IN_FLIGHT = 256
"""Callers at once in front of the engine."""


@dataclass
class Bench:
    """Figures as they come, and the time that is left for more."""

    most_s: float
    began: float = field(default_factory=time.monotonic)
    figures: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[bool]:
        """Whether there is time for it; what breaks in it is written down, and the rest goes on."""
        is_time = time.monotonic() - self.began < self.most_s
        if not is_time:
            self.left_out.append(f"{name}: no time")
        started = time.monotonic()
        try:
            yield is_time
        except Exception as error:
            self.left_out.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        print(f"  [{time.monotonic() - started:5.1f} s] {name}", flush=True)


def batch(manifest: Manifest, items: int, length_s: float = CLIP_S) -> Arrays:
    samples = round(min(length_s, manifest.window.max_s) * manifest.sample_rate)
    return padding.assemble([probe.noise(samples, 0.1, seed) for seed in range(items)])


def seconds(work: Callable[[], object], most_s: float = 0.4, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median of a run, after two that prepare for its shape."""
    for _ in range(2):
        work()
    taken: list[float] = []
    until = time.monotonic() + most_s
    while len(taken) < 3 or (time.monotonic() < until and len(taken) < 50):
        began = clock()
        work()
        taken.append(clock() - began)
    return statistics.median(taken)


def speeds(backend: Backend, manifest: Manifest, sizes: tuple[int, ...] = SIZES) -> dict[int, float]:
    """Seconds of audio a second, by batch size; until memory runs out."""
    found: dict[int, float] = {}
    for items in sizes:
        inputs = batch(manifest, items)
        audio_s = items * inputs[padding.WAVEFORM].shape[1] / manifest.sample_rate
        try:
            found[items] = audio_s / seconds(lambda inputs=inputs: backend.run(inputs))  # type: ignore[misc]
        except BackendError as error:
            print(f"  {items} items: {error}")
            break
    return found


def on_one_core(path: Path, manifest: Manifest) -> dict[str, float]:
    """The same file on the CPU, one thread: alone and at the batch size that suits it."""
    backend = OnnxBackend(path, "cpu")
    found = {}
    for items in (1, 2, 4, 8):
        inputs = batch(manifest, items)
        audio_s = items * inputs[padding.WAVEFORM].shape[1] / manifest.sample_rate
        run = lambda inputs=inputs: backend.run(inputs)  # noqa: E731
        found[items] = audio_s / seconds(run, 0.3, time.thread_time)
    return {"alone": found[1], "best": max(found.values())}


def gap(one: Backend, other: Backend, manifest: Manifest) -> float:
    """Largest difference between two backends' answers to the same clips, as a share of the output's largest value."""
    worst = 0.0
    for length_s in (0.7, 3.1, manifest.window.max_s):
        waveform = probe.noise(round(length_s * manifest.sample_rate), 0.3)
        (first,), (second,) = probe.run_batch(one, [waveform]), probe.run_batch(other, [waveform])
        for name, values in first.items():
            size = max(1.0, float(np.abs(values).max(initial=0.0)))
            worst = max(worst, float(np.abs(values.astype(float) - second[name]).max(initial=0.0)) / size)
    return worst


def onnx_transfer(path: Path, manifest: Manifest) -> dict[str, float]:
    """Milliseconds of a batch with its inputs in ordinary memory, on the device already, and in pinned memory."""
    session = onnxruntime.InferenceSession(str(path), providers=[(CUDA, cuda_options(USUAL, find_gpu()))])
    inputs = batch(manifest, TRANSFER_ITEMS)
    names = [output.name for output in session.get_outputs()]

    def bound(values: dict[str, onnxruntime.OrtValue], outputs: str) -> float:
        binding = session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)

        def run() -> None:
            for name in names:
                binding.bind_output(name, outputs)
            session.run_with_iobinding(binding)

        return 1000 * seconds(run)

    of_numpy = onnxruntime.OrtValue.ortvalue_from_numpy
    found = {
        "plain_ms": 1000 * seconds(lambda: session.run(names, inputs)),
        "on_device_ms": bound({name: of_numpy(array, "cuda", 0) for name, array in inputs.items()}, "cuda"),
    }
    if pinned := _pinned(inputs):
        found["pinned_ms"] = bound(pinned, "cpu")
    found["transfer_share"] = 1 - found["on_device_ms"] / found["plain_ms"]
    return found


def _pinned(inputs: Arrays) -> dict[str, onnxruntime.OrtValue]:
    """The inputs in memory that the device reads directly; empty where this onnxruntime gives none of it."""
    kinds = getattr(onnxruntime, "OrtDeviceMemoryType", None)
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == CUDA] if kinds else []
    memory = devices[0].memory_info(kinds.HOST_ACCESSIBLE) if devices and kinds else None
    if memory is None:
        return {}
    made = {}
    for name, array in inputs.items():
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, memory_info=memory)
        value.update_inplace(array)
        made[name] = value
    return made


def torch_transfer(path: Path, manifest: Manifest, backend: Backend) -> dict[str, float]:
    """The same for a program: through the backend, and with tensors that lie on the device."""
    import torch

    inputs = batch(manifest, TRANSFER_ITEMS)
    module = torch.jit.load(str(path), map_location="cuda:0").eval()
    tensors = [torch.from_numpy(inputs[name]).to("cuda:0") for name in (padding.WAVEFORM, padding.LENGTHS)]

    def run() -> None:
        with torch.inference_mode():
            module(*tensors)
        torch.cuda.synchronize()

    found = {"plain_ms": 1000 * seconds(lambda: backend.run(inputs)), "on_device_ms": 1000 * seconds(run)}
    return found | {"transfer_share": 1 - found["on_device_ms"] / found["plain_ms"]}


def changing_shapes(path: Path, manifest: Manifest, **changed: str) -> dict[str, float]:
    """Seconds for batches whose length is never the same, the first time and the second."""
    options = cuda_options(USUAL, find_gpu()) | changed
    session = onnxruntime.InferenceSession(str(path), providers=[(CUDA, options), "CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    longest = min(CLIP_S, manifest.window.max_s)
    batches = [batch(manifest, 8, longest * (0.3 + 0.7 * share)) for share in np.linspace(0, 1, SHAPES)]
    session.run(names, batches[0])
    found = {}
    for name in ("first_s", "again_s"):
        began = time.perf_counter()
        for inputs in batches:
            session.run(names, inputs)
        found[name] = time.perf_counter() - began
    return found


def half(path: Path, folder: Path) -> Path:
    """The graph in half precision, inputs and outputs as they were."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made = folder / "half.onnx"
    onnx.save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=True), str(made))
    return made


def through_engine(loaded: Loaded, slots: int, clips: list[np.ndarray]) -> float:
    """Seconds of audio a second: mixed recordings from many callers, so many batches in flight."""
    metrics, clock = Metrics(), MonotonicClock()
    workers = Workers(4, clock, metrics)
    dispatcher = Dispatcher(workers, metrics, clock, queue_s=3600.0, slots={loaded.policy.device: slots})
    lane = LaneKey(loaded.manifest.id)
    dispatcher.open_lane(lane, loaded.backend, loaded.manifest.sample_rate, loaded.policy, loaded.cost)

    async def ask() -> None:
        left = iter(clips)

        async def caller() -> None:
            for clip in left:
                await dispatcher.run(lane, clip, WHENEVER)

        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))

    began = time.perf_counter()
    asyncio.run(ask())
    wall_s = time.perf_counter() - began
    dispatcher.detach()
    workers.stop()
    return sum(map(len, clips)) / loaded.manifest.sample_rate / wall_s


def mixed(loaded: Loaded) -> dict[str, Any]:
    manifest = loaded.manifest
    rng = np.random.default_rng(0)
    lengths = np.minimum(MIXES["mixed"](rng, ENGINE_CLIPS), manifest.window.max_s)
    longest = probe.noise(round(manifest.window.max_s * manifest.sample_rate), 0.1)
    clips = [longest[: round(length * manifest.sample_rate)] for length in lengths]
    taken: dict[int, list[float]] = {1: [], 2: []}
    through_engine(loaded, 2, clips)
    for _ in range(3):
        for slots, found in taken.items():
            found.append(through_engine(loaded, slots, clips))
    return {
        "one_in_flight": statistics.median(taken[1]),
        "two_in_flight": statistics.median(taken[2]),
        "two_over_one": statistics.median(two / one for one, two in zip(taken[1], taken[2], strict=True)),
        "max_items": loaded.policy.max_items,
        "batching": loaded.policy.mode,
        "table": {n: round(1000 * loaded.cost.cost(n, CLIP_S), 3) for n in loaded.cost.items},
        "note": loaded.note,
        "details": dict(loaded.backend.details),
    }


def measure_file(bench: Bench, folder: Path, manifest: Manifest, file: GraphFile) -> dict[str, Any]:
    found: dict[str, Any] = {}
    path, name = folder / file.path, f"{manifest.id} {file.backend} {file.precision}"
    names = manifest.output_names(file)
    backend: Backend | None = None
    with bench.part(f"{name}: opened") as is_time:
        if is_time:
            backend = open_backend(path, file.backend, "cuda", names)
    if backend is None:
        return found
    with bench.part(f"{name}: batch sizes") as is_time:
        if is_time:
            found["times_real_time"] = speeds(backend, manifest)
    with bench.part(f"{name}: transfer") as is_time:
        if is_time and file.backend == "onnx":
            found |= onnx_transfer(path, manifest)
        elif is_time:
            found |= torch_transfer(path, manifest, backend)
    with bench.part(f"{name}: parity") as is_time:
        if is_time:
            cpu = open_backend(path, file.backend, "cpu", names)
            found["gap_to_cpu"] = gap(cpu, backend, manifest)
            found["batching_gap"] = probe.batching_gap(backend, probe.probe_lengths(manifest))
    backend.close()
    return found


def measure_onnx(bench: Bench, folder: Path, manifest: Manifest, file: GraphFile) -> dict[str, Any]:
    """What only onnxruntime has: options, half precision, the CPU beside it, the engine."""
    found: dict[str, Any] = {}
    path, name = folder / file.path, manifest.id
    with bench.part(f"{name}: one core") as is_time:
        if is_time:
            found["one_core"] = on_one_core(path, manifest)
    with bench.part(f"{name}: engine") as is_time:
        if is_time:
            loaded = load(folder, manifest, "cuda")
            found["engine"] = mixed(loaded)
            loaded.backend.close()
    for search in ("HEURISTIC", "EXHAUSTIVE", "DEFAULT"):
        with bench.part(f"{name}: changing shapes, {search}") as is_time:
            if is_time:
                found[f"shapes_{search}"] = changing_shapes(path, manifest, cudnn_conv_algo_search=search)
    with bench.part(f"{name}: tf32") as is_time:
        if is_time:
            exact, fast = OnnxBackend(path, "cpu"), OnnxBackend(path, "cuda", Options(tf32=True))
            found["tf32"] = {"times_real_time": speeds(fast, manifest, (1, 16, 64)), "gap": gap(exact, fast, manifest)}
    with bench.part(f"{name}: half precision") as is_time:
        if is_time:
            found["fp16"] = in_half(folder)
    return found


def in_half(folder: Path) -> dict[str, Any]:
    """`measure_half` in a process of its own: a graph converted by rule may bring its runtime down."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--half", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=HALF_S, check=False)
    if ran.returncode:
        return {"fails": f"exit {ran.returncode}: {ran.stderr.strip()[-300:]}"}
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def measure_half(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    path = folder / next(file.path for file in manifest.files if file.backend == "onnx")
    with tempfile.TemporaryDirectory() as made:
        exact, fast = OnnxBackend(path, "cpu"), OnnxBackend(half(path, Path(made)), "cuda")
    return {"times_real_time": speeds(fast, manifest, (1, 16, 64)), "gap": gap(exact, fast, manifest)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most-s", type=float, default=150.0, help="begin nothing new after so many seconds")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--half", type=Path, metavar="FOLDER", help="only one model in half precision, as JSON")
    given = parser.parse_args()
    if given.half:
        print(json.dumps(measure_half(given.half)))
        return
    gpu = find_gpu()
    print(f"GPU: {gpu}; onnxruntime {onnxruntime.__version__} with {', '.join(onnxruntime.get_available_providers())}")
    if gpu is None:
        raise SystemExit("no GPU that CUDA shows this process: nothing to measure")
    bench = Bench(given.most_s)
    bench.figures["gpu"] = {"name": gpu.name, "memory_bytes": gpu.memory_bytes, "driver": gpu.driver}
    folders = sorted(path.parent for path in embedded_models().glob("*/*/model.toml"))
    for folder in folders:
        manifest = read_manifest(folder)
        files = [file for file in manifest.files if file.precision != "int8"]
        for file in files:
            key = f"{manifest.id} {file.backend} {file.precision}"
            bench.figures[key] = measure_file(bench, folder, manifest, file)
            save(bench.figures, given.out)
        bench.figures[manifest.id] = measure_onnx(bench, folder, manifest, files[0])
        save(bench.figures | {"left_out": bench.left_out}, given.out)
    show(bench)
    print(f"{time.monotonic() - bench.began:.0f} s, {threading.active_count()} threads left")


def show(bench: Bench) -> None:
    figures = {key: value for key, value in bench.figures.items() if "@" in key}
    files = {key: value for key, value in figures.items() if "times_real_time" in value}
    head = ("x real time, clips of 10 s", *(str(size) for size in SIZES), "transfer", "gap to CPU")
    rows: list[tuple[object, ...]] = [
        (
            key,
            *(value["times_real_time"].get(size, "-") for size in SIZES),
            value.get("transfer_share", "-"),
            value.get("gap_to_cpu", "-"),
        )
        for key, value in files.items()
    ]
    print(table(head, rows))
    rows = []
    for key, value in figures.items():
        if engine := value.get("engine"):
            core = value.get("one_core", {})
            two, best = engine["two_in_flight"], core.get("best", float("nan"))
            rows.append((key, best, engine["one_in_flight"], two, engine["two_over_one"], two / best))
    print(table(("mixed, engine", "one core, 10 s", "one in flight", "two", "two : one", "GPU : core"), rows))
    for text in bench.left_out:
        print(f"left out: {text}")


if __name__ == "__main__":
    main()
