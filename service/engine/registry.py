"""The versions that are known and what each is doing: bookkeeping without threads, files or graphs of its own.

Whoever uses it holds one lock around every call.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from service.engine.loading import Loaded
from service.engine.model import Model
from service.engine.repository import Catalogue, Entry, default_names, split_id
from service.engine.status import ModelStatus, State
from service.errors import NotFound
from service.values import TASKS, Task


@dataclass(eq=False, slots=True)
class Instance:
    """One loaded graph, alive while it is published or leased."""

    model: Model
    loaded: Loaded
    leases: int = 0
    retired: bool = False


@dataclass(eq=False, slots=True)
class Slot:
    """One version. `loading` is the load in progress."""

    entry: Entry
    state: State = "unloaded"
    reason: str | None = None
    instance: Instance | None = None
    loading: Future[None] | None = None
    held_off: bool = False
    """Unloaded on request: a lease does not bring it back."""

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def task(self) -> Task | None:
        return self.entry.manifest.task if self.entry.manifest else None


@dataclass(eq=False, slots=True)
class Registry:
    """All slots, and which of them bare names and tasks mean.

    Attributes:
        serving: the version that a name means where none is said.
        defaults: the name that a task means where none is said.
        retired: what was taken out of service and is still leased.
    """

    slots: dict[tuple[str, int], Slot] = field(default_factory=dict)
    serving: dict[str, int] = field(default_factory=dict)
    defaults: dict[Task, str] = field(default_factory=dict)
    retired: list[tuple[Slot, Instance]] = field(default_factory=list)

    def adopt(self, catalogue: Catalogue) -> None:
        """Take in what is new on disk and forget what is gone; what serves stays."""
        for key, entry in catalogue.entries.items():
            slot = self.slots.setdefault(key, Slot(entry))
            if slot.instance is None and slot.loading is None:
                slot.entry = entry
                if entry.manifest is None:
                    slot.state, slot.reason = "failed", entry.fault
        for key, slot in list(self.slots.items()):
            if key not in catalogue.entries and not (slot.instance or slot.loading):
                del self.slots[key]
        kept = {name: version for name, version in self.serving.items() if (name, version) in self.slots}
        self.serving = catalogue.serving | kept
        self._choose_defaults()

    def serve(self, slot: Slot) -> Slot | None:
        """Let the bare name mean *slot*; returns the other version that it meant."""
        name, version = slot.entry.name, slot.entry.version
        before = self.serving.get(name)
        self.serving[name] = version
        self._choose_defaults()
        return self.slots.get((name, before)) if before not in (None, version) else None

    def named(self, name: str, task: Task | None = None) -> Slot:
        """The slot of `name` or `name@version`.

        Raises:
            NotFound: there is none, or none for *task*; lists the names there are.
        """
        bare, version = split_id(name)
        number = self.serving.get(bare, -1) if version is None else version
        slot = self.slots.get((bare, number))
        if slot is None:
            raise self.unknown(f"There is no model {name!r}.", task)
        if task and slot.task not in (task, None):
            raise self.unknown(f"{name!r} is a model for {slot.task}, not for {task}.", task)
        return slot

    def default(self, task: Task) -> Slot:
        """The slot that serves *task* where a request names no model.

        Raises:
            NotFound: no model does.
        """
        if task not in self.defaults:
            raise self.unknown(f"There is no model for {task}.", task)
        return self.named(self.defaults[task])

    def unknown(self, text: str, task: Task | None = None) -> NotFound:
        tasks = (task,) if task else TASKS
        there = sorted(slot.entry.name for slot in self.in_service() if slot.task in tasks)
        return NotFound(f"{text} There is: {', '.join(there) or 'none'}.", supported=there)

    def in_service(self) -> Iterator[Slot]:
        """What the bare names mean."""
        return (self.slots[item] for item in self.serving.items())

    def statuses(self) -> list[ModelStatus]:
        leaving = {id(slot) for slot, _ in self.retired}
        known = [self._status(slot, instance, "draining") for slot, instance in self.retired]
        known += [
            self._status(slot, slot.instance, slot.state)
            for slot in self.slots.values()
            if slot.instance or slot.loading or id(slot) not in leaving
        ]
        return sorted(known, key=lambda one: (one.task or "", one.name, one.version, one.state == "draining"))

    def _choose_defaults(self) -> None:
        self.defaults = default_names(slot.entry for slot in self.in_service())

    def _status(self, slot: Slot, instance: Instance | None, state: State) -> ModelStatus:
        entry = slot.entry
        manifest = instance.model.manifest if instance else entry.manifest
        serving = self.serving.get(entry.name) == entry.version and state != "draining"
        return ModelStatus(
            name=entry.name,
            version=entry.version,
            task=manifest.task if manifest else None,
            serving=serving,
            default=serving and manifest is not None and self.defaults.get(manifest.task) == entry.name,
            state=state,
            reason=slot.reason,
            backend=instance.model.backend if instance else None,
            provider=instance.model.provider if instance else None,
            device=instance.loaded.backend.device if instance else None,
            precision=instance.model.precision if instance else None,
            batching=instance.model.batching if instance else None,
            file_bytes=instance.loaded.file_bytes if instance else None,
            gain=instance.loaded.gain if instance else None,
            tuned=instance.loaded.is_tuned if instance else False,
            details=instance.loaded.backend.details if instance else {},
            manifest=manifest,
            folder=entry.folder,
        )
