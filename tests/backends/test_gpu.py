"""On a GPU: the same answers as on the CPU, whatever shares a batch; what runs is what was asked for, and is said.

Skipped without one, by backend: onnxruntime may have CUDA where torch has not, and the other way round. Needs few
packages: no web framework, no audio library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.backends.base import Backend, BackendOutOfMemory, Options
from service.backends.factory import open_backend
from service.backends.gpu import find_gpu
from service.clock import MonotonicClock
from service.engine import padding, probe
from service.engine.buckets import Bucketed
from service.engine.loading import load
from service.engine.manager import ModelManager
from service.engine.manifest import GraphFile, Manifest, read_manifest
from service.engine.workers import Workers
from service.metrics import Metrics
from service.values import Arrays

pytestmark = pytest.mark.gpu

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[2] / "exported_models").glob("*/*/model.toml"))
FILES = [(folder, file) for folder in FOLDERS for file in read_manifest(folder).files if file.precision == "fp32"]
RELATIVE = 1e-3
"""Of the largest value of an output: kernels add up in another order, recurrent layers carry that on."""

each_file = pytest.mark.parametrize(
    ("folder", "file"), FILES, ids=[f"{folder.parent.name}-{file.backend}" for folder, file in FILES]
)


@cache
def lacking(backend: str) -> str | None:
    """Why *backend* has no GPU here."""
    if backend == "onnx":
        has = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        return None if has and find_gpu() else "this onnxruntime sees no GPU"
    try:
        import torch
    except ImportError:
        return "no torch"
    return None if torch.cuda.is_available() else "torch sees no GPU"


def need(backend: str) -> None:
    if reason := lacking(backend):
        pytest.skip(reason)


def opened(folder: Path, file: GraphFile, device: str) -> Backend:
    names = read_manifest(folder).output_names(file)
    return open_backend(folder / file.path, file.backend, "cuda" if device == "cuda" else "cpu", names)


@pytest.fixture
def both(folder: Path, file: GraphFile) -> Iterator[tuple[Manifest, Backend, Backend]]:
    """The model's manifest, its graph on the CPU and on the GPU."""
    need(file.backend)
    cpu, gpu = opened(folder, file, "cpu"), opened(folder, file, "cuda")
    yield read_manifest(folder), cpu, gpu
    cpu.close()
    gpu.close()


def sounds(manifest: Manifest, *lengths_s: float) -> list[NDArray[np.float32]]:
    """Noise that comes and goes, at unlike levels."""
    made = []
    for seed, length_s in enumerate(lengths_s):
        noise = probe.noise(round(length_s * manifest.sample_rate), probe.LEVELS[seed % 3], seed)
        made.append(noise * (0.5 + 0.5 * np.sin(np.arange(len(noise)) / 900)).astype(np.float32))
    return made


def gap(one: Arrays, other: Arrays) -> float:
    """Largest difference between two answers, as a share of the largest value of that output."""
    assert one.keys() == other.keys()
    shares = []
    for name, values in one.items():
        assert values.shape == other[name].shape, name
        size = max(1.0, float(np.abs(values).max(initial=0.0)))
        shares.append(float(np.abs(values.astype(float) - other[name]).max(initial=0.0)) / size)
    return max(shares)


@each_file
def test_gpu_answers_as_the_cpu_does(both: tuple[Manifest, Backend, Backend]) -> None:
    manifest, cpu, gpu = both

    for waveform in sounds(manifest, 0.4, 1.0, 3.7, min(9.0, manifest.window.max_s)):
        (expected,), (answer,) = probe.run_batch(cpu, [waveform]), probe.run_batch(gpu, [waveform])
        assert gap(expected, answer) < RELATIVE


@each_file
def test_neighbours_change_nothing_on_a_gpu(both: tuple[Manifest, Backend, Backend]) -> None:
    """In batches as they are and in buckets, against the answers alone on the CPU."""
    manifest, cpu, gpu = both
    if manifest.batching.mode != "padded":
        pytest.skip("not batched with padding")
    waveforms = sounds(manifest, 0.7, 2.9, 1.3, 0.3, 2.2)
    bucketed = Bucketed(gpu, manifest.sample_rate // 2, round(manifest.window.max_s * manifest.sample_rate))

    alone = [probe.run_batch(cpu, [waveform])[0] for waveform in waveforms]

    for backend in (gpu, bucketed):
        together = probe.run_batch(backend, waveforms)
        assert max(map(gap, alone, together)) < RELATIVE
    assert probe.true_mode(gpu, "padded", probe.probe_lengths(manifest))[0] == "padded"


@each_file
def test_what_runs_is_said(both: tuple[Manifest, Backend, Backend], file: GraphFile) -> None:
    _, cpu, gpu = both

    assert (cpu.device, gpu.device) == ("cpu", "cuda:0")
    assert gpu.provider == ("CUDAExecutionProvider" if file.backend == "onnx" else "cuda:0")
    found = find_gpu()
    assert found is not None
    assert gpu.details["gpu"] == found.name
    assert gpu.details["tf32"] is False
    assert found.memory_bytes > 0
    if "nodes_on_gpu" in gpu.details:
        assert gpu.details["nodes_on_gpu"] > 0


@each_file
def test_threads_share_a_gpu(both: tuple[Manifest, Backend, Backend]) -> None:
    """Two at once, as there are two batches in flight: no answer is mixed up with another."""
    manifest, _, gpu = both
    waveforms = sounds(manifest, *(0.3 + 0.2 * number for number in range(12)))
    expected = [probe.run_batch(gpu, [waveform])[0] for waveform in waveforms]

    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            answers = list(pool.map(lambda waveform: probe.run_batch(gpu, [waveform])[0], waveforms))
            assert max(map(gap, expected, answers)) < RELATIVE


@each_file
def test_memory_that_runs_out_is_told_apart(folder: Path, file: GraphFile) -> None:
    """With a tenth of a gigabyte a large batch finds no room; the next small one does."""
    need(file.backend)
    if file.backend == "torchscript":
        pytest.skip("torch's limit is for the whole process, and would stay")
    manifest = read_manifest(folder)
    options = Options(gpu_memory_bytes=100 << 20)
    gpu = open_backend(folder / file.path, file.backend, "cuda", manifest.output_names(file), options)
    samples = round(manifest.window.max_s * manifest.sample_rate)

    with pytest.raises(BackendOutOfMemory):
        gpu.run(padding.assemble([probe.noise(samples, 0.1)] * 128))
    (answer,) = probe.run_batch(gpu, sounds(manifest, 0.5))
    assert padding.is_finite(answer)
    gpu.close()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_models_load_onto_the_gpu(folder: Path) -> None:
    need("onnx")
    loaded = load(folder, read_manifest(folder), "cuda")

    assert (loaded.backend.device, loaded.policy.device) == ("cuda:0", "cuda:0")
    assert loaded.policy.mode == loaded.manifest.batching.mode, loaded.note
    assert loaded.policy.max_items >= 2, "a GPU that gains nothing by batches is no GPU"
    assert loaded.file.precision in ("fp32", "fp16")
    loaded.backend.close()


def test_queue_in_front_of_a_gpu_gives_everybody_the_right_answer() -> None:
    """Mixed lengths from many callers at once, through the real engine, two batches in flight."""
    need("onnx")
    metrics, clock = Metrics(), MonotonicClock()
    workers = Workers(4, clock, metrics)
    root = FOLDERS[0].parents[1]
    manager = ModelManager([root], workers, metrics, clock, device="cuda", slots={"cuda:0": 2})

    async def ask_all() -> None:
        await manager.start()
        for task in ("quality", "scene", "enhance"):
            with manager.lease(task) as model:
                assert model.provider == "CUDAExecutionProvider"
                waveforms = sounds(model.manifest, *np.random.default_rng(1).uniform(0.4, 6.0, 40))
                alone = [await model.run(waveform) for waveform in waveforms]
                together = await asyncio.gather(*(model.run(waveform) for waveform in waveforms))
                assert max(map(gap, alone, together)) < RELATIVE

    asyncio.run(ask_all())
    manager.close()
    workers.stop()
