"""Every way a request can fail, as a tree. No status codes here: `service.api.problems` has the one table.

EarmarkError
  BadRequest            a parameter or form of the wrong shape
    BrokenBody          the body broke off or its form is malformed
    SlowBody            the body came too slowly
    NotAcceptable       cannot answer in the type asked for
  BadAudio              audio that cannot be answered
    UnsupportedAudio    not audio, or a format that is not read here
    EmptyAudio          no samples at all
    SilentAudio         digital silence where a signal is needed
    TooShort            shorter than the model can judge
    NonFiniteAudio      NaN or infinity among the samples
    TruncatedAudio      broken off with nothing usable before the break
  TooLarge              a published limit was passed
  NotFound              no such model
  Unauthorized          key missing or wrong
  Forbidden             key known, not allowed
  ShareUsedUp           this key has its share of requests in flight
  Unavailable           not now; try again
    Overloaded          the queue is full, or the deadline would pass
    Draining            shutting down
    ModelUnavailable    the model is loading, failed or unloaded
    OutOfMemory         the machine has no room for this batch now
  DeadlinePassed        the request's own deadline passed
  InternalFault         a bug of ours
    ModelFault          the model failed on this input
"""

from __future__ import annotations


class EarmarkError(Exception):
    """A failure with a stable code and, in `extra`, what helps the caller mend it.

    Args:
        detail: what was wrong and what would be right, in a sentence or two.
        **extra: JSON values shown beside it, such as `limit`, `got` or `supported`.
    """

    code = "error"
    title = "The request failed"

    def __init__(self, detail: str, **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.detail!r})"


class BadRequest(EarmarkError):
    code = "bad-request"
    title = "The request is malformed"


class BrokenBody(BadRequest):
    code = "broken-body"
    title = "The body could not be read"


class SlowBody(BadRequest):
    code = "slow-body"
    title = "The body came too slowly"


class NotAcceptable(BadRequest):
    code = "not-acceptable"
    title = "The answer has no such form"


class BadAudio(EarmarkError):
    code = "bad-audio"
    title = "The audio cannot be answered"


class UnsupportedAudio(BadAudio):
    code = "unsupported-audio"
    title = "Not a format that is read here"


class EmptyAudio(BadAudio):
    code = "empty-audio"
    title = "The audio holds no samples"


class SilentAudio(BadAudio):
    code = "silent-audio"
    title = "The audio is digital silence"


class TooShort(BadAudio):
    code = "too-short"
    title = "The audio is too short for this model"


class NonFiniteAudio(BadAudio):
    code = "non-finite-audio"
    title = "The audio holds NaN or infinity"


class TruncatedAudio(BadAudio):
    code = "truncated-audio"
    title = "The audio is broken off with nothing usable"


class TooLarge(EarmarkError):
    """A limit was passed; `extra` holds `limit` (its name), `maximum` and `got`."""

    code = "too-large"
    title = "A limit was passed"


class NotFound(EarmarkError):
    code = "not-found"
    title = "No such thing here"


class Unauthorized(EarmarkError):
    code = "unauthorized"
    title = "A key is needed"


class Forbidden(EarmarkError):
    code = "forbidden"
    title = "Not allowed"


class RetryLater(EarmarkError):
    """A failure that passes by itself; `retry_after_s` says when to try again."""

    def __init__(self, detail: str, *, retry_after_s: float = 1.0, **extra: object) -> None:
        super().__init__(detail, **extra)
        self.retry_after_s = retry_after_s


class ShareUsedUp(RetryLater):
    code = "share-used-up"
    title = "This caller's share is used up"


class Unavailable(RetryLater):
    code = "unavailable"
    title = "Not available now"


class Overloaded(Unavailable):
    code = "overloaded"
    title = "Too much work is waiting"


class Draining(Unavailable):
    code = "draining"
    title = "The service is shutting down"


class ModelUnavailable(Unavailable):
    code = "model-unavailable"
    title = "The model does not serve now"


class OutOfMemory(Unavailable):
    code = "out-of-memory"
    title = "Not enough memory now"


class DeadlinePassed(EarmarkError):
    code = "deadline-passed"
    title = "The deadline passed"


class InternalFault(EarmarkError):
    """A state that cannot be: always a bug of ours, never the caller's doing."""

    code = "internal"
    title = "A fault of ours"


class ModelFault(InternalFault):
    code = "model-fault"
    title = "The model failed on this input"
