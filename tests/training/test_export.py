"""The packager: a whole version folder or nothing, and no export that breaks a promise."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from service.engine.manifest import BadManifest, read_manifest  # noqa: E402
from training import export  # noqa: E402
from training.frontend import LogMel, masked_mean  # noqa: E402

OUTPUTS = {"score": ("batch",), "frames": ("batch", "time")}
MANIFEST = {
    "name": "loudness",
    "version": 3,
    "task": "quality",
    "title": "Mean level",
    "licence": "Apache-2.0",
    "sample_rate": 8000,
    "frames": {"step_s": 0.02},
    "scales": [{"key": "level", "name": "Level", "min": -5, "max": 5}],
    "figures": {"lcc": 0.5},
}


class Level(torch.nn.Module):
    def __init__(self, masked: bool = True) -> None:
        super().__init__()
        self.front_end = LogMel(8000, 256, 160, 20)
        self.masked = masked

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bands, counts = self.front_end(waveform, lengths)
        frames = bands.mean(1)
        return (masked_mean(frames, counts) if self.masked else frames.mean(1)), frames


@pytest.mark.parametrize("script", [True, False])
def test_a_folder_is_complete_and_both_formats_agree(tmp_path: Path, script: bool) -> None:
    folder = tmp_path / "loudness" / "3"
    checked = export.package(Level(), OUTPUTS, MANIFEST, "# A card\n", folder, script=script)
    assert checked.worst() <= export.BOUND
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["CARD.md", "golden.npz", "model.onnx", "model.pt", "model.toml"]
    manifest = read_manifest(folder)
    assert manifest.id == "loudness@3"
    assert [export.sha256(folder / file.path) for file in manifest.files] == [file.sha256 for file in manifest.files]
    golden = np.load(folder / "golden.npz")
    again = export.onnx_runner(folder / "model.onnx")(golden["waveform"][None], np.array([8000]))
    for name in OUTPUTS:
        np.testing.assert_allclose(again[name][0], golden[name], atol=1e-4)
    assert [path.name for path in folder.parent.iterdir()] == ["3"]


def test_a_graph_that_hears_its_padding_is_refused_and_the_old_version_stays(tmp_path: Path) -> None:
    folder = tmp_path / "loudness" / "3"
    export.package(Level(), OUTPUTS, MANIFEST, "old", folder)
    with pytest.raises(export.BadExport, match="alone_to_batch"):
        export.package(Level(masked=False), OUTPUTS, MANIFEST, "new", folder)
    assert (folder / "CARD.md").read_text() == "old"
    assert [path.name for path in folder.parent.iterdir()] == ["3"]


def test_a_manifest_that_would_not_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="scales"):
        export.package(Level(), OUTPUTS, MANIFEST | {"scales": []}, "", tmp_path / "loudness" / "3")
    assert list(tmp_path.rglob("model.toml")) == []


def test_a_second_export_replaces_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "loudness" / "3"
    for text in ("first", "second"):
        export.package(Level(), OUTPUTS, MANIFEST, text, folder)
    assert (folder / "CARD.md").read_text() == "second"


scalars = st.one_of(
    st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f")),
)  # fmt: skip
keys = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
flat = st.dictionaries(keys, st.one_of(scalars, st.lists(st.integers(), min_size=1)))
tables = st.dictionaries(keys, st.one_of(scalars, flat, st.lists(flat.filter(bool), min_size=1, max_size=3)))


@given(tables)
def test_toml_comes_back_as_it_went(table: dict[str, object]) -> None:
    assert tomllib.loads(export.to_toml(table)) == table
