from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.negotiate import choose
from service.errors import InternalFault, NotAcceptable

JSON, CSV, SVG = "application/json", "text/csv", "image/svg+xml"
OFFERED = (JSON, CSV, SVG)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        (" , ", JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV", CSV),
        ("text/*", CSV),
        ("text/*, image/svg+xml", SVG),
        ("text/csv;q=0.5, application/json;q=0.4", CSV),
        ("text/csv;q=0.5, */*;q=0.1", CSV),
        ("text/csv, */*", CSV),
        ("application/json;q=0, */*", CSV),
        ("application/*;q=0.2, application/json;q=0.1, text/csv;q=0.15", CSV),
        ("application/json; charset=utf-8", JSON),
        ("text/csv ; q=1.000", CSV),
        ("text/csv; Q=0.9, application/json;q=0.8", CSV),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("rubbish", JSON),
        ("rubbish, text/csv", CSV),
        ("application/json;q=2, text/csv;q=0.1", CSV),
        ("application/json;q=nan, text/csv;q=0.1", CSV),
        ("application/json;q=, text/csv;q=0.1", CSV),
    ],
)
def test_choose(accept: str | None, expected: str) -> None:
    assert choose(accept, OFFERED) == expected


@pytest.mark.parametrize(
    "accept", ["text/html", "text/html;q=1, image/png", "*/*;q=0", "application/json;q=0", "image/svg", "text/c*"]
)
def test_choose_without_a_match_says_what_there_is(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        choose(accept, OFFERED)
    assert caught.value.extra["supported"] == list(OFFERED)
    assert all(offered in caught.value.detail for offered in OFFERED)


def test_parameters_tell_offers_of_the_same_type_apart() -> None:
    offered = ("audio/pcm;encoding=s16le", "audio/pcm;encoding=f32le")
    assert choose("audio/pcm; encoding=f32le", offered) == offered[1]
    assert choose('audio/pcm; encoding="f32le"', offered) == offered[1]
    assert choose("audio/*", offered) == offered[0]
    with pytest.raises(NotAcceptable):
        choose("audio/pcm; encoding=u8", offered)


def test_what_is_offered_must_be_a_media_type() -> None:
    with pytest.raises(InternalFault):
        choose("text/csv", ["csv"])


PIECES = st.sampled_from(
    [*OFFERED, "*/*", "text/*", ";q=0.3", ";q=0", ";", ",", "/", '"', "q=", "=", " ", "é", "\x00", "a/b"]
)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_header_is_answered_or_refused(accept: str) -> None:
    try:
        assert choose(accept, OFFERED) in OFFERED
    except NotAcceptable:
        assert accept.strip()


@given(st.permutations([f"{JSON};q=0.3", f"{CSV};q=0.7", f"{SVG};q=0.5", "*/*;q=0.9"]))
def test_order_of_the_header_does_not_matter(ranges: list[str]) -> None:
    assert choose(",".join(ranges), OFFERED) == CSV
