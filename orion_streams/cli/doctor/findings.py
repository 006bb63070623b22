"""The facts about a grid and the findings derived from them. Values only."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from orion_streams.config import Config
from orion_streams.model.commit import Guard
from orion_streams.model.server_urls import with_user, without_user
from orion_streams.model.state import Grid
from orion_streams.runtime import acl

Severity = Literal["ok", "warning", "problem"]


class Finding(Struct, frozen=True):
    """One sentence about one subject. `mend`: the line that mends it; empty if there is nothing to do."""

    severity: Severity
    about: str
    what: str
    mend: str = ""


class Stream(Struct, frozen=True):
    """A stream: entries, bytes, the last id it made. `kind`: its type in Redis; "none" if it is missing."""

    kind: str
    entries: int = 0
    size: int = 0
    top: str = "0-0"


class Group(Struct, frozen=True):
    """The consumer group of a work stream. `pending`: entries delivered and not acknowledged."""

    pending: int


class Seen(Struct, frozen=True):
    """An Ollama that was asked from here: its version, or why it did not answer."""

    version: str = ""
    error: str = ""


class Kept(Struct, frozen=True):
    """The router's archive as seen from this machine. `there`: the folder exists here."""

    there: bool
    last: int = 0
    error: str = ""


class Facts(Struct):
    """All facts; None, or no row, where a fact is unknown.

    `url`: the server's, without its password. `away`: why it does not answer; `refused`: why it rejects
    this user; `failed`: by check, why it could not be made; `denied`: by check, what this user may not.
    `info`: INFO. `clock_off_ms`: the server's clock minus this machine's. `numbers`: the guard's commit
    number before and after all other checks. `waiting`: by input stream, the id of the oldest entry that no
    router has taken. `since_ms`: by node, the server's time when it last backed off. `silence_ms`: time
    since the last logged commit. `has_row`: the grid's public row is there. `unread`: entries of streams
    under the prefix that nobody reads; None if this user may not look for them.
    `sender_runs`: whether a process on this machine sends alerts; None where that cannot be seen.
    `installed`: it is the grid of the services of this machine, so its roles are services.
    """

    config: Config
    url: str
    database: int = 0
    away: str = ""
    refused: str = ""
    failed: dict[str, str] = {}
    denied: dict[str, str] = {}
    info: dict[str, Any] = {}
    server_ms: int = 0
    clock_off_ms: int | None = None
    ping_ms: float | None = None
    script_p99_ms: float | None = None
    guard: Guard | None = None
    numbers: tuple[int, int] | None = None
    first: int = 0
    last: int = 0
    snapshots: tuple[int, ...] | None = None
    streams: dict[str, Stream] = {}
    has_row: bool = False
    groups: dict[str, Group | None] = {}
    waiting: dict[str, str] = {}
    grid: Grid | None = None
    silence_ms: int = 0
    unread: dict[str, int] | None = None
    since_ms: dict[str, int] = {}
    ollamas: dict[str, Seen] = {}
    archive: Kept | None = None
    sender_runs: bool | None = None
    installed: bool = False


def url_as(facts: Facts, *role: str) -> str:
    """Return the server's URL for the user of a role; as it is where the server has no users. ADMIN stands
    for an administrator."""
    if without_user(facts.url) == facts.url:
        return facts.url
    return with_user(facts.url, "ADMIN" if role == ("ADMIN",) else acl.user_name(facts.config, *role))


def start_router(facts: Facts) -> str:
    """Return the line that starts a router."""
    if facts.installed:
        return "sudo systemctl restart orion-router"
    return f"orion router --redis {url_as(facts, 'router')}"


def start_agent(facts: Facts, node: str) -> str:
    """Return the line that starts a node's agent, on its machine."""
    if facts.installed:
        return "sudo systemctl restart orion-agent"
    return f"orion agent --node {node} --redis {url_as(facts, 'agent', node)}"
