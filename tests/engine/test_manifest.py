"""`model.toml`: what it may say, and how it is told that it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.engine.manifest import BadManifest, Manifest, parse_manifest, read_manifest
from tests.models import make_model

SUM = "0" * 64
QUALITY: dict[str, Any] = {
    "name": "a-model",
    "version": 1,
    "task": "quality",
    "title": "A model",
    "licence": "Apache-2.0",
    "sample_rate": 16000,
    "files": [{"path": "model.onnx", "backend": "onnx", "sha256": SUM}],
    "scales": [{"key": "mos", "name": "MOS", "min": 1, "max": 5}],
}


def quality(**changes: Any) -> Manifest:
    return parse_manifest({key: value for key, value in (QUALITY | changes).items() if value is not None})


def test_least_manifest_has_its_defaults() -> None:
    manifest = quality()

    assert manifest.id == "a-model@1"
    assert (manifest.batching.mode, manifest.window.max_s, manifest.default, manifest.trusted) == (
        "padded",
        10.0,
        False,
        False,
    )


def test_manifest_in_a_folder_is_read(tmp_path: Path) -> None:
    assert read_manifest(make_model(tmp_path, "scene")).labels_named == ("loud", "quiet")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"title": None}, "title"),
        ({"colour": "red"}, "colour"),
        ({"name": "../etc"}, "name"),
        ({"name": "Upper"}, "name"),
        ({"version": 0}, "version"),
        ({"task": "speech"}, "task"),
        ({"sample_rate": 100}, "sample_rate"),
        ({"files": []}, "files"),
        ({"files": [{"path": "/model.onnx", "backend": "onnx", "sha256": SUM}]}, "files.0.path.*inside"),
        ({"files": [{"path": "a/../../m", "backend": "onnx", "sha256": SUM}]}, "files.0.path.*inside"),
        ({"files": [{"path": "a\\b", "backend": "onnx", "sha256": SUM}]}, "files.0.path.*inside"),
        ({"files": [{"path": "m", "backend": "pickle", "sha256": SUM}]}, "files.0.backend"),
        ({"files": [{"path": "m", "backend": "onnx", "sha256": "abc"}]}, "files.0.sha256"),
        (
            {"files": [{"path": "m", "backend": "onnx", "sha256": SUM, "data": [{"path": "../w", "sha256": SUM}]}]},
            "files.0.data.0.path",
        ),
        (
            {"files": [{"path": "m", "backend": "onnx", "sha256": SUM, "precision": "int8", "accepted": True}]},
            "files.0.*accepted needs a `loss`",
        ),
        ({"golden": {"path": "../golden.npz", "sha256": SUM}}, "golden.path"),
        ({"batching": {"mode": "sometimes"}}, "batching.mode"),
        ({"batching": {"max_items": 0}}, "batching.max_items"),
        ({"window": {"max_s": float("inf")}}, "window.max_s"),
        ({"window": {"min_s": 5.0, "max_s": 2.0}}, "min_s must not be above max_s"),
        ({"window": {"max_s": 2.0, "context_s": 1.0}}, "twice context_s"),
        ({"scales": None}, "scales"),
        ({"scales": [{"key": "mos", "name": "MOS", "min": 5, "max": 1}]}, "min must be below max"),
        ({"task": "scene"}, "labels"),
        ({"labels": [{"name": "a"}, {"name": "a"}]}, "a name stands twice"),
        ({"segmenting": {"on": 0.2, "off": 0.4}}, "off must not be above on"),
        ({"figures": {"lcc": float("nan")}}, "figures"),
    ],
)
def test_what_cannot_be_is_refused_by_key(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadManifest, match=says):
        quality(**changes)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(BadManifest, match=r"(?=.*version)(?=.*task)(?=.*sample_rate)"):
        quality(version=0, task="speech", sample_rate=1)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", None])
def test_file_that_is_no_toml_is_named_without_its_path(tmp_path: Path, content: bytes | None) -> None:
    folder = tmp_path / "a-model" / "1"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "model.toml").write_bytes(content)

    with pytest.raises(BadManifest) as refusal:
        read_manifest(folder)

    assert refusal.value.detail.startswith("a-model/1/model.toml: ")
    assert str(tmp_path) not in refusal.value.detail


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ("score", "frames", "frame_lengths", "speech")),
        ({"scales": QUALITY["scales"] * 2}, ("scores", "frames", "frame_lengths", "speech")),
        ({"task": "enhance"}, ("enhanced",)),
    ],
)
def test_programs_outputs_have_the_contracts_order(changes: dict[str, Any], names: tuple[str, ...]) -> None:
    manifest = quality(**changes)

    assert manifest.output_names(manifest.files[0]) == names


def test_program_may_name_its_outputs_itself() -> None:
    file = {"path": "m.pt", "backend": "torchscript", "sha256": SUM, "outputs": ["frames", "score"]}
    manifest = quality(files=[file])

    assert manifest.output_names(manifest.files[0]) == ("frames", "score")


@pytest.mark.parametrize(
    ("more", "may"),
    [
        ({}, True),
        ({"precision": "int8"}, False),
        ({"precision": "int8", "loss": {"lcc": 0.2}}, False),
        ({"precision": "int8", "loss": {"lcc": 0.001, "clips": 1000}, "accepted": True}, True),
    ],
)
def test_lower_precision_is_chosen_only_where_its_loss_was_accepted(more: dict[str, Any], may: bool) -> None:
    (file,) = quality(files=[{"path": "m", "backend": "onnx", "sha256": SUM} | more]).files

    assert file.may_be_chosen == may
