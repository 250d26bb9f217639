"""Which file serves, how much runs at once, and in which shapes: pure rules, tried without a machine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends.base import Detail
from service.engine import choice, padding
from service.engine.buckets import Bucketed
from service.engine.cost import CostModel
from service.engine.manifest import GraphFile
from service.engine.plan import Machine, plan_for
from service.values import Arrays
from tests.fakes import FakeBackend

GIB = 1 << 30


def graph(precision: str, *, accepted: bool = False, path: str = "") -> GraphFile:
    return GraphFile.model_validate(
        {
            "path": path or f"{precision}.onnx",
            "backend": "onnx",
            "precision": precision,
            "sha256": "0" * 64,
            "accepted": accepted,
            "loss": {"lcc": 0.0} if precision != "fp32" else {},
        }
    )


FULL, SMALL, KEPT = graph("fp32"), graph("int8"), graph("int8", accepted=True, path="kept.onnx")


def test_full_precision_is_the_one_to_beat_wherever_it_stands() -> None:
    assert choice.in_order([KEPT, FULL], "auto")[0] is FULL
    assert choice.in_order([FULL, SMALL], "int8")[0] is SMALL
    assert choice.in_order([FULL], "int8") == [FULL]


def test_only_what_was_accepted_challenges_and_only_unasked() -> None:
    assert choice.challengers([FULL, SMALL, KEPT], "auto", FULL, "cpu") == [KEPT]
    assert choice.challengers([FULL, KEPT], "fp32", FULL, "cpu") == []
    assert choice.challengers([FULL, KEPT], "auto", FULL, "cuda:0") == []


def test_lower_precision_must_win_clearly_each_at_its_best_batch() -> None:
    batching = CostModel(1e-6, [1, 4], [0.010, 0.020])  # 5 ms for each of four
    alone = CostModel(1e-6, [1], [0.006])

    times = choice.gain(batching, alone, longest_s=10.0)

    assert times == pytest.approx(5 / 6, rel=0.01)
    assert not choice.wins(times)
    assert choice.wins(choice.gain(CostModel(1e-6, [1], [0.010]), alone, 10.0))


@given(st.integers(1, 64), st.one_of(st.none(), st.floats(0.1, 64.0)), st.integers(1, 512), st.booleans())
def test_a_plan_never_takes_more_than_there_is(cores: int, quota: float | None, gib: int, gpu: bool) -> None:
    plan = plan_for(Machine(cores, quota, gib * GIB, "cuda:0" if gpu else None))

    assert plan.workers == cores or (gpu and plan.workers == 3 > cores)
    assert plan.threads_a_run == 1
    assert plan.children >= 4
    assert plan.slots == ({"cuda:0": 2} if gpu else {})
    assert plan.why


def test_who_insists_on_workers_gets_them() -> None:
    assert plan_for(Machine(2, None, GIB), workers=7).workers == 7


class Seen(FakeBackend):
    """Notes the shapes it was given."""

    details: Mapping[str, Detail] = {}

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Arrays) -> Arrays:
        self.shapes.append(inputs[padding.WAVEFORM].shape)
        return super().run(inputs)


@given(st.lists(st.integers(1, 6000), min_size=1, max_size=9))
def test_buckets_change_the_shape_and_not_the_answers(lengths: list[int]) -> None:
    inner = Seen()
    batch = padding.assemble([np.full(length, 0.1 + index / 100, np.float32) for index, length in enumerate(lengths)])

    outputs = Bucketed(inner, least=400, most=6000).run(batch)

    items, samples = inner.shapes[0]
    assert items & (items - 1) == 0
    assert len(lengths) <= items < 2 * len(lengths) or items == len(lengths) == 1
    assert max(lengths) <= samples <= max(400, round(1.25 * max(lengths)) + 1)
    assert len(outputs["enhanced"]) == len(lengths)
    for index, length in enumerate(lengths):
        np.testing.assert_allclose(outputs["enhanced"][index, :length], (0.1 + index / 100) / 2, rtol=1e-5)
