"""Read a log from a live Redis, an exported file or the folder of an archive, through one interface.

A source yields stretches of rows in order. A stretch that begins a segment may hold the state before it:
any moment is reached from the last such state, and a snapshot is verified by folding up to it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from orion_streams.config import Config, config_of
from orion_streams.errors import LogError
from orion_streams.eventlog import archive, jsonl
from orion_streams.eventlog.jsonl import FORMAT, Chain, Header, Stretch, is_head
from orion_streams.eventlog.loader import CHUNK, END, fold_raw, load, position_at
from orion_streams.eventlog.port import Log
from orion_streams.protocol.commit_builder import LoggedGrid

PENDING_BYTES = 16_000_000
"""Most rows kept while a moment is searched; beyond that the first ones are folded."""


class Source(Protocol):
    """A log that can be folded from its first entry to its last."""

    name: str

    async def config(self) -> Config:
        """Return the configuration of the grid. Raises LogError when that of a file is not valid."""

    async def bounds(self) -> tuple[int, int]:
        """Return the first and the last position."""

    async def state_at(self, position: int) -> LoggedGrid:
        """Return the state at a position. Raises LogError when the log does not have it."""

    async def position_at(self, server_ms: int) -> int:
        """Return the last position whose commit is not later than a time; 0 if all are."""

    def stretches(self, after: int = 0) -> AsyncIterator[Stretch]:
        """Yield the rows beyond a position; after 0, the first stretch holds the state. Raises LogError."""


class FileSource:
    """An exported file, or the files of an archive's folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    async def config(self) -> Config:
        header = next(jsonl.read(self.files()[0])).header
        if header is None or not header.config:
            return Config(prefix=header.prefix if header is not None else "orion:")
        try:
            return config_of(header.config)
        except msgspec.ValidationError as error:
            raise LogError(f"{self.name}: line 1: its configuration: {error}") from error

    def has_config(self) -> bool:
        """Return whether the file holds the configuration of its grid, as an exported one does."""
        header = next(jsonl.read(self.files()[0])).header
        return header is not None and bool(header.config)

    async def bounds(self) -> tuple[int, int]:
        first = last = 0
        try:
            for stretch in self.read():
                first, last = first or stretch.rows[0][0], stretch.rows[-1][0]
        except LogError:
            for path in self.files():
                for _ in jsonl.checked(path):
                    pass  # an altered row before that line explains it better
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
        """Yield all rows from the first known state on; `checked`: verify their hashes. Raises LogError
        with file and line."""
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
        """Return the files in order. Raises LogError when there is none."""
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
    """The log on a server, up to its end at the time of the call."""

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
        """Return the state before the first entry that can be folded. Raises LogError when there is
        none."""
        first = await self.store.first_position()
        if first <= 1:
            return self.header(1, bytes(16).hex())
        known = await self.store.snapshot_after(first - 2)
        if known is None:
            raise LogError(f"the log begins at position {first}, and no snapshot is left of it")
        return self.header(known.position + 1, known.digest, jsonl.deflated(known.grid))

    def header(self, first: int, digest: str, snapshot: bytes = b"") -> Header:
        """Make the header of a segment."""
        return Header(
            orion_log=FORMAT, prefix=self._config.prefix, first=first, hash=digest, snapshot=snapshot
        )


def fold(state: LoggedGrid, stretch: Stretch, until: int = END) -> None:
    """Fold rows up to a position into a state that the caller owns. Raises LogError with file and line, or
    with the position in a live log, of an altered row."""
    rows = stretch.rows
    if rows[-1][0] > until:
        rows = [row for row in rows if row[0] <= until]
    with placed(stretch, state):
        fold_raw(state, rows)


@contextmanager
def placed(stretch: Stretch, state: LoggedGrid) -> Iterator[None]:
    """Add file and line to a LogError of folding these rows into `state`; raise LogError when a segment
    does not end as its header says."""
    try:
        yield
    except LogError as error:
        raise LogError(f"{stretch.place(state.grid.position + 1)}{error}") from error
    if stretch.ends is not None and state.grid.position == stretch.ends.last:
        jsonl.check_end(stretch.ends, state, stretch.place(stretch.ends.last))


def fold_all(state: LoggedGrid, stretches: list[Stretch], until: int) -> None:
    """Fold several stretches, see `fold`."""
    for stretch in stretches:
        fold(state, stretch, until)


def confirm(state: LoggedGrid, stretches: Iterable[Stretch]) -> None:
    """Check the running hash of a state against the rest of its commit, up to the next head. Raises
    LogError with file and line."""
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
    """Return a stretch without its first rows."""
    return Stretch(stretch.rows[skipped:], None, stretch.ends, stretch.file, stretch.line + skipped)
