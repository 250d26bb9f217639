"""Starts the real command on a free port, and says how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import httpx

START_S = 60.0
"""Far more than it takes, for a machine that is busy with other tests."""


class Server:
    """`earmark serve` as a child process.

    Args:
        models: a folder that overlays the shipped models.
        **settings: as variables, without the prefix.
    """

    def __init__(self, models: Path | None = None, **settings: object) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed on leaving
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EARMARK_")}
        environment |= {f"EARMARK_{name.upper()}": str(value) for name, value in settings.items()}
        if models is not None:
            environment["EARMARK_MODELS"] = str(models)
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--port", "0"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        self.url = ""

    def __enter__(self) -> Server:
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            self.url = self.url or self._find_url()
            if self.url and self._is_ready():
                return self
            time.sleep(0.02)
        raise AssertionError(f"the server did not get ready:\n{self.log()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill it, if it still runs; its log is gone then."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self, within_s: float = 30.0) -> int:
        return self.process.wait(within_s)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of *name* that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines():
            if line.split("{")[0].split(" ")[0] == name and all(label in line for label in wanted):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def rss_bytes(self) -> int:
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def children(self) -> list[int]:
        """Process ids of its children."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/children")
        return sorted(int(pid) for children in threads for pid in children.read_text().split())

    def _find_url(self) -> str:
        for word in self.log().replace('"', " ").split():
            if word.startswith("http://"):
                return word.rstrip("/,")
        return ""

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


def eventually(what: str, within_s: float = 10.0) -> Iterator[None]:
    """`for _ in eventually("…"): if …: break` — fails with *what* when the time is over."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        yield
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {within_s:g} s: {what}")


@contextmanager
def serving(models: Path | None = None, **settings: object) -> Iterator[Server]:
    with Server(models, **settings) as server:
        yield server
