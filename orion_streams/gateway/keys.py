"""Keys of the gateway: what its file holds, and how one is found. Pure.

A token is 256 random bits, so its SHA-256 is enough: a slow hash is for passwords that can be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Collection, Mapping
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from orion_streams.errors import ConfigError
from orion_streams.model.policy import GUEST_PREFIX, ClientRules, Name

TOKEN_PREFIX = "orion-"  # noqa: S105 - how all of them begin
TOKEN_BYTES, SECRET_BYTES = 32, 32
MAX_KEYS = 1_000
MAX_NAME = 63 - len(GUEST_PREFIX)
MAX_FILE_BYTES = 2_000_000

Form = Literal["open-webui", "home-assistant", "none"]
FORMS: tuple[Form, ...] = get_args(Form)
Priority = Annotated[int, Meta(ge=-9, le=9)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key: the client of the grid that it stands for, its token's SHA-256, the day it was made, the
    priority of requests that ask for none and the highest one; `form`: the program that it was made for;
    `sees_all`: it is told the ids of all clients' requests."""

    name: Name
    client: Name
    hash: Digest
    created: str
    priority: Priority = 0
    max_priority: Priority = 9
    view_only: bool = False
    form: Form = "none"
    sees_all: bool = False


class KeyTable(Struct, frozen=True, forbid_unknown_fields=True):
    """All keys, and the gateway's secret, by which it names conversations without telling what they are.
    `removed`: names of keys that are no more, so that the grid forgets their guests: others are another
    gateway's."""

    secret: Digest
    keys: tuple[Key, ...] = ()
    removed: tuple[Name, ...] = ()

    @property
    def secret_bytes(self) -> bytes:
        """The secret as a key of an HMAC."""
        return bytes.fromhex(self.secret)


def token_of(random: bytes) -> str:
    """Return the token of so many random bytes."""
    return TOKEN_PREFIX + urlsafe_b64encode(random).decode().rstrip("=")


def digest_of(token: str) -> str:
    """Return what the file holds of a token."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def find(table: KeyTable, token: str) -> Key | None:
    """Return the key of a token. The time that it takes does not depend on how much of one is right."""
    wanted, found = digest_of(token), None
    for key in table.keys:
        if hmac.compare_digest(key.hash, wanted):
            found = key
    return found


def client_of_key(name: str) -> str:
    """Return the client of the grid that a key stands for: a guest, or one of streams.toml that is called
    so."""
    return GUEST_PREFIX + name


def with_key(table: KeyTable, key: Key) -> KeyTable:
    """Return the table with one more key. Raises ConfigError for a name that is taken, and a full table."""
    if any(each.name == key.name for each in table.keys):
        raise ConfigError(f"there is a key {key.name}: remove it first (orion key rm {key.name})")
    if len(table.keys) >= MAX_KEYS:
        raise ConfigError(f"there are {MAX_KEYS} keys, and no more may be: remove one (orion key rm NAME)")
    removed = tuple(name for name in table.removed if name != key.name)
    return KeyTable(table.secret, (*table.keys, key), removed)


def without_key(table: KeyTable, name: str) -> KeyTable:
    """Return the table without a key. Raises ConfigError, which lists the known ones, if there is none."""
    kept = tuple(key for key in table.keys if key.name != name)
    if len(kept) == len(table.keys):
        known = ", ".join(sorted(key.name for key in kept)[:20]) or "none"
        raise ConfigError(f"{name}: no such key (known: {known})")
    return KeyTable(table.secret, kept, (*table.removed, name)[-MAX_KEYS:])


def encode(table: KeyTable) -> bytes:
    """Return the table as the file holds it."""
    return msgspec.json.format(msgspec.json.encode(table)) + b"\n"


def decode(raw: bytes) -> KeyTable:
    """Return the table of a file. Raises ValueError, with what is wrong, for another one."""
    try:
        table = msgspec.json.decode(raw, type=KeyTable)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    names = [key.name for key in table.keys]
    if max(len(names), len(table.removed)) > MAX_KEYS or len(set(names)) < len(names):
        raise ValueError(f"expected at most {MAX_KEYS} keys, each name once")
    return table


def guest_changes(
    table: KeyTable, guests: Mapping[str, ClientRules], named: Collection[str]
) -> tuple[dict[str, ClientRules], list[str]]:
    """Return the guests that the grid lacks, or has under other rules, and those whose key was removed.
    `named`: the clients of streams.toml, which cannot be guests."""
    wanted = {
        key.client: ClientRules(max_priority=key.max_priority)
        for key in table.keys
        if key.client not in named and key.client.startswith(GUEST_PREFIX)
    }
    added = {name: rules for name, rules in wanted.items() if guests.get(name) != rules}
    gone = {client_of_key(name) for name in table.removed} & guests.keys()
    return added, sorted(gone - wanted.keys())
