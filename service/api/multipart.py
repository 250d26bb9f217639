"""Takes a form (multipart/form-data, RFC 7578) apart while it comes in; nothing touches the disk.

Wraps the parser of python-multipart, whose callbacks need not come in whole pieces. Knows no HTTP and no audio.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from service.errors import BadRequest, BrokenBody, TooLarge

FILE_PART = "file"
MAX_BOUNDARY = 70
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 4096
MAX_NAME = 120
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]*[0-9A-Za-z'()+_,./:=?-]")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_AS_IT_IS = {b"", b"7bit", b"8bit", b"binary"}


@dataclass(slots=True)
class UploadedFile:
    """One recording as it came.

    `name` is sanitised; `content_type` is the whole header, a hint at most; `body` are the bytes.
    """

    name: str | None
    content_type: str
    body: bytearray = field(default_factory=bytearray, init=False, repr=False)
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256, init=False, repr=False)

    def add(self, piece: bytes | memoryview) -> None:
        self.body += piece
        self._hash.update(piece)

    @property
    def sha256(self) -> str:
        """Of the bytes received so far, as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def sanitised_name(raw: bytes) -> str | None:
    """What a client calls its file, without the path and fit for a screen; None if nothing is left."""
    text = raw.decode("utf-8", "replace")
    base = re.split(r"[/\\]", text)[-1]
    printable = "".join(char for char in base if char.isprintable() and char not in '"<>:|?*').strip(" .")
    return printable[:MAX_NAME] or None


class FormReader:
    """Fed with the pieces of a form's body, gives its files.

    Args:
        boundary: from the form's Content-Type.
        max_parts: most parts.

    Raises (all methods):
        BrokenBody: this is no form, or a part of it is malformed.
        BadRequest: a part has another name than `file`.
        TooLarge: there are too many parts.
    """

    def __init__(self, boundary: bytes, max_parts: int) -> None:
        if len(boundary) > MAX_BOUNDARY or not _BOUNDARY.fullmatch(boundary):
            raise BrokenBody(f"A form's Content-Type needs a boundary of 1 to {MAX_BOUNDARY} characters.")
        self.files: list[UploadedFile] = []
        self._max_parts = max_parts
        self._headers: dict[bytes, bytes] = {}
        self._header_name, self._header_value = bytearray(), bytearray()
        self._begun = self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open_part,
                "on_part_data": self._take_data,
                "on_end": self._end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body, of any length."""
        if not self._begun:
            # The parser seeks the first boundary behind line breaks, but finds it or not by where the pieces are cut.
            piece = piece.lstrip(b"\r\n")
            self._begun = bool(piece)
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise BrokenBody(
                "The form is malformed: it must be multipart/form-data with the boundary that its Content-Type names."
            ) from error

    def finish(self) -> list[UploadedFile]:
        """The files in their order, once the whole body was fed."""
        if not self._ended:
            raise BrokenBody("The form breaks off: its closing boundary is missing.")
        if not self.files:
            raise BadRequest(f"The form has no part named `{FILE_PART}`.", supported=[FILE_PART])
        return self.files

    def _begin_part(self) -> None:
        if len(self.files) >= self._max_parts:
            raise TooLarge(
                f"A form may have at most {self._max_parts} parts.",
                limit="max_parts",
                maximum=self._max_parts,
                got=self._max_parts + 1,
            )
        self._headers = {}

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        name, value = bytes(self._header_name).lower(), bytes(self._header_value).strip(b" \t")
        self._header_name.clear()
        self._header_value.clear()
        if _CONTROL.search(value):
            raise BrokenBody("A header of a form part holds a control character.")
        if name in self._headers:
            raise BrokenBody("A form part has the same header twice.")
        self._headers[name] = value

    def _open_part(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise BrokenBody("A form part needs `Content-Disposition: form-data` with a name.")
        if self._headers.get(b"content-transfer-encoding", b"").lower() not in _AS_IT_IS:
            raise BrokenBody("A form part must hold its bytes as they are, without a transfer encoding.")
        name = options[b"name"].decode("utf-8", "replace")
        if name != FILE_PART:
            raise BadRequest(
                f"The form has a part named {name[:MAX_NAME]!a}; parts must be named `{FILE_PART}`.",
                supported=[FILE_PART],
            )
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        self.files.append(UploadedFile(sanitised_name(options.get(b"filename", b"")), content_type))

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self.files[-1].add(memoryview(data)[start:end])

    def _end(self) -> None:
        self._ended = True
