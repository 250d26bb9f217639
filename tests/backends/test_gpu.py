"""On a CUDA device the shipped models answer as on a CPU, alone and in batches, and say that they run there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from service.backends.base import Backend, BackendError
from service.backends.factory import open_backend
from service.clock import MonotonicClock
from service.engine import probe
from service.engine.loading import load
from service.engine.manager import ModelManager
from service.engine.manifest import GraphFile, read_manifest
from service.engine.workers import Workers
from service.metrics import Metrics
from service.settings import embedded_models
from service.values import WHENEVER

pytestmark = pytest.mark.gpu

CLOSE = 2e-3
"""fp32 on both: sums in another order, through recurrent layers."""
VERSIONS = sorted(path.parent for path in embedded_models().glob("*/*/model.toml"))
GRAPHS = [(folder, file) for folder in VERSIONS for file in read_manifest(folder).files]


def on_gpu(folder: Path, file: GraphFile) -> Backend:
    try:
        names = read_manifest(folder).output_names(file)
        return open_backend(folder / file.path, file.backend, "cuda", names)
    except BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("folder", "file"), GRAPHS, ids=lambda one: getattr(one, "path", None) or one.parent.name)
def test_a_gpu_answers_as_a_cpu(folder: Path, file: GraphFile) -> None:
    manifest, gpu = read_manifest(folder), on_gpu(folder, file)
    cpu = open_backend(folder / file.path, file.backend, "cpu", manifest.output_names(file))
    sounds = [probe.noise(samples, 0.3, seed=samples) for samples in probe.probe_lengths(manifest)]

    assert gpu.device == "cuda"
    for wanted, given in zip(probe.run_batch(cpu, sounds), probe.run_batch(gpu, sounds), strict=True):
        for name, values in wanted.items():
            np.testing.assert_allclose(given[name], values, atol=CLOSE)
    assert probe.batching_gap(gpu, probe.probe_lengths(manifest)) <= probe.INVARIANCE


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.parent.name)
def test_a_model_loads_on_a_gpu_and_keeps_its_way_of_batching(folder: Path) -> None:
    manifest = read_manifest(folder)
    on_gpu(folder, manifest.files[0]).close()

    loaded = load(folder, manifest, "cuda")

    assert loaded.policy.device == "cuda"
    assert loaded.policy.mode == manifest.batching.mode
    assert loaded.policy.max_items > manifest.batching.max_items
    loaded.backend.close()


async def test_many_at_once_get_what_each_gets_alone() -> None:
    on_gpu(*GRAPHS[0]).close()
    metrics, clock = Metrics(), MonotonicClock()
    workers = Workers(4, clock, metrics)
    manager = ModelManager([embedded_models()], workers, metrics, clock, device="cuda")
    try:
        await manager.start()
        with manager.lease("quality") as model:
            assert "cuda" in model.provider.lower()
            sounds = [probe.noise(8000 + 1500 * index, 0.3, seed=index) for index in range(40)]
            together = await asyncio.gather(*(model.run(sound, WHENEVER) for sound in sounds))
            for sound, given in zip(sounds, together, strict=True):
                alone = await model.run(sound, WHENEVER)
                np.testing.assert_allclose(given["score"], alone["score"], atol=probe.INVARIANCE)
    finally:
        await manager.drain(5.0)
        manager.close()
        workers.stop()
