"""Errors of permission: which user may not run which command on which key, and who may.

The server says less: of a key it names neither the key nor the user.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoPermissionError

from orion_streams.config import Config, NodeConfig
from orion_streams.model.policy import GUEST_PREFIX, UNLISTED
from orion_streams.model.server_urls import with_user
from orion_streams.runtime import acl

_CLIENTS, _NODES = ("requests", "parts", "replies"), ("work", "health", "results")
_KEY = re.compile(
    rf"([\w{{}}:.-]*?)(?:({'|'.join((*_CLIENTS, *_NODES))}):([\w.-]+)|log|guard|grid|snapshots)\Z"
)
_KEYED = ("H", "X", "TYPE", "MEMORY USAGE")
"""How the names of the commands begin that have a key; of others no argument is shown."""
_CONTAINERS = frozenset(
    ("ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "FUNCTION", "LATENCY", "MEMORY", "MODULE", "OBJECT",
     "PUBSUB", "SCRIPT", "SLOWLOG", "XGROUP", "XINFO")
)  # fmt: skip
"""Commands that do nothing without their second word."""
_SEVERAL, _SCRIPTS = ("XREAD", "XREADGROUP"), ("EVALSHA",)
SHOWN = 3
"""So many keys are named."""


def denial(url: str, user: str, command: Sequence[Any]) -> NoPermissionError:
    """Return the error of a command that the server refused to a user: what it may not, then what to do.
    `url`: the server, with no user in it; "" where it has no such name."""
    name, keys = _named(command)[0], keys_of(command)
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    where = f" on {', '.join(keys[:SHOWN])}{more}" if keys else ""
    return NoPermissionError(f"user {user} may not run {name}{where}: {advice(url, user, name, keys)}")


def advice(url: str, user: str, name: str, keys: Sequence[str]) -> str:
    """Say who may, by today's rules, or that the server has older ones."""
    command = name.lower().replace(" ", "|")
    if not keys:
        person_may = acl.may(acl.owner(Config()), command, "")
        return "log in as the grid's owner (orion acl)" if person_may else "that is an administrator's"
    able, *others = [holders_of(command, key) for key in keys]
    able = [each for each in able if all(each in some for some in others)]
    if user in able:
        again = f"orion acl {user} --apply --passwords DIR"
        return f"its rights are of another release: {again}, as an administrator"
    if not able:
        return "that is an administrator's"
    return f"log in as {able[0]}" + (f" (--redis {with_user(url, able[0])})" if url else "")


def holders_of(command: str, key: str) -> list[str]:
    """List the users of the key's grid that may run the command on it, the owner first but for replies: who
    reads them asks, too. None for a key that is no grid's."""
    found = _KEY.match(key)
    if found is None:
        return []
    prefix, kind, name = found[1], found[2], found[3]
    listed = kind in _CLIENTS and not name.startswith(GUEST_PREFIX)
    config = Config(
        prefix=prefix,
        clients={name: UNLISTED} if listed else {},
        nodes={name: NodeConfig()} if kind in _NODES else {},
    )
    *roles, owner = acl.users(config)
    everybody = [*roles, owner] if kind == "replies" else [owner, *roles]
    return [user.name for user in everybody if acl.may(user, command, key)]


def keys_of(command: Sequence[Any]) -> list[str]:
    """Return the keys of a command as it is sent; no other argument."""
    name, arguments = _named(command)
    if name in _SCRIPTS:
        return [_word(each) for each in arguments[2 : 2 + int(arguments[1])]]
    if name in _SEVERAL:
        words = [_word(each) for each in arguments]
        rest = words[words.index("STREAMS") + 1 :]
        return rest[: len(rest) // 2]
    return [_word(arguments[0])] if name.startswith(_KEYED) and arguments else []


def _named(command: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """Return a command's whole name, in one word or two as it was sent, and its arguments."""
    name, arguments = _word(command[0]).upper(), command[1:]
    if name in _CONTAINERS and arguments:
        return f"{name} {_word(arguments[0]).upper()}", arguments[1:]
    return name, arguments


def _word(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
