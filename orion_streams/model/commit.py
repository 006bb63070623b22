"""Values that a commit is made of and that the log returns.

Guard hash: `number`, `token` and `out_id` of the last commit, `cursor <stream>` for each input, and
`relayed <work id>`, the last token passed on of each open attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

CURSOR, RELAYED = "cursor ", "relayed "
GROUP = "agent"
"""The consumer group of one on `work:<node>`; its consumer has the same name."""
PUBLIC = "grid"
"""The key of the grid's public row."""


class Expected(Struct, frozen=True):
    """What a commit must find: number and token of the last commit, and the last position of the log."""

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

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Guard:
        """Return the guard that a hash holds; an empty hash is the guard of an empty log."""
        return cls(
            number=int(fields.get("number", 0)),
            token=fields.get("token", ""),
            out_id=fields.get("out_id", "0-0"),
            cursors={k.removeprefix(CURSOR): v for k, v in fields.items() if k.startswith(CURSOR)},
            relayed={k.removeprefix(RELAYED): int(v) for k, v in fields.items() if k.startswith(RELAYED)},
        )


class Body(Struct, frozen=True, kw_only=True):
    """Fields that the server copies from another entry; without it a `required` one refuses the commit."""

    stream: str
    entry_id: str
    names: tuple[str, ...]
    required: bool


class OutEntry(Struct, frozen=True):
    """An entry to be written under its id, with the fields of `body` copied into it by the server."""

    stream: str
    id: str
    fields: dict[str, Any]
    body: Body | None = None


class Commit(Struct, frozen=True, kw_only=True):
    """Everything that one commit writes; it is written whole or not at all."""

    expected: Expected
    number: int
    token: str
    out_id: str
    events: tuple[bytes, ...] = ()
    outs: tuple[OutEntry, ...] = ()
    set: dict[str, str] = {}
    drop: tuple[str, ...] = ()


class Raw(Struct, frozen=True):
    """An entry as read from a stream."""

    stream: str
    id: str
    fields: dict[bytes, bytes]


class Extent(Struct, frozen=True):
    """A stream's extent: the id of its first entry, the last id ever given, the number of entries now and
    the number ever added. The defaults stand for a stream that does not exist."""

    first: str = "0-0"
    top: str = "0-0"
    length: int = 0
    added: int = 0


class Snapshot(Struct, frozen=True):
    """The encoded grid at a position, with the running hash of the log up to it."""

    position: int
    digest: str
    grid: bytes
