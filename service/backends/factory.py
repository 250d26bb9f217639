"""The one place that chooses a backend by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from service.backends.base import Backend, Device
from service.backends.onnx import OnnxBackend
from service.backends.torchscript import TorchScriptBackend


def open_backend(
    path: Path,
    backend: Literal["onnx", "torchscript"],
    device: Device = "auto",
    output_names: Sequence[str] = (),
) -> Backend:
    """Load the graph in *path*.

    Args:
        output_names: of a TorchScript program that gives a tuple; other files name their outputs themselves.

    Raises:
        BackendError: it does not run here; the text says why.
    """
    if backend == "onnx":
        return OnnxBackend(path, device)
    return TorchScriptBackend(path, device, output_names)
