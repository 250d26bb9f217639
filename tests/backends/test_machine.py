"""Cores and memory, read from made-up trees of the kernel's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.backends.machine import cpu_quota, memory_limit_bytes, usable_cores, usable_memory_bytes


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A root whose `proc/self/cgroup` holds *groups*, with *files* below its `sys/fs/cgroup`."""
    for path, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n", "ascii")
    return root


def test_version_2_quota_is_the_tightest_on_the_way_up(tmp_path: Path) -> None:
    """A parent's limit holds for its children."""
    files = {"a/b/cpu.max": "400000 100000", "a/cpu.max": "150000 100000", "cpu.max": "max 100000"}
    files |= {"a/b/memory.max": "max", "a/memory.max": "1073741824"}
    root = tree(tmp_path, "0::/a/b", files)

    assert cpu_quota(root) == 1.5
    assert memory_limit_bytes(root) == 1 << 30


def test_version_1_names_its_controllers(tmp_path: Path) -> None:
    groups = "5:memory:/pod\n4:cpu,cpuacct:/pod\n1:name=systemd:/pod"
    files = {
        "cpu,cpuacct/pod/cpu.cfs_quota_us": "250000",
        "cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
        "memory/pod/memory.limit_in_bytes": "2147483648",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    root = tree(tmp_path, groups, files)

    assert cpu_quota(root) == 2.5
    assert memory_limit_bytes(root) == 2 << 30


def test_version_1_in_a_container_sees_only_the_mount(tmp_path: Path) -> None:
    """The group's path is the host's and is not there; the limit lies in the mount itself."""
    files = {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}
    root = tree(tmp_path, "4:cpu:/docker/0123456789", files)

    assert cpu_quota(root) == 3.0


def test_both_versions_at_once_take_the_tighter(tmp_path: Path) -> None:
    files = {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000", "x/cpu.max": "200000 100000"}
    root = tree(tmp_path, "4:cpu:/x\n0::/x", files)

    assert cpu_quota(root) == 2.0


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("", {}),
        ("0::/", {}),
        ("0::/", {"cpu.max": "max 100000", "memory.max": "max"}),
        ("0::/", {"cpu.max": "nonsense", "memory.max": "-1"}),
        ("0::/", {"cpu.max": "100000 0"}),
        ("1:cpu,memory:/", {"cpu/cpu.cfs_quota_us": "-1", "memory/memory.limit_in_bytes": "9223372036854771712"}),
        ("garbage", {"cpu.max": "max"}),
    ],
)
def test_no_limit_is_none(tmp_path: Path, groups: str, files: dict[str, str]) -> None:
    root = tree(tmp_path, groups, files)

    assert cpu_quota(root) is None
    assert memory_limit_bytes(root) is None
    assert usable_cores(root) == len(os.sched_getaffinity(0))


def test_group_that_names_a_parent_does_not_leave_the_mount(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/../../etc", {"cpu.max": "100000 100000"})
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "cpu.max").write_text("1 100000", "ascii")

    assert cpu_quota(root) == 1.0


@pytest.mark.parametrize(("quota", "cores"), [(10_000, 1), (100_000, 1), (190_000, 1), (200_000, 2), (90_000_000, 900)])
def test_cores_are_whole_and_at_least_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: int, cores: int
) -> None:
    """A fraction of a core is left unused: with it the whole group would be frozen part of the time."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))

    assert usable_cores(tree(tmp_path, "0::/", {"cpu.max": f"{quota} 100000"})) == min(cores, 64)


def test_memory_is_never_more_than_the_machine_has(tmp_path: Path) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    assert usable_memory_bytes(tree(tmp_path / "a", "0::/", {"memory.max": str(1 << 50)})) == machine
    assert usable_memory_bytes(tree(tmp_path / "b", "0::/", {"memory.max": "1000000"})) == 1_000_000


def test_this_machine_has_a_core_and_memory() -> None:
    assert usable_cores() >= 1
    assert usable_memory_bytes() > 1 << 20
