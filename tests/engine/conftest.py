"""A pool and a queue in front of a fake backend, taken down after each test."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from service.clock import ManualClock
from service.engine.cost import CostModel
from service.engine.dispatch import Dispatcher
from service.engine.lane import LaneKey, LanePolicy
from service.engine.workers import Workers
from service.metrics import Metrics
from tests.fakes import FakeBackend

RATE = 1000
LANE = LaneKey("fake@1")


def cheap_together() -> CostModel:
    """A table by which sharing a batch always pays: four items cost as much as one."""
    return CostModel(0.001, [1, 64], [0.01, 0.01])


class Bench:
    """One worker or more, one lane, one fake backend."""

    def __init__(self, workers: int = 1, queue_s: float = 60.0) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.workers = Workers(workers, self.clock, self.metrics)
        self.dispatcher = Dispatcher(self.workers, self.metrics, self.clock, queue_s)
        self.backend = FakeBackend()
        self.open(LANE, self.backend)

    def open(self, lane: LaneKey, backend: FakeBackend, max_items: int = 64) -> None:
        policy = LanePolicy("padded", max_items, 1000.0)
        self.dispatcher.open_lane(lane, backend, RATE, policy, cheap_together())

    def block(self) -> None:
        """Let every run from now on wait for `release`."""
        self.backend.gate = threading.Event()
        self.backend.entered = threading.Semaphore(0)

    def release(self, then_block: bool = False) -> None:
        """Let the run that waits go on; those after it too, unless they are to be blocked again."""
        gate = self.backend.gate
        assert gate is not None
        if then_block:
            self.block()
        gate.set()

    def computed(self) -> list[int]:
        """The lengths of all items that were run, in order."""
        return [length for batch in self.backend.batches for length in batch]

    def queued(self, what: str) -> float:
        """What the gauge `earmark_queue_<what>` says."""
        value = self.metrics.registry.get_sample_value(f"earmark_queue_{what}", {"model": LANE.model})
        assert value is not None
        return value

    def count(self, end: str) -> float:
        return self.metrics.jobs.labels(LANE.model, end)._value.get()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.backend.let_go.set()
    if bench.backend.gate is not None:
        bench.backend.gate.set()
    bench.dispatcher.detach()
    bench.workers.stop()
