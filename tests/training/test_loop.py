"""The training loop: what a killed run ends with, how the rate moves, that a checkpoint is always whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import loop  # noqa: E402

PLAN = loop.Plan(epochs=5, steps_per_epoch=4, rate=1e-2, average=0.9)


def network() -> torch.nn.Module:
    torch.manual_seed(7)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)
    )


def batches(chance: np.random.Generator) -> Iterator[torch.Tensor]:
    for _ in range(PLAN.steps_per_epoch):
        yield torch.from_numpy(chance.standard_normal((16, 3)).astype(np.float32))


def loss(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return (model(batch)[:, 0] - batch.sum(1)).square().mean()


def validate(model: torch.nn.Module) -> dict[str, float]:
    with torch.no_grad():
        return {"score": -loss(model, torch.eye(3)).item()}


def weights(model: torch.nn.Module) -> list[np.ndarray]:
    return [value.numpy() for value in model.state_dict().values()]


def test_a_killed_and_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    whole = loop.fit(network(), batches, loss, PLAN, tmp_path / "whole", validate)
    loop.fit(network(), batches, loss, PLAN, tmp_path / "cut", validate, stop_after=2)
    resumed = loop.fit(network(), batches, loss, PLAN, tmp_path / "cut", validate)
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    histories = [(tmp_path / name / "history.jsonl").read_text() for name in ("whole", "cut")]
    assert histories[0] == histories[1]


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    loop.fit(
        network(), batches, loss, loop.Plan(epochs=40, steps_per_epoch=4, rate=3e-2, average=0.9), tmp_path, validate
    )
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["figures"]["score"] == max(row["score"] for row in history)
    model = network()
    model.load_state_dict(best["model"])
    assert validate(model.eval())["score"] == pytest.approx(best["figures"]["score"], abs=1e-6)


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    first = loop.fit(network(), batches, loss, PLAN, tmp_path)
    again = loop.fit(network(), batches, loss, PLAN, tmp_path)
    for one, other in zip(weights(first), weights(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    plan = loop.Plan(epochs=10, steps_per_epoch=10, rate=1.0, warm_up_epochs=2, floor=0.05)
    rates = [plan.rate_at(step) for step in range(101)]
    peak = int(np.argmax(rates))
    assert peak == 20
    assert rates[peak] == pytest.approx(1.0)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    assert rates[-1] == pytest.approx(0.05)


def test_the_rate_may_fall_by_steps() -> None:
    plan = loop.Plan(epochs=6, steps_per_epoch=10, rate=1.0, warm_up_epochs=0, falls=(2, 0.3))

    assert [plan.rate_at(10 * epoch + 5) for epoch in range(6)] == pytest.approx([1, 1, 0.3, 0.3, 0.09, 0.09])


@pytest.mark.parametrize(
    ("scores", "epochs"), [([1, 3, 2, 2, 2, 2, 2], 4), ([1, 2, 3, 4, 5, 6, 7], 7), ([3, 3, 3, 3], 3)]
)
def test_a_run_that_gets_no_better_ends(tmp_path: Path, scores: list[float], epochs: int) -> None:
    plan = loop.Plan(epochs=len(scores), steps_per_epoch=1, patience=2)
    told = iter(scores)

    loop.fit(network(), batches, loss, plan, tmp_path, lambda _: {"score": float(next(told))})

    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == epochs


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    loop.save({"value": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        loop.save({"value": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"value": 1}
