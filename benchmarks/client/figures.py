"""What a run's outcomes say: percentiles, goodput, refusals, and whether the client kept its own time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from benchmarks.client.drive import Outcome, Run

LATENESS_S = 0.002
"""A run whose client was later than this at the 99th percentile measures the client."""
CLIENT_SHARE = 0.25
"""Of a core; a client that takes more takes it from the server."""
REFUSALS = (429, 503)


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in numbers; times in milliseconds, rates a second.

    Attributes:
        offered: requests a second that were due.
        goodput: successes within the deadline, a second of the time in which requests were due.
        statuses: how many answers of each; "left", "late" and other failures by their name.
        p50_ms, p90_ms, p99_ms, worst_ms: from the due time, over successes and over requests that failed without an
            answer, which count as infinite: a server must not look fast by dropping what is slow. Infinite is None.
        refused: share of the answers that are 429 or 503; they do not count as slow, and not as good.
        lateness_p99_ms: of the client itself.
        client_share: cores that the client took.
        server_cpu_ms: processor time of the server for each success.
        sound: the client kept its time and its share; the latencies may be believed.
    """

    offered: float
    requests: int
    goodput: float
    statuses: dict[str, int]
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    worst_ms: float | None
    refused: float
    lateness_p99_ms: float | None
    client_share: float
    server_cpu_ms: float | None
    sound: bool

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def summarise(run: Run, *, deadline_s: float = math.inf, warm_s: float = 0.0) -> Summary:
    """Args:
    deadline_s: a success that took longer is none.
    warm_s: requests due before this are left out.
    """
    outcomes = [outcome for outcome in run.outcomes if outcome.due_s >= warm_s]
    span_s = run.duration_s - warm_s
    staying = [outcome for outcome in outcomes if outcome.failure != "left"]
    counted = [outcome.latency_s for outcome in staying if is_success(outcome) or not outcome.status]
    good = sum(is_success(outcome) and outcome.latency_s <= deadline_s for outcome in staying)
    all_good = sum(is_success(outcome) for outcome in run.outcomes)
    lateness_s = percentile([outcome.lateness_s for outcome in outcomes if math.isfinite(outcome.sent_s)], 99)
    share = run.client_cpu_s / run.wall_s
    refused = sum(outcome.status in REFUSALS for outcome in staying)
    return Summary(
        offered=round(len(outcomes) / span_s, 2),
        requests=len(outcomes),
        goodput=round(good / span_s, 2),
        statuses=dict(sorted(Counter(map(_ending, outcomes)).items())),
        p50_ms=_ms(percentile(counted, 50)),
        p90_ms=_ms(percentile(counted, 90)),
        p99_ms=_ms(percentile(counted, 99)),
        worst_ms=_ms(percentile(counted, 100)),
        refused=round(refused / len(staying), 4) if staying else 0.0,
        lateness_p99_ms=_ms(lateness_s),
        client_share=round(share, 3),
        server_cpu_ms=round(1000 * run.server_cpu_s / all_good, 3) if run.server_cpu_s and all_good else None,
        sound=lateness_s <= LATENESS_S and share <= CLIENT_SHARE,
    )


def throughput(run: Run, settle_s: float = 0.0) -> float:
    """Successes a second of a closed loop, counted between *settle_s* and the end of asking by when they were done."""
    done = sum(is_success(outcome) and settle_s <= outcome.done_s < run.duration_s for outcome in run.outcomes)
    return done / (run.duration_s - settle_s)


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of *values* that at least *percent* of them do not pass (nearest rank); NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def is_success(outcome: Outcome) -> bool:
    return 200 <= outcome.status < 300


def wrong_answers(outcomes: Sequence[Outcome], is_right: Callable[[int, bytes], bool]) -> int:
    """How many successes are not what the same recording gets alone; asked after the run, never during it."""
    seen: dict[tuple[int, bytes], bool] = {}
    wrong = 0
    for outcome in outcomes:
        if is_success(outcome):
            key = (outcome.which, outcome.body)
            if key not in seen:
                seen[key] = is_right(*key)
            wrong += not seen[key]
    return wrong


def _ending(outcome: Outcome) -> str:
    return str(outcome.status) if outcome.status else outcome.failure.partition(":")[0]


def _ms(seconds: float) -> float | None:
    return round(1000 * seconds, 2) if math.isfinite(seconds) else None
