"""The one place that chooses a backend by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from service.backends.base import USUAL, Backend, Device, Options
from service.backends.onnx import OnnxBackend
from service.backends.torchscript import TorchScriptBackend


def open_backend(
    path: Path,
    backend: Literal["onnx", "torchscript"],
    device: Device = "auto",
    output_names: Sequence[str] = (),
    options: Options = USUAL,
) -> Backend:
    """Load the graph in *path*.

    Args:
        output_names: of a TorchScript program that gives a tuple; other files name their outputs themselves.

    Raises:
        BackendError: it does not run here; the text says why.
    """
    if backend == "onnx":
        return OnnxBackend(path, device, options)
    return TorchScriptBackend(path, device, output_names, options)
