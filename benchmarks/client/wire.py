"""HTTP/1.1 as bytes: requests built before anything is timed, answers parsed as they arrive.

Knows no sockets. The parser takes what the servers compared here send: a length, chunks, or everything until the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HEAD_END = b"\r\n\r\n"
LINE_END = b"\r\n"
MOST_HEAD_BYTES = 1 << 16
WITHOUT_BODY = (204, 304)


class BadAnswer(ValueError):
    """What came is no HTTP/1.1 answer, or ends too early."""


def request(
    path: str,
    body: bytes = b"",
    content_type: str = "audio/wav",
    *,
    method: str = "POST",
    host: str = "127.0.0.1",
    headers: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """The bytes of one whole request, the connection kept."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    if body or method != "GET":
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + HEAD_END + body


@dataclass(slots=True)
class Answer:
    """`headers` have small names; of those that came twice the last counts."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def closes(self) -> bool:
        """Whether the connection takes no further request."""
        return self.headers.get("connection", "").lower() == "close"


@dataclass(slots=True)
class AnswerParser:
    """One answer from pieces of any size.

    Attributes:
        began: something of the answer has come.
    """

    began: bool = False
    _held: bytearray = field(default_factory=bytearray)
    _answer: Answer | None = None
    _rest: int | None = None
    """Bytes of body that are missing; None where they are chunked or end with the connection."""
    _chunked: bool = False
    _body: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Answer | None:
        """Take the next bytes; the answer, once it is whole.

        Raises:
            BadAnswer: this is no HTTP/1.1, or more came than belongs to one answer.
        """
        self.began = True
        self._held += data
        while self._answer is None:
            if not self._take_head():
                return None
        if self._chunked:
            return self._whole() if self._take_chunks() else None
        if self._rest is None:
            return None
        if len(self._held) > self._rest:
            raise BadAnswer(f"{len(self._held) - self._rest} bytes too many")
        if len(self._held) < self._rest:
            return None
        self._body, self._held = self._held, bytearray()
        return self._whole()

    def end(self) -> Answer:
        """The connection ended.

        Raises:
            BadAnswer: in the middle of an answer.
        """
        if self._answer is None or self._chunked or self._rest is not None:
            raise BadAnswer("the connection ended before the answer did")
        self._body = self._held
        self._answer.headers["connection"] = "close"
        return self._whole()

    def _take_head(self) -> bool:
        """Parse the head if it is whole. An interim one (1xx) is skipped."""
        at = self._held.find(HEAD_END)
        if at < 0:
            if len(self._held) > MOST_HEAD_BYTES:
                raise BadAnswer("the head does not end")
            return False
        first, *lines = bytes(self._held[:at]).decode("latin-1").split("\r\n")
        del self._held[: at + len(HEAD_END)]
        version, _, rest = first.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdigit():
            raise BadAnswer(f"not HTTP/1.1: {first[:40]!r}")
        status = int(rest[:3])
        if status < 200:
            return bool(self._held) and self._take_head()
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        self._answer = Answer(status, headers)
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        if status in WITHOUT_BODY:
            self._rest = 0
        elif not self._chunked and "content-length" in headers:
            self._rest = int(headers["content-length"])
        return True

    def _take_chunks(self) -> bool:
        while True:
            at = self._held.find(LINE_END)
            if at < 0:
                return False
            try:
                size = int(bytes(self._held[:at]).partition(b";")[0], 16)
            except ValueError as error:
                raise BadAnswer(f"a chunk of size {bytes(self._held[:at])!r}") from error
            whole = at + 2 + size + 2
            if size == 0:
                # Trailers end with an empty line, as a head does.
                return self._held.find(HEAD_END, at) >= 0
            if len(self._held) < whole:
                return False
            self._body += self._held[at + 2 : at + 2 + size]
            del self._held[:whole]

    def _whole(self) -> Answer:
        assert self._answer is not None
        self._answer.body = bytes(self._body)
        return self._answer
