"""The log in memory, for tests and the simulation; it keeps the promises of `RedisLog` without a server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice, takewhile
from typing import Any

from orion_streams.errors import BodyGoneError, CommitConflictError, LogError
from orion_streams.eventlog.redis_log import position_of
from orion_streams.model.commit import Commit, Extent, Guard, OutEntry, Raw, Snapshot
from orion_streams.model.state import parse_stream_id

Stream = dict[str, dict[bytes, bytes]]
MAX_FIELDS = 2000
"""Names and values of one entry, as in commit.lua."""


class MemoryLog:
    """Streams as dicts in order of their ids. `now_ms` is the server's clock."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.streams: dict[str, Stream] = {}
        self.held: dict[str, str] = {}
        self._tops: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._snapshots: list[Snapshot] = []
        self._added = asyncio.Condition()

    async def add(self, stream: str, fields: Mapping[Any, Any], entry_id: str = "") -> str:
        """Append an entry as XADD does and wake blocked readers. Return the entry's id."""
        entry_id = self._append(stream, fields, entry_id)
        async with self._added:
            self._added.notify_all()
        return entry_id

    def _append(self, stream: str, fields: Mapping[Any, Any], entry_id: str = "") -> str:
        top_ms, top_n = parse_stream_id(self._tops.get(stream, "0-0"))
        if not entry_id:
            now = self.now_ms()
            entry_id = f"{now}-0" if now > top_ms else f"{top_ms}-{top_n + 1}"
        if parse_stream_id(entry_id) <= (top_ms, top_n):
            raise LogError(f"{entry_id} is not above {top_ms}-{top_n}")
        self.streams.setdefault(stream, {})[entry_id] = {
            as_bytes(name): as_bytes(value) for name, value in fields.items()
        }
        self._tops[stream] = entry_id
        self._counts[stream] += 1
        return entry_id

    async def guard(self) -> Guard:
        return Guard.from_hash(self.held)

    async def read(self, cursors: Mapping[str, str], count: int, block_ms: int) -> tuple[int, list[Raw]]:
        found = self._read(cursors, count)
        if not found and block_ms:
            try:
                async with asyncio.timeout(block_ms / 1000), self._added:
                    await self._added.wait_for(lambda: self._read(cursors, 1))
            except TimeoutError:
                return self.now_ms(), []
            found = self._read(cursors, count)
        return self.now_ms(), found

    def _read(self, cursors: Mapping[str, str], count: int) -> list[Raw]:
        found = []
        for stream, cursor in cursors.items():
            if self._tops.get(stream, "0-0") == cursor:
                continue
            rows = self.streams.get(stream, {})
            newest_first = ids_down_to(cursor, rows)
            found += [Raw(stream, each, rows[each]) for each in newest_first[: -count - 1 : -1]]
        return found

    async def last_position(self) -> int:
        return position_of(next(reversed(self.streams.get("log", {})), "0-0"))

    async def first_position(self) -> int:
        return parse_stream_id(next(iter(self.streams.get("log", {})), "0-0"))[0]

    async def events(self, after: int, count: int) -> list[tuple[int, bytes]]:
        log, found = self.streams.get("log", {}), list[tuple[int, bytes]]()
        for position in range(after + 1, min(after + count, await self.last_position()) + 1):
            fields = log.get(f"{position}-0")
            if fields is None:
                following = next(each for each in map(position_of, log) if each > position)
                raise LogError(f"the log has a gap: after {position - 1} comes {following}")
            found.append((position, fields.get(b"event", b"")))
        return found

    async def commit(self, commit: Commit) -> None:
        held, expected, last = self.held, commit.expected, await self.last_position()
        number = int(held.get("number", 0))
        if (number, held.get("token", "")) != (expected.number, expected.token):
            raise CommitConflictError(f"somebody committed first: the grid is at number {number}")
        if last != expected.position:
            raise CommitConflictError(f"somebody committed first: the grid is at position {last}")
        bodies = self._check(commit, held.get("out_id", "0-0"))
        for position, event in enumerate(commit.events, start=last + 1):
            self._append("log", {"event": event}, f"{position}-0")
        for out, fields in zip(commit.outs, bodies, strict=True):
            self._append(out.stream, fields, out.id)
        held |= {"number": str(commit.number), "token": commit.token, "out_id": commit.out_id} | commit.set
        for name in commit.drop:
            held.pop(name, None)
        async with self._added:
            self._added.notify_all()

    def _check(self, commit: Commit, top: str) -> list[dict[bytes, bytes]]:
        bodies = []
        for out in commit.outs:
            if parse_stream_id(out.id) <= parse_stream_id(top):
                raise LogError(f"the commit was refused: {out.id} is not above {top}")
            if parse_stream_id(out.id) <= parse_stream_id(self._tops.get(out.stream, "0-0")):
                raise LogError(f"the commit was refused: {out.stream} has entries above {out.id}")
            top = out.id
            fields = self._with_body(out)
            if 2 * len(fields) > MAX_FIELDS:
                raise LogError("the commit was refused: an entry with too many fields")
            bodies.append(fields)
        return bodies

    def _with_body(self, out: OutEntry) -> dict[bytes, bytes]:
        fields = {as_bytes(name): as_bytes(value) for name, value in out.fields.items()}
        if (body := out.body) is not None:
            source = self.streams.get(body.stream, {}).get(body.entry_id)
            if source is None and body.required:
                raise BodyGoneError((body.stream, body.entry_id))
            names = [name.encode() for name in body.names]
            fields |= {name: source[name] for name in names if source is not None and name in source}
        return fields

    async def announce(self, row: Mapping[str, str]) -> bool:
        self.announced = dict(row)
        return True

    async def snapshot_before(self, position: int) -> Snapshot | None:
        return next((each for each in reversed(self._snapshots) if each.position <= position), None)

    async def snapshot_after(self, position: int) -> Snapshot | None:
        return next((each for each in self._snapshots if each.position > position), None)

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        if not self._snapshots or snapshot.position > self._snapshots[-1].position:
            self._snapshots.append(snapshot)

    async def make_group(self, stream: str, after: str) -> bool:
        """Create nothing: consumer groups exist only on a server."""
        return False

    async def trim(self, stream: str, min_id: str) -> None:
        rows, floor = self.streams.get(stream, {}), parse_stream_id(min_id)
        if stream == "snapshots":
            self._snapshots = [each for each in self._snapshots if each.position >= floor[0]]
        for entry_id in list(takewhile(lambda each: parse_stream_id(each) < floor, rows)):
            del rows[entry_id]

    async def shorten(self, stream: str, entries: int) -> None:
        rows = self.streams.get(stream, {})
        await self.drop(stream, list(rows)[: max(len(rows) - entries, 0)])

    async def drop(self, stream: str, ids: Iterable[str]) -> None:
        for entry_id in ids:
            self.streams.get(stream, {}).pop(entry_id, None)

    async def size(self, stream: str) -> tuple[int, int]:
        if stream == "snapshots":
            return len(self._snapshots), sum(len(each.grid) for each in self._snapshots)
        rows = self.streams.get(stream, {})
        return len(rows), sum(len(v) for fields in rows.values() for v in fields.values())

    async def oldest_ids(self, stream: str, count: int) -> list[str]:
        return list(islice(self.streams.get(stream, {}), count))

    async def extents(self, streams: Iterable[str]) -> dict[str, Extent]:
        found = {}
        for stream in streams:
            rows, top = self.streams.get(stream, {}), self._tops.get(stream, "0-0")
            found[stream] = Extent(next(iter(rows), "0-0"), top, len(rows), self._counts[stream])
        return found


def ids_down_to(cursor: str, rows: Stream) -> list[str]:
    """Return the ids above the cursor, newest first: few entries wait, many may have been read."""
    after = parse_stream_id(cursor)
    return list(takewhile(lambda each: parse_stream_id(each) > after, reversed(rows)))


def as_bytes(value: object) -> bytes:
    """Return a field as Redis stores it."""
    return value if isinstance(value, bytes) else str(value).encode()
