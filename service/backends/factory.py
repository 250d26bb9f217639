"""The one place that chooses a backend by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from service.backends.base import Backend, Device
from service.backends.onnx import OnnxBackend
from service.backends.torchscript import TorchScriptBackend

BACKENDS: dict[str, Callable[[Path, Device], Backend]] = {"onnx": OnnxBackend, "torchscript": TorchScriptBackend}


def open_backend(path: Path, backend: Literal["onnx", "torchscript"], device: Device = "auto") -> Backend:
    """Load the graph in *path*.

    Raises:
        BackendError: it does not run here; the text says why.
    """
    return BACKENDS[backend](path, device)
