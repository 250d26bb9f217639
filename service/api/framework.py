"""The framework's own refusals in our words: parameters that do not validate, addresses that are not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.errors import BadRequest, EarmarkError, InternalFault, NotFound, TooLarge

MAX_ECHO = 64
MAX_SAID = 8


class MethodNotAllowed(EarmarkError):
    code = "method-not-allowed"
    title = "The address does not answer this method"


def shortened(value: object) -> str:
    """What a caller sent, fit to be shown to the caller again: escaped, and no longer than a line."""
    text = value if isinstance(value, str) else str(value)
    said = ascii(text[: MAX_ECHO + 1])
    return said if len(text) <= MAX_ECHO else f"{text[:MAX_ECHO]!a}…"


def validation_problem(error: RequestValidationError) -> BadRequest:
    said = [_said(entry) for entry in error.errors()[:MAX_SAID]]
    detail = "; ".join(
        f"{entry['in']} parameter `{entry['name']}`: {entry['allowed']}, came {entry['got']}" for entry in said
    )
    return BadRequest(detail, parameters=said)


def _said(entry: Mapping[str, Any]) -> dict[str, str]:
    place, *names = (str(part) for part in entry["loc"])
    allowed = str(entry["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    got = "nothing" if entry["type"] == "missing" else shortened(entry.get("input"))
    return {"in": place, "name": ascii(".".join(names)[:MAX_ECHO])[1:-1], "allowed": allowed, "got": got}


def _addresses(app: FastAPI) -> dict[str, Any]:
    paths: dict[str, Any] = app.openapi().get("paths", {})
    return paths


def framework_problem(request: Request, error: HTTPException) -> EarmarkError:
    app: FastAPI = request.app
    if error.status_code == 404:
        return NotFound(f"There is no {shortened(request.url.path)} here.", routes=sorted(_addresses(app)))
    if error.status_code == 405:
        allowed = allowed_methods(request, error)
        return MethodNotAllowed(
            f"This address answers {', '.join(allowed)}, not {shortened(request.method)}.", allowed=allowed
        )
    if error.status_code == 413:
        return TooLarge("The body is larger than is taken here; GET /limits says how large it may be.")
    if error.status_code < 500:
        return BadRequest(str(error.detail))
    return InternalFault(f"the framework answered {error.status_code}: {error.detail}")


def allowed_methods(request: Request, error: HTTPException) -> list[str]:
    """All methods of the address: the framework names those of the first route that matches alone."""
    template = getattr(request.scope.get("route"), "path", "")
    named = {method.upper() for method in _addresses(request.app).get(template, {}) if method.isalpha()}
    first = {method.strip() for method in (error.headers or {}).get("Allow", "").split(",")}
    return sorted((named | first) - {""})


def document_problems(app: FastAPI, schema: dict[str, Any]) -> None:
    """Put the schema of problems into the OpenAPI document, and the framework's own kind of 422 out of it."""
    framework_document = app.openapi

    def openapi() -> dict[str, Any]:
        known = app.openapi_schema is not None
        document = framework_document()
        if not known:
            _amend(document, schema)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _amend(document: dict[str, Any], schema: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = schema
    for operations in document.get("paths", {}).values():
        for operation in operations.values():
            _drop_framework_422(operation["responses"])


def _drop_framework_422(responses: dict[str, Any]) -> None:
    content = responses.get("422", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    if reference.endswith("/HTTPValidationError"):
        del responses["422"]
