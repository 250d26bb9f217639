"""What onnxruntime does behind our back, and what it does not do unasked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from service.backends.base import BackendError
from service.backends.onnx import CPU, CUDA, OnnxBackend

ROOT = Path(__file__).parent.parent.parent


def test_it_reports_to_nobody(tmp_path: Path) -> None:
    """Left alone it writes a device id below the home folder when it is imported; CI variables would hide that."""
    command = [sys.executable, "-c", "import service.backends.onnx"]

    subprocess.run(command, cwd=ROOT, env={"HOME": str(tmp_path)}, check=True)

    assert list(tmp_path.rglob("*")) == []


def test_libraries_from_wheels_are_loaded_for_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: loaded.append("cuda"))

    with pytest.raises(BackendError):
        OnnxBackend(tmp_path / "missing.onnx", "cuda")

    assert loaded == ["cuda"]
