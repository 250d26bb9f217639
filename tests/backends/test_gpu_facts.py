"""What the driver's libraries say of a GPU, and what onnxruntime is told to do with one."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from service.backends.base import Options
from service.backends.gpu import LIBCUDA, details, find_gpu
from service.backends.onnx import cuda_options
from service.values import Gpu

GPU = Gpu("Some GPU", 80 << 30, 70 << 30, "580.1")


class Driver:
    """Both libraries in one: calls by name, filled in as the real ones fill them in."""

    def __init__(self, devices: int = 1, free_told: bool = True) -> None:
        self.devices, self.free_told = devices, free_told

    def cuInit(self, flags: int) -> int:
        return 0 if self.devices else 100

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"Some GPU"
        return 0

    def cuDeviceTotalMem_v2(self, total: Any, device: Any) -> int:
        total._obj.value = 80 << 30
        return 0

    def cuDeviceGetPCIBusId(self, bus: Any, size: int, device: Any) -> int:
        bus.value = b"0000:01:00.0"
        return 0

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        return 0

    def nvmlSystemGetDriverVersion(self, version: Any, size: int) -> int:
        version.value = b"580.1"
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus: bytes, handle: Any) -> int:
        return 0 if bus == b"0000:01:00.0" else 1

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.free = 70 << 30
        return 0 if self.free_told else 1


def test_gpu_is_told_by_its_driver() -> None:
    assert find_gpu(lambda name: Driver()) == GPU
    assert find_gpu(lambda name: Driver(free_told=False)) == Gpu("Some GPU", 80 << 30, None, "580.1")


def test_without_driver_or_device_there_is_none() -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    assert find_gpu(missing) is None
    assert find_gpu(lambda name: Driver(devices=0)) is None


def test_without_management_library_the_rest_is_told() -> None:
    def only_cuda(name: str) -> Any:
        if name != LIBCUDA:
            raise OSError(name)
        return Driver()

    assert find_gpu(only_cuda) == Gpu("Some GPU", 80 << 30, None, None)


def test_real_libraries_are_asked_without_harm() -> None:
    """Whatever is there: a device, or none."""
    found = find_gpu(ctypes.CDLL)
    assert found is None or found.memory_bytes > 0


def test_details_leave_out_what_is_not_known() -> None:
    assert details(GPU) == {"gpu": "Some GPU", "gpu_memory_bytes": 80 << 30, "driver": "580.1"}
    assert details(Gpu("Some GPU", 1, None, None)) == {"gpu": "Some GPU", "gpu_memory_bytes": 1}
    assert details(None) == {}


@pytest.mark.parametrize(
    ("options", "gpu", "limit"),
    [
        (Options(), GPU, str(round(0.7 * (80 << 30)))),
        (Options(gpu_memory_bytes=1 << 30), GPU, str(1 << 30)),
        (Options(gpu_memory_bytes=1 << 30), None, str(1 << 30)),
        (Options(), None, None),
    ],
)
def test_memory_of_a_gpu_is_always_bounded_where_its_size_is_known(
    options: Options, gpu: Gpu | None, limit: str | None
) -> None:
    assert cuda_options(options, gpu).get("gpu_mem_limit") == limit


def test_exactness_is_said_not_left_to_the_runtime() -> None:
    """onnxruntime's own default would multiply with ten bits of mantissa."""
    assert cuda_options(Options(), GPU)["use_tf32"] == "0"
    assert cuda_options(Options(tf32=True), GPU)["use_tf32"] == "1"
    assert all(isinstance(value, str) for value in cuda_options(Options(), GPU).values())
