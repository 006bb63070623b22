"""What the router needs of a log. `RedisLog` does it on Redis or Valkey, `MemoryLog` (tests, simulation) in
a dict. The same contract tests run against both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from orion_streams.model.commit import Commit, Extent, Guard, Raw, Snapshot


class Log(Protocol):
    """Where events are kept. All streams are named without the prefix."""

    async def guard(self) -> Guard: ...
    async def read(self, cursors: Mapping[str, str], count: int, block_ms: int) -> tuple[int, list[Raw]]:
        """Up to `count` entries of each stream after its cursor, and the server's time in ms."""
        ...

    async def last_position(self) -> int: ...
    async def first_position(self) -> int: ...
    async def events(self, after: int, count: int) -> list[tuple[int, bytes]]:
        """Up to `count` events after a position. LogError names a gap."""
        ...

    async def commit(self, commit: Commit) -> None:
        """Write it whole. Raises CommitConflictError, BodyGoneError, LogError; then nothing was written."""
        ...

    async def snapshot_before(self, position: int) -> Snapshot | None:
        """The newest one that is kept there or before it."""
        ...

    async def snapshot_after(self, position: int) -> Snapshot | None:
        """The oldest one that is kept beyond it."""
        ...

    async def save_snapshot(self, snapshot: Snapshot) -> None: ...
    async def make_group(self, stream: str, after: str) -> bool:
        """The consumer group of one through which an agent reads its work, what comes after that id.
        Whether there was none."""
        ...

    async def trim(self, stream: str, min_id: str) -> None:
        """Drop the stream's entries below `min_id`, roughly."""
        ...

    async def size(self, stream: str) -> tuple[int, int]:
        """The stream's length in entries and its memory in bytes."""
        ...

    async def oldest_ids(self, stream: str, count: int) -> list[str]:
        """The ids of its oldest entries."""
        ...

    async def extents(self, streams: Iterable[str]) -> dict[str, Extent]:
        """How far each stream goes."""
        ...
