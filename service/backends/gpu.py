"""The graphics processor that CUDA programs get here: name, memory, driver.

Asks the driver's own libraries, which are there wherever a GPU can be used; needs no CUDA toolkit and no package.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from service.backends.base import Detail
from service.values import Gpu

LIBCUDA, LIBNVML = "libcuda.so.1", "libnvidia-ml.so.1"
TEXT_BYTES = 96

Load = Callable[[str], Any]


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def find_gpu(load: Load = ctypes.CDLL) -> Gpu | None:
    """The first device that CUDA shows this process, with `CUDA_VISIBLE_DEVICES` respected; None without one."""
    try:
        cuda = load(LIBCUDA)
        device, total = ctypes.c_int(), ctypes.c_size_t()
        name, bus = (ctypes.create_string_buffer(TEXT_BYTES) for _ in range(2))
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
            return None
        if cuda.cuDeviceGetName(name, TEXT_BYTES, device) or cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device):
            return None
        if cuda.cuDeviceGetPCIBusId(bus, TEXT_BYTES, device):
            bus.value = b""
    except (OSError, AttributeError):
        return None
    driver, free_bytes = _managed(bus.value, load)
    return Gpu(name.value.decode("utf-8", "replace"), total.value, free_bytes, driver)


@cache
def the_gpu() -> Gpu | None:
    """`find_gpu`, asked once: devices do not come and go, though their free memory does."""
    return find_gpu()


def details(gpu: Gpu | None) -> dict[str, Detail]:
    """What does not change while the process runs."""
    if gpu is None:
        return {}
    known: dict[str, Detail] = {"gpu": gpu.name, "gpu_memory_bytes": gpu.memory_bytes}
    return known | ({"driver": gpu.driver} if gpu.driver else {})


def _managed(bus: bytes, load: Load) -> tuple[str | None, int | None]:
    """Version of the driver, and free bytes of the device at *bus*, from the management library."""
    try:
        nvml = load(LIBNVML)
        if nvml.nvmlInit_v2():
            return None, None
        version, handle, memory = ctypes.create_string_buffer(TEXT_BYTES), ctypes.c_void_p(), _Memory()
        known = nvml.nvmlSystemGetDriverVersion(version, TEXT_BYTES) == 0
        found = nvml.nvmlDeviceGetHandleByPciBusId_v2(bus, ctypes.byref(handle)) == 0
        told = found and nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
        nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return None, None
    return version.value.decode("ascii", "replace") if known else None, memory.free if told else None
