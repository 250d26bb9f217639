"""The compose file: the image builds, serves from a read-only root without any right, and stops cleanly."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
RATE_HZ = 16_000

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@dataclass(frozen=True)
class Stack:
    """A compose project of its own, on a free port."""

    name: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments: str) -> str:
        environment = {**os.environ, "EARMARK_PORT": str(self.port)}
        command = ["docker", "compose", "--project-name", self.name, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def inspect(self) -> dict[str, dict[str, object]]:
        container = self.compose("ps", "--all", "--quiet", "earmark").strip()
        shown = subprocess.run(["docker", "inspect", container], check=True, capture_output=True, text=True)
        return json.loads(shown.stdout)[0]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stack = Stack(f"earmark-test-{os.getpid()}", port)
    stack.compose("build", "earmark")
    try:
        stack.compose("up", "--detach", "--wait", "earmark")
        yield stack
    finally:
        stack.compose("down", "--volumes")


def recording() -> bytes:
    """Two seconds of a tone that swells, in noise, as WAV."""
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    noise = np.random.default_rng(1).normal(scale=0.02, size=t.size)
    samples = 0.3 * np.sin(2 * np.pi * 220 * t) * np.sin(2 * np.pi * 2 * t) ** 2 + noise
    body = io.BytesIO()
    with wave.open(body, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return body.getvalue()


def test_the_three_endpoints_answer_from_outside(stack: Stack) -> None:
    files = {"file": ("a.wav", recording(), "audio/wav")}

    quality = httpx.post(f"{stack.url}/quality", files=files, timeout=60)
    scene = httpx.post(f"{stack.url}/scene?threshold=0", files=files, timeout=60)
    enhanced = httpx.post(f"{stack.url}/enhance", files=files, timeout=60)

    assert quality.status_code == 200, quality.text
    assert isinstance(quality.json()["score"], float)
    assert scene.status_code == 200, scene.text
    assert scene.json()["labels"]
    assert enhanced.status_code == 200, enhanced.text
    assert enhanced.content[:4] == b"RIFF"


def test_the_container_may_do_nothing_but_serve(stack: Stack) -> None:
    inside = "import os; print(os.getuid(), os.access('/venv', os.W_OK), os.access('/tmp', os.W_OK))"

    seen = stack.compose("exec", "-T", "earmark", "python", "-c", inside).split()
    host = stack.inspect()["HostConfig"]

    assert seen == ["10001", "False", "True"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"]


def test_stop_is_clean(stack: Stack) -> None:
    """`docker compose stop` sends SIGTERM; the service drains and exits with 0, not with the signal's 143."""
    stack.compose("stop", "earmark")

    assert stack.inspect()["State"]["ExitCode"] == 0
