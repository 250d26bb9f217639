"""Which sounds the model names, and what a recording's labels say, and do not say, about each of them.

The ten sounds of ESC-10 and speech: those of which the corpus holds many independent recordings in every split.
Everything else in the corpus serves as "none of these".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ESC10 = (
    "chainsaw",
    "clock_tick",
    "crackling_fire",
    "crying_baby",
    "dog",
    "helicopter",
    "rain",
    "rooster",
    "sea_waves",
    "sneezing",
)
LABELS = (*ESC10, "speech")
STEADY = ("chainsaw", "clock_tick", "crackling_fire", "helicopter", "rain", "sea_waves")
"""Sounds that go on: heard wherever their clip is not empty. The others are heard where it is loud."""

UNSTATED: dict[str, tuple[str, ...]] = {
    "airplane_cabin": ("speech",),
    "boat": ("sea_waves", "speech"),
    "cafe": ("speech",),
    "children": ("speech", "crying_baby"),
    "crying_baby": ("speech",),
    "farm": ("dog", "rooster", "speech"),
    "helicopter": ("speech",),
    "kitchen": ("speech",),
    "market": ("speech",),
    "park": ("dog", "speech"),
    "public_square": ("speech", "dog"),
    "street_traffic": ("speech", "dog"),
    "thunder": ("rain",),
    "thunderstorm": ("rain",),
    "train": ("speech",),
    "village": ("dog", "rooster", "speech"),
    "water": ("rain",),
}
"""What may well be heard beside a sound although its source does not say: neither taught nor counted."""


def targets(kind: str, labels: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Presence of each of `LABELS`, and 1 where that is known, for a recording of *kind* with these *labels*."""
    names = {"speech"} if kind == "speech" else set(labels)
    present = np.array([label in names for label in LABELS], np.float32)
    unstated = {label for name in names for label in UNSTATED.get(name, ())}
    known = np.array([label not in unstated for label in LABELS], np.float32)
    return present, np.maximum(known, present)
