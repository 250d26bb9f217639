"""ONNX graphs through the backend: what they say of themselves, what they compute, how they fail."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from service.backends.base import BackendError, BackendOutOfMemory, Tensor
from service.backends.factory import open_backend
from service.backends.onnx import OnnxBackend
from service.values import Arrays
from tests.models import make_graph, pack


@pytest.fixture
def scene(tmp_path: Path) -> OnnxBackend:
    (tmp_path / "model.onnx").write_bytes(make_graph("scene"))
    return OnnxBackend(tmp_path / "model.onnx")


def inputs(items: int = 2, samples: int = 1000) -> Arrays:
    waveform = np.random.default_rng(1).uniform(-1, 1, (items, samples)).astype(np.float32)
    return {"waveform": waveform, "lengths": np.full(items, samples)}


def test_graph_tells_its_tensors_and_what_runs_it(scene: OnnxBackend) -> None:
    assert (scene.kind, scene.provider) == ("onnx", "CPUExecutionProvider")
    assert scene.inputs == (
        Tensor("waveform", "float32", ("batch", "samples")),
        Tensor("lengths", "int64", ("batch",)),
    )
    assert Tensor("frames", "float32", ("batch", "time", 2)) in scene.outputs


def test_run_names_its_outputs(scene: OnnxBackend) -> None:
    outputs = scene.run(inputs())

    assert {name: array.shape for name, array in outputs.items()} == {
        "clip": (2, 2),
        "frames": (2, 4, 2),
        "frame_lengths": (2,),
    }


def test_large_runs_give_the_same_answers(scene: OnnxBackend) -> None:
    """Above the size from which memory is given back after the run, nothing else changes."""
    large = inputs(items=4, samples=200_000)
    rows = [scene.run({name: array[i : i + 1] for name, array in large.items()})["clip"][0] for i in range(4)]

    np.testing.assert_allclose(scene.run(large)["clip"], rows, atol=1e-6)


def test_several_threads_run_at_once(scene: OnnxBackend) -> None:
    expected = scene.run(inputs())["clip"]
    answers: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: answers.append(scene.run(inputs())["clip"])) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(answers) == 8
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)


def test_failed_run_says_why_and_the_next_one_works(scene: OnnxBackend) -> None:
    with pytest.raises(BackendError, match="waveform"):
        scene.run({"waveform": np.zeros(3, np.float32), "lengths": np.array([3])})

    assert scene.run(inputs())["clip"].shape == (2, 2)


def test_memory_that_is_not_there_is_told_apart(tmp_path: Path) -> None:
    """A graph that asks for 2**52 bytes runs out of memory; it is not broken."""
    nodes = [
        helper.make_node("Shape", ["waveform"], ["shape"]),
        helper.make_node("Constant", [], ["huge"], value_ints=[1, 2**50]),
        helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["enhanced"], keepdims=1),
    ]
    waveform = helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"])
    enhanced = helper.make_tensor_value_info("enhanced", TensorProto.FLOAT, ["batch", "samples"])
    (tmp_path / "model.onnx").write_bytes(pack(helper.make_graph(nodes, "huge", [waveform], [enhanced])))
    try:
        backend = OnnxBackend(tmp_path / "model.onnx")
    except BackendOutOfMemory:
        return

    with pytest.raises(BackendOutOfMemory):
        backend.run({"waveform": np.zeros((1, 3), np.float32)})


def test_closed_backend_refuses(scene: OnnxBackend) -> None:
    scene.close()

    with pytest.raises(BackendError, match="closed"):
        scene.run(inputs())


def test_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")

    with pytest.raises(BackendError):
        open_backend(tmp_path / "model.onnx", "onnx")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(make_graph("enhance"))

    with pytest.raises(BackendError, match="onnxruntime-gpu"):
        OnnxBackend(tmp_path / "model.onnx", "cuda")
    assert OnnxBackend(tmp_path / "model.onnx", "auto").provider == "CPUExecutionProvider"


def test_cuda_that_does_not_load_falls_back_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """onnxruntime falls back in silence; here the log says so, and who insists on a GPU gets none."""
    (tmp_path / "model.onnx").write_bytes(make_graph("enhance"))
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, ["CPUExecutionProvider"])
    )

    with caplog.at_level(logging.WARNING, "earmark.engine"):
        assert OnnxBackend(tmp_path / "model.onnx", "auto").provider == "CPUExecutionProvider"
    assert "fell back" in caplog.text
    with pytest.raises(BackendError, match="fell back"):
        OnnxBackend(tmp_path / "model.onnx", "cuda")
