"""TorchScript programs through torch, which is imported only when one is opened: the core install has none.

A program is code: whoever opens one has made sure that its manifest is trusted and its sum is right.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from service.backends.base import BackendError, BackendOutOfMemory, Device, Place, Tensor
from service.values import Arrays

if TYPE_CHECKING:
    import torch


class TorchScriptBackend:
    """A scripted or traced module with `forward(waveform, lengths)`. See `service.backends.base.Backend`.

    Args:
        path: the `.pt` file.
        device: "auto" takes a GPU where torch sees one, "cuda" insists on it.
        output_names: of the tensors in the tuple that it gives, in order; a dict or a named tuple names its own.

    Raises:
        BackendError: torch is missing, the file is no program, or there is no such device.
    """

    kind = "torchscript"

    def __init__(self, path: Path, device: Device = "cpu", output_names: Sequence[str] = ()) -> None:
        try:
            import torch
        except ImportError as error:
            raise BackendError("TorchScript exports need torch: pip install earmark[torch]") from error
        self._torch = torch
        self._output_names = tuple(output_names)
        torch.set_num_threads(1)
        with contextlib.suppress(RuntimeError):  # it may be set only once a process
            torch.set_num_interop_threads(1)
        self.provider = _device(torch.cuda.is_available(), device)
        self.device: Place = "cpu" if self.provider == "cpu" else "cuda"
        if self.device == "cuda":
            # As on a CPU: rounding to 10 bits would change answers by more than neighbours in a batch may.
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            # A compiled program cannot have its recurrent weights put in one piece; cuDNN does so for each run.
            warnings.filterwarnings("ignore", message="RNN module weights are not part")
        self._module: torch.jit.ScriptModule | None = self._load(path)
        schema = self._module.forward.schema
        self.inputs = tuple(Tensor(argument.name, "?", ()) for argument in schema.arguments[1:])
        self.outputs: tuple[Tensor, ...] = ()

    def run(self, inputs: Arrays) -> Arrays:
        module = self._module
        if module is None:
            raise BackendError("the program is closed")
        try:
            with self._torch.inference_mode():
                outputs = module(*(self._tensor(inputs[argument.name]) for argument in self.inputs))
        except self._torch.OutOfMemoryError as error:
            self._torch.cuda.empty_cache()
            raise BackendOutOfMemory(str(error)) from error
        except Exception as error:
            text = str(error)
            raise (BackendOutOfMemory if "not enough memory" in text else BackendError)(text) from error
        return {name: tensor.cpu().numpy() for name, tensor in self._named(outputs).items()}

    def close(self) -> None:
        self._module = None

    def _load(self, path: Path) -> torch.jit.ScriptModule:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                return self._torch.jit.load(str(path), map_location=self.provider).eval()
        except Exception as error:
            raise BackendError(f"no TorchScript program: {error}") from error

    def _named(self, outputs: object) -> Mapping[str, torch.Tensor]:
        if isinstance(outputs, Mapping):
            return outputs
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        names = getattr(outputs, "_fields", self._output_names)
        if len(tensors) > len(names) or not all(isinstance(tensor, self._torch.Tensor) for tensor in tensors):
            raise BackendError(f"the program gave {len(tensors)} values; the names known are {', '.join(names)}")
        return dict(zip(names, tensors, strict=False))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        # torch warns of memory it could write to by mistake.
        return self._torch.from_numpy(array if array.flags.writeable else array.copy()).to(self.provider)


def _device(has_cuda: bool, device: Device) -> str:
    if device == "cuda" and not has_cuda:
        raise BackendError("device cuda was asked for, but torch sees no GPU")
    return "cuda:0" if has_cuda and device != "cpu" else "cpu"
