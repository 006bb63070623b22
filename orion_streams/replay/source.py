"""Where a log is read from: a live Redis, an exported file or the folder of an archive, all in one way.

A source hands out stretches of rows in order. A stretch that begins a segment brings what is known of the
state before it: so any moment is reached from the last known state before it, and a snapshot can be
verified by folding up to it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog import archive, jsonl
from orion_streams.eventlog.jsonl import FORMAT, Chain, Header, Stretch, is_head
from orion_streams.eventlog.loader import CHUNK, END, fold_raw, load, position_at
from orion_streams.eventlog.port import Log
from orion_streams.protocol.commit_builder import LoggedGrid

PENDING_BYTES = 16_000_000
"""Of rows, kept until a moment is found; of more, the first ones are folded."""


class Source(Protocol):
    """A log that can be folded from its first entry to its last."""

    name: str

    async def config(self) -> Config:
        """That of whoever reads or wrote it. LogError if a file's is not what this program knows."""
        ...

    async def bounds(self) -> tuple[int, int]:
        """Its first and last positions."""
        ...

    async def state_at(self, position: int) -> LoggedGrid:
        """The state there. LogError if the log does not have it."""
        ...

    async def position_at(self, server_ms: int) -> int:
        """The last position whose commit is not later; 0 if all are."""
        ...

    def stretches(self, after: int = 0) -> AsyncIterator[Stretch]:
        """All rows beyond a position; from 0 on, the state before them comes first. Raises LogError."""
        ...


class FileSource:
    """An exported file, or the files of an archive's folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    async def config(self) -> Config:
        header = next(jsonl.read(self.files()[0])).header
        if header is None or not header.config:
            return Config(prefix=header.prefix if header is not None else "orion:")
        try:
            return msgspec.convert(header.config, Config)
        except msgspec.ValidationError as error:
            raise LogError(f"{self.name}: line 1: its configuration: {error}") from error

    async def bounds(self) -> tuple[int, int]:
        first = last = 0
        try:
            for stretch in self.read():
                first, last = first or stretch.rows[0][0], stretch.rows[-1][0]
        except LogError:
            for path in self.files():
                for _ in jsonl.checked(path):
                    pass  # what was altered before that line explains it better
            raise
        return first, last

    async def state_at(self, position: int) -> LoggedGrid:
        state, pending, size, last = None, list[Stretch](), 0, 0
        stretches = self.read()
        for stretch in stretches:
            header, last = stretch.header, stretch.rows[-1][0]
            if header is not None and header.first - 1 <= position and (known := stretch.state()):
                state, pending, size = known, [], 0
            pending.append(stretch)
            if last >= position:
                break
            size += sum(len(raw) for _, raw in stretch.rows)
            if state is not None and size > PENDING_BYTES:
                fold_all(state, pending, position)
                pending, size = [], 0
        if state is None or last < position or state.grid.position > position:
            raise LogError(f"{self.name}: it goes to position {last}, and {position} was asked for")
        fold_all(state, pending, position)
        confirm(state, itertools.chain(pending[-1:], stretches))
        return state

    async def position_at(self, server_ms: int) -> int:
        found, inside, position = 0, False, 0
        for stretch in self.read():
            for position, raw in stretch.rows:
                if is_head(raw):
                    found = position - 1 if inside else found
                    inside = jsonl.head_of(raw, stretch.place(position)).server_ms <= server_ms
        return position if inside else found

    async def stretches(self, after: int = 0) -> AsyncIterator[Stretch]:
        for stretch in self.read():
            await asyncio.sleep(0)
            skipped = max(after + 1 - stretch.rows[0][0], 0)
            if skipped < len(stretch.rows):
                yield beyond(stretch, skipped) if skipped else stretch

    def read(self, checked: bool = False) -> Iterator[Stretch]:
        """All rows from the first known state on, chained if nobody else will do that. LogError names file
        and line of what is wrong."""
        before: Header | None = None
        known = False
        for path in self.files():
            for stretch in jsonl.checked(path) if checked else jsonl.read(path):
                header = stretch.header
                if header is not None:
                    if before is not None:
                        jsonl.check_following(before, header, f"{path}: line {stretch.line - 1}")
                    before, known = header, known or header.first == 1 or bool(header.snapshot)
                if known:
                    yield stretch
        if not known:
            raise LogError(f"{self.name}: nothing in it begins at position 1 or with a snapshot")

    def files(self) -> list[Path]:
        """The files in their order. LogError when there is none."""
        try:
            if not self.path.is_dir():
                return [self.path]
        except OSError as error:
            raise LogError(f"{self.name}: cannot be read: {error.strerror}") from error
        found = [segment.path for segment in archive.segments(self.path)]
        if not found:
            raise LogError(f"{self.name}: no log was archived there")
        return found


class LiveSource:
    """The log on a server, up to where it ends when it is asked."""

    def __init__(self, store: Log, config: Config) -> None:
        self.store, self.name, self._config = store, f"{config.prefix}log", config

    async def config(self) -> Config:
        return self._config

    async def bounds(self) -> tuple[int, int]:
        return await self.store.first_position(), await self.store.last_position()

    async def state_at(self, position: int) -> LoggedGrid:
        first, last = await self.bounds()
        if not first - 1 <= position <= last:
            raise LogError(f"the log goes from position {first} to {last}, and {position} was asked for")
        return await load(self.store, position)

    async def position_at(self, server_ms: int) -> int:
        return await position_at(self.store, server_ms)

    async def stretches(self, after: int = 0) -> AsyncIterator[Stretch]:
        position, last = after, await self.store.last_position()
        header = None
        if after == 0:
            header = await self.first_header()
            position = header.first - 1
        while position < last:
            following = await self.store.snapshot_after(position)
            until = min(last, following.position) if following is not None else last
            while position < until:
                rows = await self.store.events(position, min(CHUNK, until - position))
                if not rows:
                    raise LogError(f"the log ends at {position}, position {last} was expected")
                yield Stretch(rows, header)
                position, header = rows[-1][0], None
            if following is not None and until == following.position:
                grid = jsonl.deflated(following.grid)
                header = self.header(until + 1, following.digest, grid)

    async def first_header(self) -> Header:
        """What is known of the state before the first entry from which the log can be folded. LogError when
        nothing is."""
        first = await self.store.first_position()
        if first <= 1:
            return self.header(1, bytes(16).hex())
        known = await self.store.snapshot_after(first - 2)
        if known is None:
            raise LogError(f"the log begins at position {first}, and no snapshot is left of it")
        return self.header(known.position + 1, known.digest, jsonl.deflated(known.grid))

    def header(self, first: int, digest: str, snapshot: bytes = b"") -> Header:
        """A segment's beginning."""
        return Header(
            orion_log=FORMAT, prefix=self._config.prefix, first=first, hash=digest, snapshot=snapshot
        )


def fold(state: LoggedGrid, stretch: Stretch, until: int = END) -> None:
    """Fold rows, none beyond a position, into a state that the caller owns. LogError names file and line,
    or the position in a live log, of what is not what was written."""
    rows = stretch.rows
    if rows[-1][0] > until:
        rows = [row for row in rows if row[0] <= until]
    with placed(stretch, state):
        fold_raw(state, rows)


@contextmanager
def placed(stretch: Stretch, state: LoggedGrid) -> Iterator[None]:
    """Name file and line of the row at which folding these into `state` fails; LogError as well when a
    segment that ends with it does not end as its header says."""
    try:
        yield
    except LogError as error:
        raise LogError(f"{stretch.place(state.grid.position + 1)}{error}") from error
    if stretch.ends is not None and state.grid.position == stretch.ends.last:
        jsonl.check_end(stretch.ends, state, stretch.place(stretch.ends.last))


def fold_all(state: LoggedGrid, stretches: list[Stretch], until: int) -> None:
    """The same of several."""
    for stretch in stretches:
        fold(state, stretch, until)


def confirm(state: LoggedGrid, stretches: Iterable[Stretch]) -> None:
    """LogError, with file and line, when the rest of its commit, up to the head that follows, does not bear
    a state's running hash out."""
    chained = Chain(state.digest, state.confirmed)
    for stretch in stretches:
        for position, raw in stretch.rows:
            if position <= state.grid.position:
                continue
            chained.take(position, raw, stretch.place(position))
            if is_head(raw):
                return
        if stretch.ends is not None:
            jsonl.check_end(stretch.ends, chained, stretch.place(stretch.ends.last))
            return


def beyond(stretch: Stretch, skipped: int) -> Stretch:
    """The stretch without its first rows."""
    return Stretch(stretch.rows[skipped:], None, stretch.ends, stretch.file, stretch.line + skipped)
