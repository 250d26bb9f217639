"""The protocol that every backend satisfies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from service.values import Arrays

Device = Literal["auto", "cpu", "cuda"]
"""Where a graph is asked to run: auto takes a GPU where the backend has one."""
Place = Literal["cpu", "cuda"]
"""Where it really does."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a graph; an axis is a size, or a name where it varies."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class BackendError(Exception):
    """The runtime refused or failed; the text is for the log, never for a client."""


class BackendOutOfMemory(BackendError):
    """The runtime could not allocate what this batch needs; a smaller one may do."""


class Backend(Protocol):
    """A loaded graph. `run` may be called from several threads at once.

    Attributes:
        kind: "onnx" or "torchscript".
        provider: what really runs it, such as "CPUExecutionProvider" or "cuda:0".
        device: "cpu", where a run costs its thread's own time, or "cuda", where the thread waits.
        inputs, outputs: the tensors of the graph, outputs empty where the runtime cannot tell.
    """

    kind: str
    provider: str
    device: Place
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def run(self, inputs: Arrays) -> Arrays:
        """Compute one batch, in the calling thread.

        Raises:
            BackendOutOfMemory: no room for this batch.
            BackendError: anything else that went wrong.
        """
        ...

    def close(self) -> None: ...
