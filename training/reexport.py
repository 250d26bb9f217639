"""Writes a shipped model anew, from the weights in its own TorchScript file: after a change to how graphs are made.

    python -m training.reexport quality-blstm/2

Weights, figures and card stay; graphs, golden answer and sums are made anew and held to what every export is held to.
"""

from __future__ import annotations

import argparse
import json
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.enhance import export as enhance
from training.enhance.network import Enhancer
from training.enhance.train import SHAPE as ENHANCER_SHAPE
from training.export import Checked, Outputs, package
from training.quality import export as quality
from training.quality.model import QualityNet
from training.quality.model import Shape as QualityShape
from training.quality.spectrum import served
from training.scene import export as scene
from training.scene.network import Export, Net
from training.scene.train import SHAPE as SCENE_SHAPE


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is built from its manifest before its weights are known, and how its ONNX file is made where that
    differs."""

    build: Callable[[Mapping[str, Any]], nn.Module]
    outputs: Outputs
    served: Callable[[nn.Module], nn.Module] | None = None


def _quality(tables: Mapping[str, Any]) -> nn.Module:
    return QualityNet(QualityShape.from_table(json.loads(tables["figures"]["shape"])))


RECIPES = {
    **{name: Recipe(_quality, quality.OUTPUTS, served) for name in quality.NAMES.values()},
    scene.NAME: Recipe(lambda _: Export(SCENE_SHAPE, Net(SCENE_SHAPE)), scene.OUTPUTS),
    enhance.NAME: Recipe(lambda _: Enhancer(ENHANCER_SHAPE), enhance.OUTPUTS),
}


def shipped(folder: Path, recipe: Recipe, tables: Mapping[str, Any]) -> nn.Module:
    """The network of *recipe*, as *tables* describe it, with the weights in `folder/model.pt`.

    Raises:
        RuntimeError: the file holds another network.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        held = torch.jit.load(folder / "model.pt", map_location="cpu").state_dict()
    model = recipe.build(tables)
    # A compiled program also keeps the constants of its front end, which a network makes by itself.
    model.load_state_dict({name: values for name, values in held.items() if name in model.state_dict()})
    return model.eval()


def reexport(folder: Path) -> Checked:
    """Make the graphs of `folder` (`.../<name>/<version>`) anew, in place.

    Raises:
        BadExport: formats disagree; nothing was changed.
    """
    tables = tomllib.loads((folder / "model.toml").read_text("utf-8"))
    recipe = RECIPES[tables["name"]]
    model = shipped(folder, recipe, tables)
    kept = {key: value for key, value in tables.items() if key not in ("files", "golden")}
    card = (folder / "CARD.md").read_text("utf-8")
    served = recipe.served(model) if recipe.served else None
    return package(model, recipe.outputs, kept, card, folder, onnx=served)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="NAME/VERSION")
    parser.add_argument("--into", type=Path, default=Path("exported_models"), help="(default: %(default)s)")
    options = parser.parse_args()
    for model in options.models:
        print(model, reexport(options.into / model))


if __name__ == "__main__":
    main()
