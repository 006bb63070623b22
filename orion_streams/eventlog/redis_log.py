"""The log on Redis or Valkey: read inputs, commit, follow, keep snapshots, trim."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from orion_streams.errors import BodyGoneError, CommitConflictError, LogError
from orion_streams.model.commit import GROUP, PUBLIC, Commit, Extent, Guard, Raw, Snapshot
from orion_streams.model.state import parse_stream_id
from orion_streams.runtime.connection import as_dict, ask, ask_one, end_if_cancelled

SCRIPT = Path(__file__).with_name("commit.lua").read_text(encoding="utf-8")

FREED_BYTES, NODE_ENTRIES, DROPPED = 4_000_000, 100, 16
"""How much one call of a trim frees, and how many entries are deleted by one."""


class RedisLog:
    """A grid's log, guard and streams on one server, under the grid's prefix."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis: Any = redis  # redis-py annotates both of its protocols and encodings at once
        self._prefix = prefix
        self._sha = ""

    def key(self, stream: str) -> str:
        """Return the Redis key of a stream."""
        return self._prefix + stream

    async def guard(self) -> Guard:
        held: dict[bytes, bytes] = await self._redis.hgetall(self.key("guard"))
        return Guard.from_hash({name.decode(): value.decode() for name, value in held.items()})

    async def read(self, cursors: Mapping[str, str], count: int, block_ms: int) -> tuple[int, list[Raw]]:
        keys = [self.key(name) for name in cursors]
        wait = ("BLOCK", block_ms) if block_ms else ()
        xread = ("XREAD", "COUNT", count, *wait, "STREAMS", *keys, *cursors.values())
        answer, time = await ask(self._redis, xread, ("TIME",))
        if isinstance(answer, ResponseError):
            raise answer
        cut = len(self._prefix)
        found = [
            Raw(key.decode()[cut:], entry_id.decode(), as_dict(parts))
            for key, entries in answer or ()
            for entry_id, parts in entries
        ]
        return int(time[0]) * 1000 + int(time[1]) // 1000, found

    async def last_position(self) -> int:
        newest = await self._redis.xrevrange(self.key("log"), count=1)
        return position_of(newest[0][0].decode()) if newest else 0

    async def first_position(self) -> int:
        oldest = await self._redis.xrange(self.key("log"), count=1)
        return parse_stream_id(oldest[0][0].decode())[0] if oldest else 0

    async def events(self, after: int, count: int) -> list[tuple[int, bytes]]:
        rows = await self._redis.xrange(self.key("log"), min=f"{after + 1}-0", count=count)
        found: list[tuple[int, bytes]] = [
            (position_of(entry_id.decode()), fields.get(b"event", b"")) for entry_id, fields in rows
        ]
        for expected, (position, _) in enumerate(found, start=after + 1):
            if position != expected:
                raise LogError(f"the log has a gap: after {expected - 1} comes {position}")
        return found

    async def commit(self, commit: Commit) -> None:
        keys, arguments = pack(commit, self.key)
        call = (len(keys), *keys, *arguments)
        try:
            answer = await ask_one(self._redis, "EVALSHA", self._sha, *call)
        except NoScriptError:
            self._sha = await self._redis.script_load(SCRIPT)
            answer = await ask_one(self._redis, "EVALSHA", self._sha, *call)
        raise_refusal([part.decode() for part in answer])

    async def announce(self, row: Mapping[str, str]) -> bool:
        try:
            await self._redis.hset(self.key(PUBLIC), mapping=dict(row))
        except NoPermissionError:  # a user of an older `orion acl`
            return False
        return True

    async def snapshot_before(self, position: int) -> Snapshot | None:
        rows = await self._redis.xrevrange(self.key("snapshots"), max=f"{max(position, 0)}-0", count=1)
        return snapshot_of(*rows[0]) if rows else None

    async def snapshot_after(self, position: int) -> Snapshot | None:
        rows = await self._redis.xrange(self.key("snapshots"), min=f"{position + 1}-0", count=1)
        return snapshot_of(*rows[0]) if rows else None

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        try:
            await self._redis.xadd(
                self.key("snapshots"),
                {"digest": snapshot.digest, "grid": zlib.compress(snapshot.grid)},
                id=f"{snapshot.position}-0",
            )
        except ResponseError as error:
            if "equal or smaller" not in str(error):  # another router keeps a newer one
                raise

    async def make_group(self, stream: str, after: str) -> bool:
        try:
            await self._redis.xgroup_create(self.key(stream), GROUP, id=after, mkstream=True)
        except ResponseError as error:
            if "WRONGTYPE" in str(error):
                raise LogError(f"{self.key(stream)}: {error}") from error
            if "BUSYGROUP" not in str(error):
                raise
            return False
        return True

    async def trim(self, stream: str, min_id: str) -> None:
        await self._trim(stream, "MINID", min_id)

    async def shorten(self, stream: str, entries: int) -> None:
        await self._trim(stream, "MAXLEN", entries)

    async def _trim(self, stream: str, by: str, limit: str | int) -> None:
        """Trim in calls of about FREED_BYTES each: the server frees memory while nobody else is served. It
        drops its nodes of many small entries only whole, hence calls with NODE_ENTRIES, and at last one
        without a number, for a server with larger nodes."""
        command = ("XTRIM", self.key(stream), by, "~", limit)
        for least in (1, NODE_ENTRIES):
            gone = 1
            while gone:
                end_if_cancelled()
                entries, size = await self.size(stream)
                if size <= FREED_BYTES:
                    break
                count = max(FREED_BYTES * entries // size, least)
                gone = await ask_one(self._redis, *command, "LIMIT", count)
        await ask_one(self._redis, *command)

    async def drop(self, stream: str, ids: Iterable[str]) -> None:
        wanted = list(ids)
        for at in range(0, len(wanted), DROPPED):
            await self._redis.xdel(self.key(stream), *wanted[at : at + DROPPED])

    async def size(self, stream: str) -> tuple[int, int]:
        key = self.key(stream)
        measure = ("MEMORY", "USAGE", key, "SAMPLES", NODE_ENTRIES)
        entries, size = await ask(self._redis, ("XLEN", key), measure)
        for answer in (entries, size):
            if isinstance(answer, ResponseError):
                raise answer
        return entries, size or 0

    async def oldest_ids(self, stream: str, count: int) -> list[str]:
        rows = await self._redis.xrange(self.key(stream), count=count)
        return [entry_id.decode() for entry_id, _ in rows]

    async def extents(self, streams: Iterable[str]) -> dict[str, Extent]:
        found = {}
        for stream in streams:
            try:
                info = await self._redis.xinfo_stream(self.key(stream))
            except ResponseError as error:
                if "no such key" not in str(error):
                    raise LogError(f"{self.key(stream)}: {error}") from error
                found[stream] = Extent()
                continue
            first = info["first-entry"][0].decode() if info["first-entry"] else "0-0"
            top = info["last-generated-id"].decode()
            found[stream] = Extent(first, top, info["length"], info["entries-added"])
        return found


def snapshot_of(entry_id: bytes, fields: dict[bytes, bytes]) -> Snapshot:
    """Decode an entry of the snapshot stream."""
    grid = zlib.decompress(fields[b"grid"])
    return Snapshot(parse_stream_id(entry_id.decode())[0], fields[b"digest"].decode(), grid)


def position_of(entry_id: str) -> int:
    """Return the position in the id of a log entry. Raise LogError for any other id."""
    position, rest = parse_stream_id(entry_id)
    if rest:
        raise LogError(f"the log has an entry {entry_id}, which is no position: it was not written here")
    return position


def pack(commit: Commit, key: Callable[[str], str]) -> tuple[list[str], list[bytes | str]]:
    """Return the script's keys and arguments. Values that may be binary are arguments of their own, since
    the server's msgpack has no binary type."""
    keys: dict[str, int] = {key("guard"): 1, key("log"): 2}
    outs, parts = [], list[bytes | str]()
    for out in commit.outs:
        target = keys.setdefault(key(out.stream), len(keys) + 1)
        source: tuple[Any, ...] = (0, "", (), False)
        if (body := out.body) is not None:
            index = keys.setdefault(key(body.stream), len(keys) + 1)
            source = (index, body.entry_id, body.names, body.required)
        outs.append((target, out.id, 2 * len(out.fields), *source))
        for name, value in out.fields.items():
            parts += (name, value if isinstance(value, bytes) else str(value))
    changes = [part for pair in commit.set.items() for part in pair]
    header = (
        (commit.expected.number, commit.expected.token, commit.expected.position),
        commit.number,
        commit.token,
        commit.out_id,
        len(commit.events),
        outs,
        changes,
        commit.drop,
    )
    return list(keys), [msgspec.msgpack.encode(header), *commit.events, *parts]


def raise_refusal(answer: list[str]) -> None:
    """Raise the error that the script's answer stands for, if any."""
    match answer:
        case ["ok"]:
            pass
        case ["conflict", what]:
            raise CommitConflictError(f"somebody committed first: the grid is at {what}")
        case ["gone", key, entry_id]:
            raise BodyGoneError((key, entry_id))
        case _:
            raise LogError("the commit was refused: " + " ".join(answer[1:]))
