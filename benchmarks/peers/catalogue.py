"""Who is compared: how each is started, how it is asked, where the score stands in its answer."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client.wire import request

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BOUNDARY = "benchmark-part"
QUIET = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0", "ORT_DISABLE_TELEMETRY": "1"}
"""Nobody's use is reported from a benchmark."""
NOT_BATCHED, BATCHED = {"PEER_BATCH": "1"}, {"PEER_BATCH": "4"}


@dataclass(frozen=True)
class Place:
    """Where one server is started: `model` is the graph, `folder` its version folder, `scratch` for files it needs."""

    folder: Path
    scratch: Path
    venvs: Path
    port: int
    cores: int

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def model_name(self) -> str:
        return self.folder.parent.name

    def python(self, peer: str, program: str = "python") -> str:
        return str(self.venvs / peer / "bin" / program)


@dataclass(frozen=True)
class Peer:
    """A server.

    Args:
        settings: the variables of each way to set it up; the better one is compared.
        command: starts it.
        ask: the whole request for a WAV body, by the model's name.
        score: out of an answer.
    """

    name: str
    settings: Mapping[str, Mapping[str, str]]
    command: Callable[[Place], list[str]]
    ask: Callable[[bytes, str], bytes]
    score: Callable[[Any], float]

    def environment(self, place: Place, setting: str) -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("EARMARK_", "PEER_"))}
        about = {"PYTHONPATH": str(ROOT), "PEER_MODEL": str(place.model), "PEER_PORT": str(place.port)}
        return (
            known
            | QUIET
            | {"RAY_TMPDIR": str(place.scratch)}
            | about
            | {"PEER_WORKERS": str(place.cores)}
            | dict(self.settings[setting])
        )


def _earmark(place: Place) -> list[str]:
    return [sys.executable, "-m", "service", "serve", "--host", "127.0.0.1", "--port", str(place.port)]


def _module(name: str) -> Callable[[Place], list[str]]:
    return lambda place: [place.python(name), "-m", f"benchmarks.peers.{name}.serve"]


def _bentoml(place: Place) -> list[str]:
    service = "benchmarks.peers.bentoml.serve:Quality"
    where = ["--host", "127.0.0.1", "--port", str(place.port), "--api-workers", str(place.cores)]
    return [place.python("bentoml", "bentoml"), "serve", service, *where]


def _mlserver(place: Place) -> list[str]:
    """Its settings are files; batching is set there, so the command writes them."""
    settings = {
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": place.port + 1,
        "metrics_port": place.port + 2,
        "parallel_workers": place.cores,
        "debug": False,
    }
    model = {"name": "quality", "implementation": "benchmarks.peers.mlserver.serve.Quality"}
    for name, batching in (("1", {}), ("4", {"max_batch_size": 4, "max_batch_time": 0.005})):
        home = place.scratch / f"mlserver-{name}"
        (home / "quality").mkdir(parents=True, exist_ok=True)
        (home / "settings.json").write_text(json.dumps(settings), "utf-8")
        (home / "quality" / "model-settings.json").write_text(json.dumps(model | batching), "utf-8")
    start = 'exec "$0" start "$1-$PEER_BATCH"'
    return ["/bin/sh", "-c", start, place.python("mlserver", "mlserver"), str(place.scratch / "mlserver")]


def _raw(path: str) -> Callable[[bytes, str], bytes]:
    return lambda body, model: request(path.format(model=model), body)


def _form(body: bytes, model: str) -> bytes:
    disposition = 'Content-Disposition: form-data; name="audio"; filename="a.wav"'
    head = f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: audio/wav\r\n\r\n"
    form = head.encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode()
    return request("/score", form, f"multipart/form-data; boundary={BOUNDARY}")


def _inference(body: bytes, model: str) -> bytes:
    """The Open Inference Protocol: bytes travel as base64 in JSON."""
    tensor = {
        "name": "audio",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(body).decode("ascii")],
    }
    return request("/v2/models/quality/infer", json.dumps({"inputs": [tensor]}).encode(), "application/json")


def _plain_score(answer: Any) -> float:
    return float(answer["score"])


def _first_score(answer: Any) -> float:
    """Batchable methods of BentoML answer with a list, of one here."""
    return float((answer[0] if isinstance(answer, list) else answer)["score"])


def _inferred_score(answer: Any) -> float:
    return float(json.loads(answer["outputs"][0]["data"][0])["score"])


BOTH = {"one a call": NOT_BATCHED, "batches of 4": BATCHED}
EARMARK = Peer("earmark", {"defaults": {}}, _earmark, _raw("/quality?model={model}"), _plain_score)
PEERS = (
    Peer(
        "plain",
        {"onnxruntime's threads": {"PEER_THREADS": "0"}, "one thread": {"PEER_THREADS": "1"}},
        _module("plain"),
        _form,
        _plain_score,
    ),
    Peer("litserve", BOTH, _module("litserve"), _form, _plain_score),
    Peer("bentoml", BOTH, _bentoml, _form, _first_score),
    Peer("ray", BOTH, _module("ray"), _raw("/score"), _plain_score),
    Peer("mlserver", BOTH, _mlserver, _inference, _inferred_score),
)
