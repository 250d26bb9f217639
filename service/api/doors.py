"""Who may ask, and how much at once. Keys are known here by their hashes alone and never leave."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from service.errors import Forbidden, ShareUsedUp, Unauthorized

SHARE_RETRY_S = 1.0
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


class Door(Protocol):
    """Lets a request in, and counts it as in flight until it leaves the context."""

    def enter(self, authorization: str | None, address: str) -> AbstractContextManager[str]:
        """The id of the caller: a short hash of its key, never the key; its address where there are no keys.

        Args:
            authorization: the header as it came.
            address: where the request came from, as far as the connection says.

        Raises:
            Unauthorized: no key, or one that is not known.
            ShareUsedUp: this key has its share of requests in flight.
        """
        ...


class OpenDoor:
    """Everybody may ask. Callers behind one proxy are one caller: nothing it says of them can be believed."""

    @contextmanager
    def enter(self, authorization: str | None, address: str) -> Iterator[str]:
        yield _household(address)


class KeyedDoor:
    """Only who has one of the keys may ask, and only so much at once.

    Args:
        keys: the keys that are known.
        per_key: most requests in flight for one key.
    """

    def __init__(self, keys: Iterable[str], per_key: int) -> None:
        self._known = tuple(_digest(key.encode()) for key in keys)
        self._per_key = per_key
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def enter(self, authorization: str | None, address: str) -> Iterator[str]:
        caller = _known_digest(authorization, self._known).hex()[:12]
        if self._in_flight[caller] >= self._per_key:
            raise ShareUsedUp(
                f"This key has {self._per_key} requests in flight, and that is its share.",
                retry_after_s=SHARE_RETRY_S,
                limit=self._per_key,
            )
        self._in_flight[caller] += 1
        try:
            yield caller
        finally:
            self._in_flight[caller] -= 1


def door_for(keys: Iterable[str], per_key: int) -> Door:
    """A `KeyedDoor` when there are keys, else an `OpenDoor`."""
    known = tuple(keys)
    return KeyedDoor(known, per_key) if known else OpenDoor()


class AdminDoor:
    """Who may load and unload models: whoever has the admin key or, where none is set, whoever sits at this machine.

    Without a key the caller's address has to do, and it can be borrowed: by a proxy on this machine, and by a web page
    that the user of this machine has open. Both give themselves away in their headers, and are refused.
    """

    def __init__(self, admin_key: str) -> None:
        self._known = (_digest(admin_key.encode()),) if admin_key else ()

    def enter(self, connection: HTTPConnection) -> None:
        """Let the caller through.

        Raises:
            Unauthorized: an admin key is set, and this caller has not sent it.
            Forbidden: none is set, and the caller is not known to be on this machine.
        """
        if self._known:
            _known_digest(connection.headers.get("authorization"), self._known)
        elif not _is_local(connection):
            raise Forbidden(
                "Without EARMARK_ADMIN_KEY this is for callers on the same machine alone, "
                "and not through a proxy or a web page."
            )


def _household(address: str) -> str:
    """*address*, or the /64 of an IPv6 one: everybody has 2^64 of those, and could be as many callers."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return address
    if known.ipv4_mapped:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((known, 64), strict=False))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _known_digest(authorization: str | None, known: tuple[bytes, ...]) -> bytes:
    """The digest of the key that was sent; all known ones are compared, in constant time, whichever matches."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("Send the header `Authorization: Bearer KEY`.")
    sent = _digest(key.strip().encode("latin-1", "replace"))
    if not sum(hmac.compare_digest(sent, digest) for digest in known):
        raise Unauthorized("This key is not known here.")
    return sent


def _is_local(connection: HTTPConnection) -> bool:
    headers = connection.headers
    if connection.client is None or any(name in headers for name in _PROXY_HEADERS):
        return False
    # A foreign page reaches this machine under its own origin or, by DNS rebinding, under its own host name.
    names = [connection.client.host, _host_in(f"//{headers.get('host', '')}")]
    if "origin" in headers:
        names.append(_host_in(headers["origin"]))
    return all(map(_is_loopback, names))


def _host_in(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
