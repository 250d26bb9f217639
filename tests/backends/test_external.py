"""Which files a graph keeps its weights in, wherever in the graph the tensor hides."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service.backends.base import BackendError
from service.backends.external import external_files
from tests.models import make_graph


def outside(name: str, location: str) -> TensorProto:
    """A tensor whose values lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph(nodes: list[onnx.NodeProto], *weights: TensorProto) -> onnx.GraphProto:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    return helper.make_graph(nodes, "g", [], [value], list(weights))


def test_graph_with_all_inside_names_no_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(make_graph("scene"))

    assert external_files(tmp_path / "model.onnx") == set()


def test_weights_outside_are_found_in_every_corner(tmp_path: Path) -> None:
    """Initialisers, constants of nodes, branches of an If, lists of tensors, sparse tensors, functions."""
    branch = graph([helper.make_node("Constant", [], ["y"], value=outside("b", "branch.bin"))])
    sparse = onnx.SparseTensorProto(
        values=outside("v", "sparse.bin"), indices=numpy_helper.from_array(np.array([0, 1]), "i"), dims=[4]
    )
    whole = graph(
        [
            helper.make_node("Constant", [], ["c"], value=outside("c", "constant.bin")),
            helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=graph([])),
            helper.make_node("Custom", [], ["z"], several=[outside("s", "list.bin")]),
        ],
        outside("w", "sub/weights.bin"),
        numpy_helper.from_array(np.zeros(2, np.float32), "inside"),
    )
    whole.sparse_initializer.append(sparse)
    model = helper.make_model(whole)
    function = model.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["c"], value=outside("f", "../function.bin")))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    assert external_files(tmp_path / "model.onnx") == {
        "branch.bin",
        "sparse.bin",
        "constant.bin",
        "list.bin",
        "sub/weights.bin",
        "../function.bin",
    }


def test_graph_nested_beyond_reason_is_refused(tmp_path: Path) -> None:
    """Written by hand, as protobuf's own library refuses to make one."""

    def field(number: int, content: bytes) -> bytes:
        size = bytes([len(content) & 0x7F | 0x80, len(content) >> 7])
        return bytes([number << 3 | 2]) + size + content

    content = b""
    for _ in range(40):
        content = field(1, field(5, field(6, content)))
    (tmp_path / "model.onnx").write_bytes(field(7, content))

    with pytest.raises(BackendError, match="nested too deeply"):
        external_files(tmp_path / "model.onnx")


@given(content=st.binary(max_size=200))
@example(content=b"")
@example(content=b"\x3a\xff\xff\xff\xff\x0f")
@example(content=b"\x80" * 20)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_bytes_give_names_or_a_backend_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    with suppress(BackendError):
        assert all(isinstance(name, str) for name in external_files(tmp_path / "model.onnx"))


@given(cut=st.integers(0, 400), flip=st.integers(0, 400))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_damaged_graph_gives_names_or_a_backend_error(tmp_path: Path, cut: int, flip: int) -> None:
    content = bytearray(helper.make_model(graph([], outside("w", "weights.bin"))).SerializeToString())
    content[flip % len(content)] ^= 0x55
    (tmp_path / "model.onnx").write_bytes(content[: len(content) - cut % len(content)])

    with suppress(BackendError):
        assert all(isinstance(name, str) for name in external_files(tmp_path / "model.onnx"))
