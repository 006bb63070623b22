"""The log as lines: what an exported file and each file of the archive hold, and nothing but.

A recording is one segment or several, one after the other. A segment is a header and then log entries as
they were written, one a line: from them alone the running hash can be computed again. It begins with the
head of a commit and ends with a commit, so the log itself says what hash comes before it; where the state
there is known, the header has it. Pure, but for reading a file.
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
from orion_streams.model.state import Grid, decode_grid
from orion_streams.protocol.commit_builder import GENESIS, LoggedGrid, chain, not_as_written

FORMAT = 1
CHUNK = 1_000
CHUNK_BYTES = 4_000_000
"""Of a stretch: its last row may go beyond."""
BLOCK_BYTES = 200_000
LINE_MAX_BYTES = 64_000_000
SNAPSHOT_MAX_BYTES = 64_000_000
"""Of a grid, inflated."""
SUFFIXES = (".jsonl", ".jsonl.gz")
Row = tuple[int, bytes]
"""A position and the entry that stands there."""
_HEAD = b'{"event":"committed"'
_HEADER = b'{"event":"log.segment"'
_committed = msgspec.json.Decoder(Committed).decode


class Header(Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="event", tag="log.segment"):
    """A segment's first line. `hash` is the running hash before position `first`, `last_hash` the one after
    `last`; `snapshot`, where there is one, the grid before `first`: msgpack, deflated. The first one of an
    exported file says `until` which position it goes, by what `rules` the grid went there, and with which
    `config` (no URL of it)."""

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
        """The state before the segment, if it is known. LogError for a snapshot that is none."""
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
    """Some rows in the order of the log, at least one. `header`: a segment begins with them; `ends`: that
    one's last row is among them. `file` and `line`: where the first one stands, if in a file."""

    rows: list[Row]
    header: Header | None = None
    ends: Header | None = None
    file: str = ""
    line: int = 0

    def state(self) -> LoggedGrid | None:
        """The state before these rows, if a segment begins with them that knows it. LogError names file and
        line of a snapshot that is none."""
        if self.header is None:
            return None
        try:
            return self.header.state()
        except LogError as error:
            raise LogError(f"{self.place(self.header.first - 1)}{error}") from error

    def place(self, position: int) -> str:
        """File and line of an entry near these, to stand before an error; nothing for a live log."""
        return f"{self.file}: line {self.line + position - self.rows[0][0]}: " if self.file else ""


def is_head(raw: bytes) -> bool:
    """Whether an entry, as `events.encode` writes it, begins a commit."""
    return raw.startswith(_HEAD)


def deflated(grid: bytes) -> bytes:
    """A grid's bytes as a header holds them."""
    return zlib.compress(grid)


def inflated(snapshot: bytes) -> bytes:
    """A grid's bytes again. zlib.error for what is not one whole stream, or too large."""
    stream = zlib.decompressobj()
    grid = stream.decompress(snapshot, SNAPSHOT_MAX_BYTES)
    if stream.eof and not stream.unused_data:
        return grid
    if len(grid) == SNAPSHOT_MAX_BYTES:
        raise zlib.error(f"it inflates to more than {SNAPSHOT_MAX_BYTES} bytes")
    raise zlib.error("it was cut off, or something follows it")


def pack(before: Header, rows: Sequence[bytes]) -> tuple[Header, bytes]:
    """A segment of the rows from `before.first` on: its header and its lines. LogError when the rows
    contradict the hash."""
    last, chained = before.first - 1, chain_from(before)
    for last, raw in enumerate(rows, before.first):
        chained.take(last, raw, f"position {last} of the log: ")
    header = msgspec.structs.replace(before, last=last, last_hash=chained.digest.hex())
    return header, b"\n".join([msgspec.json.encode(header), *rows, b""])


def head_of(raw: bytes, where: str) -> Committed:
    """The head in an entry that begins a commit. LogError, which begins with `where`, when it is none."""
    try:
        return _committed(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LogError(f"{where}not an event: {error}") from error


class Chain:
    """The running hash over entries that are not folded; up to `confirmed` it is known to be right."""

    def __init__(self, digest: bytes, confirmed: int) -> None:
        self.digest, self.confirmed = digest, confirmed

    def take(self, position: int, raw: bytes, where: str) -> None:
        """LogError, which begins with `where`, unless an entry is one line and, if it heads a commit, names
        the hash of all before it."""
        if b"\n" in raw:
            raise LogError(f"{where}not an event: it has more than one line")
        if is_head(raw):
            named = head_of(raw, where).hash
            if named != self.digest.hex():
                raise LogError(where + not_as_written(self.confirmed, position, self.digest, named))
            self.confirmed = position - 1
        self.digest = chain(self.digest, raw)


def read(path: Path) -> Iterator[Stretch]:
    """A recording in its order, some rows at a time; entries are neither decoded nor chained. LogError
    names file and line where it has not the form of one, or is not whole; whoever chains them sees first
    what stands before that."""
    header: Header | None = None
    begins: Header | None = None
    position, until, number, size, rows = 0, 0, 0, 0, list[Row]()
    for number, line in enumerate(lines(path), 1):
        if header is None or position == header.last:
            fresh = read_header(line, f"{path}: line {number}", header)
            until = max(until, fresh.until)
            header = begins = fresh
            position = fresh.first - 1
            continue
        if line.startswith(_HEADER):
            if rows:
                yield Stretch(rows, begins, None, str(path), number - len(rows))
            goes = f"it comes after position {position}, and the segment goes to {header.last}"
            raise LogError(f"{path}: line {number}: {goes}: something before it is missing")
        position, size = position + 1, size + len(line)
        rows.append((position, line))
        if position == header.last or len(rows) == CHUNK or size >= CHUNK_BYTES:
            ends = header if position == header.last else None
            yield Stretch(rows, begins, ends, str(path), number - len(rows) + 1)
            rows, size, begins = [], 0, None
    if header is None:
        raise LogError(f"{path}: line 1: it is empty")
    if rows:
        yield Stretch(rows, begins, None, str(path), number - len(rows) + 1)
    until = max(until, header.last)
    if position < until:
        raise LogError(f"{path}: line {number}: it was cut off at position {position}, and goes to {until}")


def checked(path: Path) -> Iterator[Stretch]:
    """The same, each entry chained to the one before it. LogError names file and line of what is not what
    was written."""
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
    """The header in a line. LogError when it is none, or does not follow the segment `before`."""
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
    """LogError unless a segment goes on where the one before it ends."""
    if header.first != before.last + 1:
        hint = ": from there on it can be read in a folder or file of its own"
        gap = hint if header.first > before.last + 1 else ""
        raise LogError(f"{where}: after position {before.last} comes {header.first}{gap}")
    if header.hash != before.last_hash or header.prefix != before.prefix:
        raise LogError(f"{where}: it does not follow position {before.last} by its hash")


def chain_from(header: Header) -> Chain:
    """The chain at a segment's beginning."""
    return Chain(bytes.fromhex(header.hash), header.first - 1)


def check_end(header: Header, end: Chain | LoggedGrid, where: str) -> None:
    """LogError unless a segment's running hash ends as its header says."""
    if end.digest.hex() != header.last_hash:
        raise LogError(where + not_as_written(end.confirmed, header.last, end.digest, header.last_hash))


def lines(path: Path) -> Generator[bytes, None, None]:
    """The file's lines without their ends. LogError names the line that cannot be read."""
    number, rest = 1, bytearray()
    try:
        with open_by_suffix(path) as file:
            while block := file.read1(BLOCK_BYTES):
                *whole, begun = block.split(b"\n")
                if whole:
                    whole[0] = bytes(rest) + whole[0]
                    rest.clear()
                rest += begun  # not a copy of a long line for each of its blocks
                for line in whole:
                    check_length(line)
                    yield line
                    number += 1
                if len(rest) > LINE_MAX_BYTES:
                    check_length(rest)
        if rest:
            raise EOFError("the line has no end")
    except (OSError, EOFError, zlib.error) as error:
        raise LogError(f"{path}: line {number}: cannot be read: {why_unread(error)}") from error


def why_unread(error: Exception) -> str:
    """The reason in words."""
    if isinstance(error, gzip.BadGzipFile) and "gzipped" in str(error):
        return "it is not compressed, as the name says"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def check_length(line: bytes | bytearray) -> None:
    """EOFError for a line that is empty or has no end in sight."""
    if not 0 < len(line) <= LINE_MAX_BYTES:
        raise EOFError("the line is too long" if line else "the line is empty")


def open_by_suffix(path: Path) -> BufferedReader | gzip.GzipFile:
    """The file's text, whether it is compressed or not. LogError for a suffix that is none of ours."""
    if ".jsonl.gz" in path.name:  # one in the making ends with .part
        return gzip.open(path)
    if path.suffix == ".jsonl":
        return path.open("rb")
    raise LogError(f"{path}: expected a file {' or '.join(SUFFIXES)}, or the folder of an archive")
