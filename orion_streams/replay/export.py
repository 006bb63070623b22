"""A part of the log into one file, and a file into a server where no log is yet: whole, or not at all."""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from orion_streams.config import Config, RedisConfig
from orion_streams.errors import ConfigError, LogError
from orion_streams.eventlog import jsonl
from orion_streams.eventlog.jsonl import FORMAT, SUFFIXES, Chain, Header, Row, Stretch, is_head
from orion_streams.eventlog.loader import fold_raw
from orion_streams.model.state import Grid, encode_grid
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.source import Source, fold, placed

SEGMENT_EVENTS, SEGMENT_BYTES = 20_000, 8_000_000
"""From one state that the file holds to the next."""
LOOK_BACK = 2_000
See = Callable[[int], None]


class Moved(Struct, frozen=True):
    """What was written: positions `first` to `last`, in so many segments."""

    first: int
    last: int
    segments: int


async def export(
    source: Source, config: Config, path: Path, first: int, last: int, see: See, force: bool = False
) -> Moved:
    """Write whole commits, from the one that holds the first position to the one that holds the last. `see`
    is told each position. Raises LogError, ConfigError; then there is no new file."""
    low, high = await source.bounds()
    if not low <= first <= last <= high:
        raise ConfigError(f"{first} to {last} is no part of {source.name}, which goes from {low} to {high}")
    first = await head_before(source, first)
    state = await source.state_at(first - 1)
    last = await end_after(source, last)
    about = {"rules": rules_of(state.grid), "config": harmless(config), "until": last}
    count = 0
    with writing(path, force) as file:
        async for header, raws in segments(source, config.prefix, state, last):
            file.write(jsonl.pack(replace(header, **({} if count else about)), raws)[1])
            count += 1
            see(state.grid.position)
    return Moved(first, last, count)


async def head_before(source: Source, position: int) -> int:
    """Where the commit begins that holds a position."""
    for after in (max(position - LOOK_BACK, 0), 0):
        found = 0
        async for stretch in source.stretches(after):
            for at, raw in stretch.rows:
                if at > position:
                    break
                found = at if is_head(raw) else found
            if stretch.rows[-1][0] >= position:
                break
        if found:
            return found
    raise LogError(f"{source.name}: no commit begins at or before position {position}")


async def end_after(source: Source, position: int) -> int:
    """The last position of the commit that holds a position."""
    end = position
    async for stretch in source.stretches(position):
        for at, raw in stretch.rows:
            if is_head(raw):
                return end
            end = at
    return end


async def segments(
    source: Source, prefix: str, state: LoggedGrid, last: int
) -> AsyncIterator[tuple[Header, list[bytes]]]:
    """The rows beyond `state` up to a position, in pieces that begin at a head, each with the state before
    it: a snapshot of the source, else what was folded. `state` is folded on. Raises LogError."""
    rows: list[Row] = []
    snapshot, size = b"", 0
    async for stretch in source.stretches(state.grid.position):
        if stretch.header is not None and stretch.header.snapshot:
            if rows:
                yield cut(state, prefix, rows, snapshot, stretch)
            rows, size, snapshot = [], 0, stretch.header.snapshot
        for row in stretch.rows:
            if is_head(row[1]) and (row[0] > last or len(rows) >= SEGMENT_EVENTS or size >= SEGMENT_BYTES):
                if rows:
                    yield cut(state, prefix, rows, snapshot, stretch)
                rows, size, snapshot = [], 0, b""
            if row[0] > last:
                Chain(state.digest, state.confirmed).take(*row, stretch.place(row[0]))
                return
            rows.append(row)
            size += len(row[1])
        if stretch.ends is not None and rows:
            yield cut(state, prefix, rows, snapshot, stretch)
            rows, size, snapshot = [], 0, b""
    if rows:
        yield cut(state, prefix, rows, snapshot, stretch)


def cut(
    state: LoggedGrid, prefix: str, rows: list[Row], snapshot: bytes, stretch: Stretch
) -> tuple[Header, list[bytes]]:
    """A segment of these rows, the last of them from `stretch`; folds them."""
    position, digest = state.grid.position, state.digest.hex()
    if position and not snapshot:
        snapshot = jsonl.deflated(encode_grid(state.grid))
    with placed(stretch, state):
        fold_raw(state, rows)
    header = Header(orion_log=FORMAT, prefix=prefix, first=position + 1, hash=digest, snapshot=snapshot)
    return header, [raw for _, raw in rows]


def rules_of(grid: Grid) -> dict[str, Any]:
    """By which rules a grid goes, for a reader; the snapshot has them, too."""
    names = ("revision", "policy_id", "decider", "policy", "models")
    rules: dict[str, Any] = {name: to_builtins(getattr(grid, name)) for name in names}
    return rules | {"nodes": [to_builtins(node.rules) for node in grid.nodes.values()]}


def harmless(config: Config) -> dict[str, Any]:
    """A configuration without what tells where things are, or gives access to them."""
    nodes = {name: replace(node, ollama="") for name, node in config.nodes.items()}
    safe = replace(config, redis=RedisConfig(), nodes=nodes)
    return cast(dict[str, Any], to_builtins(safe))


def is_there(path: Path) -> bool:
    """ConfigError for a name that no file can have, or in a folder that may not be looked into."""
    try:
        return path.exists()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def writing(path: Path, force: bool) -> Iterator[BinaryIO]:
    """A file that appears under its name when the block ends well, and is on the disk then. ConfigError for
    a name that cannot be; LogError when the disk does not take it."""
    if not path.name.endswith(SUFFIXES):
        raise ConfigError(f"{path}: expected a name that ends with {' or '.join(SUFFIXES)}")
    if is_there(path) and not force:
        raise ConfigError(f"{path}: is there already: name another file, or add --force")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            if path.name.endswith(".gz"):
                with gzip.GzipFile(
                    filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0
                ) as packed:
                    yield cast(BinaryIO, packed)
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise LogError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


LOG_KEYS = ("log", "guard", "snapshots")


async def bring_in(source: Source, redis: Any, prefix: str, see: See) -> Moved:
    """Put a log onto a server, under a prefix where none is, to be read: without a guard no router starts
    on it. It is folded on the way. Raises ConfigError, LogError; then nothing of it is there."""
    held = [prefix + name for name in LOG_KEYS if await redis.exists(prefix + name)]
    if held:
        raise ConfigError(f"{held[0]} is there already: import under another prefix, or into another Redis")
    log, snapshots = f"{prefix}log:importing", f"{prefix}snapshots:importing"
    await redis.delete(log, snapshots)
    try:
        moved = await fill(source, redis, log, snapshots, see)
        known = bool(await redis.exists(snapshots))
        if known and not await redis.renamenx(snapshots, f"{prefix}snapshots"):
            raise ConfigError(f"{prefix}snapshots came to be while this was imported: start again")
        if not await redis.renamenx(log, f"{prefix}log"):
            if known:
                await redis.delete(f"{prefix}snapshots")
            raise ConfigError(f"{prefix}log came to be while this was imported: start again")
    finally:
        await redis.delete(log, snapshots)
    return moved


async def fill(source: Source, redis: Any, log: str, snapshots: str, see: See) -> Moved:
    """Write all rows and every state that the source knows."""
    state: LoggedGrid | None = None
    first = count = 0
    async for stretch in source.stretches():
        header = stretch.header
        if header is not None:
            count += 1
            state = state or stretch.state()
            if header.snapshot:
                fields = {"digest": header.hash, "grid": header.snapshot}
                await redis.xadd(snapshots, fields, id=f"{header.first - 1}-0")
        if state is None:
            raise LogError(f"{source.name}: it does not begin with a state")
        first = first or stretch.rows[0][0]
        fold(state, stretch)
        async with redis.pipeline(transaction=False) as pipe:
            for position, raw in stretch.rows:
                pipe.xadd(log, {"event": raw}, id=f"{position}-0")
            await pipe.execute()
        see(state.grid.position)
    if state is None:
        raise LogError(f"{source.name}: it is empty")
    return Moved(first, state.grid.position, count)
