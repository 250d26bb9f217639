"""The short forms of `benchmarks.hard`: what must hold whatever the machine's speed."""

from __future__ import annotations

from benchmarks.hard import chaos, hangup, hour


def test_nothing_is_computed_for_those_who_hang_up_in_the_queue() -> None:
    seen = hangup(short=True)

    assert seen["left"] == 60
    assert seen["computed_for_the_left"] <= 0.01  # type: ignore[operator]


def test_a_long_recording_is_answered_in_little_memory() -> None:
    seen = hour(short=True)

    assert seen["points"] in (600, 601)
    assert seen["peak_above_rest_mib"] < 300  # type: ignore[operator]


def test_clients_that_mean_no_good_leave_nothing_behind() -> None:
    seen = chaos(short=True)

    assert seen["good_after"] == 100
    assert (seen["server_errors"], seen["tracebacks"], seen["children"], seen["threads_more"]) == (0, 0, 0, 0)
    assert seen["open_files_more"] <= 2  # type: ignore[operator]
