"""Build the grid from the log: load snapshot and tail, follow, verify, find the position of a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import msgspec

from orion_streams.errors import LogError
from orion_streams.eventlog.port import Log
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.commit import Guard, Snapshot
from orion_streams.model.snapshot import decode_grid, encode_grid
from orion_streams.model.state import Grid, parse_stream_id
from orion_streams.projections import apply
from orion_streams.protocol.commit_builder import LoggedGrid, chain, not_as_written

CHUNK = 500
END = 2**62
"""A position beyond any other."""
SENSELESS = (ArithmeticError, LookupError, TypeError, ValueError)
"""What folding raises for an event that is valid in form only, such as a work id without a time."""


def fold_raw(state: LoggedGrid, rows: Iterable[tuple[int, bytes]]) -> None:
    """Fold log entries into `state`. Raise LogError, with the position, for an entry that is no event or
    whose commit names another hash; `state` then holds everything before it."""
    for _ in fold_each(state, rows):
        pass


def fold_each(state: LoggedGrid, rows: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, ev.AnyEvent]]:
    """Fold log entries like `fold_raw`, and yield each position and event once it is folded."""
    for position, raw in rows:
        event = decoded(position, raw)
        if isinstance(event, ev.Committed):
            if event.hash != state.digest.hex():
                raise LogError(not_as_written(state.confirmed, position, state.digest, event.hash))
            state.confirmed = position - 1
        try:
            apply(state.grid, event)
        except SENSELESS as error:
            state.grid.position = position - 1
            raise LogError(f"position {position} of the log cannot be folded: {error!r}") from error
        state.digest = chain(state.digest, raw)
        yield position, event


def decoded(position: int, raw: bytes) -> ev.AnyEvent:
    """Decode a log entry. Raise LogError, with the position, if it is no event."""
    try:
        return event_codec.decode(raw)
    except msgspec.DecodeError as error:
        unknown = "`$.event`" in str(error)
        what = "no event that this version of orion-streams knows" if unknown else "not an event"
        raise LogError(f"position {position} of the log is {what}: {error}") from error


async def load(store: Log, until: int | None = None) -> LoggedGrid:
    """Return the state at the end of the log, or at position `until`: the newest usable snapshot, then the
    entries after it. Raise LogError for a gap, a broken hash, or a trimmed log without a snapshot."""
    while True:
        first, last = await store.first_position(), await store.last_position()
        try:
            return await load_from(store, first, until)
        except LogError:  # expected if the log was trimmed or lost its tail meanwhile
            if await store.first_position() == first and await store.last_position() >= last:
                raise


async def load_from(store: Log, first: int, until: int | None) -> LoggedGrid:
    """Load like `load` from a log that begins at position `first`."""
    last = await store.last_position()
    end = last if until is None else min(until, last)
    state = LoggedGrid(Grid())
    snapshot = await store.snapshot_before(end)
    while snapshot is not None and snapshot.position >= first - 1:
        if await goes_on_from(store, snapshot.position, snapshot.digest):  # not if its tail was lost
            state = from_snapshot(snapshot)
            break
        snapshot = await store.snapshot_before(snapshot.position - 1)
    if first > state.grid.position + 1:
        raise LogError(f"the log begins at position {first}, and no snapshot reaches position {end}")
    await extend(store, state, end)
    return state


async def extend(store: Log, state: LoggedGrid, end: int) -> None:
    """Fold the log from the state's position to `end`."""
    while state.grid.position < end:
        rows = await store.events(state.grid.position, min(CHUNK, end - state.grid.position))
        if not rows:
            raise LogError(f"the log ends at {state.grid.position}, position {end} was expected")
        fold_raw(state, rows)
        await asyncio.sleep(0)


async def still_holds(store: Log, state: LoggedGrid, position: int, digest: bytes) -> bool:
    """Whether `state`, at the end of the log, continues a commit that ended at `position` with `digest`."""
    if state.grid.position <= position:
        return state.grid.position == position and state.digest == digest
    return await goes_on_from(store, position, digest.hex())


async def goes_on_from(store: Log, position: int, digest: str) -> bool:
    """Whether the commit after `position` names the running hash `digest`; true if it cannot be read."""
    if await store.first_position() > position + 1:
        return True
    rows = await store.events(position, 1)
    try:
        event = event_codec.decode(rows[0][1]) if rows else None
    except msgspec.DecodeError:
        return True  # folding it reports the position
    return event is None or (isinstance(event, ev.Committed) and event.hash == digest)


async def catch_up(store: Log, state: LoggedGrid) -> LoggedGrid:
    """Fold `state` to the end of the log, or load it again if the log was trimmed beyond it or lost its
    tail. Raise LogError."""
    last = await store.last_position()
    if last < state.grid.position:
        return await load(store)
    try:
        await extend(store, state, last)
    except LogError:
        return await load(store)
    return state


def take_snapshot(state: LoggedGrid) -> Snapshot:
    """Return a snapshot of a state."""
    return Snapshot(state.grid.position, state.digest.hex(), encode_grid(state.grid))


def from_snapshot(snapshot: Snapshot) -> LoggedGrid:
    """Return the state that a snapshot holds. Raise LogError when it cannot be read."""
    try:
        return LoggedGrid(decode_grid(snapshot.grid), bytes.fromhex(snapshot.digest))
    except msgspec.DecodeError as error:
        where = f"the snapshot at position {snapshot.position}"
        raise LogError(f"{where} cannot be read: {error}") from error


async def save_verified(store: Log, snapshot: Snapshot) -> None:
    """Save a snapshot if folding the log from the one before it gives the same bytes, else raise LogError.
    Drop it if the server has lost that part of the log meanwhile."""
    before = await store.snapshot_before(END)
    base = from_snapshot(before) if before is not None else LoggedGrid(Grid())
    if base.grid.position >= snapshot.position:
        return
    if await store.last_position() < snapshot.position:
        return
    await extend(store, base, snapshot.position)
    if take_snapshot(base) != snapshot:
        raise LogError(f"the snapshot at position {snapshot.position} is not what the log before it gives")
    await store.save_snapshot(snapshot)


async def check_guard(store: Log, guard: Guard, number: int, known: int, prefix: str) -> None:
    """Raise LogError if the log or the guard was deleted: neither can be used without the other.

    `number` is the last commit in the log, read after `guard` since another router may commit meanwhile;
    `known` is the last commit that a running router knows of.
    """
    newest = (await store.guard()).number
    if newest < number or ((guard.number or known) and not number):
        knew = f", and this router knew of commit {known}" if known else ""
        raise LogError(
            f"{prefix}guard is at commit {newest}, {prefix}log at {number}{knew}: what was deleted "
            "is lost. Stop all roles, then put back a copy of the server's data, or begin anew: "
            f"redis-cli --scan --pattern '{prefix}*' | xargs redis-cli DEL"
        )


async def check_cursors(store: Log, guard: Guard, prefix: str) -> None:
    """Raise LogError for a cursor beyond the end of its stream, which would read nothing for ever.

    A server that lost its tail passes: its guard, log and streams end at the same moment. Streams that fail
    were deleted, or restored from different moments.
    """
    for stream, extent in (await store.extents(guard.cursors)).items():
        cursor, top = guard.cursors[stream], extent.top
        if parse_stream_id(cursor) > parse_stream_id(top):
            raise LogError(
                f"{prefix}{stream} ends at {top}, but it was read up to {cursor}: entries were lost. "
                f"Accept the loss with: redis-cli HSET {prefix}guard 'cursor {stream}' {top}"
            )


async def position_at(store: Log, server_ms: int) -> int:
    """Return the last position of the last commit at or before `server_ms`; 0 if there is none."""
    first, last = await store.first_position(), await store.last_position()
    low, high = first, last
    if high == 0:
        return 0
    found = low - 1
    while low <= high:
        middle = (low + high) // 2
        head, position = await next_head(store, middle, high)
        if head is None or head.server_ms > server_ms:
            high = middle - 1
        else:
            found, low = position, position + 1
    if found >= first:
        _, following = await next_head(store, found + 1, last)
        found = following - 1
    return found


async def next_head(store: Log, start: int, end: int) -> tuple[ev.Committed | None, int]:
    """Return the first head of a commit at or after `start`, and its position; None and `end` + 1 if a
    search up to `end` finds none, or the log ends before."""
    after = start - 1
    while after < end and (rows := await store.events(after, CHUNK)):
        for position, raw in rows:
            event = decoded(position, raw)
            if isinstance(event, ev.Committed):
                return event, position
            after = position
    return None, end + 1
