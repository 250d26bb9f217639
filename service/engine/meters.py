"""What is counted about the jobs of one model. Each metric's child is looked up once, not for every job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from service.metrics import Metrics

End = Literal["done", "failed", "cancelled", "expired", "refused"]
Reason = Literal["fault", "memory"]
ENDS: tuple[End, ...] = ("done", "failed", "cancelled", "expired", "refused")
REASONS: tuple[Reason, ...] = ("fault", "memory")


class Meters:
    """The counters of one model.

    Args:
        queued: jobs that wait and the expected seconds of computing for them, asked when the metrics are read.
    """

    def __init__(self, metrics: Metrics, model: str, queued: Callable[[], tuple[int, float]]) -> None:
        metrics.queue_items.labels(model).set_function(lambda: queued()[0])
        metrics.queue_seconds.labels(model).set_function(lambda: queued()[1])
        self.wait_seconds = metrics.wait_seconds.labels(model)
        self.batch_items = metrics.batch_items.labels(model)
        self.batch_padding = metrics.batch_padding.labels(model)
        self.run_seconds = metrics.run_seconds.labels(model)
        self.ended = {end: metrics.jobs.labels(model, end) for end in ENDS}
        self.split = {reason: metrics.batches_split.labels(model, reason) for reason in REASONS}
