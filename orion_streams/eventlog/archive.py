"""The log in files: gzipped JSON lines, each file chained to the one before it.

`log-FIRST-LAST.jsonl.gz` is a recording of one segment. Where a snapshot stood before it, its header has
it. A file appears under its name only when it is whole and on the disk. Nothing here talks to a server.
"""

from __future__ import annotations

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
from orion_streams.eventlog.jsonl import Header, Stretch

NAME = re.compile(r"log-(\d+)-(\d+)\.jsonl\.gz")


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
    header, packed = jsonl.pack(before, rows)
    path = folder / f"log-{header.first:012}-{header.last:012}.jsonl.gz"
    part = folder / f".{path.name}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            file.write(gzip.compress(packed, compresslevel=6, mtime=0))
            file.flush()
            os.fsync(file.fileno())
        for _ in read_segment(Segment(part, header.first, header.last)):
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


def header_of(segment: Segment) -> Header:
    """A file's first line. LogError names file and line, and a file that is not the one of this name."""
    with contextlib.closing(jsonl.lines(segment.path)) as found:
        return check_name(segment, jsonl.read_header(next(found, b""), f"{segment.path}: line 1"))


def check_name(segment: Segment, header: Header) -> Header:
    """The header. LogError if it is not that of a file with this name."""
    if (header.first, header.last) != (segment.first, segment.last):
        raise LogError(
            f"{segment.path}: line 1: it is about {header.first} to {header.last}, and its name is not"
        )
    return header


def read_segment(segment: Segment) -> Iterator[Stretch]:
    """One file, verified. LogError names file and line where it is not what was written."""
    for stretch in jsonl.checked(segment.path):
        if stretch.header is not None:
            check_name(segment, stretch.header)
        yield stretch
