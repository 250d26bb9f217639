"""TorchScript programs through torch, which is imported only when one is opened: the core install has none.

A program is code: whoever opens one has made sure that its manifest is trusted and its sum is right.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from service.backends.base import USUAL, BackendError, BackendOutOfMemory, Detail, Device, Options, Tensor
from service.backends.gpu import details, the_gpu
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

    def __init__(
        self, path: Path, device: Device = "cpu", output_names: Sequence[str] = (), options: Options = USUAL
    ) -> None:
        try:
            import torch
        except ImportError as error:
            raise BackendError("TorchScript exports need torch: pip install earmark[torch]") from error
        self._torch = torch
        self._output_names = tuple(output_names)
        torch.set_num_threads(1)
        with contextlib.suppress(RuntimeError):  # it may be set only once a process
            torch.set_num_interop_threads(1)
        self.provider = self.device = _device(torch.cuda.is_available(), device)
        self.details: Mapping[str, Detail] = {}
        if self.device != "cpu":
            self.details = self._prepare_gpu(options)
            # A compiled program cannot have its recurrent weights put in one piece; cuDNN does so for each run.
            warnings.filterwarnings("ignore", message="RNN module weights are not part")
        self._threads = threading.local()
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
                return self._on_cpu(module, inputs) if self.device == "cpu" else self._on_gpu(module, inputs)
        except BackendError:
            raise
        except self._torch.OutOfMemoryError as error:
            self._torch.cuda.empty_cache()
            raise BackendOutOfMemory(str(error)) from error
        except Exception as error:
            text = str(error)
            raise (BackendOutOfMemory if "not enough memory" in text else BackendError)(text) from error

    def close(self) -> None:
        self._module = None

    def _on_cpu(self, module: torch.jit.ScriptModule, inputs: Arrays) -> Arrays:
        outputs = module(*(self._tensor(inputs[argument.name]) for argument in self.inputs))
        return {name: tensor.numpy() for name, tensor in self._named(outputs).items()}

    def _on_gpu(self, module: torch.jit.ScriptModule, inputs: Arrays) -> Arrays:
        """In the thread's own stream, so that one thread's copies go on beside another's kernels.

        torch keeps pinned memory for the next run of about the same size.
        """
        stream = self._stream()
        with self._torch.cuda.stream(stream):
            pinned = [self._tensor(inputs[argument.name]).pin_memory() for argument in self.inputs]
            outputs = module(*(tensor.to(self.device, non_blocking=True) for tensor in pinned))
            host = {name: self._fetched(tensor) for name, tensor in self._named(outputs).items()}
            stream.synchronize()
        return {name: tensor.numpy() for name, tensor in host.items()}

    def _fetched(self, tensor: torch.Tensor) -> torch.Tensor:
        """On its way to the host: there once the stream is done."""
        if tensor.device.type == "cpu":
            return tensor
        return self._torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

    def _stream(self) -> torch.cuda.Stream:
        if not hasattr(self._threads, "stream"):
            self._threads.stream = self._torch.cuda.Stream(self.device)
        stream: torch.cuda.Stream = self._threads.stream
        return stream

    def _prepare_gpu(self, options: Options) -> dict[str, Detail]:
        """What torch keeps for the whole process: exactness as asked, memory, and kernels for any length."""
        torch = self._torch
        torch.backends.cuda.matmul.allow_tf32 = options.tf32
        torch.backends.cudnn.allow_tf32 = options.tf32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            # Specialised for one length after another, a fused kernel would be built at almost every run.
            torch.jit.set_fusion_strategy([("DYNAMIC", 1)])
        if options.gpu_memory_bytes:
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, options.gpu_memory_bytes / total))
        return details(the_gpu()) | {"tf32": options.tf32}

    def _load(self, path: Path) -> torch.jit.ScriptModule:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                module: torch.jit.ScriptModule = self._torch.jit.load(str(path), map_location=self.device).eval()
        except Exception as error:
            raise BackendError(f"no TorchScript program: {error}") from error
        if self.device != "cpu":
            # The weights were copied in another stream than the ones that will read them.
            self._torch.cuda.synchronize()
        return module

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
        return self._torch.from_numpy(array if array.flags.writeable else array.copy())


def _device(has_cuda: bool, device: Device) -> str:
    if device == "cuda" and not has_cuda:
        raise BackendError("device cuda was asked for, but torch sees no GPU")
    return "cuda:0" if has_cuda and device != "cpu" else "cpu"
