"""The client keeps to its schedule whatever the server does, and says what became of each request."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.client.drive import Outcome, Run, closed_loop, open_loop
from benchmarks.client.figures import percentile, summarise, throughput, wrong_answers
from benchmarks.client.schedule import Schedule, poisson
from benchmarks.client.wire import request
from tests.benchmarks.stub import OK, stub

ASK = request("/", b"x" * 1000)


def steady(rate: float, duration_s: float, leaves_s: float = math.inf) -> Schedule:
    at_s = np.arange(0, duration_s, 1 / rate)
    return Schedule(at_s, np.zeros(len(at_s), np.int64), np.full(len(at_s), leaves_s), duration_s)


def test_a_stall_shows_in_the_latencies_of_all_that_were_due_meanwhile() -> None:
    """Coordinated omission: a client that waited for its answer would note one slow request."""
    stall_s, rate = 0.6, 100
    with stub() as server:
        open_loop(server.target, [ASK], steady(rate, 0.1))
        server.stall_s.append(stall_s)
        run = open_loop(server.target, [ASK], steady(rate, 1.0))
        server.stall_s.append(stall_s)
        hidden = closed_loop(server.target, [ASK], 1, 1.0)
    slow = [outcome for outcome in run.outcomes if outcome.latency_s > 0.1]
    assert len(slow) >= 0.8 * (stall_s - 0.1) * rate
    assert sum(outcome.latency_s > 0.1 for outcome in hidden.outcomes) <= 2
    assert all(outcome.status == 200 for outcome in run.outcomes)
    # The one that is sent last within the stall has waited least.
    assert slow[0].latency_s > slow[-1].latency_s


def test_requests_go_out_while_others_are_outstanding() -> None:
    with stub() as server:
        server.stall_s.append(0.5)
        run = open_loop(server.target, [ASK], steady(100, 0.4))
    assert percentile([outcome.lateness_s for outcome in run.outcomes], 50) < 0.25


def test_connections_are_kept() -> None:
    with stub() as server:
        run = closed_loop(server.target, [ASK], 3, 5.0, most_requests=200)
        assert len(server.connections) == 3
    assert len(run.outcomes) in range(200, 203)
    assert {outcome.body for outcome in run.outcomes} == {b"ok"}


def test_a_kept_connection_that_was_closed_is_asked_again() -> None:
    with stub(lambda n: OK if n % 3 else None) as server:
        run = closed_loop(server.target, [ASK], 1, 5.0, most_requests=20)
    assert [outcome.status for outcome in run.outcomes] == [200] * 20


def test_a_server_that_never_answers_is_a_failure() -> None:
    with stub(lambda _: None) as server:
        run = closed_loop(server.target, [ASK], 1, 5.0, most_requests=3)
    assert [outcome.status for outcome in run.outcomes] == [0] * 3
    assert all("closed without an answer" in outcome.failure for outcome in run.outcomes)


def test_clients_that_leave_and_those_that_wait_too_long() -> None:
    with stub() as server:
        server.stall_s.append(0.4)
        left = open_loop(server.target, [ASK], steady(50, 0.8, leaves_s=0.05))
    with stub() as server:
        server.stall_s.append(0.4)
        late = open_loop(server.target, [ASK], steady(50, 0.8), timeout_s=0.05)
    assert {outcome.failure for outcome in left.outcomes if not outcome.status} == {"left"}
    assert {outcome.failure for outcome in late.outcomes if not outcome.status} == {"late"}
    assert summarise(left).p99_ms is not None
    assert summarise(late).p99_ms is None


def test_refusals_are_told_from_answers() -> None:
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"
    with stub(lambda n: OK if n % 2 else busy) as server:
        run = open_loop(server.target, [ASK], poisson(200, 0.5, 1, seed=3))
    figures = summarise(run)
    assert set(figures.statuses) == {"200", "503"}
    assert 0.3 < figures.refused < 0.7
    assert next(outcome for outcome in run.outcomes if outcome.status == 503).headers["retry-after"] == "2"


def outcome(due_s: float, latency_s: float = math.inf, status: int = 200, which: int = 0, body: bytes = b"") -> Outcome:
    return Outcome(which, due_s, due_s + 0.0001, due_s + latency_s, status, "" if status else "late", body)


def test_figures_of_a_run() -> None:
    outcomes = [outcome(i / 10, 0.01 * (i + 1)) for i in range(10)]
    outcomes += [outcome(0.5, 0.001, 503), outcome(0.6, status=0)]
    figures = summarise(Run(outcomes, 1.0, 1.0, 0.1, 0.5), deadline_s=0.05)
    assert figures.goodput == 5
    assert figures.p50_ms == 60
    assert figures.p99_ms is None, "a request that was dropped has waited longer than any"
    assert figures.server_cpu_ms == 50
    assert figures.refused == pytest.approx(1 / 12, abs=1e-4)
    assert figures.sound
    assert not summarise(Run(outcomes, 1.0, 1.0, 0.5, None)).sound


def test_throughput_counts_what_was_done_in_time() -> None:
    outcomes = [outcome(i / 10, 0.25) for i in range(10)]
    assert throughput(Run(outcomes, 1.0, 1.2, 0.1, None)) == 8
    assert throughput(Run(outcomes, 1.0, 1.2, 0.1, None), settle_s=0.5) == 10


def test_percentile_is_a_value_that_came() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [percentile(values, p) for p in (0, 20, 21, 50, 99, 100)] == [1, 1, 2, 3, 5, 5]
    assert percentile([1.0] * 99 + [9.0], 99) == 1
    assert percentile([1.0] * 98 + [9.0] * 2, 99) == 9
    assert math.isnan(percentile([], 50))


def test_wrong_answers_are_counted_each_time() -> None:
    outcomes = [outcome(0, 1, 200, which, b"%d" % body) for which, body in ((0, 0), (0, 1), (0, 1), (1, 1), (2, 5))]
    outcomes.append(outcome(0, 1, 503, 0, b"7"))
    assert wrong_answers(outcomes, lambda which, body: body == b"%d" % which) == 3
