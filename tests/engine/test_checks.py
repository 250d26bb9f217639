"""`earmark models check`: a good model passes whole; each defect is named, with what would be right."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from service.backends.base import Backend, BackendError, Device
from service.engine.checks import Finding, check_folder, model_folders
from service.values import TASKS, Arrays, Task
from tests.engine.test_loading import enhancer, file_table, mean_over_padding, rewrite, scaled_by_the_loudest
from tests.fakes import FakeBackend
from tests.models import make_graph, make_model, make_repository


def found(folder: Path) -> dict[str, str]:
    """The findings, their sentences by area."""
    findings = check_folder(folder)
    return {area: " ".join(str(one) for one in findings if one.area == area) for area in {one.area for one in findings}}


def fake(backend: FakeBackend) -> object:
    def opener(path: Path, backend_name: str, device: Device = "auto", output_names: Sequence[str] = ()) -> Backend:
        return backend

    return opener


def node(kind: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


@pytest.mark.parametrize("task", TASKS)
def test_good_model_has_no_findings(tmp_path: Path, task: Task) -> None:
    assert check_folder(make_model(tmp_path, task)) == []


def test_folders_are_found_at_every_level(tmp_path: Path) -> None:
    """A version, a name with versions, or a whole repository."""
    make_repository(tmp_path)
    versions = [tmp_path / name / "1" for name in ("tiny-enhance", "tiny-quality", "tiny-scene")]

    assert model_folders(tmp_path) == versions
    assert model_folders(tmp_path / "tiny-scene") == versions[2:]
    assert model_folders(versions[0]) == versions[:1]
    assert model_folders(tmp_path / "absent") == []


def test_unreadable_manifest_is_the_only_finding(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "scene", sample_rate="fast")

    (finding,) = check_folder(folder)

    assert finding.fatal
    assert "sample_rate" in finding.wrong


def test_folder_that_says_another_version(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "scene").rename(tmp_path / "tiny-scene" / "2")

    assert "Name the folders tiny-scene/1" in found(folder)["manifest"]


def test_missing_card_and_golden_are_remarks(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "scene", golden=None)
    (folder / "CARD.md").unlink()

    findings = check_folder(folder)

    assert {finding.area for finding in findings} == {"manifest", "golden"}
    assert not any(finding.fatal for finding in findings)


def test_changed_file(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "scene")
    (folder / "model.onnx").write_bytes(make_graph("enhance"))

    assert "sha256" in found(folder)["files"]


def test_file_that_is_no_graph(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "enhance", graph=b"\x3a\x00")

    (finding,) = [one for one in check_folder(folder) if one.area == "runtime"]

    assert finding.fatal
    assert "does not run here" in finding.wrong


def test_second_file_that_does_not_run_is_a_remark(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "enhance")
    (folder / "other.onnx").write_bytes(b"\x3a\x00")
    rewrite(folder, files=[file_table(folder, "model.onnx"), file_table(folder, "other.onnx")])

    (finding,) = check_folder(folder)

    assert (finding.area, finding.file, finding.fatal) == ("runtime", "other.onnx", False)


def test_graph_of_another_task(tmp_path: Path) -> None:
    assert "must give enhanced" in found(make_model(tmp_path, "enhance", graph=make_graph("scene")))["contract"]


def test_wrong_number_of_labels(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "scene", labels=[{"name": name} for name in "abc"])

    assert "must be [3]" in found(folder)["lengths"]


def test_enhancer_that_returns_another_length(tmp_path: Path) -> None:
    """One hop short is one hop wrong, at every length."""
    nodes = [
        node("Constant", [], "zero", value_ints=[0]),
        node("Constant", [], "short", value_ints=[-160]),
        node("Constant", [], "axis", value_ints=[1]),
        node("Slice", ["waveform", "zero", "short", "axis"], "enhanced"),
    ]
    folder = make_model(tmp_path, "enhance", graph=enhancer(nodes))

    assert any("should have" in str(finding) for finding in check_folder(folder))


@pytest.mark.parametrize("graph", [mean_over_padding(), scaled_by_the_loudest()])
def test_answers_that_depend_on_neighbours_are_a_remark(tmp_path: Path, graph: bytes) -> None:
    """It would serve, alone: slower, not wrong."""
    (finding,) = [one for one in check_folder(make_model(tmp_path, "enhance", graph=graph)) if one.area == "batching"]

    assert not finding.fatal
    assert "neighbours" in finding.wrong
    assert "alone" in finding.right


def test_model_declared_alone_is_not_asked_to_share(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "enhance", graph=scaled_by_the_loudest(), batching={"mode": "alone"})

    assert "batching" not in found(folder)


def test_silence_that_ends_in_nan(tmp_path: Path) -> None:
    assert "silence" in found(make_model(tmp_path, "enhance", graph=scaled_by_the_loudest()))


def test_randomness_left_in_the_graph(tmp_path: Path) -> None:
    nodes = [node("RandomUniformLike", ["waveform"], "noise"), node("Add", ["waveform", "noise"], "enhanced")]
    folder = make_model(tmp_path, "enhance", graph=enhancer(nodes))

    assert "dropout" in found(folder)["repeatable"]


def golden(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "golden.npz", **arrays)
    digest = hashlib.sha256((folder / "golden.npz").read_bytes()).hexdigest()
    return rewrite(folder, golden={"path": "golden.npz", "sha256": digest})


def test_golden_answer_of_another_model(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "enhance")
    waveform = np.full(2000, 0.5, np.float32)

    def says(**arrays: np.ndarray) -> str:
        return found(golden(folder, **arrays)).get("golden", "")

    assert says(waveform=waveform, enhanced=waveform / 2) == ""
    assert "differs from its golden answer by 0.25" in says(waveform=waveform, enhanced=waveform)
    assert "gives no score" in says(waveform=waveform, score=np.array(1.0))
    assert "cannot be compared" in says(enhanced=waveform)


def test_changed_golden_answer(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "enhance")
    (folder / "golden.npz").write_bytes(b"changed")

    assert "sha256" in found(folder)["golden"]


def test_files_that_disagree(tmp_path: Path) -> None:
    """Two exports of one model must be of one model; an int8 one may differ."""
    folder = make_model(tmp_path, "enhance")
    (folder / "other.onnx").write_bytes(mean_over_padding())
    other = file_table(folder, "other.onnx", batching="alone")
    rewrite(folder, golden=None, files=[file_table(folder, "model.onnx"), other])
    assert "answers differently from model.onnx" in found(folder)["parity"]

    rewrite(folder, files=[file_table(folder, "model.onnx"), other | {"precision": "int8"}])

    assert "parity" not in found(folder)


def test_failure_while_running_is_reported_not_raised(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "enhance")
    backend = FakeBackend()

    def explode(inputs: Arrays) -> None:
        if len(inputs["lengths"]) > 1:
            raise BackendError("no kernel for batches")

    backend.on_run = explode

    findings = check_folder(folder, opener=fake(backend))  # type: ignore[arg-type]

    assert any("no kernel for batches" in finding.wrong for finding in findings)
    assert backend.closed


def test_finding_reads_as_a_sentence() -> None:
    finding = Finding("golden", "model.onnx", "differs by 1", "Make it equal")

    assert str(finding) == "golden: model.onnx differs by 1. Make it equal."


def test_check_needs_no_write_access(tmp_path: Path) -> None:
    """Nothing appears in the folder."""
    folder = make_model(tmp_path, "quality")
    before = sorted(path.name for path in folder.iterdir())
    shutil.copytree(folder, tmp_path / "copy")

    check_folder(folder)

    assert sorted(path.name for path in folder.iterdir()) == before
