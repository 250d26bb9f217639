"""Which other files an ONNX graph keeps its weights in, read without loading it: so that none is opened unasked.

Walks the few message fields (github.com/onnx/onnx, onnx/onnx.proto) that lead to tensors; knows nothing else of ONNX.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from service.backends.base import BackendError

TENSOR, EXTERNAL, PAIR = "tensor", "external", "pair"
CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: TENSOR, 6: "graph", 10: TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: TENSOR, 2: TENSOR},
    TENSOR: {13: PAIR},
}
"""For each message, the fields that lead on: their number and the message in them."""
KEY, VALUE = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DEEPEST = 100


def external_files(path: Path) -> set[str]:
    """The locations that the graph's tensors name, relative to the graph's own folder.

    Raises:
        BackendError: the file is no ONNX graph.
    """
    try:
        with path.open("rb") as file:
            # Unmapped with its last view: an error's traceback may hold some longer than this block.
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return set(_locations(content, "model", 0))
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise BackendError(f"{path.name} is no ONNX graph: {error}") from error


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    for number, value in _fields(message):
        child = CHILDREN[kind].get(number)
        if child == PAIR:
            pair = dict(_fields(value))
            if bytes(pair.get(KEY, b"")) == b"location":
                yield str(bytes(pair.get(VALUE, b"")), "utf-8")
        elif child:
            yield from _locations(value, child, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field that has bytes in it; the others are skipped."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            _, at = _varint(message, at)
        elif wire in (FIXED64, FIXED32):
            at += 8 if wire == FIXED64 else 4
        elif wire == BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("broken off")
            yield number, message[at : at + size]
            at += size
        else:
            raise ValueError(f"no such wire type: {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number runs on")
