"""ONNX graphs through onnxruntime: one thread a run, as the pool gives each core a run of its own."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from service.backends.base import USUAL, BackendError, BackendOutOfMemory, Detail, Device, Options, Tensor
from service.backends.gpu import details, the_gpu
from service.values import Arrays, Gpu

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
GPU_SHRINK_BYTES = 64 << 20
"""As `Options.shrink_bytes`, on a GPU: giving back waits for the whole device, so only the rarest batches do."""
GPU_MEMORY_SHARE = 0.7
"""Of the device's memory, what one model may hold where the settings say nothing."""
NO_MEMORY = re.compile(
    r"bad_?alloc|failed to allocate|out of memory|BFCArena|smaller than requested bytes|"
    r"CUDA_ERROR_OUT_OF_MEMORY|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
FATAL_ONLY = 4

Providers = list[str | tuple[str, dict[str, str]]]

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

    def __init__(self, path: Path, device: Device = "cpu", options: Options = USUAL) -> None:
        self._session: onnxruntime.InferenceSession | None = _open(path, device, options)
        self.provider: str = self._session.get_providers()[0]
        on_gpu = self.provider == CUDA
        self.device = "cuda:0" if on_gpu else "cpu"
        self.details: Mapping[str, Detail] = _gpu_details(self._session, options) if on_gpu else {}
        self.inputs = tuple(_tensor(node) for node in self._session.get_inputs())
        self.outputs = tuple(_tensor(node) for node in self._session.get_outputs())
        self._names = [tensor.name for tensor in self.outputs]
        self._shrink_bytes = GPU_SHRINK_BYTES if on_gpu else options.shrink_bytes
        self._shrink = onnxruntime.RunOptions()
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0" if on_gpu else "cpu:0")

    def run(self, inputs: Arrays) -> Arrays:
        session = self._session
        if session is None:
            raise BackendError("the session is closed")
        large = sum(array.nbytes for array in inputs.values()) > self._shrink_bytes
        try:
            outputs = session.run(self._names, inputs, self._shrink if large else None)
        except Exception as error:
            raise _translated(error) from error
        return dict(zip(self._names, (np.asarray(output) for output in outputs), strict=True))

    def close(self) -> None:
        # A run in another thread holds the session itself: it ends in peace.
        self._session = None


def cuda_options(options: Options, gpu: Gpu | None) -> dict[str, str]:
    """What the CUDA provider is told (onnxruntime.ai, "CUDA Execution Provider")."""
    told = {
        "device_id": "0",
        # The default, EXHAUSTIVE, tries every algorithm anew for each shape, and lengths are seldom the same.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        # Shapes come in buckets: doubling would hold twice the largest for nothing.
        "arena_extend_strategy": "kSameAsRequested",
        # Copies in a stream of their own may overtake the run that reads them.
        "do_copy_in_default_stream": "1",
        "use_tf32": str(int(options.tf32)),
    }
    limit = options.gpu_memory_bytes or (round(GPU_MEMORY_SHARE * gpu.memory_bytes) if gpu else 0)
    return told | ({"gpu_mem_limit": str(limit)} if limit else {})


def _open(path: Path, device: Device, options: Options) -> onnxruntime.InferenceSession:
    has_cuda = CUDA in onnxruntime.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise BackendError("device cuda was asked for, but this onnxruntime has no CUDA provider: use onnxruntime-gpu")
    if device == "cpu" or not has_cuda:
        return _session(path, [CPU])
    # CUDA's libraries come as wheels, where the loader does not look by itself.
    onnxruntime.preload_dlls()
    try:
        session = _session(path, [(CUDA, cuda_options(options, the_gpu())), CPU])
        if session.get_providers()[0] != CUDA:
            raise BackendError("onnxruntime fell back to the CPU: its CUDA libraries do not load, or there is no GPU")
    except BackendError as error:
        if device == "cuda":
            raise
        logger.warning("no GPU for %s: %s", path.name, error, extra={"event": "gpu_refused", "file": path.name})
        return _session(path, [CPU])
    return session


def _session(path: Path, providers: Providers) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Patterns are planned per input shape and kept: lengths that never repeat would only fill memory.
    options.enable_mem_pattern = False
    options.log_severity_level = FATAL_ONLY
    if providers != [CPU]:
        # Weights inside the arena would keep its regions from ever being given back.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise _translated(error) from error


def _gpu_details(session: onnxruntime.InferenceSession, options: Options) -> dict[str, Detail]:
    """The device, and how many of the graph's nodes run on it: some that only count shapes belong on the CPU."""
    found = details(the_gpu()) | {"tf32": options.tf32}
    if hasattr(session, "get_provider_graph_assignment_info"):
        nodes = Counter[str]()
        for part in session.get_provider_graph_assignment_info():
            nodes[part.ep_name] += len(part.get_nodes())
        found |= {"nodes_on_gpu": nodes[CUDA], "nodes_on_cpu": nodes[CPU]}
    return found


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
