"""How many cores and how much memory this process may use: affinity, and the quotas of its control group.

Reads the kernel's files below a root that tests replace; knows nothing of what the cores are for.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
NO_LIMIT_BYTES = 1 << 60
"""Version 1 says "no limit" with a number near 2**63."""


def usable_cores(root: Path = ROOT) -> int:
    """Threads that can compute at once: the affinity, and no more than the quota allows, at least 1.

    A quota of 1.5 counts as 1: with two busy threads the kernel would freeze the whole group for part of each period.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, cores if quota is None else min(cores, int(quota)))


def usable_memory_bytes(root: Path = ROOT) -> int:
    """Memory of the machine, or what the control group allows of it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit_bytes(root)
    return machine if limit is None else min(machine, limit)


def processor(root: Path = ROOT) -> str:
    """Its name as the kernel tells it, or the architecture's where it does not."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the control group may use; None without a limit."""
    quotas = [_v2_quota(folder) for folder in _v2_folders(root)]
    quotas += [_v1_quota(folder) for folder in _v1_folders(root, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """Memory that the control group may use; None without a limit."""
    limits = [_number(folder / "memory.max") for folder in _v2_folders(root)]
    limits += [_number(folder / "memory.limit_in_bytes") for folder in _v1_folders(root, "memory")]
    return min((limit for limit in limits if limit is not None and limit < NO_LIMIT_BYTES), default=None)


def _v2_quota(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _v1_quota(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period else None


def _v2_folders(root: Path) -> Iterator[Path]:
    for _, controllers, path in _groups(root):
        if not controllers:
            yield from _upwards(root / "sys/fs/cgroup", path)


def _v1_folders(root: Path, controller: str) -> Iterator[Path]:
    for _, controllers, path in _groups(root):
        if controller in controllers.split(","):
            for mount in {controllers, controller}:
                yield from _upwards(root / "sys/fs/cgroup" / mount, path)


def _groups(root: Path) -> Iterator[tuple[str, str, str]]:
    """The lines `id:controllers:path` of this process; version 2 has no controllers."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield number, controllers, path


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """The group's folder and all above it up to the mount: the tightest limit holds.

    Inside a container the path may be the host's, which is not there: then only the mount itself is.
    """
    path = PurePosixPath(group.lstrip("/"))
    if ".." in path.parts:
        path = PurePosixPath()
    for part in (path, *path.parents):
        yield mount / part


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
