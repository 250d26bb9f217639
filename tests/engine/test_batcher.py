"""The queue's policy, driven through every interleaving by hand: no thread, no clock."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.engine.batcher import BULK_ROOM, Batcher
from service.engine.cost import CostModel
from service.engine.lane import REGROW, Batch, Job, LaneKey, LanePolicy, Mode, area
from service.engine.turns import BULK_SHARE, BULK_TURN_S, LEAD_S, QUANTUM_S, Line, Turns
from service.errors import DeadlinePassed, Draining, ModelUnavailable, Overloaded, ShareUsedUp
from service.values import WHENEVER, Turn

WORKERS = 3
LANES = {
    LaneKey("padded@1"): LanePolicy("padded", 4, 12.0),
    LaneKey("equal@1"): LanePolicy("equal", 3, 100.0, "gpu"),
    LaneKey("alone@1"): LanePolicy("alone", 8, 100.0),
}
SLOTS = {"gpu": 1}
LENGTHS = st.sampled_from([0.1, 0.5, 1.0, 1.01, 2.0, 3.5, 10.0, 30.0])


def pays() -> CostModel:
    """Batches get cheaper per item, as recurrent models on a CPU do."""
    return CostModel(0.001, [1, 2, 4, 8], [0.01, 0.012, 0.015, 0.025])


def never_pays() -> CostModel:
    """Batches get dearer per item, as convolutions on a CPU do."""
    return CostModel(0.0, [1, 2, 4, 8], [0.01, 0.021, 0.045, 0.1])


@dataclass(eq=False)
class Sent:
    """What the test knows of one job."""

    poison: bool
    ends: list[str] = field(default_factory=list)
    tries: int = 0


class Engine(RuleBasedStateMachine):
    """Submits, cancels, forms, finishes, breaks; whatever the order, every promise of the queue holds."""

    @initialize()
    def open(self) -> None:
        self.now = 0.0
        self.batcher: Batcher[Sent] = Batcher(WORKERS, queue_s=0.5, slots=SLOTS)
        self.live: dict[Job[Sent], str] = {}
        """Jobs that have not ended: "queued" or "running"."""
        self.running: list[Batch[Sent]] = []
        self.sent: list[Sent] = []
        self.costs = {key: pays() for key in LANES}
        self.room_s = {key: policy.max_area_s for key, policy in LANES.items()}
        """At most what memory was seen to allow."""
        for key, policy in LANES.items():
            self.batcher.open_lane(key, policy, self.costs[key])

    @rule(
        lane=st.sampled_from(list(LANES)),
        length_s=LENGTHS,
        slack=st.one_of(st.none(), st.floats(0.0, 3.0)),
        poison=st.booleans(),
        whose=st.tuples(st.sampled_from("abc"), st.integers(0, 1), st.booleans()),
    )
    def submit(
        self, lane: LaneKey, length_s: float, slack: float | None, poison: bool, whose: tuple[str, int, bool]
    ) -> None:
        sent = Sent(poison)
        turn = Turn(math.inf if slack is None else self.now + slack, *whose)
        try:
            job = self.batcher.submit(lane, length_s, turn, sent, self.now)
        except (Overloaded, DeadlinePassed, ShareUsedUp):
            return
        self.sent.append(sent)
        self.live[job] = "queued"

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.live)))
        was_queued = self.batcher.cancel(job)
        assert was_queued == (self.live[job] == "queued")
        if was_queued:
            self._end(job, "cancelled")
        else:
            job.payload.ends.append("abandoned")

    @rule(seconds=st.floats(0.0, 1.0))
    def advance(self, seconds: float) -> None:
        self.now += seconds

    @rule(idle=st.integers(1, WORKERS))
    def take(self, idle: int) -> None:
        queued = [job for job, state in self.live.items() if state == "queued"]
        batch, late = self.batcher.next_batch(self.now, idle)
        for job in late:
            assert job.deadline <= self.now
            self._end(job, "expired")
        full = {device for device, most in SLOTS.items() if self._on(device) >= most}
        waiting = [job for job in queued if job not in late and LANES[job.lane].device not in full]
        assert (batch is None) == (not waiting), "a worker stays idle while somebody waits, or runs nothing"
        if batch is not None:
            self._check(batch, waiting)
            self.running.append(batch)
            for job in batch.jobs:
                job.payload.tries += 1
                self.live[job] = "running"

    @precondition(lambda self: self.running)
    @rule(data=st.data(), seconds=st.floats(0.001, 2.0))
    def come_back(self, data: st.DataObject, seconds: float) -> None:
        """A run ends as its jobs say: broken if one of them is poison."""
        batch = self._one_running(data)
        if any(job.payload.poison for job in batch.jobs):
            failed = self.batcher.failed(batch)
            assert all(job.payload.poison for job in failed), "an innocent job failed"
            self._settle(batch, failed)
        else:
            self.batcher.done(batch, seconds)
            self.room_s[batch.lane] = min(self.room_s[batch.lane] * REGROW, LANES[batch.lane].max_area_s)
            self._settle(batch, batch.jobs, "done")

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def run_out_of_memory(self, data: st.DataObject) -> None:
        batch = self._one_running(data)
        failed = self.batcher.failed(batch, out_of_memory=True)
        self.room_s[batch.lane] = min(self.room_s[batch.lane], batch.area_s / 2)
        assert failed == (batch.jobs if len(batch.jobs) == 1 else [])
        self._settle(batch, failed)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def lose_the_worker(self, data: st.DataObject) -> None:
        batch = self._one_running(data)
        assert self.batcher.drop(batch)
        assert not self.batcher.drop(batch)
        assert self.batcher.failed(batch) == []
        self._settle(batch, batch.jobs)

    @rule(lane=st.sampled_from(list(LANES)))
    def reopen(self, lane: LaneKey) -> None:
        """An unload: what waits is answered, what runs is not touched."""
        for job in self.batcher.close_lane(lane):
            self._end(job, "unloaded")
        assert not [job for job, state in self.live.items() if state == "queued" and job.lane == lane]
        with pytest.raises(ModelUnavailable):
            self.batcher.submit(lane, 1.0, WHENEVER, Sent(False), self.now)
        self.batcher.open_lane(lane, LANES[lane], self.costs[lane])
        # what memory was seen to allow is remembered

    @invariant()
    def sums_are_exact(self) -> None:
        if not hasattr(self, "batcher"):
            return
        for key in LANES:
            queued = [job for job, state in self.live.items() if state == "queued" and job.lane == key]
            items, seconds = self.batcher.queued(key)
            assert items == len(queued)
            assert seconds == sum(job.work_ns for job in queued) * 1e-9 * self.costs[key].correction

    @invariant()
    def nobody_ends_twice(self) -> None:
        for sent in getattr(self, "sent", []):
            assert len([end for end in sent.ends if end != "abandoned"]) <= 1

    def teardown(self) -> None:
        """Whatever is left is answered by simply going on."""
        if not hasattr(self, "batcher"):
            return
        for _ in range(10_000):
            if not self.live:
                break
            if not self.running:
                self.take(1)
                continue
            batch = self.running.pop()
            if any(job.payload.poison for job in batch.jobs):
                self._settle(batch, self.batcher.failed(batch))
            else:
                self.batcher.done(batch, 0.1)
                self._settle(batch, batch.jobs, "done")
        assert not self.live, "somebody was never answered"
        assert all(self.batcher.queued(key) == (0, 0.0) for key in LANES)
        assert self.batcher.wait_s(self.now) == 0.0

    def _check(self, batch: Batch[Sent], waiting: list[Job[Sent]]) -> None:
        jobs, policy, cost = batch.jobs, LANES[batch.lane], self.costs[batch.lane]
        mine = [job for job in waiting if job.lane == batch.lane]
        assert set(jobs) <= set(mine), "computed without being queued there"
        beside = [job for job in waiting if LANES[job.lane].device == policy.device]
        beside.sort(key=lambda job: -job.seq)
        oldest = {(job.turn.bulk, job.turn.share, job.turn.flow): job for job in beside}
        assert set(oldest.values()) & set(jobs), "nobody in the batch was the oldest of its request"
        assert jobs == sorted(jobs, key=lambda job: job.seq)
        assert all(job.deadline > self.now for job in jobs)
        assert len(jobs) <= policy.max_items
        assert len(jobs) == 1 or area(jobs) <= self.room_s[batch.lane]
        if policy.mode == "alone":
            assert len(jobs) == 1
        if policy.mode == "equal":
            assert len({job.length_s for job in jobs}) == 1
        if not any(job.payload.tries for job in jobs):
            alone_s = sum(cost.cost(1, job.length_s) for job in jobs)
            assert batch.predicted_s <= alone_s * (1 + 1e-9), "the batch costs more than its jobs alone"

    def _on(self, device: str) -> int:
        """Batches that run on *device*."""
        return sum(LANES[batch.lane].device == device for batch in self.running)

    def _one_running(self, data: st.DataObject) -> Batch[Sent]:
        batch = data.draw(st.sampled_from(self.running))
        self.running.remove(batch)
        return batch

    def _settle(self, batch: Batch[Sent], ended: list[Job[Sent]], end: str = "failed") -> None:
        for job in batch.jobs:
            if job in ended:
                self._end(job, end)
            elif job.abandoned:
                self._end(job, "dropped")
            else:
                self.live[job] = "queued"

    def _end(self, job: Job[Sent], end: str) -> None:
        del self.live[job]
        job.payload.ends.append(end)


Engine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEngine = Engine.TestCase


def lane(
    batcher: Batcher[int],
    name: str = "a@1",
    mode: Mode = "padded",
    cost: CostModel | None = None,
    items: int = 8,
    area_s: float = 1000.0,
) -> LaneKey:
    key = LaneKey(name)
    batcher.open_lane(key, LanePolicy(mode, items, area_s), cost or pays())
    return key


def form(batcher: Batcher[int], now: float = 0.0, idle: int = 1) -> list[int]:
    """The payloads of the next batch."""
    batch, _ = batcher.next_batch(now, idle)
    assert batch is not None
    return [job.payload for job in batch.jobs]


def test_items_join_by_length_not_by_arrival() -> None:
    """Long items between do not keep short ones apart."""
    batcher: Batcher[int] = Batcher(1, 1000.0)
    key = lane(batcher)
    for i, length_s in enumerate([2.0, 15.0, 2.1, 14.0, 1.9]):
        batcher.submit(key, length_s, WHENEVER, i, 0.0)

    assert form(batcher) == [0, 2, 4]
    assert form(batcher) == [1, 3]


def test_nothing_joins_where_it_does_not_pay() -> None:
    batcher: Batcher[int] = Batcher(1, 1000.0)
    key = lane(batcher, cost=never_pays())
    for i in range(3):
        batcher.submit(key, 5.0, WHENEVER, i, 0.0)

    assert [form(batcher) for _ in range(3)] == [[0], [1], [2]]


def test_idle_workers_share_a_burst() -> None:
    """Two jobs and two idle workers make two runs, not one run and an idle core."""
    batcher: Batcher[int] = Batcher(2, 1000.0)
    key = lane(batcher)
    for i in range(5):
        batcher.submit(key, 5.0, WHENEVER, i, 0.0)

    assert len(form(batcher, idle=2)) == 3
    assert len(form(batcher, idle=1)) == 2


def test_batch_does_not_break_a_deadline_that_would_hold_alone() -> None:
    """A job that must be back soon is not tied to company that makes it late."""
    batcher: Batcher[int] = Batcher(1, 1000.0)
    key = lane(batcher)
    alone_s = pays().cost(1, 5.0)
    batcher.submit(key, 5.0, Turn(alone_s * 1.05), 0, 0.0)
    batcher.submit(key, 5.0, WHENEVER, 1, 0.0)

    assert form(batcher) == [0]


def test_batch_stays_short_enough_for_the_others() -> None:
    """Joining ends at a quarter of a second, however much it would save."""
    batcher: Batcher[int] = Batcher(1, 1000.0)
    key = lane(batcher, cost=CostModel(0.001, [1, 8], [0.02, 0.04]), items=8)
    for i in range(8):
        batcher.submit(key, 10.0, WHENEVER, i, 0.0)

    sizes = [len(form(batcher)) for _ in range(4)]

    assert sizes == [2, 2, 2, 2]


def test_item_beyond_every_budget_runs_alone() -> None:
    batcher: Batcher[int] = Batcher(1, 0.001)
    key = lane(batcher, area_s=1.0)
    batcher.submit(key, 500.0, WHENEVER, 0, 0.0)

    assert form(batcher) == [0]


def test_full_queue_refuses_and_says_when_to_come_back() -> None:
    """Work is counted in seconds: many short jobs fit where few long ones do not."""
    batcher: Batcher[int] = Batcher(2, 1.0)
    key = lane(batcher)
    alone_s = pays().cost(1, 50.0)
    for i in range(math.floor(2 * 1.0 / alone_s)):
        batcher.submit(key, 50.0, WHENEVER, i, 0.0)

    with pytest.raises(Overloaded) as refusal:
        batcher.submit(key, 50.0, WHENEVER, 99, 0.0)
    assert 1.0 <= refusal.value.retry_after_s <= 60.0


def test_cold_burst_is_not_refused_while_its_wait_fits() -> None:
    """Nothing was measured yet while serving; a burst that the queue can hold is admitted whole."""
    batcher: Batcher[int] = Batcher(2, 60.0)
    key = lane(batcher)

    for i in range(500):
        batcher.submit(key, 5.0, Turn(30.0), i, 0.0)

    assert batcher.queued(key)[0] == 500


def test_lane_opens_once() -> None:
    batcher: Batcher[int] = Batcher(1, 1.0)
    lane(batcher)

    with pytest.raises(ValueError, match="open"):
        lane(batcher)


def test_batch_that_fails_after_its_lane_closed_ends() -> None:
    """There is no queue to go back to."""
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher)
    for i in range(3):
        batcher.submit(key, 1.0, WHENEVER, i, 0.0)
    batch, _ = batcher.next_batch(0.0, 1)
    assert batch is not None
    batcher.close_lane(key)

    assert batcher.failed(batch) == batch.jobs


def test_draining_admits_nothing_and_answers_what_waits() -> None:
    batcher: Batcher[int] = Batcher(1, 1.0)
    key = lane(batcher)
    batcher.submit(key, 1.0, WHENEVER, 7, 0.0)

    assert [job.payload for job in batcher.close()] == [7]
    with pytest.raises(Draining):
        batcher.submit(key, 1.0, WHENEVER, 8, 0.0)
    assert batcher.next_batch(0.0, 1) == (None, [])


@given(
    st.lists(st.tuples(LENGTHS, st.floats(0.01, 5.0)), max_size=12),
    LENGTHS,
    st.floats(0.001, 5.0),
    st.floats(0.001, 5.0),
)
@settings(deadline=None, max_examples=50)
def test_later_deadline_is_never_refused_where_an_earlier_one_is_admitted(
    queued: list[tuple[float, float]], length_s: float, one: float, other: float
) -> None:
    def admits(deadline: float) -> bool:
        batcher: Batcher[int] = Batcher(2, 0.3)
        key = lane(batcher)
        for waiting_s, slack in queued:
            try:
                batcher.submit(key, waiting_s, Turn(slack), 0, 0.0)
            except (Overloaded, DeadlinePassed):
                continue
        try:
            batcher.submit(key, length_s, Turn(deadline), 1, 0.0)
        except (Overloaded, DeadlinePassed):
            return False
        return True

    earlier, later = sorted((one, other))
    assert admits(later) or not admits(earlier)


BACKLOG = st.lists(st.sampled_from([0.5, 1.0, 2.0, 10.0, 25.0, 30.0]), min_size=1, max_size=6)


@given(BACKLOG, BACKLOG, st.sampled_from(list(LANES)), st.sampled_from(list(LANES)), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_callers_with_work_get_equal_time(
    mine: list[float], theirs: list[float], my_lane: LaneKey, their_lane: LaneKey, flows: int
) -> None:
    """Whatever the lengths, the models and the number of requests, callers that always have work are served alike.

    They differ by two quanta and a batch of each and, where one rides in the other's batches, by the lead allowed.
    """
    batcher: Batcher[int] = Batcher(1, 1e9)
    for key, policy in LANES.items():
        batcher.open_lane(key, policy, pays())
    waiting = Counter[str]()
    for i in range(120):
        batcher.submit(my_lane, mine[i % len(mine)], Turn(share="mine", flow=i % flows), 0, 0.0)
        batcher.submit(their_lane, theirs[i % len(theirs)], Turn(share="theirs"), 0, 0.0)
        waiting.update(("mine", "theirs"))
    served = Counter[str]()
    largest = 0.0

    while waiting["mine"] and waiting["theirs"]:
        batch, _ = batcher.next_batch(0.0, 1)
        assert batch is not None
        alone_ns = sum(job.work_ns for job in batch.jobs)
        for job in batch.jobs:
            served[job.turn.share] += batch.expected_s * job.work_ns / alone_ns
            waiting[job.turn.share] -= 1
        largest = max(largest, batch.expected_s)
        allowed_s = 2 * QUANTUM_S + 2 * largest + (LEAD_S if my_lane == their_lane else 0.0)
        assert abs(served["mine"] - served["theirs"]) <= allowed_s + 1e-9


def test_many_requests_of_one_caller_do_not_outweigh_another() -> None:
    """A folder sent as a hundred requests gets what one request of somebody else gets."""
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher, mode="alone")
    for i in range(200):
        batcher.submit(key, 30.0, Turn(share="folder", flow=i % 100), 0, 0.0)
    for _ in range(40):
        batcher.submit(key, 30.0, Turn(share="other", flow=1000), 1, 0.0)

    turns = [form(batcher)[0] for _ in range(60)]

    assert 27 <= sum(turns) <= 33


def test_short_request_is_served_before_long_ones_have_ended() -> None:
    """Ten callers with an hour each wait; a newcomer's clip goes next, whoever it shares a key with."""
    for share in ("new", "long 3"):
        batcher: Batcher[int] = Batcher(1, 1e9)
        key = lane(batcher, mode="alone")
        for i in range(400):
            batcher.submit(key, 10.0, Turn(share=f"long {i % 10}", flow=i % 10), 0, 0.0)
        for _ in range(55):
            form(batcher)

        batcher.submit(key, 3.0, Turn(share=share, flow=99), 1, 0.0)

        waited = [form(batcher)[0] for _ in range(45)].index(1)
        assert waited == 0 if share == "new" else waited <= 40


def test_newcomers_do_not_starve_who_was_there() -> None:
    """However many short requests come, one after the other, a long one keeps getting its turn."""
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher, mode="alone")
    for _ in range(40):
        batcher.submit(key, 30.0, Turn(flow=0), 1, 0.0)
    turns = []
    for i in range(2000):
        batcher.submit(key, 3.0, Turn(flow=1 + i), 0, 0.0)
        turns += form(batcher)

    first, last = turns[:1000], turns[1000:]
    assert sum(first) >= 4
    assert sum(last) >= 4


def test_interactive_goes_before_bulk_but_bulk_does_not_starve() -> None:
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher, mode="alone")
    alone_s = pays().cost(1, 10.0)
    for _ in range(500):
        batcher.submit(key, 10.0, Turn(share="a", bulk=True), 1, 0.0)
    for _ in range(500):
        batcher.submit(key, 10.0, Turn(share="b"), 0, 0.0)

    turns = [form(batcher)[0] for _ in range(300)]

    assert not sum(turns[: math.floor(BULK_TURN_S / BULK_SHARE / alone_s)])
    assert sum(turns) == pytest.approx(300 * BULK_SHARE / (1 + BULK_SHARE), abs=4)


def test_bulk_alone_has_the_whole_machine() -> None:
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher)
    batcher.submit(key, 10.0, Turn(bulk=True), 1, 0.0)

    assert form(batcher) == [1]


def fill(batcher: Batcher[int], key: LaneKey, turn: Turn) -> int:
    """Submit jobs of 10 s until one is refused; how many were admitted."""
    for admitted in range(100):
        try:
            batcher.submit(key, 10.0, turn, 0, 0.0)
        except Overloaded:
            return admitted
    raise AssertionError("nothing was refused")


def test_bulk_fills_only_a_part_of_the_queue() -> None:
    batcher: Batcher[int] = Batcher(1, 1.0)
    key = lane(batcher)
    admitted = fill(batcher, key, Turn(bulk=True))
    with pytest.raises(Overloaded, match="bulk"):
        batcher.submit(key, 10.0, Turn(bulk=True), 0, 0.0)

    assert admitted * pays().cost(1, 10.0) == pytest.approx(BULK_ROOM, abs=0.11)
    batcher.submit(key, 10.0, Turn(), 0, 0.0)


def test_queue_filled_by_one_caller_has_room_for_others() -> None:
    """Who is alone may fill it. Then others come: they are admitted, and it is told that its share is used up."""
    batcher: Batcher[int] = Batcher(1, 1.0)
    key = lane(batcher)
    fill(batcher, key, Turn(share="greedy"))

    batcher.submit(key, 10.0, Turn(share="other"), 0, 0.0)

    with pytest.raises(ShareUsedUp) as refusal:
        batcher.submit(key, 10.0, Turn(share="greedy"), 0, 0.0)
    assert 1.0 <= refusal.value.retry_after_s <= 60.0


def test_deadline_is_judged_by_the_callers_own_place() -> None:
    """A queue of ten seconds that another filled keeps nobody from an answer within one."""
    batcher: Batcher[int] = Batcher(1, 1000.0)
    key = lane(batcher)
    for i in range(100):
        batcher.submit(key, 10.0, Turn(share="greedy", flow=i), 0, 0.0)

    batcher.submit(key, 10.0, Turn(1.0, share="other"), 0, 0.0)

    with pytest.raises(Overloaded, match="deadline"):
        batcher.submit(key, 10.0, Turn(1.0, share="greedy", flow=1), 0, 0.0)


def test_plain_calls_stand_in_the_same_order() -> None:
    """Of one request, batches go first; of two callers, the one served less."""
    turns: Turns[Any] = Turns()
    calls = Line("calls")
    batcher: Batcher[int] = Batcher(1, 1e9, turns)
    key = lane(batcher)
    mine, theirs = Turn(share="mine"), Turn(share="theirs")
    turns.add(mine, calls, "call")
    batcher.submit(key, 30.0, mine, 0, 0.0)
    batcher.submit(key, 30.0, mine, 1, 0.0)
    turns.add(theirs, calls, "call")

    first, _ = batcher.next_batch(0.0, 2, calls)
    assert first is not None
    assert first.jobs[0].payload == 0
    assert batcher.next_batch(0.0, 1, calls)[0] is None
    due = turns.first((calls,))
    assert due is not None
    assert due.turn == theirs


def test_device_takes_no_more_batches_than_it_has_slots() -> None:
    """The batch is formed when a slot is free, out of what waits by then; other devices go on meanwhile."""
    batcher: Batcher[int] = Batcher(4, 1e9, slots={"gpu": 2})
    batcher.open_lane(LaneKey("gpu@1"), LanePolicy("padded", 8, 1000.0, "gpu"), pays())
    batcher.open_lane(LaneKey("cpu@1"), LanePolicy("padded", 8, 1000.0), pays())
    for i in range(3):
        batcher.submit(LaneKey("gpu@1"), 5.0, WHENEVER, i, 0.0)
    first, _ = batcher.next_batch(0.0, 4)
    assert first is not None
    assert len(first.jobs) == 2, "two slots share what waits, however many workers ask"
    assert form(batcher, idle=3) == [2]
    batcher.submit(LaneKey("gpu@1"), 5.0, WHENEVER, 3, 0.0)
    assert batcher.next_batch(0.0, 2) == (None, [])
    batcher.submit(LaneKey("gpu@1"), 5.0, WHENEVER, 4, 0.0)
    batcher.submit(LaneKey("cpu@1"), 5.0, WHENEVER, 5, 0.0)
    assert form(batcher, idle=2) == [5]

    batcher.done(first, 0.1)

    assert form(batcher, idle=2) == [3, 4]


def test_memory_that_ran_out_is_remembered_over_a_reload() -> None:
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher)
    for i in range(4):
        batcher.submit(key, 1.0, WHENEVER, i, 0.0)
    batch, _ = batcher.next_batch(0.0, 1)
    assert batch is not None
    batcher.failed(batch, out_of_memory=True)
    batcher.close_lane(key)
    again = LaneKey(key.model, 2)
    batcher.open_lane(again, LanePolicy("padded", 8, 1000.0), pays())
    for i in range(4):
        batcher.submit(again, 1.0, WHENEVER, i, 0.0)

    assert form(batcher) == [0, 1]


def failed_batch(batcher: Batcher[int], key: LaneKey, deadlines: list[float]) -> list[Job[int]]:
    """Submit jobs that share a batch, run it, let it fail; the jobs."""
    for i, deadline in enumerate(deadlines):
        batcher.submit(key, 1.0, Turn(deadline), i, 0.0)
    batch, _ = batcher.next_batch(0.0, 1)
    assert batch is not None
    assert len(batch.jobs) == len(deadlines)
    assert batcher.failed(batch) == []
    return batch.jobs


def test_deadline_holds_for_what_is_tried_again() -> None:
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher)
    jobs = failed_batch(batcher, key, [math.inf, 5.0, math.inf, math.inf])

    batch, late = batcher.next_batch(6.0, 1)

    assert late == [jobs[1]]
    assert batch is not None
    assert batch.jobs == [jobs[0]]


def test_abandoned_job_is_not_tried_again() -> None:
    """Who has gone while the batch ran is not computed a second time."""
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher)
    for i in range(4):
        batcher.submit(key, 1.0, WHENEVER, i, 0.0)
    batch, _ = batcher.next_batch(0.0, 1)
    assert batch is not None
    batcher.cancel(batch.jobs[1])
    batcher.cancel(batch.jobs[2])
    batcher.cancel(batch.jobs[3])

    batcher.failed(batch)

    assert form(batcher) == [0]
    assert batcher.next_batch(0.0, 1) == (None, [])


def test_three_that_did_not_fit_come_back_in_parts_that_may() -> None:
    """Half of three is two, which is more than half the memory: they run one by one."""
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher)
    for i in range(3):
        batcher.submit(key, 1.0, WHENEVER, i, 0.0)
    batch, _ = batcher.next_batch(0.0, 1)
    assert batch is not None
    batcher.failed(batch, out_of_memory=True)

    assert [form(batcher) for _ in range(3)] == [[0], [1], [2]]


def test_predictions_learn_from_what_runs_take() -> None:
    """On a machine that is twice as slow as measured, waiting times double."""
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher)

    def waiting_s() -> float:
        batcher.submit(key, 5.0, WHENEVER, 0, 0.0)
        seconds = batcher.wait_s(0.0)
        batch, _ = batcher.next_batch(0.0, 1)
        assert batch is not None
        batcher.done(batch, 2 * batch.predicted_s)
        return seconds

    at_first = waiting_s()
    for _ in range(200):
        later = waiting_s()

    assert later == pytest.approx(2 * at_first, rel=0.01)


def test_caller_who_slept_does_not_get_the_past_back() -> None:
    """Nobody saves up time to starve the others with."""
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher, mode="alone")
    for _ in range(200):
        batcher.submit(key, 25.0, Turn(share="busy"), 0, 0.0)
    for _ in range(100):
        form(batcher)
    for _ in range(60):
        batcher.submit(key, 25.0, Turn(share="sleepy"), 1, 0.0)

    turns = [form(batcher)[0] for _ in range(40)]

    assert 20 <= sum(turns) <= 23


def test_memory_recovers_slowly_after_it_ran_out() -> None:
    """Half the area after a failure; the whole again within 1 500 clean batches, never more."""
    batcher: Batcher[int] = Batcher(1, 1e9)
    key = lane(batcher, items=8, area_s=40.0)

    def run_eight() -> int:
        for i in range(8):
            batcher.submit(key, 5.0, WHENEVER, i, 0.0)
        largest = 0
        while batcher.queued(key)[0]:
            batch, _ = batcher.next_batch(0.0, 1)
            assert batch is not None
            largest = max(largest, len(batch.jobs))
            batcher.done(batch, batch.expected_s)
        return largest

    for i in range(8):
        batcher.submit(key, 5.0, WHENEVER, i, 0.0)
    batch, _ = batcher.next_batch(0.0, 1)
    assert batch is not None
    assert len(batch.jobs) == 8
    batcher.failed(batch, out_of_memory=True)
    assert run_eight() == 4

    clean = 0
    while (largest := run_eight()) < 8:
        clean += 2
        assert clean < 1500
    assert largest == 8


def test_more_of_what_was_let_in_is_not_refused() -> None:
    batcher: Batcher[int] = Batcher(1, queue_s=0.1)
    key = lane(batcher)
    for number in range(5):
        batcher.submit(key, 10.0, WHENEVER, number, 0.0, is_admitted=True)

    with pytest.raises(Overloaded):
        batcher.submit(key, 10.0, WHENEVER, 5, 0.0)
    assert batcher.queued(key)[0] == 5


def test_what_takes_longer_than_its_deadline_leaves_is_not_even_queued() -> None:
    batcher: Batcher[int] = Batcher(1, queue_s=60.0)
    key = lane(batcher)

    with pytest.raises(DeadlinePassed):
        batcher.submit(key, 30.0, Turn(deadline=0.001), 0, 0.0)
    assert batcher.queued(key) == (0, 0.0)
