"""The gate: refusals come before the work, and by what the work ahead is expected to take."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.gate import Gate
from service.clock import ManualClock
from service.errors import Overloaded
from service.values import Turn


def learned(workers: int = 2, queue_s: float = 5.0, each_s: float = 0.1, size: int = 1000) -> tuple[Gate, ManualClock]:
    """A gate that has seen that requests of *size* bytes take *each_s*."""
    gate, clock = Gate(workers, queue_s), ManualClock()
    for _ in range(50):
        turn = Turn()
        with gate.enter("/quality", size, turn, clock.now) as stay:
            stay.arrived(size)
            turn.spend(each_s)
            stay.is_answered = True
        clock.advance(each_s)
    return gate, clock


def let_in(gate: Gate, clock: ManualClock, held: ExitStack, *, most: int = 10_000, deadline: float = 1e9) -> int:
    """How many requests come in before one is refused."""
    for number in range(most):
        try:
            held.enter_context(gate.enter("/quality", 1000, Turn(deadline, flow=number), clock.now))
        except Overloaded:
            return number
    return most


def test_nobody_is_refused_before_anything_was_learned() -> None:
    with ExitStack() as held:
        assert let_in(Gate(2, 5.0), ManualClock(), held, most=500) == 500


def test_the_queue_holds_seconds_of_work_for_each_worker() -> None:
    gate, clock = learned(workers=2, queue_s=5.0, each_s=0.1)

    with ExitStack() as held:
        assert 95 <= let_in(gate, clock, held) <= 105


def test_a_deadline_bounds_the_queue_with_a_margin() -> None:
    gate, clock = learned(workers=1, queue_s=60.0, each_s=0.1)

    with ExitStack() as held:
        assert 8 <= let_in(gate, clock, held, deadline=clock.now() + 2.0) <= 11


def test_a_refusal_says_when_to_come_back() -> None:
    gate, clock = learned()
    with ExitStack() as held:
        let_in(gate, clock, held)

        with pytest.raises(Overloaded) as refusal, gate.enter("/quality", 1000, Turn(), clock.now):
            pass

    assert refusal.value.retry_after_s >= 1


def test_who_is_alone_always_comes_in() -> None:
    gate, clock = learned(queue_s=0.01)

    with gate.enter("/quality", 10**9, Turn(), clock.now):
        pass


def test_an_hour_ahead_is_not_ahead_of_a_short_one() -> None:
    """Long recordings are served in turns with short ones, so they do not close the gate for them."""
    gate, clock = learned(workers=2, queue_s=5.0, each_s=0.01)
    with ExitStack() as held:
        for number in range(10):
            held.enter_context(gate.enter("/quality", 10_000_000, Turn(flow=number), clock.now))

        held.enter_context(gate.enter("/quality", 1000, Turn(), clock.now))


def test_work_that_is_done_is_no_longer_ahead() -> None:
    gate, clock = learned(workers=1, queue_s=1.0, each_s=0.3)
    turns = [Turn(flow=number) for number in range(5)]
    with ExitStack() as held:
        for turn in turns:
            held.enter_context(gate.enter("/quality", 1000, turn, clock.now))
        assert let_in(gate, clock, held) == 0

        for turn in turns:
            turn.spend(0.3)

        assert let_in(gate, clock, held) > 0


def test_the_pace_that_is_reached_counts_not_the_number_of_workers() -> None:
    """Two workers that get through one second of work a second make everybody wait twice as long."""
    gate, clock = learned(workers=2, queue_s=5.0, each_s=0.1)
    inside: list[tuple[ExitStack, Turn]] = []
    for _ in range(200):
        while len(inside) < 20:
            one = ExitStack()
            turn = Turn()
            stay = one.enter_context(gate.enter("/quality", 1000, turn, clock.now))
            stay.arrived(1000)
            stay.is_answered = True
            inside.append((one, turn))
        clock.advance(0.1)
        one, turn = inside.pop(0)
        turn.spend(0.1)
        one.close()
    for one, turn in inside:
        clock.advance(0.1)
        turn.spend(0.1)
        one.close()

    with ExitStack() as held:
        assert 45 <= let_in(gate, clock, held) <= 60


def test_progress_of_long_ones_counts_though_they_do_not_leave() -> None:
    """Beside ten hour-long files only short ones leave: that is no sign of a slow machine."""
    gate, clock = learned(workers=2, queue_s=5.0, each_s=0.01)  # so a long one needs a thousand seconds
    long_ones = [Turn(flow=number) for number in range(10)]
    with ExitStack() as held:
        for turn in long_ones:
            held.enter_context(gate.enter("/quality", 100_000_000, turn, clock.now)).arrived(100_000_000)
        for number in range(100):
            with gate.enter("/quality", 1000, Turn(flow=100 + number), clock.now):
                clock.advance(0.1)
                for turn in long_ones:
                    turn.spend(0.02)


@given(st.lists(st.tuples(st.integers(1, 10**8), st.floats(1e-4, 10.0)), max_size=30), st.integers(0, 10**9))
def test_whatever_came_before_the_gate_is_empty_again(requests: list[tuple[int, float]], size: int) -> None:
    gate, clock = Gate(2, 5.0), ManualClock()
    for received, seconds in requests:
        turn = Turn()
        with gate.enter("/quality", received, turn, clock.now) as stay:
            stay.arrived(received)
            turn.spend(seconds)
            stay.is_answered = True

    with gate.enter("/quality", size, Turn(), clock.now):
        pass


def test_bodies_that_do_not_come_close_the_gate_for_nobody() -> None:
    """Announcing much and sending nothing must not be a way to keep others out."""
    gate, clock = learned(workers=2, queue_s=5.0, each_s=0.1)
    with ExitStack() as held:
        for number in range(200):
            with suppress(Overloaded):
                held.enter_context(gate.enter("/quality", 256 << 20, Turn(flow=number), clock.now))
        clock.advance(2.0)

        held.enter_context(gate.enter("/quality", 1000, Turn(), clock.now))


def test_answers_that_are_not_read_close_the_gate_for_nobody() -> None:
    gate, clock = learned(workers=2, queue_s=5.0, each_s=0.1)
    with ExitStack() as held:
        for number in range(200):
            with suppress(Overloaded):
                stay = held.enter_context(gate.enter("/quality", 1_000_000, Turn(flow=number), clock.now))
                stay.arrived(1_000_000)
                stay.is_streaming = True

        held.enter_context(gate.enter("/quality", 1000, Turn(), clock.now))


def test_what_came_counts_and_not_what_was_announced() -> None:
    gate, clock = learned(workers=1, queue_s=1.0, each_s=0.1)
    with ExitStack() as held:
        for number in range(4):
            held.enter_context(gate.enter("/quality", 100_000, Turn(flow=number), clock.now)).arrived(10)

        held.enter_context(gate.enter("/quality", 1000, Turn(), clock.now))


def test_requests_whose_bodies_came_stay_counted_while_they_wait() -> None:
    gate, clock = learned(workers=1, queue_s=1.0, each_s=0.1)
    with ExitStack() as held:
        for number in range(11):
            held.enter_context(gate.enter("/quality", 1000, Turn(flow=number), clock.now)).arrived(1000)
        clock.advance(60.0)

        assert let_in(gate, clock, held) <= 1
