"""Forms as clients write them, and as they should not."""

from __future__ import annotations

from collections.abc import Iterable

BOUNDARY = b"----FormBoundary7MA4YWxkTrZu0gW"


def part(body: bytes, name: bytes = b"file", filename: bytes | None = b"a.wav", *more: bytes) -> bytes:
    """One part: its headers, a blank line, its body."""
    disposition = b'Content-Disposition: form-data; name="' + name + b'"'
    if filename is not None:
        disposition += b'; filename="' + filename + b'"'
    return b"\r\n".join([disposition, *more, b"", body])


def form(parts: Iterable[bytes], boundary: bytes = BOUNDARY) -> bytes:
    """The whole body."""
    return b"".join(b"--" + boundary + b"\r\n" + one + b"\r\n" for one in parts) + b"--" + boundary + b"--\r\n"


def form_type(boundary: bytes = BOUNDARY) -> str:
    return f"multipart/form-data; boundary={boundary.decode('latin-1')}"
