"""The interface of a log. `RedisLog` implements it on Redis or Valkey, `MemoryLog` in memory for tests and
simulation. The same contract tests run against both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from orion_streams.model.commit import Commit, Extent, Guard, Raw, Snapshot


class Log(Protocol):
    """A log with its guard and the grid's streams, which are named without the prefix."""

    async def guard(self) -> Guard:
        """Return the guard as of the last commit."""

    async def read(self, cursors: Mapping[str, str], count: int, block_ms: int) -> tuple[int, list[Raw]]:
        """Return the server's time in ms, and up to `count` entries of each stream after its cursor. Wait
        up to `block_ms` for the first one; 0 does not wait."""

    async def last_position(self) -> int:
        """Return the position of the newest event, 0 for an empty log."""

    async def first_position(self) -> int:
        """Return the position of the oldest event that is kept, 0 for an empty log."""

    async def events(self, after: int, count: int) -> list[tuple[int, bytes]]:
        """Return up to `count` positions and events after a position. Raise LogError for a gap."""

    async def commit(self, commit: Commit) -> None:
        """Write all of it, or nothing: then raise CommitConflictError, BodyGoneError or LogError."""

    async def announce(self, row: Mapping[str, str]) -> bool:
        """Write the grid's public row. Return whether this user may."""

    async def snapshot_before(self, position: int) -> Snapshot | None:
        """Return the newest snapshot at or before a position."""

    async def snapshot_after(self, position: int) -> Snapshot | None:
        """Return the oldest snapshot after a position."""

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, unless a newer one is kept already."""

    async def make_group(self, stream: str, after: str) -> bool:
        """Create the consumer group through which an agent reads its work, beginning after that id. Return
        whether it did not exist."""

    async def trim(self, stream: str, min_id: str) -> None:
        """Drop entries below `min_id`; some of them may stay for a while."""

    async def shorten(self, stream: str, entries: int) -> None:
        """Drop the oldest entries beyond so many; some of them may stay for a while."""

    async def drop(self, stream: str, ids: Iterable[str]) -> None:
        """Drop these entries, as far as they are there."""

    async def size(self, stream: str) -> tuple[int, int]:
        """Return the stream's length in entries and its memory in bytes."""

    async def oldest_ids(self, stream: str, count: int) -> list[str]:
        """Return the ids of the oldest `count` entries."""

    async def extents(self, streams: Iterable[str]) -> dict[str, Extent]:
        """Return the extent of each stream."""
