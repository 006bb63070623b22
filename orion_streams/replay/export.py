"""Export a part of a log into a file, and import a file into an empty server, each all or nothing."""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from msgspec import Struct, to_builtins
from msgspec.structs import replace
from redis.exceptions import NoPermissionError

from orion_streams.config import Config, RedisConfig
from orion_streams.errors import ConfigError, LogError
from orion_streams.eventlog import jsonl
from orion_streams.eventlog.jsonl import FORMAT, SUFFIXES, Chain, Header, Row, Stretch, is_head
from orion_streams.eventlog.loader import fold_raw
from orion_streams.model.gateway_rules import GatewayRules
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.source import Source, fold, placed
from orion_streams.runtime.connection import denied

SEGMENT_EVENTS, SEGMENT_BYTES = 20_000, 8_000_000
"""Most of a segment: from one state that the file holds to the next."""
LOOK_BACK = 2_000
See = Callable[[int], None]
"""Gets each position that was moved."""
Segment = tuple[Header, list[bytes]]


class Moved(Struct, frozen=True):
    """What was written: positions `first` to `last`, in `segments` segments."""

    first: int
    last: int
    segments: int


async def export(source: Source, path: Path, first: int, last: int, see: See, force: bool = False) -> Moved:
    """Write whole commits, from the one that holds the first position to the one that holds the last.
    `force`: replace a file. Raises LogError, ConfigError; then there is no new file."""
    low, high = await source.bounds()
    if not low <= first <= last <= high:
        raise ConfigError(f"{first} to {last} is no part of {source.name}, which goes from {low} to {high}")
    first = await head_before(source, first)
    state = await source.state_at(first - 1)
    last = await end_after(source, last)
    config = await source.config()
    about = {"rules": rules_of(state.grid), "config": harmless(config), "until": last}
    count = 0
    with writing(path, force) as file:
        async for header, raws in segments(source, Cutter(state, config.prefix, last)):
            file.write(jsonl.pack(replace(header, **({} if count else about)), raws)[1])
            count += 1
            see(state.grid.position)
    return Moved(first, last, count)


async def head_before(source: Source, position: int) -> int:
    """Return the first position of the commit that holds a position. Raises LogError."""
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
    """Return the last position of the commit that holds a position."""
    end = position
    async for stretch in source.stretches(position):
        for at, raw in stretch.rows:
            if is_head(raw):
                return end
            end = at
    return end


async def segments(source: Source, cutter: Cutter) -> AsyncIterator[Segment]:
    """Yield the rows beyond the cutter's state as segments. Raises LogError."""
    async for stretch in source.stretches(cutter.state.grid.position):
        for segment in cutter.take(stretch):
            yield segment
        if cutter.is_done:
            return
    for segment in cutter.cut():
        yield segment


class Cutter:
    """Cuts rows up to position `last` into segments that begin at a head, each with the state before it: a
    snapshot of the source, else the folded one. Folds `state` on."""

    def __init__(self, state: LoggedGrid, prefix: str, last: int) -> None:
        self.state, self.prefix, self.last = state, prefix, last
        self.is_done = False
        self._stretch = Stretch([])
        self._rows: list[Row] = []
        self._size = 0
        self._snapshot = b""

    def take(self, stretch: Stretch) -> Iterator[Segment]:
        """Yield the segments that these rows complete. Raises LogError."""
        if stretch.header is not None and stretch.header.snapshot:
            yield from self.cut(stretch.header.snapshot)
        self._stretch = stretch
        for position, raw in stretch.rows:
            is_beyond = position > self.last
            is_full = len(self._rows) >= SEGMENT_EVENTS or self._size >= SEGMENT_BYTES
            if is_beyond or (is_full and is_head(raw)):
                yield from self.cut()
            if is_beyond:  # its head confirms the last commit
                Chain(self.state.digest, self.state.confirmed).take(position, raw, stretch.place(position))
                self.is_done = True
                return
            self._rows.append((position, raw))
            self._size += len(raw)
        if stretch.ends is not None:
            yield from self.cut()

    def cut(self, next_snapshot: bytes = b"") -> Iterator[Segment]:
        """Yield the rows so far as a segment, if there are any, and fold them. `next_snapshot`: the state
        before the next one, where the source has it."""
        rows, snapshot = self._rows, self._snapshot
        self._rows, self._size, self._snapshot = [], 0, next_snapshot
        if not rows:
            return
        state = self.state
        first, digest = state.grid.position + 1, state.digest.hex()
        if first > 1 and not snapshot:
            snapshot = jsonl.deflated(encode_grid(state.grid))
        with placed(self._stretch, state):
            fold_raw(state, rows)
        header = Header(orion_log=FORMAT, prefix=self.prefix, first=first, hash=digest, snapshot=snapshot)
        yield header, [raw for _, raw in rows]


def rules_of(grid: Grid) -> dict[str, Any]:
    """Return the rules of a grid, for a reader of the file; the snapshot holds them, too."""
    names = ("revision", "policy_id", "decider", "policy", "models")
    rules: dict[str, Any] = {name: to_builtins(getattr(grid, name)) for name in names}
    return rules | {"nodes": [to_builtins(node.rules) for node in grid.nodes.values()]}


def harmless(config: Config) -> dict[str, Any]:
    """Return a configuration without addresses and credentials, and whom its owner tells."""
    nodes = {name: replace(node, ollama="") for name, node in config.nodes.items()}
    safe = replace(config, redis=RedisConfig(), nodes=nodes, gateway=GatewayRules())
    safe = replace(safe, alerts_to={}, alerts_file="")
    return cast(dict[str, Any], to_builtins(safe))


def check_target(path: Path, force: bool) -> None:
    """Raise ConfigError if the file exists, unless `force`, or cannot be looked for."""
    try:
        exists = path.exists()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    if exists and not force:
        raise ConfigError(f"{path}: is there already: name another file, or add --force")


@contextmanager
def writing(path: Path, force: bool) -> Iterator[BinaryIO]:
    """Open the file of a log, compressed if its name ends with .gz, as `new_file` does. Raises ConfigError
    for a name that is not allowed, LogError."""
    if not path.name.endswith(SUFFIXES):
        raise ConfigError(f"{path}: expected a name that ends with {' or '.join(SUFFIXES)}")
    check_target(path, force)
    with new_file(path) as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                yield cast(BinaryIO, packed)
        else:
            yield file


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when the block succeeds and its bytes are on the disk. Raises LogError
    if it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
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
    """Import a log into a server under an unused prefix, for reading: without a guard no router starts on
    it. It is folded on the way. Raises ConfigError, LogError; then nothing of it is left there."""
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
    """Write all rows and all snapshots of a source."""
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
            try:
                await pipe.execute()
            except NoPermissionError as error:
                raise denied(redis, ("XADD", log)) from error
        see(state.grid.position)
    if state is None:
        raise LogError(f"{source.name}: it is empty")
    return Moved(first, state.grid.position, count)
