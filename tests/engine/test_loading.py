"""From a folder to a graph that is ready: the file chosen, sums, trust, contract, batching, cost."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.backends.base import USUAL, Backend, BackendError, Device, Options, Tensor
from service.backends.factory import open_backend
from service.engine import probe
from service.engine.loading import Loaded, load
from service.engine.manifest import read_manifest
from service.engine.repository import BadModel
from service.values import TASKS, Arrays, Task
from tests.fakes import FakeBackend
from tests.models import make_graph, make_model, pack, to_toml


def loaded(folder: Path) -> Loaded:
    return load(folder, read_manifest(folder), "cpu")


def file_table(folder: Path, path: str, **more: object) -> dict[str, object]:
    digest = hashlib.sha256((folder / path).read_bytes()).hexdigest()
    return {"path": path, "backend": "onnx", "sha256": digest} | more


def rewrite(folder: Path, **changes: object) -> Path:
    """Change keys of a model's manifest in place."""
    manifest = read_manifest(folder).model_dump(mode="json", exclude_defaults=True)
    (folder / "model.toml").write_text(to_toml(manifest | changes), "utf-8")
    return folder


def mean_over_padding() -> bytes:
    """An enhancer that takes each item's mean off, padding included: not to be batched with unlike lengths."""
    nodes = [
        helper.make_node("ReduceMean", ["waveform"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["waveform", "mean"], ["enhanced"]),
    ]
    return enhancer(nodes)


def scaled_by_the_loudest() -> bytes:
    """An enhancer whose scale is the whole batch's peak, as in dynamic int8: not to be batched at all."""
    nodes = [
        helper.make_node("Abs", ["waveform"], ["sizes"]),
        helper.make_node("ReduceMax", ["sizes"], ["peak"], keepdims=1),
        helper.make_node("Div", ["waveform", "peak"], ["enhanced"]),
    ]
    return enhancer(nodes)


def enhancer(nodes: list[onnx.NodeProto], rank: Sequence[str] = ("batch", "samples")) -> bytes:
    inputs = [
        helper.make_tensor_value_info("waveform", TensorProto.FLOAT, list(rank)),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("enhanced", TensorProto.FLOAT, list(rank))]
    outputs.append(helper.make_tensor_value_info("seen", TensorProto.INT64, ["batch"]))
    seen = helper.make_node("Identity", ["lengths"], ["seen"])
    return pack(helper.make_graph([*nodes, seen], "g", inputs, outputs))


def three_axes() -> bytes:
    return enhancer([helper.make_node("Identity", ["waveform"], ["enhanced"])], ["batch", "samples", "channels"])


@pytest.mark.parametrize("task", TASKS)
def test_good_model_loads_as_declared(tmp_path: Path, task: Task) -> None:
    ready = loaded(make_model(tmp_path, task))

    assert ready.policy.mode == "padded"
    assert ready.note is None
    assert ready.file_bytes == (tmp_path / ready.manifest.name / "1" / "model.onnx").stat().st_size
    assert 0 < ready.cost.cost(1, 1.0) < ready.cost.cost(2, 2.0) < 10


@pytest.mark.parametrize(
    ("graph", "declared", "true"),
    [
        (mean_over_padding(), "padded", "alone"),
        (mean_over_padding(), "equal", "equal"),
        (scaled_by_the_loudest(), "padded", "alone"),
        (scaled_by_the_loudest(), "equal", "alone"),
        (scaled_by_the_loudest(), "alone", "alone"),
        (make_graph("enhance"), "padded", "padded"),
    ],
)
def test_declared_batching_is_held_against_the_graph(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, graph: bytes, declared: str, true: str
) -> None:
    """A model whose answers depend on its neighbours runs alone, and the log and the note say so."""
    folder = make_model(tmp_path, "enhance", graph=graph, batching={"mode": declared})

    with caplog.at_level(logging.WARNING, "earmark.engine"):
        ready = loaded(folder)

    assert ready.policy.mode == true
    assert (declared != true) == ("neighbours" in caplog.text) == ("runs alone" in (ready.note or ""))
    assert ready.policy.max_items == (1 if true == "alone" else 8)


def test_file_says_its_own_batching(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "enhance")
    rewrite(folder, files=[file_table(folder, "model.onnx", batching="alone", precision="int8")])

    ready = loaded(folder)

    assert ready.policy.mode == "alone"
    assert ready.file.precision == "int8"


def test_next_file_serves_where_the_first_does_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_model(tmp_path, "enhance")
    (folder / "broken.onnx").write_bytes(b"\x3a\x00")
    rewrite(folder, files=[file_table(folder, "broken.onnx"), file_table(folder, "model.onnx")])

    with caplog.at_level(logging.WARNING, "earmark.engine"):
        ready = loaded(folder)

    assert ready.file.path == "model.onnx"
    assert "broken.onnx" in caplog.text
    assert "broken.onnx" in (ready.note or "")


def test_no_file_that_runs_says_why_for_each(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "enhance")
    (folder / "broken.onnx").write_bytes(b"\x3a\x00")
    rewrite(folder, files=[file_table(folder, "broken.onnx")])

    with pytest.raises(BadModel, match=r"none of its files runs here.*broken\.onnx"):
        loaded(folder)


def test_changed_graph_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "enhance")
    (folder / "model.onnx").write_bytes(make_graph("scene"))

    with pytest.raises(BadModel, match="sha256"):
        loaded(folder)


def test_program_loads_only_where_it_is_trusted(tmp_path: Path) -> None:
    """The opener is not even called."""
    folder = make_model(tmp_path, "enhance")
    rewrite(folder, files=[file_table(folder, "model.onnx", backend="torchscript")])

    def never(
        path: Path, backend: str, device: Device = "auto", output_names: Sequence[str] = (), options: Options = USUAL
    ) -> Backend:
        raise AssertionError("opened")

    with pytest.raises(BadModel, match="trusted"):
        load(folder, read_manifest(folder), "cpu", never)


def test_torchscript_serves_where_onnx_does_not(tmp_path: Path) -> None:
    """A trusted program stands in, with its tuple named in the contract's order."""
    torch = pytest.importorskip("torch")

    class Half(torch.nn.Module):
        def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return waveform * 0.5

    folder = make_model(tmp_path, "enhance")
    (folder / "broken.onnx").write_bytes(b"\x3a\x00")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Half()), str(folder / "model.pt"))
    program = file_table(folder, "model.pt", backend="torchscript")
    rewrite(folder, trusted=True, files=[file_table(folder, "broken.onnx"), program])

    ready = loaded(folder)

    assert (ready.backend.kind, ready.policy.mode) == ("torchscript", "padded")
    waveform = probe.noise(100, 0.5)
    np.testing.assert_array_equal(probe.run_batch(ready.backend, [waveform])[0]["enhanced"], waveform * 0.5)


def external(folder: Path, location: str) -> None:
    """Let the enhancer of *folder* keep its constant in another file."""
    model = onnx.load_from_string(make_graph("enhance"))
    (half,) = [tensor for tensor in model.graph.initializer if tensor.name == "half"]
    half.ClearField("raw_data")
    half.data_location = TensorProto.EXTERNAL
    half.external_data.add(key="location", value=location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def test_external_weights_load_when_they_are_listed(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "enhance")
    external(folder, "weights.bin")
    (folder / "weights.bin").write_bytes(np.float32(0.5).tobytes())
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("weights.bin",)}
    data = [{"path": name, "sha256": digest} for name, digest in sums.items()]
    rewrite(folder, files=[file_table(folder, "model.onnx", data=data)])

    ready = loaded(folder)

    np.testing.assert_array_equal(
        probe.run_batch(ready.backend, [np.ones(2000, np.float32)])[0]["enhanced"], np.full(2000, 0.5)
    )
    (folder / "weights.bin").write_bytes(np.float32(9.0).tobytes())
    with pytest.raises(BadModel, match="sha256"):
        loaded(folder)


@pytest.mark.parametrize("location", ["weights.bin", "../../../elsewhere", "/etc/hostname"])
def test_external_weights_that_are_not_listed_are_never_opened(tmp_path: Path, location: str) -> None:
    folder = make_model(tmp_path, "enhance")
    external(folder, location)
    rewrite(folder, files=[file_table(folder, "model.onnx")])

    with pytest.raises(BadModel, match="does not list"):
        loaded(folder)


@pytest.mark.parametrize(
    ("task", "graph", "says"),
    [
        ("quality", make_graph("enhance"), "must give score or scores"),
        ("enhance", make_graph("quality"), "must give enhanced"),
        ("enhance", three_axes(), "2 axes"),
    ],
)
def test_graph_of_another_task_is_refused(tmp_path: Path, task: Task, graph: bytes, says: str) -> None:
    with pytest.raises(BadModel, match=says):
        loaded(make_model(tmp_path, task, graph=graph))


def test_labels_must_match_the_classes(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "scene", labels=[{"name": "a"}, {"name": "b"}, {"name": "c"}])

    with pytest.raises(BadModel, match=r"clip of shape \[2\].*must be \[3\]"):
        loaded(folder)


def test_frames_need_their_step(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"\[frames\]"):
        loaded(make_model(tmp_path, "quality", frames=None))


def test_graph_that_fails_its_first_run_is_refused(tmp_path: Path) -> None:
    """A backend that opens and then raises is closed again."""
    folder = make_model(tmp_path, "enhance")
    backend = FakeBackend()

    def explode(inputs: Arrays) -> None:
        raise BackendError("no such kernel")

    backend.on_run = explode

    with pytest.raises(BadModel, match="no such kernel"):
        load(folder, read_manifest(folder), "cpu", lambda *args: backend)
    assert backend.closed


def test_every_shipped_helper_is_a_tensor_of_the_contract(tmp_path: Path) -> None:
    """The tiny models declare what the contract asks, by name and type."""
    for task in TASKS:
        folder = make_model(tmp_path, task)
        backend = open_backend(folder / "model.onnx", "onnx", "cpu")
        assert Tensor("waveform", "float32", ("batch", "samples")) in backend.inputs
        assert probe.contract_faults(backend, read_manifest(folder)) == []
