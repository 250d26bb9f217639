"""Whose turn it is: fair queueing in seconds of computing, between callers and then between the requests of each.

Owns the accounts and the order, for batches and plain calls alike: no threads, no clock, no costs. Seconds are handed
in when they are known. Whoever uses it holds one lock around every call.

Each caller has an account of the seconds served to it, each of its requests one below that. The account with the least
goes next, the oldest of equals. Seconds are entered by the quantum (as in deficit round robin): requests that need less
than one stay equals and are served in the order they came, instead of all being half done at once. Within a request the
oldest piece of work goes first, and batches before calls, so that what is decoded is used before more is. Who was idle
gets back `CREDIT_S` of what it left unused and no more: a short request among long ones is served at once, and nobody
saves up time to keep others out with.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

from service.values import Turn

T = TypeVar("T")

CREDIT_S = 0.25
"""Who comes back from idleness is served so many seconds before the others, at most."""
QUANTUM_S = 0.25
"""Seconds served are entered in an account by so many at a time."""
LEAD_S = 1.0
"""A caller who was served so much more than the one whose turn it is may not even share its batch."""
BULK_SHARE = 0.1
"""Of the seconds, what bulk gets while interactive work waits as well."""
BULK_TURN_S = 0.25
"""What bulk has been promised is paid out when it comes to this much, and it never comes to more than twice as much."""
SWEEP_AT = 64
"""Accounts below another, before those are looked for that say nothing any more."""


@dataclass(eq=False, slots=True)
class Line:
    """A kind of work that is taken together: batches for one device, or plain calls."""

    name: str


@dataclass(eq=False, slots=True)
class Ticket(Generic[T]):
    """A piece of work in the order; `seq` is its place in the order of arrival, `work_ns` its expected cost."""

    seq: int
    line: Line
    turn: Turn
    work_ns: int
    item: T


@dataclass(eq=False, slots=True)
class _Account(Generic[T]):
    """One caller or one request, and what is below it.

    Attributes:
        served_s: seconds of computing served to it, in whole quanta, and `rest_s` what is not yet entered; raised when
            it comes back from idleness.
        clock_s: what `served_s` of those below is measured against when they come back.
        since: when it first came, or came back from long idleness, as a place in the order of arrival.
        waiting: tickets below it, by line; `work_ns` is their sum.
        heaps: by line, the accounts below that have work waiting there, the least served first; values may be out of
            date, but never too high, and are put right when they come to the top.
        entered: the lines in whose heap above it stands.
        tickets: of a request, by line and in order of arrival.
    """

    above: _Account[T] | None = None
    served_s: float = 0.0
    rest_s: float = 0.0
    clock_s: float = 0.0
    since: int = 0
    items: int = 0
    work_ns: int = 0
    waiting: dict[Line, int] = field(default_factory=dict)
    below: dict[Hashable, _Account[T]] = field(default_factory=dict)
    busy: int = 0
    """Accounts below with work waiting."""
    heaps: dict[Line, list[tuple[float, int, _Account[T]]]] = field(default_factory=dict)
    entered: set[Line] = field(default_factory=set)
    tickets: dict[Line, list[tuple[int, Ticket[T]]]] = field(default_factory=dict)
    sweep_at: int = SWEEP_AT

    def least(self, line: Line) -> _Account[T] | None:
        """The account below that was served least, of those with work in *line*."""
        heap = self.heaps.get(line)
        while heap:
            served_s, since, account = heap[0]
            if not account.waiting.get(line):
                heappop(heap)
                account.entered.discard(line)
            elif served_s != account.served_s or since != account.since:
                heapreplace(heap, (account.served_s, account.since, account))
            else:
                return account
        return None

    def next(self, lines: Sequence[Line]) -> _Account[T] | None:
        """The account below whose turn it is, of those with work in one of *lines*."""
        found = [account for line in lines if (account := self.least(line))]
        return min(found, key=lambda account: (account.served_s, account.since)) if found else None

    def child(self, key: Hashable) -> _Account[T]:
        account = self.below.get(key)
        if account is None:
            if len(self.below) >= self.sweep_at:
                self._sweep()
            account = self.below[key] = _Account(self, self.clock_s - CREDIT_S)
        return account

    def serve(self, account: _Account[T], seconds: float) -> None:
        """Charge one of those below.

        The clock keeps up with the least served of those that wait. It also goes on by half of what each of them would
        get of these seconds: slower than those that are always served, but where newcomers never cease it goes on all
        the same, and in the end they come in behind whoever was there before.
        """
        account.rest_s += seconds
        if account.rest_s >= QUANTUM_S:
            entered_s = account.rest_s // QUANTUM_S * QUANTUM_S
            account.served_s += entered_s
            account.rest_s -= entered_s
        least_s = min(
            (other.served_s for line in self.heaps if (other := self.least(line))),
            default=account.served_s,
        )
        least_s = min(least_s, account.served_s)
        self.clock_s = max(self.clock_s + seconds / (2 * max(self.busy, 1)), least_s)

    def _sweep(self) -> None:
        """Forget those that would start anew with just what they have."""
        self.below = {
            key: account
            for key, account in self.below.items()
            if account.items or account.entered or account.served_s + account.rest_s > self.clock_s - CREDIT_S
        }
        self.sweep_at = max(SWEEP_AT, 2 * len(self.below))


class Turns(Generic[T]):
    """The order of all work that waits for the pool."""

    def __init__(self) -> None:
        self._seq = count(1)
        self._interactive: _Account[T] = _Account()
        self._bulk: _Account[T] = _Account()
        self._bulk_due_s = 0.0

    def add(self, turn: Turn, line: Line, item: T, work_ns: int = 0) -> Ticket[T]:
        """Queue a piece of work behind all that were added before."""
        ticket = Ticket(next(self._seq), line, turn, work_ns, item)
        self.put_back(ticket)
        return ticket

    def put_back(self, ticket: Ticket[T]) -> None:
        """Queue what was taken out before, in its old place among the work of its request."""
        line, flow = ticket.line, self._flow(ticket.turn)
        insort(flow.tickets.setdefault(line, []), (ticket.seq, ticket), key=lambda entry: entry[0])
        account: _Account[T] | None = flow
        while account is not None:
            above = account.above
            if above is not None:
                self._enter(account, above, line)
            account.items += 1
            account.work_ns += ticket.work_ns
            account.waiting[line] = account.waiting.get(line, 0) + 1
            account = above

    def remove(self, ticket: Ticket[T]) -> None:
        """Take a piece of work out: it is run now, or never."""
        flow = self._flow(ticket.turn)
        tickets = flow.tickets[ticket.line]
        del tickets[bisect_left(tickets, ticket.seq, key=lambda entry: entry[0])]
        account: _Account[T] | None = flow
        while account is not None:
            account.items -= 1
            account.work_ns -= ticket.work_ns
            account.waiting[ticket.line] -= 1
            if account.above is not None and not account.items:
                account.above.busy -= 1
            account = account.above

    def holds(self, ticket: Ticket[T]) -> bool:
        """Whether it waits."""
        tickets = self._flow(ticket.turn).tickets.get(ticket.line, [])
        place = bisect_left(tickets, ticket.seq, key=lambda entry: entry[0])
        return place < len(tickets) and tickets[place][1] is ticket

    def first(self, lines: Sequence[Line]) -> Ticket[T] | None:
        """What should run now, of the work in *lines*; within one request, an earlier line goes before a later one."""
        bulk, interactive = self._bulk.next(lines), self._interactive.next(lines)
        share = bulk if bulk and (interactive is None or self._bulk_due_s >= BULK_TURN_S) else interactive
        if share is None:
            return None
        flow = share.next(lines)
        assert flow is not None  # noqa: S101  counted with its share
        return next(flow.tickets[line][0][1] for line in lines if flow.waiting.get(line))

    def charge(self, turn: Turn, seconds: float) -> None:
        """*seconds* of computing are served on this turn."""
        turn.spend(seconds)
        flow = self._flow(turn)
        share = flow.above
        assert share is not None  # noqa: S101  a flow lies below a share
        share.serve(flow, seconds)
        self._class(turn).serve(share, seconds)
        if turn.bulk:
            self._bulk_due_s = max(0.0, self._bulk_due_s - seconds)
        elif self._bulk.items:
            self._bulk_due_s = min(self._bulk_due_s + BULK_SHARE * seconds, 2 * BULK_TURN_S)

    def may_join(self, ticket: Ticket[T], anchor: Ticket[T]) -> bool:
        """Whether work may share the batch of another whose turn it is."""
        if ticket.turn.share == anchor.turn.share or ticket.turn.bulk != anchor.turn.bulk:
            return True
        return self._share(ticket.turn).served_s <= self._share(anchor.turn).served_s + LEAD_S

    def waiting(self, line: Line) -> int:
        """Pieces of work in *line*."""
        return self._interactive.waiting.get(line, 0) + self._bulk.waiting.get(line, 0)

    def work_ns(self, *, bulk: bool) -> int:
        """What is expected to be computed for all bulk work that waits, or for all other."""
        return (self._bulk if bulk else self._interactive).work_ns

    def shares_ns(self) -> dict[Hashable, int]:
        """The same for each caller that has work waiting."""
        work: dict[Hashable, int] = {}
        for root in (self._interactive, self._bulk):
            for key, share in root.below.items():
                if share.items:
                    work[key] = work.get(key, 0) + share.work_ns
        return work

    def ahead_ns(self, turn: Turn, own_ns: int) -> int:
        """What is expected to be computed before new work of *turn* that costs *own_ns*, if all are served evenly.

        Until its turn comes, every other request of the same caller is served as much as this one or all it wants, and
        every other caller as much as this one.
        """
        root = self._class(turn)
        share = root.below.get(turn.share)
        flow = share.below.get(turn.flow) if share else None
        in_flow = flow.work_ns if flow else 0
        in_share = in_flow + (_others_ns(share, flow, in_flow + own_ns) if share else 0)
        in_class = in_share + _others_ns(root, share, in_share + own_ns)
        if turn.bulk:
            return in_class + self._interactive.work_ns
        return in_class + min(self._bulk.work_ns, math.ceil(in_class * BULK_SHARE))

    def _class(self, turn: Turn) -> _Account[T]:
        return self._bulk if turn.bulk else self._interactive

    def _share(self, turn: Turn) -> _Account[T]:
        return self._class(turn).child(turn.share)

    def _flow(self, turn: Turn) -> _Account[T]:
        return self._share(turn).child(turn.flow)

    def _enter(self, account: _Account[T], above: _Account[T], line: Line) -> None:
        if not account.items:
            above.busy += 1
            least_s = above.clock_s - CREDIT_S
            if account.served_s + account.rest_s < least_s:
                account.served_s, account.rest_s, account.since = least_s, 0.0, next(self._seq)
            account.since = account.since or next(self._seq)
        if line not in account.entered:
            account.entered.add(line)
            heappush(above.heaps.setdefault(line, []), (account.served_s, account.since, account))

    def __iter__(self) -> Iterator[Ticket[T]]:
        """All that waits."""
        for root in (self._interactive, self._bulk):
            for share in root.below.values():
                for flow in share.below.values():
                    for tickets in flow.tickets.values():
                        yield from (ticket for _, ticket in tickets)


def _others_ns(above: _Account[T], mine: _Account[T] | None, most_ns: int) -> int:
    return sum(min(other.work_ns, most_ns) for other in above.below.values() if other is not mine)
