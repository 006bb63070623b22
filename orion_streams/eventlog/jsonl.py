"""The recording format: a log as JSON lines, as exports and the files of an archive hold it.

A recording is a sequence of segments. A segment is a header and the log entries of whole commits, one a
line and byte for byte as they were written, so that the running hash can be recomputed. The first head in
it names the hash before it; the header may hold the grid before it.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from orion_streams.errors import LogError
from orion_streams.model.events import Committed
from orion_streams.model.snapshot import decode_grid
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import GENESIS, LoggedGrid, chain, not_as_written

FORMAT = 1
CHUNK = 1_000
CHUNK_BYTES = 4_000_000
"""Of a stretch; its last row may exceed it."""
LINE_MAX_BYTES = 64_000_000
SNAPSHOT_MAX_BYTES = 64_000_000
"""Of a grid, decompressed."""
SUFFIXES = (".jsonl", ".jsonl.gz")
Row = tuple[int, bytes]
"""A position and its log entry."""
_HEAD = b'{"event":"committed"'
_HEADER = b'{"event":"log.segment"'
_committed = msgspec.json.Decoder(Committed).decode


class Header(Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="event", tag="log.segment"):
    """A segment's first line. `hash` is the running hash before position `first`, `last_hash` that after
    `last`; `snapshot` the grid before `first` (msgpack, deflated), if known. In an exported file the first
    header also has the file's last position, `until`, the `rules` in force there, and the `config` without
    URLs."""

    orion_log: int
    prefix: str
    first: int
    hash: str
    last: int = 0
    last_hash: str = ""
    snapshot: bytes = b""
    until: int = 0
    rules: dict[str, Any] = {}
    config: dict[str, Any] = {}

    def state(self) -> LoggedGrid | None:
        """Return the state before the segment, if known. Raise LogError for a damaged snapshot."""
        if self.first == 1:
            return LoggedGrid(Grid(), GENESIS)
        if not self.snapshot:
            return None
        try:
            grid = decode_grid(inflated(self.snapshot))
        except (zlib.error, msgspec.DecodeError) as error:
            raise LogError(f"the snapshot before position {self.first} cannot be read: {error}") from error
        if grid.position != self.first - 1:
            raise LogError(f"the snapshot before position {self.first} is one of position {grid.position}")
        return LoggedGrid(grid, bytes.fromhex(self.hash))


class Stretch(Struct, frozen=True):
    """Consecutive rows, at least one. `header` is set if a segment begins with the first row, `ends` if it
    ends with the last one. `file` and `line` are the place of the first row, if it came from a file."""

    rows: list[Row]
    header: Header | None = None
    ends: Header | None = None
    file: str = ""
    line: int = 0

    def state(self) -> LoggedGrid | None:
        """Return the state before these rows, if a segment begins here and its header has it. Raise
        LogError, with file and line, for a damaged snapshot."""
        if self.header is None:
            return None
        try:
            return self.header.state()
        except LogError as error:
            raise LogError(f"{self.place(self.header.first - 1)}{error}") from error

    def place(self, position: int) -> str:
        """Return file and line of a position, as the start of an error message; empty for a live log."""
        return f"{self.file}: line {self.line + position - self.rows[0][0]}: " if self.file else ""


def is_head(raw: bytes) -> bool:
    """Whether an entry, as `event_codec.encode` writes it, is the head of a commit."""
    return raw.startswith(_HEAD)


def deflated(grid: bytes) -> bytes:
    """Compress an encoded grid for a header."""
    return zlib.compress(grid)


def inflated(snapshot: bytes) -> bytes:
    """Decompress an encoded grid. Raise zlib.error unless it is one complete stream of a bounded size."""
    stream = zlib.decompressobj()
    grid = stream.decompress(snapshot, SNAPSHOT_MAX_BYTES)
    if stream.eof and not stream.unused_data:
        return grid
    if len(grid) == SNAPSHOT_MAX_BYTES:
        raise zlib.error(f"it inflates to more than {SNAPSHOT_MAX_BYTES} bytes")
    raise zlib.error("it was cut off, or something follows it")


def pack(before: Header, rows: Sequence[bytes]) -> tuple[Header, bytes]:
    """Encode entries from position `before.first` on as a segment. Return its header and its lines. Raise
    LogError if the rows contradict `before.hash`."""
    last, chained = before.first - 1, chain_from(before)
    for last, raw in enumerate(rows, before.first):
        chained.take(last, raw, f"position {last} of the log: ")
    header = msgspec.structs.replace(before, last=last, last_hash=chained.digest.hex())
    return header, b"\n".join([msgspec.json.encode(header), *rows, b""])


def head_of(raw: bytes, where: str) -> Committed:
    """Decode the head of a commit. Raise LogError, its message prefixed with `where`, if it is damaged."""
    try:
        return _committed(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LogError(f"{where}not an event: {error}") from error


class Chain:
    """The running hash over entries that are not folded; heads have confirmed it up to `confirmed`."""

    def __init__(self, digest: bytes, confirmed: int) -> None:
        self.digest, self.confirmed = digest, confirmed

    def take(self, position: int, raw: bytes, where: str) -> None:
        """Add an entry. Raise LogError, its message prefixed with `where`, unless it is one line and, if it
        is the head of a commit, names the running hash."""
        if b"\n" in raw:
            raise LogError(f"{where}not an event: it has more than one line")
        if is_head(raw):
            named = head_of(raw, where).hash
            if named != self.digest.hex():
                raise LogError(where + not_as_written(self.confirmed, position, self.digest, named))
            self.confirmed = position - 1
        self.digest = chain(self.digest, raw)


def read(path: Path) -> Iterator[Stretch]:
    """Read a recording in stretches of rows, neither decoded nor chained.

    Raise LogError, with file and line, where the file is malformed or ends early; all rows before that
    place have been yielded, so that a broken hash among them is found first.
    """
    header: Header | None = None
    following = lines(path)
    until = position = number = 0
    for line in following:
        header = read_header(line, f"{path}: line {number + 1}", header)
        until = max(until, header.until, header.last)
        position = yield from read_rows(path, header, number + 1, following)
        number += position - header.first + 2
    if header is None:
        raise LogError(f"{path}: line 1: it is empty")
    if position < until:
        raise LogError(f"{path}: line {number}: it was cut off at position {position}, and goes to {until}")


def read_rows(
    path: Path, header: Header, header_line: int, following: Iterator[bytes]
) -> Generator[Stretch, None, int]:
    """Read the rows of a segment. Return their last position. Raise LogError for a header among them."""
    begins: Header | None = header
    rows, size, position, misplaced = list[Row](), 0, header.first - 1, False
    first_line = header_line + 1
    for line in following:
        if misplaced := line.startswith(_HEADER):
            break
        position, size = position + 1, size + len(line)
        rows.append((position, line))
        if position == header.last:
            break
        if len(rows) == CHUNK or size >= CHUNK_BYTES:
            yield Stretch(rows, header=begins, file=str(path), line=first_line)
            first_line += len(rows)
            rows, size, begins = [], 0, None
    if rows:
        ends = header if position == header.last else None
        yield Stretch(rows, header=begins, ends=ends, file=str(path), line=first_line)
    if misplaced:
        goes = f"it comes after position {position}, and the segment goes to {header.last}"
        line_number = first_line + len(rows)
        raise LogError(f"{path}: line {line_number}: {goes}: something before it is missing")
    return position


def checked(path: Path) -> Iterator[Stretch]:
    """Read a recording in stretches of rows and verify all hashes. Raise LogError with file and line."""
    chained: Chain | None = None
    for stretch in read(path):
        if stretch.header is not None:
            chained = chain_from(stretch.header)
        assert chained is not None  # noqa: S101 - a recording begins with a header
        for position, raw in stretch.rows:
            chained.take(position, raw, stretch.place(position))
        if stretch.ends is not None:
            check_end(stretch.ends, chained, stretch.place(stretch.ends.last))
        yield stretch


def read_header(line: bytes, where: str, before: Header | None = None) -> Header:
    """Decode a header. Raise LogError if it is invalid or does not continue the segment `before`."""
    try:
        header = msgspec.json.decode(line, type=Header)
        digest = bytes.fromhex(header.hash)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        begins = "a recording begins with" if before is None else f"after position {before.last} comes"
        raise LogError(f"{where}: {begins} a header of the log, and this is none: {error}") from error
    if header.orion_log != FORMAT:
        raise LogError(f"{where}: format {header.orion_log}, this program reads {FORMAT}")
    if not 1 <= header.first <= header.last:
        raise LogError(f"{where}: a segment from position {header.first} to {header.last}")
    if len(digest) != len(GENESIS) or (header.first == 1 and digest != GENESIS):
        raise LogError(f"{where}: nothing before position {header.first} has the hash {header.hash}")
    if before is not None:
        check_following(before, header, where)
    return header


def check_following(before: Header, header: Header, where: str) -> None:
    """Raise LogError unless the segment of `header` continues that of `before`."""
    if header.first != before.last + 1:
        hint = ": from there on it can be read in a folder or file of its own"
        gap = hint if header.first > before.last + 1 else ""
        raise LogError(f"{where}: after position {before.last} comes {header.first}{gap}")
    if header.hash != before.last_hash or header.prefix != before.prefix:
        raise LogError(f"{where}: it does not follow position {before.last} by its hash")


def chain_from(header: Header) -> Chain:
    """Return the chain before a segment's first row."""
    return Chain(bytes.fromhex(header.hash), header.first - 1)


def check_end(header: Header, end: Chain | LoggedGrid, where: str) -> None:
    """Raise LogError unless the running hash after a segment is the one in its header."""
    if end.digest.hex() != header.last_hash:
        raise LogError(where + not_as_written(end.confirmed, header.last, end.digest, header.last_hash))


def lines(path: Path) -> Generator[bytes, None, None]:
    """Yield the file's lines without line ends. Raise LogError with the line that cannot be read."""
    number = 1
    try:
        with open_by_suffix(path) as file:
            while line := file.readline(LINE_MAX_BYTES + 1):
                if not line.endswith(b"\n"):
                    fault = "is too long" if len(line) > LINE_MAX_BYTES else "has no end"
                    raise EOFError(f"the line {fault}")
                if line == b"\n":
                    raise EOFError("the line is empty")
                yield line[:-1]
                number += 1
    except (OSError, EOFError, zlib.error) as error:
        raise LogError(f"{path}: line {number}: cannot be read: {why_unread(error)}") from error


def why_unread(error: Exception) -> str:
    """Return why a file could not be read, in words."""
    if isinstance(error, gzip.BadGzipFile) and "gzipped" in str(error):
        return "it is not compressed, as the name says"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def open_by_suffix(path: Path) -> BufferedReader | gzip.GzipFile:
    """Open a file for reading, decompressed if its name says so. Raise LogError for an unknown suffix."""
    if ".jsonl.gz" in path.name:  # a file being written ends with .part
        return gzip.open(path)
    if path.suffix == ".jsonl":
        return path.open("rb")
    raise LogError(f"{path}: expected a file {' or '.join(SUFFIXES)}, or the folder of an archive")
