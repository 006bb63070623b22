"""Names of requests: "client/id", an id alone, or the beginning of an id. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from orion_streams.model import events as ev

SHORT = 8
"""So many characters of a shortened id are shown at least."""
RANDOM = re.compile(r"(?![0-9a-f]{8}-?[0-9a-f]{4}-?[167])[0-9a-f][0-9a-f-]{15,}")
"""An id of chance: already its beginning is nobody else's. Some UUIDs (1, 6, 7) begin with the time."""


def id_of(key: str) -> str:
    """Return the id in a request's key "client/id"."""
    return key.partition("/")[2]


def request_of(event: ev.AnyEvent) -> str:
    """Return the request that an event is about. A malformed entry is named by its entry id."""
    if isinstance(event, ev.InputRejected):
        kind, _, client = event.stream.partition(":")
        return f"{client}/{event.entry_id}" if kind == "requests" else ""
    return str(getattr(event, "request", ""))


def is_name(asked: str, key: str) -> bool:
    """Whether this is the request's key, or its whole id."""
    return asked in (key, id_of(key))


def ending(key: str) -> str:
    """Return what tells requests of gateways apart: LIFE.NUMBER of the id GATEWAY@HOST.LIFE.NUMBER; "" of
    another."""
    _, at, rest = id_of(key).partition("@")
    return ".".join(rest.rsplit(".", 2)[1:]) if at and rest.count(".") > 1 else ""


def is_short_for(asked: str, key: str) -> bool:
    """Whether this is the beginning of the request's id, or the ending of a gateway's; or its whole client
    and that."""
    if not asked.rpartition("/")[2]:
        return False
    client, end = key.partition("/")[0], ending(key)
    is_end = end != "" and asked in (end, f"{client}/{end}")
    return is_end or id_of(key).startswith(asked) or ("/" in asked and key.startswith(asked))


def shortest(keys: Iterable[str]) -> dict[str, str]:
    """Return for each request its client and what means it alone: the ending of a gateway's id; of one of
    chance the beginning, at least SHORT characters, that none of the others has; else the whole."""
    known = sorted(set(keys))
    found = {}
    for before, key, behind in zip(["", *known], known, [*known[1:], ""], strict=False):
        begin = key.index("/") + 1
        if end := ending(key):
            found[key] = key[:begin] + end
        elif RANDOM.fullmatch(key, begin):
            found[key] = key[: max(begin + SHORT, alike(key, before) + 1, alike(key, behind) + 1)]
        else:
            found[key] = key
    return found


def alike(one: str, other: str) -> int:
    """Return how many characters two texts share at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, yours) in pairs if mine != yours), min(len(one), len(other)))


def meant(asked: str, keys: Iterable[str]) -> list[str]:
    """Return the requests with that name; if there is none, those that it is short for."""
    known = [key for key in keys if is_name(asked, key) or is_short_for(asked, key)]
    return [key for key in known if is_name(asked, key)] or known
