"""Which models there are, which of them serve, and who holds them: load, lease, reload, unload, drain.

Publishing is one assignment under the lock; everything slow happens in loader threads beside the pool. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock

from service.backends.base import Device
from service.clock import Clock
from service.engine.dispatch import Dispatcher
from service.engine.lane import LaneKey
from service.engine.loading import Loaded, load
from service.engine.model import Model
from service.engine.repository import BadModel, Catalogue, Entry, default_names, scan
from service.engine.status import ModelStatus, State
from service.engine.workers import Workers
from service.errors import Draining, ModelUnavailable, NotFound
from service.metrics import Metrics
from service.values import TASKS, Task

LOADING_RETRY_S, FAILED_RETRY_S = 2.0, 30.0

logger = logging.getLogger("earmark.engine")


@dataclass(eq=False, slots=True)
class _Instance:
    """One loaded graph, alive while it is published or leased."""

    model: Model
    loaded: Loaded
    leases: int = 0
    retired: bool = False


@dataclass(eq=False, slots=True)
class _Slot:
    """One version that is known. `loading` is the load in progress."""

    entry: Entry
    state: State = "unloaded"
    reason: str | None = None
    instance: _Instance | None = None
    loading: Future[None] | None = None
    held_off: bool = False
    """Unloaded on request: a lease does not bring it back."""


class ModelManager:
    """The models of some folders, on one pool.

    Args:
        folders: repositories of models, a later one overlays an earlier one.
        pins: `name@version` to serve instead of the highest version.
        device: where graphs run, see `service.backends.base.Device`.
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
        queue_s: float = 60.0,
    ) -> None:
        self._folders = tuple(folders)
        self._pins = tuple(pins)
        self._device = device
        self._metrics = metrics
        self._clock = clock
        self._dispatcher = Dispatcher(workers, metrics, clock, queue_s)
        self._loader = ThreadPoolExecutor(workers.count, thread_name_prefix="earmark-loader")
        self._lock = Lock()
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._retired: list[tuple[_Slot, _Instance]] = []
        self._serving: dict[str, int] = {}
        self._defaults: dict[Task, str] = {}
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
            names = self._serving if preload else set(self._defaults.values())
            loads = [self._begin(self._slots[name, self._serving[name]]) for name in sorted(names)]
        await asyncio.gather(*(asyncio.wrap_future(load) for load in loads))

    @property
    def ready(self) -> bool:
        """Whether every default model serves."""
        with self._lock:
            slots = [self._slots[name, self._serving[name]] for name in self._defaults.values()]
            return bool(slots) and not self._draining and all(slot.state == "ready" for slot in slots)

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
            slot = self._named(name)
            slot.held_off = False
            loading = None if slot.instance else self._begin(slot)
        if loading is not None:
            await asyncio.shield(asyncio.wrap_future(loading))
        if slot.instance is None:
            raise ModelUnavailable(f"{slot.entry.id} cannot be loaded: {slot.reason}", retry_after_s=FAILED_RETRY_S)

    async def unload(self, name: str) -> None:
        """Take `name` or `name@version` out of service; who holds a lease finishes.

        Raises:
            NotFound: there is no such model.
        """
        with self._lock:
            slot = self._named(name)
            slot.held_off, slot.reason = True, "unloaded on request"
            slot.state = "unloaded"
            self._retire(slot)

    async def reload(self, name: str) -> None:
        """Build what the folders now hold for `name` (its highest or pinned version) or `name@version`, then swap.

        The old one serves until the new one is warm, and finishes what it has. If the new one fails, the old one stays.

        Raises:
            NotFound: there is no such model any more.
            ModelUnavailable: the new one cannot be loaded; says why.
        """
        catalogue = await self._rescan()
        bare, _, version = name.partition("@")
        key = (bare, int(version) if version.isdecimal() else catalogue.serving.get(bare, 0))
        if key not in catalogue.entries:
            raise self._unknown(name)
        entry = catalogue.entries[key]
        loaded, reason = await asyncio.wrap_future(self._loader.submit(self._build, entry))
        with self._lock:
            slot = self._slots.setdefault(key, _Slot(entry))
            if loaded is None:
                self._note_failure(slot, reason)
                raise ModelUnavailable(f"{entry.id} cannot be loaded: {reason}", retry_after_s=FAILED_RETRY_S)
            slot.entry, slot.held_off = entry, False
            self._publish(slot, loaded)
            if not version:
                self._serve(slot)

    def models(self) -> list[ModelStatus]:
        """Every version that is known, by task, name and version; one that still drains after a reload beside it."""
        with self._lock:
            known = [self._status(slot, instance, "draining") for slot, instance in self._retired]
            leaving = {id(slot) for slot, _ in self._retired}
            for slot in self._slots.values():
                if slot.instance or slot.loading or id(slot) not in leaving:
                    known.append(self._status(slot, slot.instance, slot.state))
        return sorted(known, key=lambda status: (status.task or "", status.name, status.version, status.state == "draining"))

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
            instances = [slot.instance for slot in self._slots.values() if slot.instance]
            instances += [instance for _, instance in self._retired]
            for slot in self._slots.values():
                slot.instance, slot.state = None, "unloaded"
            self._retired.clear()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._dispatcher.detach()
        for instance in instances:
            self._end(instance)

    @contextmanager
    def _lease(self, task: Task, name: str | None) -> Iterator[Model]:
        with self._lock:
            if self._draining:
                raise Draining("The service is shutting down.")
            instance = self._available(self._wanted(task, name))
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

    # Below, everything is called with the lock held, except `_rescan`, `_load` and `_build`.

    def _wanted(self, task: Task, name: str | None) -> _Slot:
        if name is None:
            if task not in self._defaults:
                raise self._unknown(f"a model for {task}")
            name = self._defaults[task]
        slot = self._named(name, task)
        manifest = slot.entry.manifest
        if manifest and manifest.task != task:
            raise self._unknown(name, task, f"{name} is a model for {manifest.task}, not for {task}.")
        return slot

    def _named(self, name: str, task: Task | None = None) -> _Slot:
        bare, at, version = name.partition("@")
        number = int(version) if version.isdecimal() else None if at else self._serving.get(bare)
        if number is None or (bare, number) not in self._slots:
            raise self._unknown(name, task)
        return self._slots[bare, number]

    def _unknown(self, name: str, task: Task | None = None, text: str | None = None) -> NotFound:
        tasks = (task,) if task else TASKS
        there = sorted(
            slot.entry.name
            for (bare, version), slot in self._slots.items()
            if self._serving.get(bare) == version and slot.entry.manifest and slot.entry.manifest.task in tasks
        )
        return NotFound(f"{text or f'There is no {name}.'} There is: {', '.join(there) or 'none'}.", supported=there)

    def _available(self, slot: _Slot) -> _Instance:
        if slot.instance is not None:
            return slot.instance
        if slot.state == "failed":
            text = f"{slot.entry.id} could not be loaded; the list of models says why."
            raise ModelUnavailable(text, retry_after_s=FAILED_RETRY_S)
        if slot.held_off:
            raise ModelUnavailable(f"{slot.entry.id} was unloaded.", retry_after_s=FAILED_RETRY_S)
        self._begin(slot)
        raise ModelUnavailable(f"{slot.entry.id} is loading.", retry_after_s=LOADING_RETRY_S)

    def _begin(self, slot: _Slot) -> Future[None]:
        """Load *slot* in a loader thread, unless that is under way."""
        if slot.loading is None:
            slot.state, slot.reason = "loading", None
            slot.loading = self._loader.submit(self._load, slot)
        return slot.loading

    def _load(self, slot: _Slot) -> None:
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
        """Everything slow: a graph that is ready, or the reason why there is none."""
        if entry.manifest is None:
            return None, entry.fault or "its manifest cannot be read"
        started = self._clock.now()
        try:
            loaded = load(entry.folder, entry.manifest, self._device)
        except BadModel as error:
            return None, error.detail
        except Exception as error:
            logger.exception("loading %s broke", entry.id, extra={"event": "load_broke", "model": entry.id})
            return None, f"{type(error).__name__}: {error}"
        seconds = self._clock.now() - started
        self._metrics.model_load_seconds.observe(seconds)
        facts = {"event": "model_loaded", "model": entry.id, "backend": loaded.backend.kind, "provider": loaded.backend.provider}
        logger.info("%s loaded in %.2f s", entry.id, seconds, extra=facts | {"seconds": seconds, "batching": loaded.policy.mode})
        return loaded, ""

    def _note_failure(self, slot: _Slot, reason: str) -> None:
        slot.reason = f"reload failed: {reason}" if slot.instance else reason
        slot.state = "ready" if slot.instance else "failed"
        logger.error("%s not loaded: %s", slot.entry.id, reason, extra={"event": "model_failed", "model": slot.entry.id})

    def _publish(self, slot: _Slot, loaded: Loaded) -> None:
        manifest = loaded.manifest
        lane = LaneKey(manifest.id, next(self._builds))
        self._dispatcher.open_lane(lane, loaded.backend, manifest.sample_rate, loaded.policy, loaded.cost)
        model = Model(manifest, loaded.file, loaded.backend, loaded.policy.mode, self._dispatcher, lane)
        self._retire(slot)
        slot.instance, slot.state, slot.reason = _Instance(model, loaded), "ready", loaded.note
        self._metrics.model_loaded.labels(manifest.id, manifest.task).set(1)
        self._metrics.model_bytes.labels(manifest.id).set(loaded.file_bytes)

    def _serve(self, slot: _Slot) -> None:
        """Let the bare name mean *slot*, and take the version it meant out of service."""
        name, version = slot.entry.name, slot.entry.version
        before = self._serving.get(name)
        self._serving[name] = version
        self._choose_defaults()
        if before is not None and before != version and (old := self._slots.get((name, before))):
            old.state, old.reason = "unloaded", f"{slot.entry.id} serves now"
            self._retire(old)
        logger.info("%s serves", slot.entry.id, extra={"event": "model_swapped", "model": slot.entry.id, "before": before})

    def _retire(self, slot: _Slot) -> None:
        """Take what *slot* has out of service; it ends with its last lease."""
        instance, slot.instance = slot.instance, None
        if instance is None:
            return
        instance.retired = True
        self._retired.append((slot, instance))
        self._metrics.model_loaded.labels(instance.model.manifest.id, instance.model.manifest.task).set(0)
        self._let_go(instance)

    def _let_go(self, instance: _Instance) -> None:
        if instance.retired and not instance.leases:
            self._retired = [(slot, other) for slot, other in self._retired if other is not instance]
            self._end(instance)

    def _end(self, instance: _Instance) -> None:
        self._dispatcher.close_lane(instance.model.lane)
        instance.loaded.backend.close()

    def _settle(self) -> None:
        if self._draining and not self._leases and not self._idle.done():
            self._idle.set_result(None)

    async def _rescan(self) -> Catalogue:
        catalogue = await asyncio.wrap_future(self._loader.submit(scan, self._folders, self._pins))
        with self._lock:
            self._adopt(catalogue)
        return catalogue

    def _adopt(self, catalogue: Catalogue) -> None:
        """Take in what is new on disk; what serves is changed by `reload` alone."""
        for key, entry in catalogue.entries.items():
            slot = self._slots.setdefault(key, _Slot(entry))
            if slot.instance is None and slot.loading is None:
                slot.entry = entry
                if entry.manifest is None:
                    slot.state, slot.reason = "failed", entry.fault
        gone = [key for key, slot in self._slots.items() if key not in catalogue.entries and not (slot.instance or slot.loading)]
        for key in gone:
            del self._slots[key]
        self._serving = {name: version for name, version in self._serving.items() if (name, version) in self._slots}
        self._serving = catalogue.serving | self._serving
        self._choose_defaults()

    def _choose_defaults(self) -> None:
        self._defaults = default_names(self._slots[item].entry for item in self._serving.items())

    def _status(self, slot: _Slot, instance: _Instance | None, state: State) -> ModelStatus:
        entry = slot.entry
        manifest = instance.model.manifest if instance else entry.manifest
        serving = self._serving.get(entry.name) == entry.version and state != "draining"
        return ModelStatus(
            name=entry.name,
            version=entry.version,
            task=manifest.task if manifest else None,
            serving=serving,
            default=serving and manifest is not None and self._defaults.get(manifest.task) == entry.name,
            state=state,
            reason=slot.reason,
            backend=instance.model.backend if instance else None,
            provider=instance.model.provider if instance else None,
            precision=instance.model.precision if instance else None,
            batching=instance.model.batching if instance else None,
            file_bytes=instance.loaded.file_bytes if instance else None,
            manifest=manifest,
            folder=entry.folder,
        )
