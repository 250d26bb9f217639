"""Reads checkpoints that were written elsewhere, as data, and says what is wrong with them by name."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

HOLDERS = ("model", "state_dict", "model_state_dict", "weight")
"""Keys under which a file may hold its state dict; the last is that of ACDNet's own training."""
PREFIX = "module."
MOST_NAMED = 6
"""Faults of one sort that a message lists."""


class BadCheckpoint(Exception):
    """The file holds no weights of the net that was asked for; the message names what is wrong with it."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in *path*, its names without the prefix of `DataParallel`.

    Raises:
        BadCheckpoint: it is no checkpoint, or holds no state dict.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BadCheckpoint(f"{path}: not plain tensors that torch.save wrote; save model.state_dict(), not the model "
                            "itself") from error  # fmt: skip
    if isinstance(held, Mapping):
        held = next((held[holder] for holder in HOLDERS if isinstance(held.get(holder), Mapping)), held)
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        found = some([str(name) for name in held]) if isinstance(held, Mapping) else f"a {type(held).__name__}"
        places = ", ".join(HOLDERS)
        raise BadCheckpoint(f"{path}: holds {found or 'nothing'}, no state dict, neither by itself nor as {places}")
    return {str(name).removeprefix(PREFIX): values for name, values in held.items()}


def load(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put *weights* into *net*.

    Raises:
        BadCheckpoint: a name is missing or unknown, a shape is another, or a value is not finite; all are named.
    """
    wanted = net.state_dict()
    misshapen = [
        f"{name} is {tuple(weights[name].shape)}, must be {tuple(values.shape)}"
        for name, values in wanted.items()
        if name in weights and weights[name].shape != values.shape
    ]
    faults = {
        "missing": [name for name in wanted if name not in weights],
        "unexpected": [name for name in weights if name not in wanted],
        "misshapen": misshapen,
        "not finite": [name for name, values in weights.items() if not torch.isfinite(values).all()],
    }
    if any(faults.values()):
        raise BadCheckpoint("; ".join(f"{what}: {some(names)}" for what, names in faults.items() if names))
    net.load_state_dict(dict(weights))


def without_prefix(weights: Mapping[str, Tensor], anchor: str) -> dict[str, Tensor]:
    """*weights* with the names that they have in the net itself, where a wrapper put it one or more levels down.

    Args:
        anchor: the net's own name of one of them, which says where the net begins.

    Raises:
        BadCheckpoint: the anchor stands nowhere or in several places, or something lies beside the net.
    """
    found = {name.removesuffix(anchor) for name in weights if name == anchor or name.endswith(f".{anchor}")}
    if len(found) != 1:
        where = f"in {some(sorted(found))}" if found else f"nowhere; it holds {some(list(weights))}"
        raise BadCheckpoint(f"{anchor} should stand in one place of the checkpoint, but stands {where}")
    prefix = found.pop()
    beside = [name for name in weights if not name.startswith(prefix)]
    if beside:
        raise BadCheckpoint(f"unexpected: {some(beside)} beside {prefix}*")
    return {name.removeprefix(prefix): values for name, values in weights.items()}


def some(names: list[str]) -> str:
    """The first of *names*, and how many more."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
