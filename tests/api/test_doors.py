from __future__ import annotations

import hashlib
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from service.api.doors import AdminDoor, KeyedDoor, OpenDoor, door_for
from service.errors import Forbidden, ShareUsedUp, Unauthorized

KEYS = ("first-key", "second-key", "clé")


def bearer(key: str) -> str:
    """As a server hands it on: the bytes of the header, read as Latin-1."""
    return f"Bearer {key.encode().decode('latin-1')}"


@pytest.mark.parametrize("key", KEYS)
def test_known_key_enters_under_its_hash(key: str) -> None:
    door = KeyedDoor(KEYS, per_key=1)
    with door.enter(bearer(key), "10.0.0.1") as caller:
        assert caller == hashlib.sha256(key.encode()).hexdigest()[:12]
        assert key not in caller


@pytest.mark.parametrize("header", ["bearer first-key", "BEARER first-key", "Bearer  first-key "])
def test_scheme_in_any_case_and_spaces_enter(header: str) -> None:
    with KeyedDoor(KEYS, per_key=1).enter(header, "10.0.0.1") as caller:
        assert caller


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "first-key",
        "Basic first-key",
        "Bearer third-key",
        "Bearer first-ke",
        "Bearer first-key2",
    ],
)
def test_unknown_caller_stays_out(header: str | None) -> None:
    with pytest.raises(Unauthorized) as caught, KeyedDoor(KEYS, per_key=1).enter(header, "10.0.0.1"):
        raise AssertionError("not reached")
    assert not any(key in caught.value.detail for key in KEYS)


@settings(max_examples=50)
@given(st.text(max_size=50))
def test_no_header_but_a_key_opens(header: str) -> None:
    with pytest.raises(Unauthorized), KeyedDoor(("\x00 never sent",), per_key=1).enter(header, "10.0.0.1"):
        raise AssertionError("not reached")


def test_share_is_counted_by_key_and_given_back() -> None:
    door = KeyedDoor(KEYS, per_key=2)
    with ExitStack() as inside:
        inside.enter_context(door.enter(bearer("first-key"), "10.0.0.1"))
        inside.enter_context(door.enter(bearer("first-key"), "10.0.0.1"))
        with pytest.raises(ShareUsedUp) as caught, door.enter(bearer("first-key"), "10.0.0.1"):
            raise AssertionError("not reached")
        with door.enter(bearer("second-key"), "10.0.0.1"):
            pass
    assert caught.value.retry_after_s > 0
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), door.enter(bearer("first-key"), "10.0.0.1"):
            raise ZeroDivisionError


def test_open_door_lets_everybody_in() -> None:
    with ExitStack() as inside:
        callers = {
            inside.enter_context(OpenDoor().enter(header, "10.0.0.1")) for header in (None, "", "Bearer x") * 100
        }
    assert callers == {"10.0.0.1"}


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("10.0.0.1", "10.0.0.1"), ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"), ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"), ("", ""), ("testclient", "testclient"),
    ],
)  # fmt: skip
def test_without_keys_a_network_of_ipv6_is_one_caller(address: str, caller: str) -> None:
    with OpenDoor().enter(None, address) as entered:
        assert entered == caller


def test_door_for_is_keyed_when_there_are_keys() -> None:
    assert isinstance(door_for((), 1), OpenDoor)
    assert isinstance(door_for(iter(KEYS), 1), KeyedDoor)


def connection(client: str | None, **headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": raw, "client": (client, 1) if client else None})


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_without_a_key_the_own_machine_may(client: str, host: str) -> None:
    AdminDoor("").enter(connection(client, host=host))
    AdminDoor("").enter(connection(client, host=host, origin="http://localhost:8000"))


@pytest.mark.parametrize(
    "caller",
    [
        connection("192.168.0.7", host="localhost"),
        connection("::ffff:10.0.0.1", host="localhost"),
        connection(None, host="localhost"),
        connection("testclient", host="localhost"),
        connection("127.0.0.1"),
        connection("127.0.0.1", host="rebound.example"),
        connection("127.0.0.1", host="127.0.0.1.example"),
        connection("127.0.0.1", host="[::1"),
        connection("127.0.0.1", host="localhost", origin="https://page.example"),
        connection("127.0.0.1", host="localhost", origin="null"),
        connection("127.0.0.1", host="localhost", origin="http://[::1"),
        connection("127.0.0.1", host="localhost", x_forwarded_for="10.0.0.1"),
        connection("127.0.0.1", host="localhost", forwarded="for=10.0.0.1"),
        connection("127.0.0.1", host="localhost", x_real_ip="10.0.0.1"),
        connection("127.0.0.1", host="localhost", via="1.1 proxy"),
    ],
    ids=lambda caller: repr(dict(caller.headers)),
)
def test_without_a_key_nobody_else_may(caller: HTTPConnection) -> None:
    with pytest.raises(Forbidden, match="EARMARK_ADMIN_KEY"):
        AdminDoor("").enter(caller)


def test_with_a_key_only_the_key_counts() -> None:
    door = AdminDoor("secret")
    door.enter(connection("192.168.0.7", host="api.example", authorization="Bearer secret"))
    for headers in ({}, {"authorization": "Bearer wrong"}):
        with pytest.raises(Unauthorized):
            door.enter(connection("127.0.0.1", host="localhost", **headers))
