"""From the log to its archive, a file at a time: what a file holds was in the log, and is on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from orion_streams.errors import LogError
from orion_streams.eventlog import archive
from orion_streams.eventlog.jsonl import FORMAT, Header, Row, deflated, is_head
from orion_streams.eventlog.loader import CHUNK, next_head
from orion_streams.eventlog.port import Log

MAX_EVENTS = 20_000
MAX_BYTES = 8_000_000
"""Of one file, before it is compressed; a commit is never divided."""


class Written(Struct, frozen=True):
    """A file that was written. `missing`: positions between it and the file before that were trimmed and
    never archived."""

    first: int
    last: int
    missing: tuple[int, int] | None = None


async def archive_next(store: Log, prefix: str, folder: Path, until: int) -> Written | None:
    """Write what the log has after the archive's end, up to position `until`, with which a commit ends, or
    a file's worth; None when nothing is left. LogError when the folder cannot be used or belongs to
    another log."""
    async with locked(folder):
        before = await asyncio.to_thread(last_header, folder)
        after = before.last if before is not None else 0
        if before is not None:
            await refuse_another(store, prefix, folder, before)
        first = await first_head(store, after + 1, until)
        if first > until:
            return None
        header, until = await header_at(store, prefix, first, until)
        rows = await take(store, first, until)
        written = await asyncio.to_thread(archive.write, folder, header, rows)
        missing = (after + 1, first - 1) if before is not None and first > after + 1 else None
        return Written(first, written.last, missing)


@asynccontextmanager
async def locked(folder: Path) -> AsyncIterator[None]:
    """Keep other archivers away while the block runs; a disk that hangs keeps nobody else waiting."""
    held = await asyncio.to_thread(archive.lock, folder)
    try:
        yield
    finally:
        await asyncio.to_thread(held.close)


def last_header(folder: Path) -> Header | None:
    """The header of the archive's last file, which is whole; None for an empty archive."""
    found = archive.segments(folder)
    return archive.header_of(found[-1]) if found else None


async def refuse_another(store: Log, prefix: str, folder: Path, before: Header) -> None:
    """LogError when an archive whose last file this is does not belong to the log."""
    another = f"{folder} is the archive of another log, or this one lost its end"
    if before.prefix != prefix:
        raise LogError(f"{another}: its prefix is {before.prefix}. Name another folder")
    last = await store.last_position()
    if before.last > last:
        raise LogError(
            f"{another}: it reaches position {before.last}, the log position {last}. Name another folder"
        )
    following = before.last + 1
    if await store.first_position() > following:
        return
    if following > last:
        tail = await asyncio.to_thread(last_commit, folder)
        same = await store.events(tail[0][0] - 1, len(tail)) == tail
    else:
        head, position = await next_head(store, following, following)
        same = head is not None and position == following and head.hash == before.last_hash
    if not same:
        raise LogError(f"{another}: after position {before.last} their hashes differ. Name another folder")


def last_commit(folder: Path) -> list[Row]:
    """The last commit in an archive: its head names the hash of all before."""
    rows: list[Row] = []
    for stretch in archive.read_segment(archive.segments(folder)[-1]):
        for row in stretch.rows:
            rows = [row] if is_head(row[1]) else [*rows, row]
    return rows


async def first_head(store: Log, start: int, until: int) -> int:
    """Where the first commit begins at or after `start` that the log still has whole."""
    _, first = await next_head(store, max(start, await store.first_position()), until)
    return first


async def header_at(store: Log, prefix: str, first: int, until: int) -> tuple[Header, int]:
    """The header of a file from `first` on, and where it has to end: the next begins at a snapshot."""
    before, after = await store.snapshot_before(first - 1), await store.snapshot_after(first - 1)
    head, _ = await next_head(store, first, first)
    if head is None:
        raise LogError(f"position {first} of the log was trimmed while it was archived")
    here = deflated(before.grid) if before is not None and before.position == first - 1 else b""
    header = Header(orion_log=FORMAT, prefix=prefix, first=first, hash=head.hash, snapshot=here)
    return header, min(until, after.position) if after is not None else until


async def take(store: Log, first: int, until: int) -> list[bytes]:
    """Whole commits from a position on: to `until`, or as many as a file holds, at least one."""
    rows: list[bytes] = []
    size = whole = 0
    while (position := first + len(rows) - 1) < until:
        found = await store.events(position, min(CHUNK, until - position))
        if not found:
            raise LogError(f"the log ends at {position}, position {until} was expected")
        for _, raw in found:
            if is_head(raw):
                if whole and too_much(rows, size):
                    return rows[:whole]
                whole = len(rows)
            rows.append(raw)
            size += len(raw)
        await asyncio.sleep(0)
    return rows[:whole] if whole and too_much(rows, size) else rows


def too_much(rows: list[bytes], size: int) -> bool:
    """Whether the last commit is one too many for a file."""
    return len(rows) > MAX_EVENTS or size > MAX_BYTES
