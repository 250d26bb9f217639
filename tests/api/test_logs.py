from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from service.api import logs
from service.api.logs import configure_logging, request_id

LOUD = ("", "uvicorn", "uvicorn.error", "uvicorn.access", "python_multipart")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A stream for the lines; everything that is configured is put back afterwards."""
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).disabled) for name in LOUD}
    yield io.StringIO()
    if logs._ours is not None:
        logging.getLogger().removeHandler(logs._ours)
    for name, (level, disabled) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).disabled = disabled


def test_json_line(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    logging.getLogger("earmark.x").info("heard %d s", 3, extra={"fields": {"model": "m@1", "odd": {1}}})
    line = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {"level": "info", "logger": "earmark.x", "message": "heard 3 s", "model": "m@1", "odd": "{1}"}


def test_extra_is_shown_whichever_way_it_is_given(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    extra = {"model": "m@1", "before": None, "websocket": object(), "color_message": "\x1b", "fields": {"name": "x"}}
    logging.getLogger("x").info("swapped", extra=extra)
    line = json.loads(stream.getvalue())
    assert set(line) == {"time", "level", "logger", "message", "model", "before", "name"}


def test_fields_cannot_replace_what_every_line_has(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    logging.getLogger("x").info("heard", extra={"fields": {"message": "forged", "level": "debug"}})
    line = json.loads(stream.getvalue())
    assert (line["message"], line["level"]) == ("heard", "info")


def test_every_line_of_a_request_has_its_id(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    token = request_id.set("id-1")
    logging.getLogger("some.library").warning("odd")
    request_id.reset(token)
    logging.getLogger("some.library").warning("odd")
    inside, outside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert inside["request_id"] == "id-1"
    assert "request_id" not in outside


@pytest.mark.parametrize("style", ["json", "text"])
def test_one_message_cannot_pass_for_two_lines(stream: io.StringIO, style: str) -> None:
    configure_logging("info", style, stream)  # type: ignore[arg-type]
    logging.getLogger("x").info("one\nINFO two\r\n", extra={"fields": {"path": "a\nb"}})
    assert len(stream.getvalue().splitlines()) == 1


def test_plain_text_line(stream: io.StringIO) -> None:
    configure_logging("info", "text", stream)
    logging.getLogger("earmark.x").info("heard", extra={"fields": {"model": "m@1"}})
    assert stream.getvalue().endswith("INFO    earmark.x: heard model=m@1\n")


@pytest.mark.parametrize("style", ["json", "text"])
def test_traceback_is_kept(stream: io.StringIO, style: str) -> None:
    configure_logging("info", style, stream)  # type: ignore[arg-type]
    try:
        raise ZeroDivisionError("here")
    except ZeroDivisionError:
        logging.getLogger("uvicorn.error").exception("failed")
    text = json.loads(stream.getvalue())["exception"] if style == "json" else stream.getvalue()
    assert "Traceback" in text
    assert text.rstrip().endswith("ZeroDivisionError: here")


def test_level_holds(stream: io.StringIO) -> None:
    configure_logging("WARNING", "json", stream)
    logging.getLogger("earmark.x").info("quiet")
    logging.getLogger("uvicorn.access").error("a line of its own")
    logging.getLogger("python_multipart.multipart").warning("a client's form")
    assert stream.getvalue() == ""


def test_configured_twice_writes_once(stream: io.StringIO) -> None:
    configure_logging("info", "json", io.StringIO())
    configure_logging("info", "json", stream)
    logging.getLogger("earmark.x").info("once")
    assert len(stream.getvalue().splitlines()) == 1
