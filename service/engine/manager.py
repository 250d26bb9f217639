"""Which models serve, and who holds them: load, lease, reload, unload, drain.

Publishing is one assignment under the lock; everything slow happens in loader threads beside the pool. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from threading import Lock

from service.backends.base import Device
from service.clock import Clock
from service.engine.dispatch import Dispatcher
from service.engine.lane import LaneKey
from service.engine.loading import AS_USUAL, Loaded, Terms, load
from service.engine.model import Model
from service.engine.registry import Instance, Registry, Slot
from service.engine.repository import BadModel, Catalogue, Entry, scan, split_id
from service.engine.status import ModelStatus
from service.engine.workers import Workers
from service.errors import Draining, ModelUnavailable
from service.metrics import Metrics
from service.values import Task

__all__ = ["Model", "ModelManager", "ModelStatus"]

LOADING_RETRY_S, FAILED_RETRY_S = 2.0, 30.0

logger = logging.getLogger("earmark.engine")


class ModelManager:
    """The models of some folders, on one pool.

    Args:
        folders: repositories of models, a later one overlays an earlier one.
        pins: `name@version` to serve instead of the highest version.
        device: where graphs run, see `service.backends.base.Device`.
        terms: what else is wanted of every load.
        slots: by device, how many batches may run on it at once.
        queue_s: most expected seconds of computing that may wait, for each worker.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        workers: Workers,
        metrics: Metrics,
        clock: Clock,
        *,
        pins: Sequence[str] = (),
        device: Device = "auto",
        terms: Terms = AS_USUAL,
        queue_s: float = 60.0,
        slots: Mapping[str, int] | None = None,
    ) -> None:
        self._folders = tuple(folders)
        self._pins = tuple(pins)
        self._device = device
        self._terms = terms
        self._metrics = metrics
        self._clock = clock
        self._dispatcher = Dispatcher(workers, metrics, clock, queue_s, slots)
        self._loader = ThreadPoolExecutor(workers.count, thread_name_prefix="earmark-loader")
        self._lock = Lock()
        self._registry = Registry()
        self._builds = count(1)
        self._leases = 0
        self._draining = False
        self._idle: Future[None] = Future()

    async def start(self, preload: bool = True) -> None:
        """Scan the folders and load; returns when every load has ended, well or not.

        Args:
            preload: load what serves of every name; otherwise the defaults only, the others at first use.

        Raises:
            BadSettings: a pin names what is not there.
        """
        await self._rescan()
        with self._lock:
            defaults = [self._registry.default(task) for task in self._registry.defaults]
            loads = [self._begin(slot) for slot in (self._registry.in_service() if preload else defaults)]
        await asyncio.gather(*(asyncio.wrap_future(load) for load in loads))

    @property
    def ready(self) -> bool:
        """Whether every default model serves."""
        with self._lock:
            slots = [self._registry.default(task) for task in self._registry.defaults]
            return bool(slots) and not self._draining and all(slot.state == "ready" for slot in slots)

    def models(self) -> list[ModelStatus]:
        """Every version that is known, by task, name and version.

        One that still drains after a reload stands beside the one that replaced it.
        """
        with self._lock:
            return self._registry.statuses()

    def lease(self, task: Task, name: str | None = None) -> AbstractContextManager[Model]:
        """Hold a model for as long as the block lasts; a reload meanwhile does not take it away.

        Args:
            name: `name` or `name@version`; None takes the task's default.

        Raises:
            NotFound: on entering; lists the names there are.
            ModelUnavailable: it is loading (one not yet loaded starts to), failed or was unloaded.
            Draining: the service is shutting down.
        """
        return self._lease(task, name)

    async def load(self, name: str) -> None:
        """Load `name` or `name@version` if it is not loaded; looks for new folders first.

        Raises:
            NotFound: there is no such model.
            ModelUnavailable: it cannot be loaded; says why.
        """
        await self._rescan()
        with self._lock:
            slot = self._registry.named(name)
            slot.held_off = False
            loading = None if slot.instance else self._begin(slot)
        if loading is not None:
            await asyncio.shield(asyncio.wrap_future(loading))
        if slot.state == "failed":
            raise _not_loaded(slot.entry, slot.reason)

    async def unload(self, name: str) -> None:
        """Take `name` or `name@version` out of service; who holds a lease finishes.

        Raises:
            NotFound: there is no such model.
        """
        with self._lock:
            slot = self._registry.named(name)
            slot.held_off, slot.state, slot.reason = True, "unloaded", "unloaded on request"
            self._retire(slot)

    async def reload(self, name: str) -> None:
        """Build what the folders now hold for `name` (its highest or pinned version) or `name@version`, then swap.

        The old one serves until the new one is warm, and finishes what it has. If the new one fails, the old one stays.

        Raises:
            NotFound: there is no such model any more.
            ModelUnavailable: the new one cannot be loaded; says why.
        """
        catalogue = await self._rescan()
        bare, version = split_id(name)
        entry = catalogue.entries.get((bare, catalogue.serving.get(bare, -1) if version is None else version))
        if entry is None:
            with self._lock:
                raise self._registry.unknown(f"There is no model {name!r}.")
        loaded, reason = await asyncio.wrap_future(self._loader.submit(self._build, entry))
        with self._lock:
            slot = self._registry.slots.setdefault((entry.name, entry.version), Slot(entry))
            if loaded is None:
                self._note_failure(slot, reason)
                raise _not_loaded(entry, reason)
            slot.entry, slot.held_off = entry, False
            self._publish(slot, loaded)
            if version is None:
                self._serve(slot)

    async def drain(self, timeout_s: float) -> None:
        """Grant no more leases and wait until those there are end; what still waits after *timeout_s* fails."""
        with self._lock:
            self._draining = True
            self._settle()
        await asyncio.wait([asyncio.wrap_future(self._idle)], timeout=timeout_s)
        self._dispatcher.refuse()

    def close(self) -> None:
        """Forget every model. The pool is left to its owner. Idempotent."""
        with self._lock:
            self._draining = True
            instances = [instance for _, instance in self._registry.retired]
            instances += [slot.instance for slot in self._registry.slots.values() if slot.instance]
            self._registry = Registry()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._dispatcher.detach()
        for instance in instances:
            self._end(instance)

    @contextmanager
    def _lease(self, task: Task, name: str | None) -> Iterator[Model]:
        with self._lock:
            if self._draining:
                raise Draining("The service is shutting down.")
            slot = self._registry.default(task) if name is None else self._registry.named(name, task)
            instance = self._available(slot)
            instance.leases += 1
            self._leases += 1
        try:
            yield instance.model
        finally:
            with self._lock:
                instance.leases -= 1
                self._leases -= 1
                self._let_go(instance)
                self._settle()

    async def _rescan(self) -> Catalogue:
        catalogue = await asyncio.wrap_future(self._loader.submit(scan, self._folders, self._pins))
        with self._lock:
            self._registry.adopt(catalogue)
        return catalogue

    def _load(self, slot: Slot) -> None:
        """In a loader thread."""
        loaded, reason = self._build(slot.entry)
        with self._lock:
            slot.loading = None
            if loaded is None:
                self._note_failure(slot, reason)
            elif slot.held_off or self._draining:
                slot.state = "unloaded"
                loaded.backend.close()
            else:
                self._publish(slot, loaded)

    def _build(self, entry: Entry) -> tuple[Loaded | None, str]:
        """In a loader thread, everything slow: a graph that is ready, or the reason why there is none."""
        if entry.manifest is None:
            return None, entry.fault or "its manifest cannot be read"
        started = self._clock.now()
        try:
            loaded = load(entry.folder, entry.manifest, self._device, terms=self._terms)
        except BadModel as error:
            return None, error.detail
        except Exception as error:
            logger.exception("loading %s broke", entry.id, extra={"event": "load_broke", "model": entry.id})
            return None, f"{type(error).__name__}: {error}"
        seconds = self._clock.now() - started
        self._metrics.model_load_seconds.observe(seconds)
        facts = {"event": "model_loaded", "model": entry.id, "seconds": seconds, "batching": loaded.policy.mode}
        facts |= {"backend": loaded.backend.kind, "provider": loaded.backend.provider, "device": loaded.backend.device}
        facts |= {"precision": loaded.file.precision, "gain": loaded.gain, "tuned": loaded.is_tuned}
        logger.info("%s loaded in %.2f s", entry.id, seconds, extra=facts)
        return loaded, ""

    # From here on, every method is called with the lock held.

    def _available(self, slot: Slot) -> Instance:
        if slot.instance is not None:
            return slot.instance
        if slot.state == "failed":
            text = f"{slot.id} could not be loaded; the list of models says why."
            raise ModelUnavailable(text, retry_after_s=FAILED_RETRY_S)
        if slot.held_off:
            raise ModelUnavailable(f"{slot.id} was unloaded.", retry_after_s=FAILED_RETRY_S)
        self._begin(slot)
        raise ModelUnavailable(f"{slot.id} is loading.", retry_after_s=LOADING_RETRY_S)

    def _begin(self, slot: Slot) -> Future[None]:
        """Load *slot* in a loader thread, unless that is under way."""
        if slot.loading is None:
            slot.state, slot.reason = "loading", None
            slot.loading = self._loader.submit(self._load, slot)
        return slot.loading

    def _note_failure(self, slot: Slot, reason: str) -> None:
        slot.reason = f"reload failed: {reason}" if slot.instance else reason
        slot.state = "ready" if slot.instance else "failed"
        logger.error("%s not loaded: %s", slot.id, reason, extra={"event": "model_failed", "model": slot.id})

    def _publish(self, slot: Slot, loaded: Loaded) -> None:
        manifest = loaded.manifest
        lane = LaneKey(manifest.id, next(self._builds))
        self._dispatcher.open_lane(lane, loaded.backend, manifest.sample_rate, loaded.policy, loaded.cost)
        self._retire(slot)
        slot.instance = Instance(Model(loaded, self._dispatcher, lane), loaded)
        slot.state, slot.reason = "ready", loaded.note
        self._metrics.model_loaded.labels(manifest.id, manifest.task).set(1)
        self._metrics.model_bytes.labels(manifest.id).set(loaded.file_bytes)

    def _serve(self, slot: Slot) -> None:
        """Let the bare name mean *slot*, and take the version it meant out of service."""
        old = self._registry.serve(slot)
        if old is not None:
            old.state, old.reason = "unloaded", f"{slot.id} serves now"
            self._retire(old)
        logger.info("%s serves", slot.id, extra={"event": "model_swapped", "model": slot.id, "before": old and old.id})

    def _retire(self, slot: Slot) -> None:
        """Take what *slot* has out of service; it ends with its last lease."""
        instance, slot.instance = slot.instance, None
        if instance is not None:
            instance.retired = True
            self._registry.retired.append((slot, instance))
            self._metrics.model_loaded.labels(instance.model.manifest.id, instance.model.manifest.task).set(0)
            self._let_go(instance)

    def _let_go(self, instance: Instance) -> None:
        if instance.retired and not instance.leases:
            self._registry.retired = [one for one in self._registry.retired if one[1] is not instance]
            self._end(instance)

    def _end(self, instance: Instance) -> None:
        self._dispatcher.close_lane(instance.model.lane)
        instance.loaded.backend.close()

    def _settle(self) -> None:
        if self._draining and not self._leases and not self._idle.done():
            self._idle.set_result(None)


def _not_loaded(entry: Entry, reason: str | None) -> ModelUnavailable:
    return ModelUnavailable(f"{entry.id} cannot be loaded: {reason}", retry_after_s=FAILED_RETRY_S)
