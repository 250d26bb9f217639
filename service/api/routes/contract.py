"""What the OpenAPI document says of every endpoint that takes audio."""

from __future__ import annotations

from typing import Any

from service.api.problems import responses_for

TAG_LISTEN = "Listen"
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}

AUDIO_BODY: dict[str, Any] = {
    "required": True,
    "description": (
        "The recording: as the raw body (its type is found by content), as raw PCM "
        "(`audio/L16; rate=16000; channels=1`, or `audio/pcm; rate=16000; channels=1; encoding=s16le`), "
        "or as a form with a part named `file`; "
        'several such parts are answered as `{"results": [...]}` in order.'
    ),
    "content": {
        "application/octet-stream": _BINARY,
        "audio/wav": _BINARY,
        "audio/flac": _BINARY,
        "audio/ogg": _BINARY,
        "audio/mpeg": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                },
            }
        },
    },
}

HEADERS: list[dict[str, Any]] = [
    {
        "name": "Earmark-Deadline-Ms",
        "in": "header",
        "required": False,
        "description": "Milliseconds after which the answer is of no use; never more than the service's own limit.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999_999},
    },
    {
        "name": "Earmark-Priority",
        "in": "header",
        "required": False,
        "description": "`bulk` waits for all that is not, and gets a small part of the machine meanwhile.",
        "schema": {"type": "string", "enum": ["interactive", "bulk"], "default": "interactive"},
    },
]

LISTEN_PROBLEMS = responses_for(
    "bad-request",
    "broken-body",
    "unauthorized",
    "not-found",
    "not-acceptable",
    "slow-body",
    "too-large",
    "unsupported-audio",
    "bad-audio",
    "empty-audio",
    "silent-audio",
    "too-short",
    "non-finite-audio",
    "truncated-audio",
    "share-used-up",
    "internal",
    "overloaded",
    "draining",
    "model-unavailable",
    "out-of-memory",
    "deadline-passed",
)


def listening(*, parameters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """`openapi_extra` of a route that takes audio."""
    return {"requestBody": AUDIO_BODY, "parameters": [*(parameters or []), *HEADERS]}


def answers(model: str, *others: str) -> dict[str, Any]:
    """The 200 of a route: JSON of *model* or of several, or one of the *others*."""
    several = {"type": "object", "required": ["results"], "properties": {"results": {"type": "array", "items": {}}}}
    schema = {"anyOf": [{"$ref": f"#/components/schemas/{model}"}, several]}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    content |= {media_type: {"schema": {"type": "string"}} for media_type in others}
    return {"description": "The answer, in the type that `Accept` names.", "content": content}
