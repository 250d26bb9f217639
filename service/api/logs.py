"""How a log line looks: one JSON object, or plain text. Owns the request id that every line carries."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that the running task answers; empty outside of one."""

_ours: logging.Handler | None = None
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message", "fields"}
_SIMPLE = (str, int, float, list, tuple, dict, type(None))
"""Libraries hang objects of theirs on a line as well; those are nothing to read."""


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What belongs to the line besides its sentence: the request id, and what the call gave as `extra`.

    `extra={"fields": {...}}` may use any name; a name straight in `extra` must be none that the library itself uses.
    """
    fields = dict(getattr(record, "fields", {}))
    current = fields.pop("request_id", "") or request_id.get()
    given = {name: value for name, value in vars(record).items() if name not in _OWN and isinstance(value, _SIMPLE)}
    return ({"request_id": current} if current else {}) | given | fields


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in _fields(record).items() if name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class PlainText(logging.Formatter):
    """For a person at a terminal: time, level, logger, message, then name=value."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{_when(record)} {record.levelname:<7} {record.name}: {record.getMessage()}{fields}"
        # A line break in a message could pass for a line of its own.
        line = line.replace("\r", "\\r").replace("\n", "\\n")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logging(level: str, style: Literal["json", "text"], stream: TextIO | None = None) -> None:
    """Send every logger of the process through one handler. The server must run with `log_config=None`.

    Args:
        level: least severity, such as `info`; case does not matter.
        style: `json` or `text`.
        stream: where lines go; standard error if not said.
    """
    global _ours
    root = logging.getLogger()
    if _ours is not None:
        root.removeHandler(_ours)
    _ours = logging.StreamHandler(stream or sys.stderr)
    _ours.setFormatter(JsonLines() if style == "json" else PlainText())
    root.addHandler(_ours)
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # `earmark.access` has one line a request already, and a client's malformed form is no warning of ours.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
