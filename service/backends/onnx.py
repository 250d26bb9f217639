"""ONNX graphs through onnxruntime: one thread a run, as the pool gives each core a run of its own."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import onnxruntime

from service.backends.base import BackendError, BackendOutOfMemory, Device, Place, Tensor
from service.values import Arrays

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # the exhaustive one tries every algorithm anew for every new length
    "cudnn_conv_use_max_workspace": "1",
    "arena_extend_strategy": "kSameAsRequested",  # doubling overshoots after one huge batch
    "do_copy_in_default_stream": "1",
    "use_tf32": "0",  # with it, answers differ from those of a CPU by more than a batch's neighbours may make them
}
SHRINK_BYTES = 2 << 20
"""Runs with larger inputs give their memory back; otherwise one long batch keeps it for ever."""
NO_MEMORY = re.compile(r"bad_?alloc|failed to allocate|out of memory|BFCArena|CUDA_ERROR_OUT_OF_MEMORY", re.IGNORECASE)
FATAL_ONLY = 4

logger = logging.getLogger("earmark.engine")


class OnnxBackend:
    """A graph in an onnxruntime session. See `service.backends.base.Backend`.

    Args:
        path: the `.onnx` file.
        device: "auto" takes a GPU where onnxruntime has one, "cuda" insists on it.

    Raises:
        BackendError: the file is no graph that runs here, or there is no such device.
    """

    kind = "onnx"

    def __init__(self, path: Path, device: Device = "cpu") -> None:
        self._session: onnxruntime.InferenceSession | None = _open(path, device)
        self.provider: str = self._session.get_providers()[0]
        self.device: Place = "cuda" if self.provider == CUDA else "cpu"
        self.inputs = tuple(_tensor(node) for node in self._session.get_inputs())
        self.outputs = tuple(_tensor(node) for node in self._session.get_outputs())
        self._names = [tensor.name for tensor in self.outputs]
        self._shrink = onnxruntime.RunOptions()
        arena = "gpu:0" if self.provider == CUDA else "cpu:0"
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)

    def run(self, inputs: Arrays) -> Arrays:
        session = self._session
        if session is None:
            raise BackendError("the session is closed")
        large = sum(array.nbytes for array in inputs.values()) > SHRINK_BYTES
        try:
            outputs = session.run(self._names, inputs, self._shrink if large else None)
        except Exception as error:
            raise _translated(error) from error
        return dict(zip(self._names, (np.asarray(output) for output in outputs), strict=True))

    def close(self) -> None:
        # A run in another thread holds the session itself: it ends in peace.
        self._session = None


def _open(path: Path, device: Device) -> onnxruntime.InferenceSession:
    has_cuda = CUDA in onnxruntime.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise BackendError("device cuda was asked for, but this onnxruntime has no CUDA provider: use onnxruntime-gpu")
    if device == "cpu" or not has_cuda:
        return _session(path, [CPU])
    # CUDA's libraries come as wheels, where the loader does not look by itself.
    onnxruntime.preload_dlls()
    try:
        session = _session(path, [(CUDA, CUDA_OPTIONS), CPU])
        if session.get_providers()[0] != CUDA:
            raise BackendError("onnxruntime fell back to the CPU: its CUDA libraries do not load")
    except BackendError as error:
        if device == "cuda":
            raise
        logger.warning("no GPU for %s: %s", path.name, error, extra={"event": "gpu_refused", "file": path.name})
        return _session(path, [CPU])
    return session


def _session(path: Path, providers: list[str | tuple[str, dict[str, str]]]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if providers != [CPU]:
        # Weights outside the arena, so that what a large batch took can be given back.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # Patterns are planned per input shape and kept: lengths that never repeat would only fill memory.
    options.enable_mem_pattern = False
    options.log_severity_level = FATAL_ONLY
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise _translated(error) from error


def _translated(error: Exception) -> BackendError:
    text = str(error)
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        return BackendOutOfMemory(text)
    return BackendError(text)


def _tensor(node: onnxruntime.NodeArg) -> Tensor:
    dtype = re.sub(r"^tensor\((.*)\)$", r"\1", node.type)
    names = {"float": "float32", "double": "float64"}
    shape = tuple(axis if isinstance(axis, int | str) else "?" for axis in node.shape)
    return Tensor(node.name, names.get(dtype, dtype), shape)
