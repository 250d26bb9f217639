"""What a result says of itself: the machine, the versions, the commit; and how it is written and shown."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from service.backends.machine import usable_cores

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch", "fastapi", "uvicorn", "numpy")


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "commit": _commit(),
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        **{name: found for name in PACKAGES if (found := _version(name))},
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def save(figures: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine()} | dict(figures), indent=1) + "\n", "utf-8")


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table, its columns as wide as they need to be."""
    lines = [head, *[tuple(_text(cell) for cell in row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    shown = ["| " + " | ".join(line) + " |" for line in padded]
    return "\n".join([shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]])


def _text(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"
