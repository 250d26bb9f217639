"""The cost table: what it says between and beyond its points, how it is fitted, how it learns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.cost import CostModel, FitPlan, fit

SIZES = [1, 2, 4, 8]
SECONDS = st.floats(0.0, 1.0, allow_nan=False)


@given(SECONDS, st.lists(SECONDS, min_size=4, max_size=4), st.floats(0.01, 100), st.floats(0.01, 100))
@settings(deadline=None)
def test_cost_never_falls_with_items_or_length(
    fixed_s: float, per_second: list[float], one_s: float, other_s: float
) -> None:
    """Whatever noise was measured, more work is never predicted to be cheaper."""
    model = CostModel(fixed_s, SIZES, per_second)
    shorter, longer = sorted((one_s, other_s))

    for n in range(1, 12):
        assert 0 < model.cost(n, shorter) <= model.cost(n, longer)
        assert model.cost(n, longer) <= model.cost(n + 1, longer) * (1 + 1e-12)


def test_cost_lies_on_a_line_between_measured_sizes() -> None:
    model = CostModel(0.1, SIZES, [1.0, 1.2, 2.0, 4.0])

    assert model.cost(1, 10.0) == pytest.approx(10.1)
    assert model.cost(3, 10.0) == pytest.approx(16.1)
    assert model.cost(6, 10.0) == pytest.approx(30.1)


def test_cost_beyond_the_table_grants_no_further_gain() -> None:
    model = CostModel(0.0, SIZES, [1.0, 1.2, 2.0, 4.0])

    assert model.cost(16, 1.0) == pytest.approx(8.0, rel=1e-5)


def test_correction_follows_what_is_observed_within_bounds() -> None:
    """A slow neighbour doubles the estimate soon; a single absurd time does not ruin it."""
    model = CostModel(0.1, SIZES, [1.0, 1.2, 2.0, 4.0])
    model.observe(1.0, 1e6)
    assert model.correction == pytest.approx(1.15)

    for _ in range(200):
        model.observe(1.0, 2.0)

    assert model.correction == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("items", [[], [2, 4], [1, 4, 2]])
def test_table_must_ascend_from_one(items: list[int]) -> None:
    with pytest.raises(ValueError, match="ascend from 1"):
        CostModel(0.0, items, [1.0] * len(items))


class Machine:
    """Takes exactly as long as a formula says."""

    def __init__(self, fixed_s: float, per_second: dict[int, float]) -> None:
        self.fixed_s = fixed_s
        self.per_second = per_second
        self.spent_s = 0.0

    def run(self, n: int, length_s: float) -> float:
        seconds = self.fixed_s + self.per_second[n] * length_s
        self.spent_s += seconds
        return seconds


def test_fit_finds_the_formula() -> None:
    """Where the machine keeps to a line, the table is that line."""
    machine = Machine(0.0005, {1: 0.0006, 2: 0.0009, 4: 0.0015, 8: 0.0035})

    model = fit(machine.run, FitPlan(max_items=8, min_s=0.1, max_s=10.0, budget_s=0.16))

    for n, per_second in machine.per_second.items():
        assert model.cost(n, 7.0) == pytest.approx(machine.fixed_s + per_second * 7.0, rel=1e-6)


def test_fit_of_a_fast_model_measures_every_size() -> None:
    machine = Machine(0.0001, {n: 0.0004 * n for n in (1, 2, 4, 6)})

    assert fit(machine.run, FitPlan(max_items=6, min_s=0.1, max_s=10.0, budget_s=0.16)).max_items == 6


@pytest.mark.parametrize("speed", [0.001, 0.02, 0.5])
def test_fit_keeps_near_its_budget(speed: float) -> None:
    """A slow model is measured with few runs, and not batched beyond what was measured."""
    machine = Machine(0.001, {n: speed * n for n in (1, 2, 4, 8)})
    plan = FitPlan(max_items=8, min_s=0.1, max_s=10.0, budget_s=0.16)

    model = fit(machine.run, plan)

    unavoidable_s = 5 * machine.run(1, 1.0)
    assert machine.spent_s <= 2 * plan.budget_s + 2 * unavoidable_s
    assert model.cost(1, 10.0) == pytest.approx(0.001 + speed * 10.0, rel=1e-6)


def test_fit_of_a_fixed_length_model_needs_no_second_length() -> None:
    """Where shortest and longest are the same, there is no slope to find."""
    machine = Machine(0.001, {1: 0.002, 2: 0.003})

    model = fit(machine.run, FitPlan(max_items=2, min_s=1.0, max_s=1.0, budget_s=0.16))

    assert model.cost(1, 1.0) == pytest.approx(0.003, rel=1e-2)
    assert model.cost(2, 1.0) == pytest.approx(0.004, rel=1e-2)
