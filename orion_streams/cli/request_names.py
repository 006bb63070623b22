"""Names of requests: "client/id", an id alone, or the beginning of an id. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from orion_streams.model import events as ev

SHORT = 8
"""So many characters of a shortened id are shown at least."""


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


def is_short_for(asked: str, key: str) -> bool:
    """Whether this is the beginning of the request's id, or its whole client and that."""
    if not asked.rpartition("/")[2]:
        return False
    return id_of(key).startswith(asked) or ("/" in asked and key.startswith(asked))


def shortest(keys: Iterable[str]) -> dict[str, str]:
    """Return for each request its client and the beginning of its id, at least SHORT characters of it, that
    none of the others has."""
    known = sorted(set(keys))
    found = {}
    for before, key, behind in zip(["", *known], known, [*known[1:], ""], strict=False):
        shared = max(alike(key, before), alike(key, behind))
        found[key] = key[: max(key.index("/") + 1 + SHORT, shared + 1)]
    return found


def alike(one: str, other: str) -> int:
    """Return how many characters two texts share at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, yours) in pairs if mine != yours), min(len(one), len(other)))


def meant(asked: str, keys: Iterable[str]) -> list[str]:
    """Return the requests with that name; if there is none, those that it is short for."""
    known = [key for key in keys if is_name(asked, key) or is_short_for(asked, key)]
    return [key for key in known if is_name(asked, key)] or known
