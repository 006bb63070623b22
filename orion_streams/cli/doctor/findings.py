"""What was found out about a grid, and what is said of it. Values only."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from orion_streams.config import Config
from orion_streams.model.commit import Guard
from orion_streams.model.state import Grid

Severity = Literal["ok", "warning", "problem"]


class Finding(Struct, frozen=True):
    """One sentence about one thing; `mend`: the line that mends it, empty where there is nothing to do."""

    severity: Severity
    about: str
    what: str
    mend: str = ""


class Stream(Struct, frozen=True):
    """A stream of the grid: its entries, its memory in bytes, the last id it ever gave. `kind`: its type,
    "none" for one that is not there."""

    kind: str
    entries: int = 0
    size: int = 0
    top: str = "0-0"


class Group(Struct, frozen=True):
    """The consumer group of a work stream: how much is delivered and not acknowledged."""

    pending: int


class Seen(Struct, frozen=True):
    """An Ollama that was asked from here: its version, or why it did not answer."""

    version: str = ""
    error: str = ""
    resident: tuple[str, ...] = ()


class Kept(Struct, frozen=True):
    """The router's archive as this machine sees it. `there`: the folder exists here."""

    there: bool
    last: int = 0
    error: str = ""


class Facts(Struct):
    """Everything that could be found out; None, or no row, where it could not.

    `url`: the server's, without its password. `away`: why it does not answer; `refused`: why it takes not
    this user at all; `failed`: by check, why it was not made. `info`: INFO. `clock_off_ms`: the server's
    clock minus this machine's. `numbers`: the guard's commit number before and after everything else was
    looked at. `waiting`: by input stream the id of the oldest entry that no router has taken.
    `since_ms`: by node, the server's time when it last backed off. `silence_ms`: how long ago the last
    logged commit was.
    """

    config: Config
    url: str
    database: int = 0
    away: str = ""
    refused: str = ""
    failed: dict[str, str] = {}
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
    groups: dict[str, Group | None] = {}
    waiting: dict[str, str] = {}
    grid: Grid | None = None
    silence_ms: int = 0
    since_ms: dict[str, int] = {}
    ollamas: dict[str, Seen] = {}
    archive: Kept | None = None
