"""Keys as values: how they are made, found, kept, and what the grid has to know of them."""

from __future__ import annotations

import hmac
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.errors import ConfigError
from orion_streams.gateway import keys
from orion_streams.gateway.keys import (
    Key,
    KeyTable,
    decode,
    digest_of,
    encode,
    find,
    guest_changes,
    token_of,
)
from orion_streams.model.policy import ClientRules

SECRET = "5" * 64
TOKENS = [token_of(bytes([n]) * 32) for n in range(3)]


def key(n: int, **values: Any) -> Key:
    """The key of one of the tokens."""
    usual: dict[str, Any] = {"name": f"k{n}", "client": f"key-k{n}", "created": "2026-11-29"}
    return Key(hash=digest_of(TOKENS[n]), **{**usual, **values})


TABLE = KeyTable(SECRET, (key(0), key(1)))


def test_a_token_is_a_prefix_and_43_characters() -> None:
    """256 random bits, which pass through URLs and shells as they are."""
    assert re.fullmatch(r"orion-[A-Za-z0-9_-]{43}", TOKENS[0])
    assert re.fullmatch(r"orion-[A-Za-z0-9_-]{43}", token_of(b"\xff" * 32))
    assert len({*TOKENS}) == 3


def test_a_key_is_found_by_its_token_and_by_nothing_else() -> None:
    """Neither by one of another key, nor by a part of it, nor by what the file holds."""
    assert find(TABLE, TOKENS[0]) == key(0)
    assert find(TABLE, TOKENS[1]) == key(1)
    for wrong in (TOKENS[2], TOKENS[0][:-1], TOKENS[0] + "A", TOKENS[0].upper(), key(0).hash, "", "\ud800"):
        assert find(TABLE, wrong) is None


def test_all_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many comparisons whichever key is right, each by hmac.compare_digest."""
    compared = []

    def note(held: str, wanted: str) -> bool:
        compared.append(held)
        return held == wanted

    monkeypatch.setattr(hmac, "compare_digest", note)
    for token in TOKENS:
        compared.clear()
        find(TABLE, token)
        assert compared == [key(0).hash, key(1).hash]


def test_the_file_holds_no_token() -> None:
    """Only hashes; and reads as it was written."""
    raw = encode(TABLE)
    assert decode(raw) == TABLE
    assert not any(token.encode() in raw for token in TOKENS)
    assert raw.endswith(b"}\n")


GOOD = msgspec.json.decode(encode(TABLE))


def damaged() -> dict[str, Any]:
    """What is no file of keys, by what is wrong with it."""
    one = GOOD["keys"][0]
    return {
        "nothing": b"",
        "cut": encode(TABLE)[:-20],
        "bytes": b"\xff\xfe",
        "deep": b"[" * 100_000,
        "no secret": {"keys": []},
        "a short secret": {"secret": "5"},
        "a bad hash": {**GOOD, "keys": [{**one, "hash": "x"}]},
        "a bad name": {**GOOD, "keys": [{**one, "name": "../x"}]},
        "a bad client": {**GOOD, "keys": [{**one, "client": "a:b"}]},
        "a misspelt right": {**GOOD, "keys": [{**one, "view_onyl": True}]},
        "a priority": {**GOOD, "keys": [{**one, "max_priority": 10}]},
        "twice": {**GOOD, "keys": [one, one]},
        "too many": {**GOOD, "keys": [{**one, "name": f"k{n}"} for n in range(keys.MAX_KEYS + 1)]},
    }


@pytest.mark.parametrize("what", damaged())
def test_a_damaged_file_is_refused_whole(what: str) -> None:
    """Not in part: a right that is misspelt must not be another."""
    found = damaged()[what]
    with pytest.raises(ValueError, match=r"\S"):
        decode(found if isinstance(found, bytes) else msgspec.json.encode(found))
    assert decode(msgspec.json.encode(GOOD)) == TABLE, "the control"


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_are_more_than_an_error(noise: bytes, at: int) -> None:
    """Whatever stands in the middle of the file."""
    raw = encode(TABLE)
    try:
        decode(raw[:at] + noise + raw[at:])
    except ValueError:
        return


def test_keys_come_and_go_by_name() -> None:
    """A name that is taken, one that is not known, and one more than there may be are refused."""
    more = keys.with_key(TABLE, key(2))
    assert (more.secret, more.keys) == (SECRET, (key(0), key(1), key(2)))
    less = keys.without_key(more, "k0")
    assert (less.keys, less.removed) == ((key(1), key(2)), ("k0",))
    assert keys.with_key(less, key(0)).removed == ()
    with pytest.raises(ConfigError, match="there is a key k0: remove it first"):
        keys.with_key(TABLE, key(0))
    with pytest.raises(ConfigError, match=r"k9: no such key .known: k0, k1."):
        keys.without_key(TABLE, "k9")
    full = KeyTable(SECRET, tuple(key(0, name=f"n{n}") for n in range(keys.MAX_KEYS)))
    with pytest.raises(ConfigError, match="no more may be"):
        keys.with_key(full, key(1))


def test_the_grid_learns_what_it_lacks_and_forgets_what_was_removed() -> None:
    """Guests with their highest priority; a client of streams.toml keeps its own rules, and a guest that
    this file never had is another gateway's."""
    table = KeyTable(SECRET, (key(0, max_priority=3), key(1), key(2, client="brain")), ("old", "k1", "ben"))
    rules = {"key-k0": ClientRules(max_priority=3), "key-k1": ClientRules()}
    other = {"key-theirs": ClientRules()}
    assert guest_changes(table, other, ()) == (rules, [])
    assert guest_changes(table, rules, ()) == ({}, [])
    assert guest_changes(table, {**rules, **other, "key-old": ClientRules()}, ()) == ({}, ["key-old"])
    assert guest_changes(table, {**rules, "key-k0": ClientRules()}, ()) == ({"key-k0": rules["key-k0"]}, [])
    assert guest_changes(table, {}, ("key-k0",)) == ({"key-k1": ClientRules()}, [])


def test_what_was_removed_is_remembered_within_limits() -> None:
    """The latest names; more in a file than there may be is a damaged one."""
    table = TABLE
    for n in range(keys.MAX_KEYS + 1):
        table = keys.without_key(keys.with_key(table, key(2, name=f"n{n}")), f"n{n}")
    assert (len(table.removed), table.removed[0], table.removed[-1]) == (
        keys.MAX_KEYS,
        "n1",
        f"n{keys.MAX_KEYS}",
    )
    assert decode(encode(table)) == table
    with pytest.raises(ValueError, match="at most 1000"):
        decode(encode(KeyTable(SECRET, (), (*table.removed, "n0"))))
