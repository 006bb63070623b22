"""Names of requests: "client/id", an id alone, or the beginning of an id. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from orion_streams.model import events as ev


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


def meant(asked: str, keys: Iterable[str]) -> list[str]:
    """Return the requests with that name; if there is none, those that it is short for."""
    known = [key for key in keys if is_name(asked, key) or is_short_for(asked, key)]
    return [key for key in known if is_name(asked, key)] or known
