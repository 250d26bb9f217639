"""A workbench with tiny real models, as the app builds it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.clock import MonotonicClock
from service.engine.manager import ModelManager
from service.engine.workers import Workers
from service.metrics import Metrics
from service.tasks.listen import Workbench
from tests.models import make_model, make_repository


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_repository(tmp_path_factory.mktemp("models"))
    make_model(folder, "scene", "other-scene")
    make_model(folder, "scene", "unlike-scene", labels=[{"name": "near"}, {"name": "far"}])
    make_model(folder, "quality", "long-quality", window={"min_s": 0.1, "max_s": 60.0})
    return folder


@pytest.fixture
async def bench(repository: Path) -> AsyncIterator[Workbench]:
    metrics, clock = Metrics(), MonotonicClock()
    workers = Workers(2, clock, metrics)
    manager = ModelManager([repository], workers, metrics, clock)
    await manager.start()
    yield Workbench(manager, workers, metrics, clock)
    await manager.drain(5.0)
    manager.close()
    workers.stop()
