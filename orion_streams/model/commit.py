"""What a commit is made of, and what the log hands out. Values only.

Guard hash: `number`, `token` and `out_id` of the last commit, `cursor <stream>` for each input, and
`relayed <work id>`, the last token passed on of each open attempt.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

CURSOR, RELAYED = "cursor ", "relayed "
GROUP = "agent"
"""The consumer group of one on `work:<node>`; its consumer has the same name."""


class Head(Struct, frozen=True):
    """What a commit expects to find: the last commit's number and token, the log's last position."""

    number: int = 0
    token: str = ""
    position: int = 0


class Guard(Struct, frozen=True):
    """The guard hash: `cursors` by stream name without prefix, `relayed` last seq by work id."""

    number: int = 0
    token: str = ""
    out_id: str = "0-0"
    cursors: dict[str, str] = {}
    relayed: dict[str, int] = {}


class OutEntry(Struct, frozen=True, array_like=True):
    """An entry to be written, under its id; the body is copied by the server."""

    stream: str
    id: str
    fields: dict[str, Any]
    body_stream: str = ""
    body_id: str = ""
    body_names: tuple[str, ...] = ()
    body_required: bool = False


class Commit(Struct, frozen=True):
    """All of one commit: it happens whole or not at all."""

    expected: Head
    number: int
    token: str
    out_id: str
    events: tuple[bytes, ...] = ()
    outs: tuple[OutEntry, ...] = ()
    set: dict[str, str] = {}
    drop: tuple[str, ...] = ()


class Raw(Struct, frozen=True):
    """An entry as it was read."""

    stream: str
    id: str
    fields: dict[bytes, bytes]


class Extent(Struct, frozen=True):
    """How far a stream goes: its first entry's id, the last id that it ever gave, how many entries it has
    and how many were ever added. All nothing for one that is not there."""

    first: str = "0-0"
    top: str = "0-0"
    length: int = 0
    added: int = 0


class Snapshot(Struct, frozen=True):
    """The grid's bytes at a position, with the running hash of the log up to it."""

    position: int
    digest: str
    grid: bytes
