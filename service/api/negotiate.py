"""Which of the types that an answer can be given in the caller likes best (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import InternalFault, NotAcceptable

_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")


@dataclass(frozen=True, slots=True)
class _Range:
    """One of the alternatives in `Accept`, such as `audio/*;q=0.5`."""

    type: str
    parameters: frozenset[str]
    weight: float

    def specificity(self, offered: _Range) -> int:
        """How exactly this names what is offered; 0 if it does not at all."""
        # To ask for `application/json; charset=utf-8` where plain `application/json` is offered is common.
        if self.type == offered.type and (not offered.parameters or self.parameters <= offered.parameters):
            return 4 if self.parameters else 3
        if self.type.endswith("/*") and offered.type.startswith(self.type[:-1]) and self.type != "*/*":
            return 2
        return 1 if self.type == "*/*" else 0


def _parsed(text: str) -> _Range | None:
    kind, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = "1"
    others = set()
    for parameter in parameters:
        if parameter.startswith("q="):
            weight = parameter[2:]
        elif parameter:
            others.add(parameter.replace('"', ""))
    if not _TYPE.fullmatch(kind) or not _WEIGHT.fullmatch(weight):
        return None
    return _Range(kind, frozenset(others), float(weight))


def choose(accept: str | None, offered: Sequence[str]) -> str:
    """The offered type that the header wants most; among equals the one named most exactly, then the one offered first.

    Args:
        accept: the header, several joined by commas. None or an empty one accepts everything; malformed parts of it
            are passed over.
        offered: media types, the one that is preferred here first.

    Raises:
        NotAcceptable: the header excludes all of them.
    """
    ranges = [parsed for part in (accept or "").split(",") if (parsed := _parsed(part))]
    if not ranges:
        return offered[0]
    best, best_rank = None, (0.0, 0)
    for candidate in offered:
        rank = _rank(ranges, candidate)
        if rank[0] > 0 and rank > best_rank:
            best, best_rank = candidate, rank
    if best is None:
        raise NotAcceptable(
            f"This can be answered as {', '.join(offered)}; the header Accept allows none of them.",
            supported=list(offered),
        )
    return best


def _rank(ranges: list[_Range], candidate: str) -> tuple[float, int]:
    """Weight and specificity of the range that names the candidate most exactly: that one alone speaks for it."""
    offered = _parsed(candidate)
    if offered is None:
        raise InternalFault(f"{candidate!r} is no media type")
    exact, weight = max((named.specificity(offered), named.weight) for named in ranges)
    return (weight, exact) if exact else (0.0, 0)
