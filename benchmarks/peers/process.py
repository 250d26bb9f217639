"""A server as a process that is surely gone afterwards, with all that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.processes import cpu_s, memory_bytes, tree

STOP_S = 8.0


class DidNotStart(Exception):
    """The end of what it wrote says why."""


def free_port(width: int = 3) -> int:
    """The first of *width* ports in a row that nobody listens on."""
    for port in range(18_000, 28_000, width):
        if all(_is_free(port + i) for i in range(width)):
            return port
    raise OSError("no free ports")


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], is_ready: Callable[[], bool], within_s: float
) -> Iterator[Process]:
    """Run *command* until the block ends.

    Raises:
        DidNotStart: it ended, or was not ready in time.
    """
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as elsewhere:
        # Elsewhere: some of them load whatever lies in the folder they are started in.
        child = subprocess.Popen(
            command,
            env=dict(environment),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=elsewhere,
            start_new_session=True,
        )
        process = Process(child.pid)
        try:
            until = time.monotonic() + within_s
            while not is_ready():
                if child.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    text = log.read()[-2000:].decode("utf-8", "replace")
                    raise DidNotStart(f"exit {child.poll()}; its last words:\n{text}")
                time.sleep(0.2)
            yield process
        finally:
            process.stop()
            child.wait()


class Process:
    """A running server and all that descends from it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu_s(self) -> float:
        return cpu_s(tree(self._pid))

    def memory_bytes(self) -> int:
        return memory_bytes(tree(self._pid))

    def stop(self) -> None:
        """Ask, wait, kill. What it started may have left its group, so the family is remembered before."""
        family = tree(self._pid)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        until = time.monotonic() + STOP_S
        while any(map(_lives, family)) and time.monotonic() < until:
            family = list(dict.fromkeys([*family, *tree(self._pid)]))
            time.sleep(0.1)
        for pid in family:
            if _lives(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
