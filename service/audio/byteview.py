"""A read-only file over bytes that somebody else holds: decoders want a file, and the body is not copied for it."""

from __future__ import annotations

import io
from typing import Any


class ByteView(io.RawIOBase):
    """Seeks are clamped to the bytes there are: an exception inside a C library's callback is printed, not raised."""

    def __init__(self, data: memoryview, prefix: bytes = b"") -> None:
        self._data = data
        self._prefix = prefix
        self._size = len(prefix) + len(data)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        target = memoryview(into).cast("B")
        before = len(self._prefix) - self._at
        source = memoryview(self._prefix)[self._at :] if before > 0 else self._data[-before:]
        piece = source[: len(target)]
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}.get(whence, 0)
        self._at = min(max(base + offset, 0), self._size)
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        """Let go of the bytes: whoever owns them may want to resize them."""
        self._data = memoryview(b"")
        super().close()
