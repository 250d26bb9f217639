"""Which of a model's files serves: full precision, unless another is accepted, wanted or clearly faster here.

Pure: knows manifests and cost tables, opens nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from service.engine.cost import CostModel
from service.engine.manifest import GraphFile

Wanted = Literal["auto", "fp32", "fp16", "int8"]

FULL = "fp32"
MARGIN = 1.2
"""So many times as fast must lower precision be: less is not worth its loss, and may be noise of the measurement."""
GAINS_ON: dict[str, frozenset[str]] = {"cpu": frozenset({"int8"}), "cuda": frozenset({"fp16"})}
"""Lower precisions that may gain anything, by the kind of device."""
TYPICAL_S = 5.0
"""Speeds are compared at this length, or at the longest that the model takes."""


def in_order(files: Sequence[GraphFile], wanted: Wanted) -> list[GraphFile]:
    """The files of which the first that runs here is the one to beat.

    Where no file is as wanted, full precision is; where there is none of that either, what there is.
    """
    precision = FULL if wanted == "auto" else wanted
    first = [file for file in files if file.precision == precision]
    full = [file for file in files if file.precision == FULL and file not in first]
    accepted = [file for file in files if file.may_be_chosen and file not in (*first, *full)]
    return first + full + accepted or list(files)


def challengers(files: Sequence[GraphFile], wanted: Wanted, champion: GraphFile, device: str) -> list[GraphFile]:
    """The files worth measuring against *champion*, which runs on *device*."""
    if wanted != "auto" or champion.precision != FULL:
        return []
    gaining = GAINS_ON.get(device.partition(":")[0], frozenset())
    return [file for file in files if file.precision in gaining and file.may_be_chosen]


def gain(champion: CostModel, challenger: CostModel, longest_s: float) -> float:
    """How many times as fast *challenger* is, each at the batch size that suits it best."""
    length_s = min(TYPICAL_S, longest_s)
    return champion.best(length_s)[1] / challenger.best(length_s)[1]


def wins(times: float) -> bool:
    """Whether lower precision that is so many times as fast takes the place of full precision."""
    return times >= MARGIN
