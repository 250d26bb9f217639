"""A shipped model made anew from its own file answers as before."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pesq")

from service.engine.checks import check_folder
from service.settings import embedded_models
from training.reexport import RECIPES, reexport


def test_every_shipped_model_has_a_recipe() -> None:
    assert {folder.parent.parent.name for folder in embedded_models().glob("*/*/model.toml")} <= set(RECIPES)


@pytest.mark.parametrize("shipped", sorted(embedded_models().glob("quality-*/*")), ids=lambda path: path.parent.name)
def test_a_model_made_anew_answers_as_before(tmp_path: Path, shipped: Path) -> None:
    folder = tmp_path / shipped.parent.name / shipped.name
    shutil.copytree(shipped, folder)

    reexport(folder)

    assert not [finding for finding in check_folder(folder) if finding.fatal]
    with np.load(shipped / "golden.npz") as before, np.load(folder / "golden.npz") as after:
        for name in before.files:
            np.testing.assert_allclose(after[name], before[name], atol=1e-4)
