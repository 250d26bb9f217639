"""Folders of models: overlays, versions, pins, broken folders, paths that lead out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.engine.repository import BadModel, default_names, inside, scan, sha256, verified
from service.settings import BadSettings
from tests.models import make_model, make_repository


def defaults(*folders: Path) -> dict[str, str]:
    catalogue = scan(folders)
    return dict(default_names(catalogue.entries[item] for item in catalogue.serving.items()))


def test_highest_version_serves(tmp_path: Path) -> None:
    """By number, not by spelling."""
    for version in (1, 9, 10):
        make_model(tmp_path, "enhance", version=version)

    catalogue = scan([tmp_path])

    assert catalogue.serving == {"tiny-enhance": 10}
    assert sorted(catalogue.entries) == [("tiny-enhance", version) for version in (1, 9, 10)]


def test_pin_serves_another_version(tmp_path: Path) -> None:
    for version in (1, 2):
        make_model(tmp_path, "enhance", version=version)

    assert scan([tmp_path], ["tiny-enhance@1"]).serving == {"tiny-enhance": 1}


@pytest.mark.parametrize(
    ("pin", "says"),
    [("tiny-enhance@3", "there is tiny-enhance@1"), ("nobody@1", "none"), ("tiny-enhance", "name@version")],
)
def test_wrong_pin_is_refused_with_what_there_is(tmp_path: Path, pin: str, says: str) -> None:
    make_model(tmp_path, "enhance")

    with pytest.raises(BadSettings, match=says):
        scan([tmp_path], [pin])


def test_later_folder_overlays_earlier(tmp_path: Path) -> None:
    """The same version is replaced, a higher one added, the others stay."""
    shipped = make_repository(tmp_path / "shipped")
    mine = tmp_path / "mine"
    make_model(mine, "enhance", title="Mine")
    make_model(mine, "quality", version=2)

    catalogue = scan([shipped, mine])

    entry = catalogue.entries["tiny-enhance", 1]
    assert entry.manifest is not None
    assert entry.manifest.title == "Mine"
    assert entry.folder == mine / "tiny-enhance" / "1"
    assert catalogue.serving == {"tiny-enhance": 1, "tiny-quality": 2, "tiny-scene": 1}


def test_default_of_the_later_folder_wins(tmp_path: Path) -> None:
    shipped = make_repository(tmp_path / "shipped")
    make_model(tmp_path / "other", "scene", "aaa", default=False)
    make_model(tmp_path / "mine", "scene", "zzz", default=True)

    assert defaults(shipped)["scene"] == "tiny-scene"
    assert defaults(shipped, tmp_path / "other")["scene"] == "tiny-scene"
    assert defaults(shipped, tmp_path / "mine")["scene"] == "zzz"


def test_only_model_of_a_task_is_its_default(tmp_path: Path) -> None:
    make_model(tmp_path, "scene", "only", default=False)

    assert defaults(tmp_path) == {"scene": "only"}


def test_broken_folder_is_reported_and_stops_nobody(tmp_path: Path) -> None:
    make_repository(tmp_path)
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.toml").write_text("name = 3", "utf-8")
    (tmp_path / "empty" / "1").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("no folder", "utf-8")
    (tmp_path / "tiny-scene" / "draft").mkdir()

    catalogue = scan([tmp_path, tmp_path / "nowhere"])

    faults = {entry.id: entry.fault for entry in catalogue.entries.values() if entry.manifest is None}
    assert set(faults) == {"broken@1", "empty@1"}
    assert "name" in (faults["broken@1"] or "")
    assert len(catalogue.entries) == 5


def test_unreadable_higher_version_does_not_hide_a_good_one(tmp_path: Path) -> None:
    make_model(tmp_path, "scene")
    (tmp_path / "tiny-scene" / "2").mkdir()

    assert scan([tmp_path]).serving == {"tiny-scene": 1}


def test_folder_and_manifest_must_agree(tmp_path: Path) -> None:
    make_model(tmp_path, "scene").rename(tmp_path / "tiny-scene" / "7")

    (entry,) = scan([tmp_path]).entries.values()

    assert entry.manifest is None
    assert "tiny-scene@7" in (entry.fault or "")


def test_version_folder_that_is_a_link_out_is_refused(tmp_path: Path) -> None:
    outside = make_model(tmp_path / "outside", "scene")
    (tmp_path / "models" / "tiny-scene").mkdir(parents=True)
    (tmp_path / "models" / "tiny-scene" / "1").symlink_to(outside)

    (entry,) = scan([tmp_path / "models"]).entries.values()

    assert entry.manifest is None
    assert "leads out" in (entry.fault or "")


def test_files_stay_inside_their_folder(tmp_path: Path) -> None:
    """Links and dots that lead out are refused, links within are followed."""
    folder = tmp_path / "version"
    folder.mkdir()
    (tmp_path / "secret").write_text("s", "utf-8")
    (folder / "real").write_text("r", "utf-8")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "within").symlink_to(folder / "real")

    assert inside(folder, "within") == folder.resolve() / "real"
    for path in ("out", "../secret", str(tmp_path / "secret")):
        with pytest.raises(BadModel, match="leads out"):
            inside(folder, path)
    with pytest.raises(BadModel, match="no such file"):
        inside(folder, "absent")
    with pytest.raises(BadModel, match="no such file"):
        inside(tmp_path, "version")


def test_changed_file_is_refused(tmp_path: Path) -> None:
    content = b"a" * 100_000
    (tmp_path / "graph").write_bytes(content)
    right = hashlib.sha256(content).hexdigest()

    assert sha256(tmp_path / "graph") == right
    assert verified(tmp_path, "graph", right) == (tmp_path / "graph").resolve()
    with pytest.raises(BadModel, match="sha256"):
        verified(tmp_path, "graph", "0" * 64)
