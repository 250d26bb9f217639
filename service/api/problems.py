"""The one table from error to HTTP status, and the problem documents (RFC 9457) made from it.

Owns what a failed request is told. Knows no task and no model; the errors themselves know no status codes.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response

from service import errors
from service.api.faults import Faults
from service.api.framework import (
    MethodNotAllowed,
    allowed_methods,
    document_problems,
    framework_problem,
    validation_problem,
)
from service.api.trace import note, request_id_of
from service.engine.manifest import BadManifest
from service.errors import EarmarkError, InternalFault, RetryLater

MEDIA_TYPE = "application/problem+json"
PAGE = "/problems"
UNAUTHORIZED = 401
METHOD_NOT_ALLOWED = 405
CLIENT_GONE = 499
MAX_RETRY_AFTER_S = 60
HIDDEN = "This is a fault of ours, and it is in our log under the request id."

logger = logging.getLogger("earmark.problems")


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """One row of the table: what the code means to the caller, and the status it is answered with."""

    error: type[EarmarkError]
    status: int
    meaning: str

    @property
    def code(self) -> str:
        return self.error.code

    @property
    def title(self) -> str:
        return self.error.title


PROBLEMS: tuple[ProblemKind, ...] = (
    ProblemKind(
        errors.BadRequest,
        400,
        "A parameter, header or form part has the wrong form; `detail` names it, what came and what is allowed.",
    ),
    ProblemKind(errors.BrokenBody, 400, "The body broke off, is not as long as announced, or its form is malformed."),
    ProblemKind(errors.Unauthorized, 401, "Send `Authorization: Bearer KEY` with a key that is known here."),
    ProblemKind(errors.Forbidden, 403, "The caller is known but may not do this."),
    ProblemKind(errors.NotFound, 404, "There is no such address or model; the problem lists those there are."),
    ProblemKind(MethodNotAllowed, 405, "The address exists; `Allow` says which methods it answers."),
    ProblemKind(
        errors.NotAcceptable,
        406,
        "The answer cannot be given in a type that `Accept` names; `supported` lists the types it has.",
    ),
    ProblemKind(errors.SlowBody, 408, "The body took too long as a whole, or paused for too long between two pieces."),
    ProblemKind(BadManifest, 409, "The folder of the model is wrong; `detail` names the file and the key."),
    ProblemKind(
        errors.TooLarge,
        413,
        "`limit` names the limit that was passed, `maximum` is its value, `got` is what came.",
    ),
    ProblemKind(
        errors.UnsupportedAudio,
        415,
        "The body is not audio, or in a format that is not read here; `supported` lists those that are.",
    ),
    ProblemKind(errors.BadAudio, 422, "It is audio, and it cannot be answered."),
    ProblemKind(errors.EmptyAudio, 422, "There is not a single sample."),
    ProblemKind(errors.SilentAudio, 422, "All samples are zero where a signal is needed."),
    ProblemKind(errors.TooShort, 422, "It is shorter than the model can judge."),
    ProblemKind(errors.NonFiniteAudio, 422, "NaN or infinity is among the samples."),
    ProblemKind(errors.TruncatedAudio, 422, "It is broken off before anything that could be used."),
    ProblemKind(
        errors.ShareUsedUp,
        429,
        "This caller has as many requests in flight as it may, or holds its part of the queue while others wait; "
        "`Retry-After` says when to try again.",
    ),
    ProblemKind(EarmarkError, 500, "The request failed for a reason that has no code of its own."),
    ProblemKind(InternalFault, 500, "A bug of ours. The request id finds it in the log."),
    ProblemKind(errors.ModelFault, 500, "The model failed on this input. The request id finds it in the log."),
    ProblemKind(errors.Unavailable, 503, "Not now; `Retry-After` says when to try again."),
    ProblemKind(
        errors.Overloaded, 503, "The queue or the memory for bodies is full; `Retry-After` says when to try again."
    ),
    ProblemKind(errors.Draining, 503, "The service is shutting down; another replica, or a later try, will answer."),
    ProblemKind(errors.ModelUnavailable, 503, "The model is loading, has failed or was unloaded."),
    ProblemKind(
        errors.OutOfMemory, 503, "The machine has no room for this batch now; `Retry-After` says when to try again."
    ),
    ProblemKind(
        errors.DeadlinePassed,
        504,
        "The deadline (`Earmark-Deadline-Ms`, or the setting) passed before the answer was ready.",
    ),
)
"""Every failure the service answers with, by status."""

_BY_CODE = {kind.code: kind for kind in PROBLEMS}


class Problem(BaseModel):
    """A problem document (RFC 9457). Further members say what helps, such as `limit`, `got` or `supported`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        description="What kind of problem it is: an address on this server that explains it.",
        examples=["/problems#too-large"],
    )
    title: str = Field(description="The kind in a few words.")
    status: int = Field(ge=400, le=599, description="The status of the answer, again.")
    detail: str = Field(description="What was wrong with this request, and what would be right.")
    request_id: str = Field(
        description="The request's id: on every answer as `X-Request-Id`, and on every line of the log."
    )


def kind_of(error: EarmarkError) -> ProblemKind:
    """The row of the error's own code, or of its nearest ancestor that has one."""
    codes = (getattr(ancestor, "code", "") for ancestor in type(error).__mro__)
    return next(_BY_CODE[code] for code in codes if code in _BY_CODE)


def retry_after_s(error: RetryLater) -> int:
    """Whole seconds, at least 1 and at most 60, spread by up to half so that callers do not return together."""
    spread_s = error.retry_after_s * random.uniform(1.0, 1.5)  # noqa: S311 (spread, not secrecy)
    return max(1, min(MAX_RETRY_AFTER_S, math.ceil(spread_s)))


def problem_document(error: EarmarkError, request_id: str) -> dict[str, Any]:
    """The document for one error. Of our own faults it says nothing but the request id."""
    kind = kind_of(error)
    hidden = isinstance(error, InternalFault)
    document = {
        "type": f"{PAGE}#{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": HIDDEN if hidden else error.detail,
        "request_id": request_id,
    }
    if isinstance(error, RetryLater):
        document["retry_after_s"] = retry_after_s(error)
    if not hidden:
        document |= {name: _plain(value) for name, value in error.extra.items() if name not in document}
    return document


def problem_response(error: EarmarkError, request_id: str) -> Response:
    """The same as an answer, with the headers that belong to its status."""
    return _response(problem_document(error, request_id))


def _response(document: dict[str, Any]) -> Response:
    headers = {"Cache-Control": "no-store"}
    if "retry_after_s" in document:
        headers["Retry-After"] = str(document["retry_after_s"])
    if document["status"] == UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="earmark"'
    body = json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    return Response(body, document["status"], headers, MEDIA_TYPE)


def _plain(value: object) -> object:
    """JSON can say neither NaN nor infinity, and `extra` may hold any number, set or path."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    return str(value)


def logged_problem(error: EarmarkError, request_id: str) -> dict[str, Any]:
    """The document for one error, as part of an answer; a fault of ours is logged with its traceback."""
    if isinstance(error, InternalFault) or kind_of(error).error is EarmarkError:
        logger.error(
            "%s: %s", kind_of(error).code, error.detail, exc_info=error, extra={"fields": {"request_id": request_id}}
        )
    return problem_document(error, request_id)


def answer(connection: HTTPConnection, error: EarmarkError) -> Response:
    """The response to one failed request, its code noted for the log line."""
    note(connection, problem=kind_of(error).code)
    return _response(logged_problem(error, request_id_of(connection)))


def responses_for(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these problem codes."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in sorted((_BY_CODE[code] for code in codes), key=lambda kind: kind.status):
        response = responses.setdefault(
            kind.status, {"description": "", "content": {MEDIA_TYPE: {"schema": _SCHEMA, "examples": {}}}}
        )
        response["description"] = f"{response['description']} **{kind.code}**: {kind.meaning}".strip()
        response["content"][MEDIA_TYPE]["examples"][kind.code] = {"value": _example(kind)}
    return responses


_SCHEMA = {"$ref": "#/components/schemas/Problem"}


def _example(kind: ProblemKind) -> dict[str, Any]:
    return {
        "type": f"{PAGE}#{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": HIDDEN if issubclass(kind.error, InternalFault) else kind.meaning,
        "request_id": "01JD3M8Q0RZ3C5V9K7T2XWY4BN",
    }


def problem_page() -> str:
    """The HTML page behind the `type` of every problem."""
    rows = "\n".join(
        f'<tr id="{kind.code}"><td><code>{kind.code}</code></td><td>{kind.status}</td>'
        f"<td>{escape(kind.title)}</td><td>{escape(kind.meaning)}</td></tr>"
        for kind in PROBLEMS
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Earmark: problems</title>\n'
        "<style>body{font:16px/1.5 sans-serif;margin:2em auto;max-width:60em;padding:0 1em}"
        "td,th{text-align:left;vertical-align:top;padding:.3em .8em .3em 0}:target{background:#ffc}</style></head>\n"
        "<body><h1>Problems</h1>\n<p>Every request that fails is answered with a document of the type "
        f"<code>{MEDIA_TYPE}</code> (RFC 9457); its <code>type</code> leads to one of these rows.</p>\n"
        f"<table><tr><th>Code</th><th>Status</th><th>Title</th><th>Meaning</th></tr>\n{rows}\n</table></body></html>\n"
    )


def install(app: FastAPI) -> None:
    """Make every failure of this app a problem document. To be called before any middleware is added."""

    async def ours(request: HTTPConnection, error: EarmarkError) -> Response:
        return answer(request, error)

    async def validation(request: HTTPConnection, error: RequestValidationError) -> Response:
        return answer(request, validation_problem(error))

    async def framework(request: Request, error: HTTPException) -> Response:
        response = answer(request, framework_problem(request, error))
        if error.status_code == METHOD_NOT_ALLOWED:
            response.headers["Allow"] = ", ".join(allowed_methods(request, error))
        return response

    async def gone(_request: HTTPConnection, _error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)

    handlers: dict[type[Exception], Callable[..., Any]] = {
        EarmarkError: ours,
        RequestValidationError: validation,
        HTTPException: framework,
        ClientDisconnect: gone,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(Faults, answer=answer)
    document_problems(app, Problem.model_json_schema())
