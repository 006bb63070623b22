"""The archive of a log: a folder of gzipped JSON lines, each file chained to the one before it.

`log-FIRST-LAST.jsonl.gz` is a recording of one segment; its header has the snapshot before it, if there is
one. A file gets its name once it is complete, synced and read back.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gzip
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from orion_streams.errors import LogError
from orion_streams.eventlog import jsonl
from orion_streams.eventlog.jsonl import FORMAT, Header, Row, Stretch, deflated, is_head
from orion_streams.eventlog.loader import CHUNK, next_head
from orion_streams.eventlog.port import Log

NAME = re.compile(r"log-(\d+)-(\d+)\.jsonl\.gz")
MAX_EVENTS = 20_000
MAX_BYTES = 8_000_000
"""Of one file, uncompressed; a commit is never divided."""


STEPS = 2.5
"""The archive, or a snapshot, is overdue after so many times retention.snapshot_events."""


class Segment(Struct, frozen=True):
    """A file of the archive and the positions in its name."""

    path: Path
    first: int
    last: int


class Written(Struct, frozen=True):
    """The positions in a new file. `missing`: the first and last position before it that were trimmed
    without being archived."""

    first: int
    last: int
    missing: tuple[int, int] | None = None


async def archive_next(store: Log, prefix: str, folder: Path, until: int) -> Written | None:
    """Write the next file: from the end of the archive up to position `until`, which must end a commit, or
    as much as one file holds. Return None if nothing is left. Raise LogError if the folder cannot be used
    or belongs to another log."""
    held = await asyncio.to_thread(lock, folder)
    try:
        before = await asyncio.to_thread(last_header, folder)
        after = before.last if before is not None else 0
        if before is not None:
            await check_same_log(store, prefix, folder, before)
        _, first = await next_head(store, max(after + 1, await store.first_position()), until)
        if first > until:
            return None
        header, until = await next_header(store, prefix, first, until)
        written = await asyncio.to_thread(write, folder, header, await whole_commits(store, first, until))
        missing = (after + 1, first - 1) if before is not None and first > after + 1 else None
        return Written(first, written.last, missing)
    finally:
        await asyncio.to_thread(held.close)


async def check_same_log(store: Log, prefix: str, folder: Path, before: Header) -> None:
    """Raise LogError unless the log continues the archive whose last file has the header `before`."""
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


async def next_header(store: Log, prefix: str, first: int, until: int) -> tuple[Header, int]:
    """Return the header of a file that begins at `first`, and its last position: at most `until`, and no
    further than the next snapshot, so that the file after it begins with that one."""
    before, after = await store.snapshot_before(first - 1), await store.snapshot_after(first - 1)
    head, _ = await next_head(store, first, first)
    if head is None:
        raise LogError(f"position {first} of the log was trimmed while it was archived")
    here = deflated(before.grid) if before is not None and before.position == first - 1 else b""
    header = Header(orion_log=FORMAT, prefix=prefix, first=first, hash=head.hash, snapshot=here)
    return header, min(until, after.position) if after is not None else until


async def whole_commits(store: Log, first: int, until: int) -> list[bytes]:
    """Return the entries of whole commits from `first` on: to `until`, or as many as a file holds, at least
    one commit. Raise LogError if the log ends earlier."""
    rows: list[bytes] = []
    size = whole = 0
    while (position := first + len(rows) - 1) < until:
        found = await store.events(position, min(CHUNK, until - position))
        if not found:
            raise LogError(f"the log ends at {position}, position {until} was expected")
        for _, raw in found:
            if is_head(raw):
                if whole and exceeds_file(rows, size):
                    return rows[:whole]
                whole = len(rows)
            rows.append(raw)
            size += len(raw)
        await asyncio.sleep(0)
    return rows[:whole] if whole and exceeds_file(rows, size) else rows


def exceeds_file(rows: Sequence[bytes], size: int) -> bool:
    """Whether these entries, of `size` bytes, are more than one file holds."""
    return len(rows) > MAX_EVENTS or size > MAX_BYTES


def shortfall(reach: int, first: int, floor: int, snapshot_events: int) -> str:
    """Say what an archive that reaches to position `reach` lacks of a log that begins at `first` and is to
    be archived up to `floor`, its last snapshot but one; "" if nothing is overdue."""
    if reach and reach + 1 < first:
        return f"positions {reach + 1} to {first - 1} were trimmed and are not in it"
    if floor - reach > STEPS * snapshot_events:
        return f"it reaches position {reach}; up to {floor} it should"
    return ""


def segments(folder: Path) -> list[Segment]:
    """Return the archive's files in log order. Raise LogError if the folder cannot be read."""
    try:
        matches = [(path, NAME.fullmatch(path.name)) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LogError(f"{folder}: cannot be read: {error.strerror}") from error
    found = [Segment(path, int(match[1]), int(match[2])) for path, match in matches if match]
    return sorted(found, key=lambda segment: segment.first)


def lock(folder: Path) -> BinaryIO:
    """Lock the folder until the returned file is closed, and remove unfinished files of a killed process.
    Raise LogError if the folder cannot be used or another process archives there."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context((folder / ".lock").open("ab"))
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in folder.glob(".*.part"):
                path.unlink(missing_ok=True)
        except BlockingIOError:
            raise LogError(f"{folder}: another process archives there") from None
        except OSError as error:
            raise LogError(f"{folder}: cannot be used: {error.strerror}") from error
        stack.pop_all()
        return held


def write(folder: Path, before: Header, rows: Sequence[bytes]) -> Header:
    """Write entries from position `before.first` on as one file, completely or not at all. Return its
    header. Raise LogError if the rows contradict `before.hash` or the file cannot be written."""
    header, packed = jsonl.pack(before, rows)
    path = folder / f"log-{header.first:012}-{header.last:012}.jsonl.gz"
    part = folder / f".{path.name}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            file.write(gzip.compress(packed, compresslevel=6, mtime=0))
            file.flush()
            os.fsync(file.fileno())
        for _ in read_segment(Segment(part, header.first, header.last)):
            pass  # a disk may acknowledge what it cannot give back
        part.replace(path)
        sync_folder(folder)
    except OSError as error:
        raise LogError(f"{folder}: {path.name} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return header


def sync_folder(folder: Path) -> None:
    """Sync the folder itself, which holds the names of new files."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def last_header(folder: Path) -> Header | None:
    """Return the header of the archive's last file; None for an empty archive."""
    found = segments(folder)
    return header_of(found[-1]) if found else None


def header_of(segment: Segment) -> Header:
    """Return a file's first line. Raise LogError, with file and line, if it is no header of that name."""
    with contextlib.closing(jsonl.lines(segment.path)) as found:
        return check_name(segment, jsonl.read_header(next(found, b""), f"{segment.path}: line 1"))


def check_name(segment: Segment, header: Header) -> Header:
    """Return the header. Raise LogError if its positions are not those in the file's name."""
    if (header.first, header.last) != (segment.first, segment.last):
        raise LogError(
            f"{segment.path}: line 1: it is about {header.first} to {header.last}, and its name is not"
        )
    return header


def last_commit(folder: Path) -> list[Row]:
    """Return the last commit in the archive; the hash in its head covers everything before it."""
    rows: list[Row] = []
    for stretch in read_segment(segments(folder)[-1]):
        for row in stretch.rows:
            rows = [row] if is_head(row[1]) else [*rows, row]
    return rows


def read_segment(segment: Segment) -> Iterator[Stretch]:
    """Read one file and verify its name and its hashes. Raise LogError with file and line."""
    for stretch in jsonl.checked(segment.path):
        if stretch.header is not None:
            check_name(segment, stretch.header)
        yield stretch
