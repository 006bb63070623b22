"""The server: the log in memory, with consumer groups, a journal of all that was written, and a tail that
it may lose; and the lines that lead to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError

from orion_streams.eventlog.memory_log import MemoryLog
from orion_streams.model.commit import CURSOR, Commit, Raw
from orion_streams.model.state import parse_stream_id
from tests.cluster.cluster_faults import RATES
from tests.cluster.journal import Journal
from tests.cluster.world_clock import News, World, pause

Fields = Mapping[Any, Any]
Item = tuple[str, dict[bytes, bytes]]
INPUTS = ("requests:", "results:", "health:")


class Group(Struct):
    """A consumer group of one: the last entry that it was given, and those not acknowledged."""

    last: str = "0-0"
    pending: dict[str, None] = {}


class Server(MemoryLog):
    """A server. Its calls take place at once; callers come over a Line."""

    def __init__(self, world: World) -> None:
        super().__init__(world.server_ms)
        self.journal = Journal(world)
        self.groups: dict[str, Group] = {}
        self.is_down = False
        self.life = 1
        self.inputs = 0
        self.wakers: dict[str, list[Callable[[], None]]] = {}
        self._bytes: dict[str, int] = {}
        self._marked: tuple[Any, ...] = ()

    def _append(self, stream: str, fields: Fields, entry_id: str = "") -> str:
        entry_id = super()._append(stream, fields, entry_id)
        held = self.streams[stream][entry_id]
        self._bytes[stream] = self._bytes.get(stream, 0) + sum(len(value) for value in held.values())
        self.journal.appended(stream, entry_id, held)
        name = stream
        if stream.startswith(INPUTS):
            name = "inputs"
            self.inputs += 1
        for wake in self.wakers.get(name, ()):
            wake()
        return entry_id

    def put(self, stream: str, fields: Fields, keep: int = 0) -> str:
        """XADD, with MAXLEN if `keep` is given. Return the entry's id."""
        entry_id = self._append(stream, fields)
        rows = self.streams[stream]
        while keep and len(rows) > keep:
            self._forget(stream, next(iter(rows)))
        return entry_id

    def _forget(self, stream: str, entry_id: str) -> None:
        gone = self.streams[stream].pop(entry_id)
        self._bytes[stream] -= sum(len(value) for value in gone.values())

    async def commit(self, commit: Commit) -> None:
        """Compare and set, and note in the journal what the commit took."""
        before = {stream: self.held.get(CURSOR + stream, "0-0") for stream in self._cursors_of(commit)}
        await super().commit(commit)
        self.journal.committed(commit, before)

    def _cursors_of(self, commit: Commit) -> list[str]:
        return [name.removeprefix(CURSOR) for name in commit.set if name.startswith(CURSOR)]

    async def trim(self, stream: str, min_id: str) -> None:
        rows, floor = self.streams.get(stream, {}), parse_stream_id(min_id)
        while rows and parse_stream_id(oldest := next(iter(rows))) < floor:
            self._forget(stream, oldest)
            self.journal.trimmed(stream, oldest)

    async def drop(self, stream: str, ids: Iterable[str]) -> None:
        for entry_id in ids:
            if entry_id in self.streams.get(stream, {}):
                self._forget(stream, entry_id)

    async def size(self, stream: str) -> tuple[int, int]:
        return len(self.streams.get(stream, {})), self._bytes.get(stream, 0)

    async def make_group(self, stream: str, after: str) -> bool:
        if stream in self.groups:
            return False
        self.groups[stream] = Group(after)
        return True

    def delivered(self, stream: str, acks: list[str], behind: bool, count: int) -> tuple[list[Item], ...]:
        """XACK and XREADGROUP. Return what is pending, if `behind`, and what is new."""
        group, rows = self.groups.get(stream), self.streams.get(stream, {})
        if group is None:
            return [], []
        for each in acks:
            group.pending.pop(each, None)
        pending = [(each, rows.get(each, {})) for each in group.pending] if behind else []
        new = [(raw.id, raw.fields) for raw in self._read({stream: group.last}, count)]
        if new:
            group.last = new[-1][0]
            group.pending.update((entry_id, None) for entry_id, _ in new)
        return pending, new

    # faults

    def mark(self) -> None:
        """Put everything on the disk; whatever comes later may be lost."""
        self._marked = (
            {stream: rows.copy() for stream, rows in self.streams.items()},
            self.held.copy(),
            self._tops.copy(),
            list(self._snapshots),
            {name: Group(group.last, group.pending.copy()) for name, group in self.groups.items()},
            self._bytes.copy(),
            self._counts.copy(),
        )
        self.journal.mark()

    def lose_tail(self) -> None:
        """Go back to the mark, as a server whose append-only file lacks its end."""
        self.streams, self.held, self._tops, self._snapshots, self.groups, self._bytes, self._counts = (
            self._marked
        )
        self.journal.lose_tail()

    def delete(self, stream: str) -> None:
        """DEL a stream: its entries, and the memory of its last id."""
        self.streams.pop(stream, None)
        self._tops.pop(stream, None)
        self._bytes.pop(stream, None)
        self._counts.pop(stream, None)
        self.journal.deleted(stream)


def accept_loss(server: Server) -> None:
    """Set cursors back to the ends of their streams, as a router's error tells the owner to do."""
    for name, cursor in server.held.items():
        if name.startswith(CURSOR):
            top = server._tops.get(name.removeprefix(CURSOR), "0-0")
            if parse_stream_id(cursor) > parse_stream_id(top):
                server.held[name] = top


class Line:
    """One process's way to the server: slow, cut, or losing what is sent or what is answered."""

    SLOWEST_MS = 1_500

    def __init__(self, world: World, server: Server, name: str) -> None:
        self.world, self.server = world, server
        self.is_cut = False
        self._rng = world.rng(f"line {name}")
        self._generation = 0
        self._lives = {False: server.life, True: server.life}

    def forget(self) -> None:
        """Let nobody hear the answers that are on their way: the process died."""
        self._generation += 1

    @property
    def is_broken(self) -> bool:
        """Return whether the next message will find that the server has died since the last one."""
        return self._lives[False] != self.server.life

    def delay(self) -> int:
        """Return the time of one way, in ms."""
        if self.strikes("delay", RATES.delay):
            return self._rng.randint(50, self.SLOWEST_MS)
        return 1

    def strikes(self, fault: str, rate: float) -> bool:
        """Return whether the fault happens to this message."""
        if fault in self.world.faults and not self.world.is_healed and self._rng.random() < rate:
            self.world.happened[fault] += 1
            return True
        return False

    def is_lost(self, writes: bool = False) -> bool:
        """Return whether a message does not arrive. The first one after the server's end finds the line
        broken; reads and writes have a connection each."""
        life, self._lives[writes] = self._lives[writes], self.server.life
        if self.is_cut or self.server.is_down or life != self.server.life:
            return True
        return self.strikes("lost_write", RATES.lost_write)

    def ask(self, act: Callable[[], Any], then: Callable[[Any], None], writes: bool = False) -> None:
        """Have it done on the server, and call `then` with the answer; None is an error, after which nobody
        knows whether it was done."""
        self.world.at(self.delay(), self._arrive, act, then, writes, self._generation)

    def _arrive(
        self, act: Callable[[], Any], then: Callable[[Any], None], writes: bool, generation: int
    ) -> None:
        answer = None
        if not self.is_lost(writes):
            answer = act()
            if writes and self.strikes("duplicate_write", RATES.duplicate_write):
                act()
            if self.strikes("lost_answer", RATES.lost_answer):
                answer = None
        self.world.at(self.delay(), self._answer, then, answer, generation)

    def _answer(self, then: Callable[[Any], None], answer: Any, generation: int) -> None:
        if generation == self._generation:
            then(None if self.is_cut else answer)


def over_line(name: str, writes: bool = False) -> Any:
    """Make the method of a RouterLine that calls this method of the server."""

    async def call(line: RouterLine, *arguments: Any) -> Any:
        return await line._ask(getattr(line.server, name)(*arguments), writes)

    return call


class RouterLine(Line):
    """The router's `Log` over a line; each call may be killed on its way there and on its way back."""

    async def _ask(self, work: Awaitable[Any], writes: bool = False) -> Any:
        try:
            await pause(self.delay())
            if self.is_lost():
                raise RedisConnectionError("cut on the way")
            answer = await work
        finally:
            work.close()  # type: ignore[attr-defined]  # it may not have begun
        if writes:  # elsewhere one wait is as good as two
            await pause(self.delay())
        if self.is_cut or self.strikes("lost_answer", RATES.lost_answer):
            raise RedisConnectionError("cut on the way back")
        return answer

    async def read(self, cursors: Mapping[str, str], count: int, block_ms: int) -> tuple[int, list[Raw]]:
        until_ms = self.world.now_ms + block_ms
        while True:
            seen = self.server.inputs
            server_ms, found = await self._ask(self.server.read(cursors, count, 0))
            left_ms = until_ms - self.world.now_ms
            if found or left_ms <= 0:
                return server_ms, found
            if seen == self.server.inputs:
                await pause(News(left_ms))

    commit = over_line("commit", writes=True)
    guard = over_line("guard")
    last_position = over_line("last_position")
    first_position = over_line("first_position")
    events = over_line("events")
    snapshot_before = over_line("snapshot_before")
    snapshot_after = over_line("snapshot_after")
    save_snapshot = over_line("save_snapshot")
    make_group = over_line("make_group")
    trim = over_line("trim")
    shorten = over_line("shorten")
    drop = over_line("drop")
    announce = over_line("announce")
    size = over_line("size")
    oldest_ids = over_line("oldest_ids")
    extents = over_line("extents")
