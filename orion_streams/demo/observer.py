"""Observe the raw streams of a grid: requests, runs and replies.

It shares no code with the grid: it knows only names of streams and fields. It reads while the grid runs,
since requests and work are trimmed. When a server lost its tail, `look_again` forgets what is no longer
there.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from typing import Any, TypeVar

from msgspec import Struct
from redis.exceptions import RedisError

TERMINAL = ("done", "error", "expired", "cancelled")
NO_REQUEST = ("cancel", "drain", "resume", "pull", "remove")
"""Fields of entries that are no requests."""
COUNT = 500
BLOCK_MS = 200
TAIL_S = 30.0
"""A server that comes back has lost less than this."""

Name = tuple[str, str]
"""(client, id) of a request."""


class Request(Struct, frozen=True):
    """A request: an entry of `requests:*` that is nothing else."""

    name: Name
    seen_s: float


class Run(Struct, frozen=True):
    """A run: an entry of `work:*`."""

    node: str
    name: Name
    attempt: int


class Reply(Struct, frozen=True):
    """A reply: an entry of `replies:*`."""

    name: Name
    kind: str
    attempt: int
    seq: int
    node: str
    text: str
    code: str
    seen_s: float


Row = Request | Run | Reply | None
R = TypeVar("R", Request, Run, Reply)


class Tally(Struct):
    """Counts of what the streams hold. `by_node`: answers, `dispatched`: runs, both by node."""

    requests: int
    answered: int
    lost: int
    duplicate_replies: int
    duplicate_dispatches: int
    rerouted: int
    by_node: dict[str, int]
    dispatched: dict[str, int]


class Observer:
    """Reads `requests:*`, `replies:*` and `work:*` from their beginning, while the grid runs. `rows`: what
    it read, by stream and entry id; `gone`: number of entries that a server lost; `answered_s`: when it
    read each done reply, in seconds of this process's monotonic clock."""

    def __init__(self, redis: Any, prefix: str, clients: list[str], nodes: list[str]) -> None:
        self._redis = redis
        self._cut = len(prefix)
        streams = [f"{kind}:{name}" for kind in ("requests", "replies") for name in clients]
        self.rows: dict[str, dict[str, Row]] = {
            stream: {} for stream in (*streams, *(f"work:{name}" for name in nodes))
        }
        self._prefix = prefix
        self._cursors = dict.fromkeys(self.rows, "0-0")
        self._recent: list[tuple[float, str, str, int]] = []  # when, stream, id, hash of the fields
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.asked: set[Name] = set()
        self.ends: Counter[Name] = Counter()
        self.rejected: Counter[Name] = Counter()
        self.gone = 0
        self.answered_s: list[float] = []

    def start(self) -> None:
        """Read in the background."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> Tally:
        """Read to the end of all streams and return the counts."""
        while self._task is not None and not self._task.done():
            self._task.cancel()  # Python 3.11 loses one that comes as a read ends
            await asyncio.wait([self._task], timeout=0.2)
        while await self._read(block_ms=None):
            pass
        return self.tally()

    def answered_so_far(self) -> int:
        """Return the number of requests with a terminal reply."""
        return len(self.ends)

    def open(self) -> set[Name]:
        """Return the requests that have no end yet, as far as was read."""
        return self.asked - self.ends.keys() - self.rejected.keys()

    def tally(self) -> Tally:
        """Return the counts so far."""
        runs, replies = self.seen(Run), self.seen(Reply)
        return Tally(
            requests=len(self.asked),
            answered=len(self.ends),
            lost=len(self.open()),
            duplicate_replies=self.ends.total() - len(self.ends),
            duplicate_dispatches=len(runs) - len({(run.name, run.attempt) for run in runs}),
            rerouted=len({row.name for row in replies if row.kind == "restarted"}),
            by_node=counted(row.node or row.kind for row in replies if row.kind in TERMINAL),
            dispatched=counted(run.node for run in runs),
        )

    def seen(self, kind: type[R]) -> list[R]:
        """Return all rows of a kind, stream by stream, each in order."""
        return [row for rows in self.rows.values() for row in rows.values() if isinstance(row, kind)]

    async def look_again(self) -> int:
        """Forget entries that a server lost, or holds with other fields: after a clock that was put back,
        ids may be used again. Return their number."""
        async with self._reading:
            since_s = time.monotonic() - TAIL_S
            self._recent = [each for each in self._recent if each[0] >= since_s]
            lost = 0
            for stream in self.rows:
                known = {entry_id: print_ for _, where, entry_id, print_ in self._recent if where == stream}
                lost += await self._forget_lost(stream, known)
            self.gone += lost
            return lost

    async def _forget_lost(self, stream: str, known: dict[str, int]) -> int:
        key, cursor = self._prefix + stream, order(self._cursors[stream])
        first, last = await self._redis.xrange(key, count=1), await self._redis.xrevrange(key, count=1)
        floor, top = (order(rows[0][0].decode()) if rows else (0, 0) for rows in (first, last))
        held: dict[str, int] = {}
        if known:
            rows = await self._redis.xrange(key, min=min(known, key=order))
            held = {entry_id.decode(): print_of(fields) for entry_id, fields in rows}
        lost = [each for each, was in known.items() if held.get(each) != was and order(each) >= floor]
        for entry_id in lost:
            self._count(self.rows[stream].pop(entry_id, None), -1)
        end = min([top, cursor, *map(order, lost)])
        if end < cursor:  # read on from what is left: the server goes on from there
            before = [each for each in self.rows[stream] if order(each) <= end]
            self._cursors[stream] = max(before, key=order, default="0-0")
        return len(lost)

    async def _watch(self) -> None:
        while True:
            try:
                if not await self._read(BLOCK_MS):
                    await asyncio.sleep(0.02)
            except (RedisError, OSError):
                await asyncio.sleep(0.2)

    async def _read(self, block_ms: int | None) -> bool:
        async with self._reading:
            cursors = {self._prefix + stream: cursor for stream, cursor in self._cursors.items()}
            answer = await self._redis.xread(cursors, count=COUNT, block=block_ms)
            now_s = time.monotonic()
            for key, entries in answer or ():
                stream = key.decode()[self._cut :]
                self._cursors[stream] = entries[-1][0].decode()
                for raw_id, fields in entries:
                    entry_id = raw_id.decode()
                    if entry_id in self.rows[stream]:
                        continue  # read again: the cursor was put back
                    row = read_row(stream, entry_id, fields, now_s)
                    self.rows[stream][entry_id] = row
                    self._recent.append((now_s, stream, entry_id, print_of(fields)))
                    self._count(row, 1)
            return bool(answer)

    def _count(self, row: Row, by: int) -> None:
        match row:
            case Request(name=name):
                self.asked.add(name)  # also when it is lost: its client sends it again
            case Reply(name=name, kind="rejected"):
                self.rejected[name] += by
            case Reply(name=name, kind=kind) if kind in TERMINAL:
                self.ends[name] += by
                if by > 0 and kind == "done":
                    self.answered_s.append(row.seen_s)
        for counter in (self.ends, self.rejected):
            if row is not None and not counter.get(row.name, 1):
                del counter[row.name]


def read_row(stream: str, entry_id: str, fields: dict[bytes, bytes], now_s: float) -> Row:
    """Convert an entry; None if it is not counted."""
    kind, _, owner = stream.partition(":")
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    if kind == "requests" and text.keys().isdisjoint(NO_REQUEST):
        return Request((owner, text.get("id") or entry_id), now_s)
    if kind == "work":
        with suppress(ValueError):
            head = json.loads(text.get("head", ""))
            if head["op"] == "run":
                client, _, request_id = head["request"].partition("/")
                return Run(owner, (client, request_id), head["attempt"])
    if kind == "replies":
        return Reply(
            name=(owner, text.get("id", entry_id)),
            kind=text.get("kind", ""),
            attempt=int(text.get("attempt") or 0),
            seq=int(text.get("seq") or 0),
            node=text.get("node", ""),
            text=text.get("text", ""),
            code=text.get("code", ""),
            seen_s=now_s,
        )
    return None


def print_of(fields: dict[bytes, bytes]) -> int:
    """Hash the fields of an entry, to tell it from another one with the same id within this process."""
    return hash(tuple(fields.items()))


def order(entry_id: str) -> tuple[int, int]:
    """Return the sort key of an entry id."""
    ms, _, n = entry_id.partition("-")
    return int(ms), int(n or 0)


def counted(values: Any) -> dict[str, int]:
    """Count equal values, sorted by value."""
    return dict(sorted(Counter(values).items()))
