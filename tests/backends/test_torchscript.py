"""TorchScript programs: dicts, tuples and single tensors get their names; torch is needed only here."""

from __future__ import annotations

import builtins
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from service.backends.base import BackendError
from service.backends.factory import open_backend
from service.backends.torchscript import TorchScriptBackend
from service.values import Arrays

torch = pytest.importorskip("torch")

NAMES = ("score", "frames", "frame_lengths")


class Dict(torch.nn.Module):
    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"enhanced": waveform * 0.5, "frame_lengths": lengths // 2}


class Tuple(torch.nn.Module):
    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return waveform.mean(1), waveform * 2.0


class Single(torch.nn.Module):
    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return waveform * 0.5


class Number(torch.nn.Module):
    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> int:
        return waveform.size(0)


class Fails(torch.nn.Module):
    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return waveform.reshape(3, -1, 7)


def saved(module: torch.nn.Module, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), str(folder / "model.pt"))
    return folder / "model.pt"


def inputs() -> Arrays:
    return {"waveform": np.ones((2, 10), np.float32), "lengths": np.array([10, 8])}


def test_dict_names_its_own_outputs(tmp_path: Path) -> None:
    backend = open_backend(saved(Dict(), tmp_path), "torchscript", "cpu")

    outputs = backend.run(inputs())

    assert (backend.kind, backend.provider) == ("torchscript", "cpu")
    assert [tensor.name for tensor in backend.inputs] == ["waveform", "lengths"]
    np.testing.assert_array_equal(outputs["enhanced"], np.full((2, 10), 0.5))
    assert outputs["frame_lengths"].tolist() == [5, 4]


@pytest.mark.parametrize(("module", "names"), [(Tuple(), ["score", "frames"]), (Single(), ["score"])])
def test_unnamed_outputs_are_named_in_order(tmp_path: Path, module: torch.nn.Module, names: list[str]) -> None:
    backend = TorchScriptBackend(saved(module, tmp_path), "cpu", NAMES)

    assert list(backend.run(inputs())) == names


@pytest.mark.parametrize(("module", "names"), [(Tuple(), ("score",)), (Single(), ()), (Number(), NAMES)])
def test_outputs_that_nothing_names_are_refused(
    tmp_path: Path, module: torch.nn.Module, names: tuple[str, ...]
) -> None:
    backend = TorchScriptBackend(saved(module, tmp_path), "cpu", names)

    with pytest.raises(BackendError, match="names known"):
        backend.run(inputs())


def test_read_only_arrays_are_taken(tmp_path: Path) -> None:
    backend = TorchScriptBackend(saved(Single(), tmp_path), "cpu", NAMES)
    given = inputs()
    given["waveform"].flags.writeable = False

    assert backend.run(given)["score"].shape == (2, 10)


def test_failure_and_close_are_backend_errors(tmp_path: Path) -> None:
    backend = TorchScriptBackend(saved(Fails(), tmp_path), "cpu", NAMES)

    with pytest.raises(BackendError):
        backend.run(inputs())
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run(inputs())


def test_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"not a program")

    with pytest.raises(BackendError, match="no TorchScript program"):
        TorchScriptBackend(tmp_path / "model.pt")


def test_one_thread_a_run(tmp_path: Path) -> None:
    TorchScriptBackend(saved(Single(), tmp_path), "cpu", NAMES)

    assert torch.get_num_threads() == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no GPU"):
        TorchScriptBackend(saved(Single(), tmp_path), "cuda")


def test_missing_torch_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core install has no torch: the sentence says how to get it."""
    real = builtins.__import__

    def without_torch(name: str, *rest: Any, **more: Mapping[str, object]) -> ModuleType:
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    monkeypatch.delitem(sys.modules, "torch")

    with pytest.raises(BackendError, match=r"pip install earmark\[torch\]"):
        TorchScriptBackend(tmp_path / "model.pt")
