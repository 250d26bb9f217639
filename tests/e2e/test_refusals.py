"""Refusals explain themselves: keys, limits, types, parameters, deadlines."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.server import Server, eventually, serving
from tests.e2e.sounds import long_wav, speechlike, wav
from tests.models import make_repository

BODY = wav(speechlike(1.0))
KEY = {"Authorization": "Bearer first-key"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = make_repository(tmp_path_factory.mktemp("models"))
    keys = {"api_keys": "first-key,second-key", "admin_key": "the-admin", "key_requests": 2}
    with serving(Path(models), max_body_bytes=30 << 20, **keys) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as connection:
        yield connection


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = answer.json()
    assert document["type"] == f"/problems#{code}"
    assert document["status"] == status
    assert document["request_id"] == answer.headers["x-request-id"]
    return document


def test_a_key_is_needed_and_a_wrong_one_refused(client: httpx.Client) -> None:
    none = client.post("/quality", content=BODY)
    wrong = client.post("/quality", content=BODY, headers={"Authorization": "Bearer nobody"})
    right = client.post("/quality", content=BODY, headers=KEY)

    problem(none, 401, "unauthorized")
    problem(wrong, 401, "unauthorized")
    assert none.headers["www-authenticate"].startswith("Bearer")
    assert right.status_code == 200


def test_keys_are_never_logged(server: Server, client: httpx.Client) -> None:
    client.post("/quality", content=BODY, headers=KEY)

    assert "first-key" not in server.log()
    assert "the-admin" not in server.log()


def test_health_and_metrics_need_no_key(client: httpx.Client) -> None:
    assert client.get("/health/ready").status_code == 200
    assert client.get("/metrics").status_code == 200


def test_loading_needs_the_admin_key(client: httpx.Client) -> None:
    problem(client.post("/models/tiny-scene/unload", headers=KEY), 401, "unauthorized")
    admin = {"Authorization": "Bearer the-admin"}

    assert client.post("/models/tiny-scene/unload", headers=admin).json()["state"] == "unloaded"
    gone = client.post("/scene", content=BODY, headers=KEY)
    assert client.post("/models/tiny-scene/load", headers=admin).json()["state"] == "ready"
    back = client.post("/scene", content=BODY, headers=KEY)

    problem(gone, 503, "model-unavailable")
    assert int(gone.headers["retry-after"]) >= 1
    assert back.status_code == 200


def test_a_share_is_a_share(server: Server) -> None:
    """Two requests of one key are under way; the third is refused, another key's is not."""
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /quality HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer first-key\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection((host, int(port))) as one, socket.create_connection((host, int(port))) as two:
        for slow in (one, two):
            slow.sendall(head.encode())
        for _ in eventually("both are in"):
            if server.metric("earmark_requests_in_flight") >= 3:
                break
        third = httpx.post(f"{server.url}/quality", content=BODY, headers=KEY)
        other = httpx.post(f"{server.url}/quality", content=BODY, headers={"Authorization": "Bearer second-key"})

    problem(third, 429, "share-used-up")
    assert "retry-after" in third.headers
    assert other.status_code == 200


def test_a_limit_is_named_with_its_value_and_what_came(client: httpx.Client) -> None:
    answer = problem(client.post("/quality", content=long_wav(40), headers=KEY), 413, "too-large")

    assert answer["limit"] == "max_body_bytes"
    assert answer["maximum"] == 30 << 20
    assert client.get("/limits").json()["max_body_bytes"] == 30 << 20


@pytest.mark.parametrize(("path", "named"), [
    ("/quality?treshold=1", "treshold"),
    ("/quality?step=never", "step"),
    ("/scene?top=0", "top"),
    ("/enhance?rate=12345", "rate"),
    ("/analyze?want=everything", "want"),
    ("/analyze?scene.top=many", "scene.top"),
    ("/analyze?scene.tops=1", "scene.tops"),
])  # fmt: skip
def test_a_wrong_parameter_is_named(client: httpx.Client, path: str, named: str) -> None:
    answer = problem(client.post(path, content=BODY, headers=KEY), 400, "bad-request")

    assert named in str(answer["detail"])


def test_a_model_that_is_not_there_is_answered_with_those_that_are(client: httpx.Client) -> None:
    answer = problem(client.post("/quality?model=nobody", content=BODY, headers=KEY), 404, "not-found")

    assert "tiny-quality" in str(answer["supported"])


def test_an_answer_in_a_type_that_is_not_made(client: httpx.Client) -> None:
    answer = problem(client.post("/scene", content=BODY, headers=KEY | {"Accept": "image/png"}), 406, "not-acceptable")

    assert "application/json" in answer["supported"]  # type: ignore[operator]


def test_a_deadline_that_cannot_hold(client: httpx.Client) -> None:
    answer = client.post("/quality", content=long_wav(20), headers=KEY | {"Earmark-Deadline-Ms": "20"})

    assert answer.status_code in (503, 504)
    assert answer.json()["type"].rsplit("#")[1] in ("deadline-passed", "overloaded")
    problem(client.post("/quality", content=BODY, headers=KEY | {"Earmark-Deadline-Ms": "-1"}), 400, "bad-request")


def test_nowhere_and_the_wrong_verb(client: httpx.Client) -> None:
    problem(client.get("/nowhere"), 404, "not-found")
    wrong = client.get("/quality")

    problem(wrong, 405, "method-not-allowed")
    assert wrong.headers["allow"] == "POST"


def test_a_request_id_is_taken_if_it_is_well_formed(client: httpx.Client) -> None:
    taken = client.get("/health/live", headers={"X-Request-Id": "mine-1"})
    made = client.get("/health/live", headers={"X-Request-Id": "not mine"})

    assert taken.headers["x-request-id"] == "mine-1"
    assert made.headers["x-request-id"] != "not mine"


def test_an_unknown_setting_stops_the_start() -> None:
    server = Server(prot=80)
    code, log = server.exit_code(), server.log()
    server.close()

    assert code == 2
    assert "EARMARK_PROT" in log


@pytest.mark.parametrize("priority", ["interactive", "bulk", "Bulk"])
def test_a_priority_changes_no_answer(client: httpx.Client, priority: str) -> None:
    usual = client.post("/quality", content=BODY, headers=KEY).json()
    given = client.post("/quality", content=BODY, headers=KEY | {"Earmark-Priority": priority})

    assert given.status_code == 200
    assert given.json()["score"] == usual["score"]


@pytest.mark.parametrize("priority", ["urgent", "", "1"])
def test_a_priority_that_there_is_not_is_refused(client: httpx.Client, priority: str) -> None:
    refusal = problem(
        client.post("/quality", content=BODY, headers=KEY | {"Earmark-Priority": priority}), 400, "bad-request"
    )

    assert refusal["supported"] == ["interactive", "bulk"]


def test_the_priority_is_in_the_document(client: httpx.Client) -> None:
    named = client.get("/openapi.json").json()["paths"]["/quality"]["post"]["parameters"]

    assert "Earmark-Priority" in {parameter["name"] for parameter in named}
