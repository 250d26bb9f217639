"""Who is let in at all, before the body is read: by the seconds of work that all requests inside still need.

What a request will need is told from its length and from what earlier ones of its kind took. Pure arithmetic: for the
event loop alone, without a lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import Overloaded
from service.values import Turn

PACE_S = 2.0
"""Over which the pace is measured."""
LEAST_PACE = 0.2
LONG_S = 1.0
GRACE_S = 1.0
"""A body that takes longer to come is not ahead of anybody until it is there."""
LEARNING = 0.05
"""How much the newest request counts."""
TURN_S = 0.25
"""Of another request, so much may be served before a newcomer has its turn."""
MARGIN = 2.0
"""A wait is trusted to be no longer than so many times what is expected: a late answer is worth nothing."""
LONGEST_RETRY_S = 60.0


@dataclass(eq=False, slots=True)
class Stay:
    """One request that was let in, from its head to the end of its answer.

    Attributes:
        is_streaming: its answer goes out while it is made, so from now on its own client sets the pace.
        is_answered: to its end; what was not teaches nothing of what a request takes.
    """

    turn: Turn
    needs_s: float
    since: float
    per_byte_s: float
    received_bytes: int | None = None
    is_streaming: bool = False
    is_answered: bool = False

    def arrived(self, received_bytes: int) -> None:
        """The body is there: what it needs goes by what came, not by what was announced."""
        self.received_bytes = received_bytes
        self.needs_s = received_bytes * self.per_byte_s

    def left_s(self, now: float) -> float:
        """Seconds of work that it will still take from others; none while it waits for its own client."""
        waits_for_client = self.received_bytes is None and now - self.since > GRACE_S
        return 0.0 if waits_for_client or self.is_streaming else max(0.0, self.needs_s - self.turn.spent_s)


class Gate:
    """Counts what is inside, and turns away what would wait too long.

    Args:
        workers: threads that share the work.
        queue_s: longest wait until the work of a newcomer begins.
    """

    def __init__(self, workers: int, queue_s: float) -> None:
        self._workers = workers
        self._queue_s = queue_s
        self._inside: set[Stay] = set()
        self._per_byte_s: dict[str, float] = {}
        self._bytes: dict[str, float] = {}
        self._pace = _Pace(workers)
        self._gone_s = 0.0
        """What all that have left had of the workers."""

    @contextmanager
    def enter(
        self, kind: str, announced_bytes: int | None, turn: Turn, clock: Callable[[], float]
    ) -> Iterator[Stay]:
        """Let a request in until the context is left.

        Args:
            kind: requests of one kind take about as long for as many bytes.
            announced_bytes: length of the body, None where nobody said.
            clock: the one that deadlines are on.

        Raises:
            Overloaded: it would wait longer than the queue may be, or than its deadline allows.
        """
        now, per_byte_s = clock(), self._per_byte_s.get(kind, 0.0)
        needs_s = per_byte_s * (self._bytes.get(kind, 0.0) if announced_bytes is None else announced_bytes)
        left_s = [one.left_s(now) for one in self._inside]
        # All are served in turns: what begins waits for a turn of each, what ends for as much as it needs itself.
        wait_s = self._pace.wall_s(sum(min(left, TURN_S) for left in left_s))
        end_s = self._pace.wall_s(MARGIN * sum(min(left, needs_s + TURN_S) for left in left_s)) + needs_s
        excess_s = max(wait_s - self._queue_s, now + end_s - turn.deadline)
        if excess_s > 0 and any(left_s):
            raise Overloaded(
                f"The work of {len(self._inside)} requests is ahead: about {wait_s:.1f} s.",
                retry_after_s=min(max(1.0, excess_s), LONGEST_RETRY_S),
            )
        stay = Stay(turn, needs_s, now, per_byte_s)
        self._inside.add(stay)
        try:
            yield stay
        finally:
            is_busy = len(self._inside) > 2 * self._workers
            self._inside.discard(stay)
            self._gone_s += turn.spent_s
            # What is half done counts for long ones only: of short ones it may yet come to nothing.
            under_way_s = sum(one.turn.spent_s for one in self._inside if one.needs_s > LONG_S)
            self._pace.note(clock(), self._gone_s + under_way_s, is_busy=is_busy)
            if stay.is_answered and stay.received_bytes and turn.spent_s:
                self._learn(kind, stay.received_bytes, turn.spent_s)

    def _learn(self, kind: str, received_bytes: int, spent_s: float) -> None:
        """Sums rather than ratios are smoothed: many tiny requests must not outvote the ones that cost."""
        seen_s = self._per_byte_s.get(kind, 0.0) * self._bytes.get(kind, 0.0)
        if not seen_s:
            self._bytes[kind], self._per_byte_s[kind] = float(received_bytes), spent_s / received_bytes
            return
        self._bytes[kind] += LEARNING * (received_bytes - self._bytes[kind])
        self._per_byte_s[kind] = (seen_s + LEARNING * (spent_s - seen_s)) / self._bytes[kind]


class _Pace:
    """How many seconds of work are really done in a second while more wait: fewer than there are workers, where
    receiving, refusing and neighbours on the machine take their part."""

    def __init__(self, workers: int) -> None:
        self.seconds_a_second = float(workers)
        self._workers = workers
        self._done_s = self._busy_s = 0.0
        self._last: tuple[float, float] | None = None

    def wall_s(self, work_s: float) -> float:
        """Seconds by the clock for so many of work."""
        return work_s / self.seconds_a_second

    def note(self, now: float, total_s: float, *, is_busy: bool) -> None:
        """A request leaves; *total_s* is what the workers ever gave to all, those still inside among them."""
        if is_busy and self._last is not None:
            gone_s, done_s = now - self._last[0], total_s - self._last[1]
            kept = math.exp(-gone_s / PACE_S)
            self._done_s, self._busy_s = self._done_s * kept + done_s, self._busy_s * kept + gone_s
            if self._busy_s > PACE_S / 4:
                self.seconds_a_second = min(max(self._done_s / self._busy_s, LEAST_PACE * self._workers), self._workers)
        self._last = (now, total_s) if is_busy else None
