"""Stand-ins that satisfy the service's own protocols, in plain numpy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np

from service.backends.base import BackendError, BackendOutOfMemory, Detail, Tensor
from service.values import Arrays

POISON = 0.666
"""A waveform whose first sample is this makes a `FakeBackend` fail."""
NOT_A_NUMBER = 0.555
"""And this makes the item's own answer NaN."""
HANG = 0.444
"""And this makes the run wait for `let_go`."""


class FakeBackend:
    """Halves its input like an enhancer, and fails in every way on demand.

    Attributes:
        most_area: samples of a batch, padding included, above which it runs out of memory.
        wrong_count: gives one row too few, for batches of several items.
        gate: while set to an event, every run waits for it.
        let_go: set to end the runs that hang.
        batches: the lengths of the items of every run, in order.
    """

    kind = "onnx"
    provider = "FakeCPU"
    device = "cpu"
    details: Mapping[str, Detail] = {}
    inputs = (Tensor("waveform", "float32", ("batch", "samples")), Tensor("lengths", "int64", ("batch",)))
    outputs = (Tensor("enhanced", "float32", ("batch", "samples")),)

    def __init__(self, most_area: float = float("inf"), wrong_count: bool = False) -> None:
        self.most_area = most_area
        self.wrong_count = wrong_count
        self.gate: threading.Event | None = None
        self.let_go = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.closed = False
        self.on_run: Callable[[Arrays], None] = lambda inputs: None

    def run(self, inputs: Arrays) -> Arrays:
        waveform, lengths = inputs["waveform"].astype(np.float32), inputs["lengths"]
        self.batches.append([int(length) for length in lengths])
        self.entered.release()
        self.on_run(inputs)
        if self.gate is not None:
            self.gate.wait(10)
        marks = np.round(waveform[:, 0], 3)
        if (marks == np.float32(HANG)).any():
            self.let_go.wait(10)
        if waveform.size > self.most_area:
            raise BackendOutOfMemory(f"{waveform.size} samples")
        if (marks == np.float32(POISON)).any():
            raise BackendError("poisoned")
        enhanced = waveform * np.float32(0.5)
        enhanced[marks == np.float32(NOT_A_NUMBER)] = np.nan
        return {"enhanced": enhanced[:-1] if self.wrong_count and len(enhanced) > 1 else enhanced}

    def close(self) -> None:
        self.closed = True
