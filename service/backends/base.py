"""The protocol that every backend satisfies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from service.values import Arrays

Device = Literal["auto", "cpu", "cuda"]
"""Where a graph runs: auto takes a GPU where the backend has one."""


Detail = str | int | float | bool

CPU_SHRINK_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """How graphs run, whatever is in them.

    Attributes:
        shrink_bytes: on the CPU, runs with larger inputs give their memory back; otherwise one long batch keeps it.
        gpu_memory_bytes: most memory of a GPU for one model; 0 takes a share of what the device has.
        tf32: let a GPU multiply full precision with ten bits of mantissa: faster, and about 1e-3 off.
    """

    shrink_bytes: int = CPU_SHRINK_BYTES
    gpu_memory_bytes: int = 0
    tf32: bool = False


USUAL = Options()


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
        device: where that is, "cpu" or "cuda:0".
        details: what else an operator should know of that device and how it is used.
        inputs, outputs: the tensors of the graph, outputs empty where the runtime cannot tell.
    """

    kind: str
    provider: str
    device: str
    details: Mapping[str, Detail]
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
