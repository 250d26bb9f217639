"""One training loop for every model: seed, warm-up and cosine, weight average, checkpoints, resume by the same command.

An epoch is whatever the model says it is. Each starts from a seed of its own and a checkpoint is written after each, so
a run that was killed and started again ends with the same weights as one that never stopped.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

Batches = Callable[[np.random.Generator], Iterable[Any]]
"""The batches of one epoch; all chance must come from the generator."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast. `average` is the decay of the weight average; `clip` the largest norm of a gradient."""

    epochs: int
    steps_per_epoch: int
    rate: float = 1e-3
    warm_up_epochs: float = 1.0
    floor: float = 0.01
    weight_decay: float = 1e-2
    average: float = 0.999
    clip: float = 5.0
    seed: int = 0
    validate_every: int = 1
    falls: tuple[int, float] | None = None
    """Instead of the cosine: every so many epochs the rate is multiplied by this (StepLR)."""
    patience: int | None = None
    """Epochs without a better `score` after which the run ends (early stopping)."""

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to `floor` of the peak, or falls by steps."""
        warm_up, last = self.warm_up_epochs * self.steps_per_epoch, self.epochs * self.steps_per_epoch
        if step < warm_up:
            return self.rate * (step + 1) / (warm_up + 1)
        if self.falls is not None:
            every, factor = self.falls
            return float(self.rate * factor ** (step // self.steps_per_epoch // every))
        done = (step - warm_up) / max(1.0, last - warm_up)
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def seed(value: int) -> np.random.Generator:
    """Seed every source of chance; returns the generator that batches are drawn with."""
    random.seed(value)
    torch.manual_seed(value)
    return np.random.default_rng(value)


def save(state: object, path: Path) -> None:
    """Write *state* so that *path* is always a whole file, whenever the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def fit(
    model: nn.Module,
    batches: Batches,
    loss: Callable[[nn.Module, Any], Tensor],
    plan: Plan,
    folder: Path,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    stop_after: int | None = None,
) -> nn.Module:
    """Train *model* and return its weight average, resuming from `folder/last.pt` where that exists.

    Args:
        loss: the mean loss of one batch.
        validate: figures of the averaged model, added to `folder/history.jsonl`; the weights with the highest `score`
            are kept in `folder/best.pt`.
        stop_after: leave after so many epochs in all, as a run that is killed would.
    """
    torch.set_num_threads(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=plan.weight_decay)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(plan.average), use_buffers=True)
    first, history = _resume(folder / "last.pt", model, average, optimiser)
    for epoch in range(first, min(plan.epochs, stop_after or plan.epochs)):
        if plan.patience is not None and _since_best(history) >= plan.patience:
            break
        chance = seed(plan.seed * 1_000_003 + epoch)
        mean_loss = _epoch(model, average, optimiser, batches(chance), loss, plan, epoch)
        row: dict[str, float] = {"epoch": epoch + 1, "loss": mean_loss}
        if validate is not None and ((epoch + 1) % plan.validate_every == 0 or epoch + 1 == plan.epochs):
            row |= validate(average.module.eval())
            if row.get("score", -math.inf) > max((past.get("score", -math.inf) for past in history), default=-math.inf):
                save({"model": average.module.state_dict(), "figures": row}, folder / "best.pt")
        history.append(row)
        _checkpoint(folder, model, average, optimiser, history)
    return average.module.eval()


def _epoch(
    model: nn.Module,
    average: AveragedModel,
    optimiser: torch.optim.Optimizer,
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    plan: Plan,
    epoch: int,
) -> float:
    model.train()
    losses = []
    bar = tqdm(
        batches, total=plan.steps_per_epoch, desc=f"epoch {epoch + 1}/{plan.epochs}", leave=False, mininterval=5.0
    )
    for index, batch in enumerate(bar):
        for group in optimiser.param_groups:
            group["lr"] = plan.rate_at(epoch * plan.steps_per_epoch + index)
        optimiser.zero_grad()
        value = loss(model, batch)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimiser.step()
        average.update_parameters(model)
        losses.append(value.item())
        bar.set_postfix(loss=f"{np.mean(losses):.4f}")
    return float(np.mean(losses))


def _since_best(history: list[dict[str, float]]) -> int:
    """Epochs since the best score; 0 where there is none yet."""
    scored = [(row["score"], -place) for place, row in enumerate(history) if "score" in row]
    return len(history) - 1 + max(scored)[1] if scored else 0


def _resume(
    path: Path, model: nn.Module, average: AveragedModel, optimiser: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]]]:
    if not path.exists():
        return 0, []
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return len(state["history"]), state["history"]


def _checkpoint(
    folder: Path,
    model: nn.Module,
    average: AveragedModel,
    optimiser: torch.optim.Optimizer,
    history: list[dict[str, float]],
) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "history": history,
    }
    save(state, folder / "last.pt")
    lines = "".join(json.dumps(row) + "\n" for row in history)
    (folder / "history.jsonl").write_text(lines)
