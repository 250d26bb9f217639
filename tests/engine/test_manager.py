"""Models as callers see them: found, leased, swapped under load, drained."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from service.backends.base import BackendError, Device
from service.clock import MonotonicClock
from service.engine.loading import Loaded, Terms, load
from service.engine.manager import ModelManager, ModelStatus
from service.engine.manifest import Manifest
from service.engine.workers import Workers
from service.errors import Draining, EmptyAudio, InternalFault, ModelUnavailable, NotFound
from service.metrics import Metrics
from service.settings import BadSettings
from tests.engine.test_loading import scaled_by_the_loudest
from tests.models import RATE, make_model, make_repository

Make = Callable[..., ModelManager]
ONE_SECOND = np.full(RATE, 0.5, np.float32)


@pytest_asyncio.fixture
async def make() -> AsyncIterator[Make]:
    """Managers on one pool of two workers, closed after the test."""
    metrics, clock = Metrics(), MonotonicClock()
    workers = Workers(2, clock, metrics)
    made: list[ModelManager] = []

    def manager(*folders: Path, pins: tuple[str, ...] = ()) -> ModelManager:
        made.append(ModelManager(folders, workers, metrics, clock, pins=pins, device="cpu"))
        return made[-1]

    yield manager
    for one in made:
        one.close()
        one.close()
    workers.stop()


def states(manager: ModelManager) -> dict[str, str]:
    return {status.id: status.state for status in manager.models()}


def status_of(manager: ModelManager, name: str) -> ModelStatus:
    (status,) = [status for status in manager.models() if name in (status.name, status.id)]
    return status


async def test_defaults_serve_after_start(tmp_path: Path, make: Make) -> None:
    manager = make(make_repository(tmp_path))
    assert not manager.ready

    await manager.start()

    assert manager.ready
    assert states(manager) == {"tiny-enhance@1": "ready", "tiny-quality@1": "ready", "tiny-scene@1": "ready"}
    status = status_of(manager, "tiny-scene")
    assert (status.task, status.default, status.serving, status.backend) == ("scene", True, True, "onnx")
    assert (status.provider, status.precision, status.batching) == ("CPUExecutionProvider", "fp32", "padded")
    assert status.card() == "# tiny-scene\n\nA model for tests.\n"
    (tmp_path / "tiny-scene" / "1" / "CARD.md").unlink()
    assert status.card() is None


async def test_jobs_of_all_lengths_get_their_own_answers(tmp_path: Path, make: Make) -> None:
    """Forty at once through real graphs: each answer is as long as its input and made of it."""
    manager = make(make_repository(tmp_path))
    await manager.start()
    waveforms = [np.random.default_rng(i).uniform(-1, 1, 400 + 1500 * i).astype(np.float32) for i in range(40)]

    with manager.lease("enhance") as enhancer, manager.lease("quality") as judge:
        enhanced, judged = await asyncio.gather(
            asyncio.gather(*(enhancer.run(waveform) for waveform in waveforms)),
            asyncio.gather(*(judge.run(waveform) for waveform in waveforms)),
        )

    for waveform, answer, verdict in zip(waveforms, enhanced, judged, strict=True):
        np.testing.assert_array_equal(answer["enhanced"], waveform * np.float32(0.5))
        rms = float(np.sqrt(np.mean(waveform.astype(np.float64) ** 2)))
        assert float(verdict["score"]) == pytest.approx(5 - 4 * rms, abs=1e-4)
        assert verdict["frames"].shape == (-(-len(waveform) // 256),)


@pytest.mark.parametrize("waveform", [np.zeros((2, 10), np.float32), np.zeros(10), np.zeros(4 * RATE + 1, np.float32)])
async def test_what_no_task_should_send_is_our_fault(tmp_path: Path, make: Make, waveform: np.ndarray) -> None:
    make_model(tmp_path, "enhance")
    manager = make(tmp_path)
    await manager.start()

    with manager.lease("enhance") as model, pytest.raises(InternalFault, match="float32 samples"):
        await model.run(waveform)


async def test_no_samples_at_all_is_empty_audio(tmp_path: Path, make: Make) -> None:
    make_model(tmp_path, "enhance")
    manager = make(tmp_path)
    await manager.start()

    with manager.lease("enhance") as model, pytest.raises(EmptyAudio):
        await model.run(np.zeros(0, np.float32))


async def test_names_and_versions_are_found(tmp_path: Path, make: Make) -> None:
    """The bare name means the highest version; another is loaded when somebody asks for it."""
    for version in (1, 2):
        make_model(tmp_path, "scene", version=version)
    manager = make(tmp_path)
    await manager.start()

    with manager.lease("scene", "tiny-scene") as model:
        assert model.manifest.version == 2
    with pytest.raises(ModelUnavailable) as refusal, manager.lease("scene", "tiny-scene@1"):
        pass
    assert refusal.value.retry_after_s > 0
    await manager.load("tiny-scene@1")
    with manager.lease("scene", "tiny-scene@1") as model:
        assert model.manifest.version == 1
    with manager.lease("scene") as model:
        assert model.manifest.version == 2


@pytest.mark.parametrize(
    "name",
    ["nobody", "tiny-scene@9", "tiny-scene@x", "tiny-scene@", "@1", f"tiny-scene@{'9' * 5000}", "tiny-quality"],
    ids=lambda name: name[:20],
)
async def test_unknown_names_are_answered_with_those_there_are(tmp_path: Path, make: Make, name: str) -> None:
    """Also a model of another task is no model for this one."""
    manager = make(make_repository(tmp_path))
    await manager.start()

    with pytest.raises(NotFound) as refusal, manager.lease("scene", name):
        pass

    assert refusal.value.extra["supported"] == ["tiny-scene"]


async def test_task_without_models_is_not_found(tmp_path: Path, make: Make) -> None:
    make_model(tmp_path, "scene")
    manager = make(tmp_path)
    await manager.start()

    with pytest.raises(NotFound, match="no model for quality"), manager.lease("quality"):
        pass


async def test_pin_keeps_a_version(tmp_path: Path, make: Make) -> None:
    for version in (1, 2):
        make_model(tmp_path, "scene", version=version)
    manager = make(tmp_path, pins=("tiny-scene@1",))
    await manager.start()
    await manager.reload("tiny-scene")

    with manager.lease("scene") as model:
        assert model.manifest.version == 1
    with pytest.raises(BadSettings):
        await make(tmp_path, pins=("tiny-scene@3",)).start()


async def test_broken_models_do_not_stop_the_others(tmp_path: Path, make: Make) -> None:
    """Each says what is wrong with it; only a broken default keeps the service from being ready."""
    make_repository(tmp_path)
    damaged = make_model(tmp_path, "scene", "damaged")
    (damaged / "model.onnx").write_bytes(b"changed")
    (tmp_path / "unreadable" / "1").mkdir(parents=True)
    manager = make(tmp_path)
    await manager.start()

    assert manager.ready
    assert states(manager)["damaged@1"] == "failed"
    assert "sha256" in (status_of(manager, "damaged").reason or "")
    assert status_of(manager, "unreadable").task is None
    for name in ("damaged", "unreadable"):
        with pytest.raises(ModelUnavailable, match="could not be loaded"), manager.lease("scene", name):
            pass
        with pytest.raises(ModelUnavailable, match="cannot be loaded"):
            await manager.load(name)


async def test_load_that_breaks_unforeseen_is_that_models_failure(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path, "enhance")
    manager = make(tmp_path)

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("service.engine.manager.load", broken)
    await manager.start()

    status = status_of(manager, "tiny-enhance")
    assert (status.state, status.reason) == ("failed", "ZeroDivisionError: a bug")


async def test_model_unloaded_while_it_loads_is_not_published(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path, "enhance")
    manager = make(tmp_path)
    built: list[Loaded] = []
    inside, go = threading.Event(), threading.Event()

    def slow(folder: Path, manifest: Manifest, device: Device, terms: Terms) -> Loaded:
        inside.set()
        go.wait(10)
        built.append(load(folder, manifest, device, terms=terms))
        return built[0]

    monkeypatch.setattr("service.engine.manager.load", slow)
    starting = asyncio.create_task(manager.start())
    assert await asyncio.to_thread(inside.wait, 5)
    await manager.unload("tiny-enhance")
    go.set()
    await starting

    assert states(manager) == {"tiny-enhance@1": "unloaded"}
    with pytest.raises(BackendError, match="closed"):
        built[0].backend.run({})


async def test_broken_default_is_not_ready(tmp_path: Path, make: Make) -> None:
    make_repository(tmp_path)
    (tmp_path / "tiny-scene" / "1" / "model.onnx").write_bytes(b"changed")
    manager = make(tmp_path)
    await manager.start()

    assert not manager.ready
    with manager.lease("quality") as model:
        assert (await model.run(ONE_SECOND))["score"] > 1


async def test_nothing_to_serve_is_not_ready(tmp_path: Path, make: Make) -> None:
    manager = make(tmp_path)
    await manager.start()

    assert not manager.ready


async def test_without_preload_only_defaults_are_loaded(tmp_path: Path, make: Make) -> None:
    """The others are loaded when somebody asks; meanwhile the answer is to come back."""
    make_repository(tmp_path)
    make_model(tmp_path, "scene", "second")
    manager = make(tmp_path)
    await manager.start(preload=False)

    assert manager.ready
    assert states(manager)["second@1"] == "unloaded"
    with pytest.raises(ModelUnavailable, match="loading"), manager.lease("scene", "second"):
        pass
    await manager.load("second")
    with manager.lease("scene", "second") as model:
        assert (await model.run(ONE_SECOND))["clip"].shape == (2,)


async def test_downgraded_model_serves_and_says_so(tmp_path: Path, make: Make) -> None:
    make_model(tmp_path, "enhance", graph=scaled_by_the_loudest())
    manager = make(tmp_path)
    await manager.start()

    status = status_of(manager, "tiny-enhance")

    assert (status.state, status.batching) == ("ready", "alone")
    assert "neighbours" in (status.reason or "")


async def test_reload_takes_the_new_version_without_failing_anybody(tmp_path: Path, make: Make) -> None:
    """Requests go on while the new version is built and swapped in; those that hold the old one finish on it."""
    make_model(tmp_path, "enhance", version=1)
    manager = make(tmp_path)
    await manager.start()
    seen: list[int] = []
    stop = asyncio.Event()

    async def ask() -> None:
        while not stop.is_set():
            with manager.lease("enhance") as model:
                seen.append(model.manifest.version)
                assert len((await model.run(ONE_SECOND))["enhanced"]) == RATE
                if model.manifest.version == 2:
                    stop.set()

    askers = [asyncio.create_task(ask()) for _ in range(4)]
    with manager.lease("enhance") as old:
        make_model(tmp_path, "enhance", version=2)
        await manager.reload("tiny-enhance")
        assert states(manager) == {"tiny-enhance@1": "draining", "tiny-enhance@2": "ready"}
        assert [status.version for status in manager.models() if status.serving] == [2]
        assert len((await old.run(ONE_SECOND))["enhanced"]) == RATE
        assert old.manifest.version == 1
    await asyncio.wait_for(asyncio.gather(*askers), 5)

    assert set(seen) == {1, 2}
    assert seen == sorted(seen)
    assert states(manager) == {"tiny-enhance@1": "unloaded", "tiny-enhance@2": "ready"}


async def test_reload_of_the_same_version_swaps_the_graph(tmp_path: Path, make: Make) -> None:
    """A version that was replaced on disk is built anew; the old graph answers those who hold it."""
    make_model(tmp_path, "enhance")
    manager = make(tmp_path)
    await manager.start()

    with manager.lease("enhance") as old:
        shutil.rmtree(tmp_path / "tiny-enhance")
        make_model(tmp_path, "enhance", graph=scaled_by_the_loudest())
        await manager.reload("tiny-enhance@1")
        assert [status.state for status in manager.models()] == ["ready", "draining"]
        assert float((await old.run(ONE_SECOND))["enhanced"][0]) == 0.25
    with manager.lease("enhance") as new:
        assert float((await new.run(ONE_SECOND))["enhanced"][0]) == 1.0
    assert [status.state for status in manager.models()] == ["ready"]


async def test_failed_reload_leaves_the_old_one_serving(tmp_path: Path, make: Make) -> None:
    make_model(tmp_path, "enhance", version=1)
    manager = make(tmp_path)
    await manager.start()
    broken = make_model(tmp_path, "enhance", version=2)
    (broken / "model.onnx").write_bytes(b"changed")

    with pytest.raises(ModelUnavailable, match="sha256"):
        await manager.reload("tiny-enhance")

    assert states(manager) == {"tiny-enhance@1": "ready", "tiny-enhance@2": "failed"}
    assert manager.ready
    with manager.lease("enhance") as model:
        assert model.manifest.version == 1
    (tmp_path / "tiny-enhance" / "1" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(ModelUnavailable, match="sha256"):
        await manager.reload("tiny-enhance@1")
    assert manager.ready
    assert "reload failed" in (status_of(manager, "tiny-enhance@1").reason or "")


async def test_new_model_is_found_by_load(tmp_path: Path, make: Make) -> None:
    make_repository(tmp_path)
    manager = make(tmp_path)
    await manager.start()
    make_model(tmp_path, "scene", "later")

    for find in (manager.load, manager.reload):
        with pytest.raises(NotFound):
            await find("never")
    await manager.load("later")

    with manager.lease("scene", "later"):
        assert states(manager)["later@1"] == "ready"
    with manager.lease("scene") as model:
        assert model.manifest.name == "tiny-scene"


async def test_unloaded_model_stays_away_until_it_is_loaded(tmp_path: Path, make: Make) -> None:
    """Who holds it finishes; afterwards asking for it does not bring it back, loading does."""
    make_model(tmp_path, "enhance")
    manager = make(tmp_path)
    await manager.start()

    with manager.lease("enhance") as model:
        await manager.unload("tiny-enhance")
        assert states(manager) == {"tiny-enhance@1": "draining"}
        assert not manager.ready
        assert len((await model.run(ONE_SECOND))["enhanced"]) == RATE
    assert states(manager) == {"tiny-enhance@1": "unloaded"}
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="unloaded"), manager.lease("enhance"):
            pass

    await manager.load("tiny-enhance")

    assert manager.ready
    with pytest.raises(NotFound):
        await manager.unload("nobody")


async def test_drain_waits_for_leases_and_grants_no_more(tmp_path: Path, make: Make) -> None:
    """Who holds a model may go on submitting; the drain ends with the last of them."""
    make_model(tmp_path, "enhance")
    manager = make(tmp_path)
    await manager.start()

    with manager.lease("enhance") as model:
        draining = asyncio.create_task(manager.drain(30.0))
        await asyncio.sleep(0)
        assert not manager.ready
        with pytest.raises(Draining), manager.lease("enhance"):
            pass
        assert len((await model.run(ONE_SECOND))["enhanced"]) == RATE
        assert not draining.done()

    await asyncio.wait_for(draining, 5)


async def test_drain_gives_up_after_its_time(tmp_path: Path, make: Make) -> None:
    make_model(tmp_path, "enhance")
    manager = make(tmp_path)
    await manager.start()

    with manager.lease("enhance") as model:
        await asyncio.wait_for(manager.drain(0.01), 5)
        with pytest.raises(Draining):
            await model.run(ONE_SECOND)


async def test_lease_ends_with_its_block_whatever_happens(tmp_path: Path, make: Make) -> None:
    make_model(tmp_path, "enhance")
    manager = make(tmp_path)
    await manager.start()

    with pytest.raises(ZeroDivisionError), manager.lease("enhance"):
        raise ZeroDivisionError

    await asyncio.wait_for(manager.drain(30.0), 5)


def test_manager_serves_one_loop_after_another(tmp_path: Path) -> None:
    make_model(tmp_path, "enhance")
    metrics, clock = Metrics(), MonotonicClock()
    workers = Workers(1, clock, metrics)
    manager = ModelManager([tmp_path], workers, metrics, clock, device="cpu")

    async def ask() -> int:
        with manager.lease("enhance") as model:
            return len((await model.run(ONE_SECOND))["enhanced"])

    asyncio.run(manager.start())
    assert [asyncio.run(ask()) for _ in range(3)] == [RATE] * 3
    asyncio.run(manager.drain(1.0))
    manager.close()
    workers.stop()
