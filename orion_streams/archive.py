"""The log in files: gzipped JSON lines, each file chained to the one before it.

`log-FIRST-LAST.jsonl.gz` holds a header and then the log's entries as they were written, one a line: from
them alone the running hash can be computed again. A file begins with the head of a commit and ends with a
commit, so the log itself says what hash comes before it. Where a snapshot stood there, the header has it.
A file appears under its name only when it is whole and on the disk. Nothing here talks to a server.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import re
import zlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from orion_streams.draft import GENESIS, LoggedGrid, chain
from orion_streams.errors import LogError
from orion_streams.events import Committed
from orion_streams.state import Grid, decode_grid

FORMAT = 1
NAME = re.compile(r"log-(\d+)-(\d+)\.jsonl\.gz")
LINE_MAX_BYTES = 256_000_000
_HEAD = b'{"event":"committed"'
_committed = msgspec.json.Decoder(Committed).decode


class Header(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The first line. `hash` is the running hash before position `first`, `last_hash` the one after `last`;
    `snapshot`, where there is one, the grid before `first`: msgpack, deflated."""

    orion_log: int
    prefix: str
    first: int
    hash: str
    last: int = 0
    last_hash: str = ""
    snapshot: bytes = b""


class Segment(Struct, frozen=True):
    """A file of the archive, by its name."""

    path: Path
    first: int
    last: int


def segments(folder: Path) -> list[Segment]:
    """The archive's files in the log's order. LogError for a folder that cannot be read."""
    try:
        matches = [(path, NAME.fullmatch(path.name)) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LogError(f"{folder}: cannot be read: {error.strerror}") from error
    found = [Segment(path, int(match[1]), int(match[2])) for path, match in matches if match]
    return sorted(found, key=lambda segment: segment.first)


def lock(folder: Path) -> BinaryIO:
    """Keep other archivers of this folder away until what is returned is closed; what a killed one began
    is removed. LogError when the folder cannot be used, or another process archives there."""
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
    """Write the rows that follow `before.hash` from position `before.first` on, whole or not at all; the
    header of the file. LogError when the rows contradict the hash, or the disk takes them not."""
    last, digest = before.first - 1, bytes.fromhex(before.hash)
    for last, raw in enumerate(rows, before.first):
        check(digest, raw, f"position {last} of the log")
        digest = chain(digest, raw)
    header = msgspec.structs.replace(before, last=last, last_hash=digest.hex())
    path = folder / f"log-{header.first:012}-{last:012}.jsonl.gz"
    part = folder / f".{path.name}.{os.getpid()}.part"
    packed = gzip.compress(b"\n".join([msgspec.json.encode(header), *rows, b""]), compresslevel=6, mtime=0)
    try:
        with part.open("wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        for _ in read_segment(Segment(part, header.first, last)):
            pass  # what the disk gives back is what counts
        part.replace(path)
        sync_folder(folder)
    except OSError as error:
        raise LogError(f"{folder}: {path.name} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return header


def sync_folder(folder: Path) -> None:
    """See that a new name is on the disk, too."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def is_head(raw: bytes) -> bool:
    """Whether an entry, as `events.encode` writes it, begins a commit."""
    return raw.startswith(_HEAD)


def check(digest: bytes, raw: bytes, where: str) -> None:
    """LogError unless an entry is one line and, if it heads a commit, names the hash of all before it."""
    if b"\n" in raw:
        raise LogError(f"{where}: not an event: it has more than one line")
    if not is_head(raw):
        return
    try:
        said = _committed(raw).hash
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogError(f"{where}: not an event: {error}") from error
    if said != digest.hex():
        raise LogError(
            f"{where}: what is before it is not the log that was written: its running hash is "
            f"{digest.hex()}, this entry says {said}"
        )


def header_of(segment: Segment) -> Header:
    """A file's first line. LogError names file and line."""
    with contextlib.closing(lines(segment)) as found:
        return read_header(segment, next(found, b""))


def read_header(segment: Segment, line: bytes) -> Header:
    """The header in a line. LogError when it is none, or not that of a file with this name."""
    where = f"{segment.path}: line 1"
    try:
        header = msgspec.json.decode(line, type=Header)
        bytes.fromhex(header.hash)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise LogError(f"{where}: expected the header of an archived log: {error}") from error
    if header.orion_log != FORMAT:
        raise LogError(f"{where}: format {header.orion_log}, this program reads {FORMAT}")
    if (header.first, header.last) != (segment.first, segment.last):
        raise LogError(f"{where}: it is about positions {header.first} to {header.last}, the name is not")
    return header


def read_segment(segment: Segment) -> Iterator[tuple[int, bytes]]:
    """Positions and entries of one file. LogError names file and line where it is not what was written."""
    found = lines(segment)
    header = read_header(segment, next(found, b""))
    position, digest = header.first - 1, bytes.fromhex(header.hash)
    for position, raw in enumerate(found, header.first):
        where = f"{segment.path}: line {position - header.first + 2}"
        if position > header.last:
            raise LogError(f"{where}: more lines than the header says")
        check(digest, raw, where)
        digest = chain(digest, raw)
        yield position, raw
    where = f"{segment.path}: line {position - header.first + 2}"
    if position != header.last:
        raise LogError(f"{where}: the file ends at position {position}, the header says {header.last}")
    if digest.hex() != header.last_hash:
        raise LogError(
            f"{where}: after the last commit it is not the log that was written: the running hash is "
            f"{digest.hex()}, the header says {header.last_hash}"
        )


def lines(segment: Segment) -> Generator[bytes, None, None]:
    """The file's lines without their ends. LogError names the line that cannot be read."""
    number = 1
    try:
        with gzip.open(segment.path) as file:
            while line := next_line(file):
                yield line
                number += 1
    except (OSError, EOFError, zlib.error) as error:
        raise LogError(f"{segment.path}: line {number}: cannot be read: {error}") from error


def next_line(file: gzip.GzipFile) -> bytes:
    """One line without its end; empty at the end of the file."""
    line = file.readline(LINE_MAX_BYTES)
    if line and not line.endswith(b"\n"):
        raise EOFError("the line has no end")
    return line[:-1]


def read(folder: Path, after: int = 0) -> Iterator[tuple[int, bytes]]:
    """Positions and entries of an archive after a position, in order, the chain verified from file to file.
    LogError names file and line of what is not what was written, and positions that are missing."""
    wanted = [segment for segment in segments(folder) if segment.last > after]
    before: Header | None = None
    for segment in wanted:
        header = header_of(segment)
        if before is not None and segment.first != before.last + 1:
            raise LogError(f"{segment.path}: after position {before.last} comes {segment.first}")
        if before is not None and header.hash != before.last_hash:
            raise LogError(f"{segment.path}: line 1: it does not follow position {before.last} by its hash")
        before = header
        for position, raw in read_segment(segment):
            if position > after:
                yield position, raw


def base(folder: Path) -> LoggedGrid:
    """The state before the earliest entry from which the archive can be folded: the log's beginning, or
    the first snapshot. LogError when there is neither."""
    for segment in segments(folder):
        header = header_of(segment)
        if header.first == 1:
            return LoggedGrid(Grid(), GENESIS)
        if header.snapshot:
            return LoggedGrid(decode_grid(zlib.decompress(header.snapshot)), bytes.fromhex(header.hash))
    raise LogError(f"{folder}: no file of it begins at position 1 or with a snapshot")
