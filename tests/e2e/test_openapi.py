"""The server keeps to its own OpenAPI document: whatever is sent, no 5xx and no answer outside the schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.app import openapi_document
from tests.e2e.server import Server, serving
from tests.e2e.sounds import speechlike, wav
from tests.models import make_repository


def no_server_error(_: object, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """No 5xx, but the 504 that a client brings upon itself with a deadline of a few milliseconds."""
    asked_for = response.status_code == 504 and "Earmark-Deadline-Ms" in case.headers
    assert response.status_code < 500 or asked_for


CHECKS = [
    no_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
schema = schemathesis.openapi.from_dict(openapi_document())
BODY = wav(speechlike(0.6))
EXAMPLES = 25
"""For each operation; `pytest -m slow` tries many more."""


schemathesis.serializer.alias(["audio/wav", "audio/flac", "audio/ogg", "audio/mpeg"], "application/octet-stream")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    make_repository(folder)
    with serving(Path(folder)) as running:
        yield running


def tried(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@schema.parametrize()
@tried(EXAMPLES)
def test_every_answer_is_in_the_document(case: schemathesis.Case, server: Server) -> None:
    case.call_and_validate(base_url=server.url, checks=CHECKS)


@schema.include(path_regex="^/(quality|scene|enhance|analyze)$").parametrize()
@tried(EXAMPLES)
def test_every_answer_to_real_audio_is_in_the_document(case: schemathesis.Case, server: Server) -> None:
    """The generator cannot make audio, and would never get past the decoder."""
    case.body, case.media_type = BODY, "application/octet-stream"
    case.call_and_validate(base_url=server.url, checks=CHECKS)


@pytest.mark.slow
@schema.parametrize()
@tried(400)
def test_every_answer_is_in_the_document_at_length(case: schemathesis.Case, server: Server) -> None:
    case.call_and_validate(base_url=server.url, checks=CHECKS)
