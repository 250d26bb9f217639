"""What processes take of the machine, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for one in found:
        found += _children(one)
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Processor seconds that processes took, and those of their children that have ended."""
    ticks = 0
    for pid in pids:
        try:
            # The name may hold spaces and brackets: fields are counted from its end.
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS


def memory_bytes(pids: Iterable[int]) -> int:
    """Resident memory of processes; pages that several of them map are counted once (PSS)."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    return total


def _children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in path.read_text("ascii").split()]
        except OSError:
            continue
    return found
