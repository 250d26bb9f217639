from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Literal

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Query
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse

from service import errors
from service.api.faults import named
from service.api.problems import (
    HIDDEN,
    PROBLEMS,
    Problem,
    install,
    kind_of,
    logged_problem,
    problem_document,
    problem_page,
    problem_response,
    responses_for,
)
from service.api.trace import Trace
from service.errors import EarmarkError, InternalFault, ModelFault, NotFound, Overloaded, RetryLater, TooLarge
from service.metrics import Metrics


def family(root: type[EarmarkError]) -> Iterator[type[EarmarkError]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


OURS = [kind for kind in family(EarmarkError) if kind.__module__ == errors.__name__]
STATUS = {
    "bad-request": 400, "broken-body": 400, "unauthorized": 401, "forbidden": 403, "not-found": 404,
    "not-acceptable": 406, "slow-body": 408, "too-large": 413, "unsupported-audio": 415, "bad-audio": 422,
    "empty-audio": 422, "silent-audio": 422, "too-short": 422, "non-finite-audio": 422, "truncated-audio": 422,
    "share-used-up": 429, "error": 500, "internal": 500, "model-fault": 500, "unavailable": 503, "overloaded": 503,
    "draining": 503, "model-unavailable": 503, "out-of-memory": 503, "deadline-passed": 504,
}  # fmt: skip


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_row_of_its_own_code(kind: type[EarmarkError]) -> None:
    row = kind_of(kind("why"))
    assert row.code == kind.code
    assert row.status == STATUS[kind.code]


def test_codes_are_unique_and_every_row_is_explained() -> None:
    assert len({kind.code for kind in PROBLEMS}) == len(PROBLEMS)
    for kind in PROBLEMS:
        assert 400 <= HTTPStatus(kind.status) < 600
        assert kind.meaning.endswith(".")


def test_error_without_a_row_takes_its_ancestors() -> None:
    class Novel(TooLarge):
        code = "novel"

    assert kind_of(Novel("why")).code == "too-large"


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_response_is_a_problem_document(kind: type[EarmarkError]) -> None:
    response = problem_response(kind("why", got=3), "id-1")
    document = json.loads(bytes(response.body))

    Problem.model_validate(document)
    assert response.headers["content-type"] == "application/problem+json"
    assert document["status"] == response.status_code
    assert document["request_id"] == "id-1"
    assert document["type"] == f"/problems#{kind.code}"
    assert ("retry-after" in response.headers) == issubclass(kind, RetryLater)
    assert ("www-authenticate" in response.headers) == (response.status_code == 401)
    assert ("got" in document) != issubclass(kind, InternalFault)


@given(st.floats(min_value=0, max_value=1e9))
def test_retry_after_is_whole_seconds_within_bounds(wait_s: float) -> None:
    document = problem_document(Overloaded("full", retry_after_s=wait_s), "id")
    seconds = document["retry_after_s"]
    assert isinstance(seconds, int)
    assert 1 <= seconds <= 60
    assert min(60, math.floor(wait_s)) <= seconds <= max(1, math.ceil(1.5 * wait_s))


def test_retry_after_is_spread() -> None:
    assert len({problem_document(Overloaded("full", retry_after_s=30), "id")["retry_after_s"] for _ in range(100)}) > 3


def test_our_own_faults_say_nothing_of_themselves() -> None:
    document = problem_document(ModelFault("/secret/model.onnx: bad node", path="/secret"), "id-1")
    assert document["detail"] == HIDDEN
    assert "secret" not in json.dumps(document)


def test_extra_cannot_replace_what_is_fixed() -> None:
    document = problem_document(NotFound("why", status=200, type="x", request_id="y", models=["a"]), "id-1")
    assert (document["status"], document["type"], document["request_id"]) == (404, "/problems#not-found", "id-1")
    assert document["models"] == ["a"]


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Path, st.just("a/b")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.frozensets(st.text()),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.text(), JSON_LIKE)
def test_whatever_is_in_extra_is_strict_json(detail: str, value: object) -> None:
    body = bytes(problem_response(TooLarge(detail, got=value), "id").body)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert "got" in json.loads(body, parse_constant=refuse)


def test_page_explains_every_code() -> None:
    page = problem_page()
    for kind in PROBLEMS:
        assert f'id="{kind.code}"' in page
        assert str(kind.status) in page


def test_responses_for_groups_by_status() -> None:
    responses = responses_for("empty-audio", "too-large", "silent-audio")
    assert list(responses) == [413, 422]
    content = responses[422]["content"]["application/problem+json"]
    assert set(content["examples"]) == {"empty-audio", "silent-audio"}
    for example in content["examples"].values():
        Problem.model_validate(example["value"])
    with pytest.raises(KeyError):
        responses_for("no-such-code")


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    install(app)
    app.add_middleware(Trace, metrics=Metrics())
    router = APIRouter(prefix="/inner")

    @app.get("/items/{item}", responses=responses_for("not-found"))
    async def items(
        item: int,
        must: str,
        top: Annotated[int, Query(ge=1, le=50)] = 5,
        kind: Literal["wav", "flac"] = "wav",
    ) -> int:
        return item

    @app.post("/items/{item}")
    async def post_item(item: int) -> int:
        return item

    @app.get("/fails/{name}")
    async def fails(name: str) -> None:
        raise {
            "bug": ZeroDivisionError("/secret/path"),
            "wrapped": RuntimeError("/secret/path"),
            "fault": InternalFault("3 outputs for 4 jobs"),
            "busy": Overloaded("full", retry_after_s=7),
            "teapot": HTTPException(418, "short and stout"),
            "framework": HTTPException(501, "/secret/path"),
            "large": HTTPException(413, "Content Too Large"),
            "gone": ClientDisconnect(),
        }[name]

    @app.get("/breaks")
    async def breaks(request: Request) -> StreamingResponse:
        async def pieces():  # type: ignore[no-untyped-def]
            yield b"some"
            raise ModelFault("in the middle")

        return StreamingResponse(pieces())

    @router.get("/deep")
    async def deep() -> int:
        return 1

    app.include_router(router)
    return app


@pytest.fixture
async def client(app: FastAPI):  # type: ignore[no-untyped-def]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client


async def test_unknown_address_names_those_there_are(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nowhere")
    assert answer.status_code == 404
    assert "'/nowhere'" in answer.json()["detail"]
    assert {"/items/{item}", "/inner/deep"} <= set(answer.json()["routes"])


async def test_unknown_method_names_all_there_are(client: httpx.AsyncClient) -> None:
    answer = await client.put("/items/1")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"
    assert answer.json()["allowed"] == ["GET", "POST"]
    assert answer.json()["type"] == "/problems#method-not-allowed"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("/items/1", ["query parameter `must`", "came nothing"]),
        ("/items/x?must=1", ["path parameter `item`", "integer", "'x'"]),
        ("/items/1?must=1&top=51", ["query parameter `top`", "less than or equal to 50", "'51'"]),
        ("/items/1?must=1&kind=mp3", ["query parameter `kind`", "'wav' or 'flac'", "'mp3'"]),
        ("/items/1?must=1&top=%00%0A%E2%80%AE", ["query parameter `top`", r"\x00", r"\u202e"]),
        ("/items/1?must=1&top=" + "9" * 5000, ["query parameter `top`", "99999'…"]),
    ],
)
async def test_wrong_parameter_is_named_with_what_came_and_what_is_allowed(
    client: httpx.AsyncClient, query: str, said: list[str]
) -> None:
    answer = await client.get(query)
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems#bad-request"
    for piece in said:
        assert piece in answer.json()["detail"]
    assert len(answer.content) < 1000


@pytest.mark.parametrize(("error", "logged"), [(ModelFault("bad node"), True), (Overloaded("full"), False)])
def test_problem_within_an_answer_is_logged_if_it_hides_something(
    caplog: pytest.LogCaptureFixture, error: EarmarkError, logged: bool
) -> None:
    with caplog.at_level(logging.ERROR):
        document = logged_problem(error, "id-1")
    assert document["request_id"] == "id-1"
    assert ["bad node" in record.message for record in caplog.records] == [True] * logged


async def test_bug_is_logged_with_its_traceback_and_hidden(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = await client.get("/fails/bug", headers={"X-Request-Id": "find-me"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "find-me"
    assert "secret" not in answer.text
    assert "ZeroDivisionError" not in answer.text
    (record,) = caplog.records
    assert "ZeroDivisionError: /secret/path" in caplog.text
    assert record.fields == {"request_id": "find-me"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "status", "code", "logged"),
    [
        ("wrapped", 500, "internal", True),
        ("fault", 500, "internal", True),
        ("busy", 503, "overloaded", False),
        ("teapot", 400, "bad-request", False),
        ("framework", 500, "internal", True),
        ("large", 413, "too-large", False),
    ],
)
async def test_every_failure_is_a_problem(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, name: str, status: int, code: str, logged: bool
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = await client.get(f"/fails/{name}")
    assert answer.status_code == status
    assert answer.json()["type"] == f"/problems#{code}"
    assert "secret" not in answer.text
    assert bool(caplog.records) is logged


async def test_client_that_has_gone_is_no_failure_of_ours(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert (await client.get("/fails/gone")).status_code == 499
    assert not caplog.records


async def test_failure_in_the_middle_of_an_answer_leaves_it_incomplete(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    sent = []

    async def receive():  # type: ignore[no-untyped-def]
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):  # type: ignore[no-untyped-def]
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/breaks",
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
    }
    scope |= {"asgi": {"spec_version": "2.4"}, "root_path": ""}
    with caplog.at_level(logging.ERROR):
        await app(scope, receive, send)
    assert [message.get("more_body") for message in sent] == [None, True]
    assert "in the middle" in caplog.text


def test_named_looks_only_through_what_the_framework_wraps() -> None:
    inner = Overloaded("full")
    wrapped, chained = RuntimeError("wrapped"), KeyError("ours")
    wrapped.__cause__ = chained.__cause__ = inner
    assert named(inner) is inner
    assert named(wrapped) is inner
    assert isinstance(named(chained), InternalFault)
    assert named(chained).__cause__ is chained


def test_openapi_has_problems_and_not_the_frameworks(app: FastAPI) -> None:
    document = app.openapi()
    assert document is app.openapi()
    assert "Problem" in document["components"]["schemas"]
    assert "HTTPValidationError" not in json.dumps(document)
    assert list(document["paths"]["/items/{item}"]["get"]["responses"]) == ["200", "404"]
