"""The real command on a GPU: it says so, and answers as it does on the CPU."""

from __future__ import annotations

import httpx
import pytest

from service.backends.gpu import find_gpu
from tests.backends.test_gpu import lacking
from tests.e2e.server import Server
from tests.e2e.sounds import speechlike, wav

pytestmark = pytest.mark.gpu


def score(server: Server) -> float:
    answer = httpx.post(f"{server.url}/quality", content=wav(speechlike(5.0)), timeout=60)
    value: float = answer.raise_for_status().json()["score"]
    return value


def test_service_on_a_gpu_says_so_and_answers_as_on_the_cpu() -> None:
    if reason := lacking("onnx"):
        pytest.skip(reason)
    for package in ("fastapi", "uvicorn", "soundfile", "soxr", "pydantic_settings"):
        pytest.importorskip(package)
    found = find_gpu()
    assert found is not None

    with Server(device="cpu") as server:
        expected = score(server)
    with Server(device="cuda") as server:
        limits = httpx.get(f"{server.url}/limits").json()
        models = httpx.get(f"{server.url}/models").json()["models"]
        answer = score(server)
        log = server.log()

    assert limits["gpu"]["name"] == found.name
    assert limits["plan"]["slots"] == {"cuda:0": 2}
    assert {model["provider"] for model in models} == {"CUDAExecutionProvider"}, log
    assert {model["device"] for model in models} == {"cuda:0"}
    assert answer == pytest.approx(expected, abs=5e-3)
