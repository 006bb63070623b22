"""Bound the streams: take snapshots, archive the log, and trim below what may still be needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from redis.exceptions import NoPermissionError

from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog.archive import archive_next
from orion_streams.eventlog.loader import END, position_at, save_verified, take_snapshot
from orion_streams.eventlog.port import Log
from orion_streams.model import events as ev
from orion_streams.model.commit import Guard, Snapshot
from orion_streams.model.state import Grid, parse_stream_id
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.protocol.photo_parts import PARTS_WAIT_MS
from orion_streams.runtime.connection import in_short

log = logging.getLogger("orion.retention")

GRACE_MS = 600_000
"""How much longer replies are kept than the ids that they answer."""
VERIFYING, ARCHIVING = "verifying", "archiving"


class Retention:
    """The router's snapshots, archive and trims. Nothing above snapshots, cursors or remembered replies is
    ever trimmed."""

    def __init__(self, store: Log, config: Config) -> None:
        self.store, self.config = store, config
        self._due: dict[str, ev.RepliesTrimmed] = {}
        self._snapshot_position = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._void: set[asyncio.Task[None]] = set()
        self._archive_folder = Path(config.retention.archive_dir).expanduser()
        self._archived = 0
        self._archive_fault = ""
        self._closing = False
        self._may_trim_parts = True

    def due(self) -> list[ev.RepliesTrimmed]:
        """Return the trims that forget ids: they have to be committed before the streams are trimmed."""
        due, self._due = list(self._due.values()), {}
        return due

    async def keep(self, state: LoggedGrid, guard: Guard) -> None:
        """Do one round of snapshots and trims, in a few milliseconds."""
        if await self.store.snapshot_before(END) is None:
            await self.replace_snapshots(state)
        await self.snapshot(state)
        grid = state.grid
        for client in dict.fromkeys((*grid.all_clients(self.config.clients), *grid.closed)):
            await self.trim_requests(client, grid, guard)
            await self.trim_replies(client, grid, guard)
            await self.trim_parts(client, grid, guard)
        for name in self.config.nodes:
            await self.trim_work(name, grid)
        await self.trim_log(grid)

    async def replace_snapshots(self, state: LoggedGrid) -> None:
        """Save the router's own state if all snapshots of a trimmed log are gone: without one the log
        cannot be loaded, and without its beginning there is nothing to verify one with."""
        if await self.store.first_position() <= 1:
            return
        self.begin_anew()
        await self.store.save_snapshot(take_snapshot(state))
        self._snapshot_position = state.grid.position
        log.error(
            "all snapshots were deleted: the state at position %d is kept, unverified", state.grid.position
        )

    async def snapshot(self, state: LoggedGrid) -> None:
        """Take a snapshot every `snapshot_events`, and verify it against the log before it is kept."""
        if self.is_running(VERIFYING):
            return
        if not self._snapshot_position:
            kept = await self.store.snapshot_before(END)
            self._snapshot_position = kept.position if kept is not None else 0
        if state.grid.position - self._snapshot_position >= self.config.retention.snapshot_events:
            self._snapshot_position = state.grid.position
            self.verify(take_snapshot(state))

    def verify(self, taken: Snapshot) -> None:
        """Verify and keep a snapshot in the background."""
        self._tasks[VERIFYING] = asyncio.create_task(save_verified(self.store, taken))

    def is_running(self, name: str) -> bool:
        """Whether a background task is running. Raise the error of one that failed, once."""
        task = self._tasks.get(name)
        if task is None:
            return False
        if not task.done():
            return True
        del self._tasks[name]
        if error := self.fault(task):
            raise error
        return False

    def begin_anew(self) -> None:
        """Void all progress and the running tasks: the log or its snapshots were lost."""
        if VERIFYING in self._tasks:
            self._tasks[VERIFYING].cancel()  # Python may lose it, so `close` waits all the same
        self._void = set(self._tasks.values())
        self._snapshot_position = self._archived = 0
        self._archive_fault = ""
        self._due.clear()

    def fault(self, task: asyncio.Task[None]) -> BaseException | None:
        """Return the error of a finished task. That of a void one concerns what was lost: None."""
        error = None if task.cancelled() else task.exception()
        return None if task in self._void else error

    async def close(self) -> None:
        """Wait for a running verification and for the archive file that is being written."""
        self._closing = True
        for task in self._tasks.values():
            await asyncio.wait({task})
            if error := self.fault(task):
                log.error("%s", error)
        self._closing = False

    def archive(self, until: int) -> None:
        """Archive the log up to a position in the background."""
        if not self.is_running(ARCHIVING) and self._archived < until:
            self._tasks[ARCHIVING] = asyncio.create_task(self._archive(until))

    async def _archive(self, until: int) -> None:
        """Archive file by file; a later round tries again what failed."""
        prefix, folder, task = self.config.prefix, self._archive_folder, asyncio.current_task()
        fault = ""
        try:
            while file := await archive_next(self.store, prefix, folder, until):
                if task in self._void:
                    return
                self._archived = file.last
                if file.missing:
                    log.error("the archive lacks positions %d to %d: trimmed before", *file.missing)
                if self._closing:
                    return
        except (LogError, OSError) as error:
            fault = str(error)
        if task not in self._void:
            self._note_archived(until, fault)

    def _note_archived(self, until: int, fault: str) -> None:
        """Log a fault when it begins and when it ends."""
        if not fault:
            self._archived = max(self._archived, until)
            if self._archive_fault:
                log.warning("the log is archived again, up to position %d", self._archived)
        elif fault != self._archive_fault:
            log.error("the log is not archived: %s", fault)
        self._archive_fault = fault

    async def trim_requests(self, client: str, grid: Grid, guard: Guard) -> None:
        """Trim a client's requests below the oldest open one and below the cursor."""
        stream, owner = f"requests:{client}", f"{client}/"
        needed = [request.entry_id for key, request in grid.open.items() if key.startswith(owner)]
        needed.append(guard.cursors.get(stream, "0-0"))
        await self.store.trim(stream, min(needed, key=parse_stream_id))

    async def trim_parts(self, client: str, grid: Grid, guard: Guard) -> None:
        """Trim a client's parts of images below the oldest of an open request, and below what is older than
        PARTS_WAIT_MS: an upload that was cut off, and what `free` did not come to. Above twice what the
        client may have open drop the oldest, whoever needs them."""
        if not self._may_trim_parts:
            return
        stream, owner, requests = f"parts:{client}", f"{client}/", f"requests:{client}"
        try:
            count, size = await self.store.size(stream)
            if not count:
                return
            cursor = guard.cursors.get(requests, "0-0")
            server_ms, unread = await self.store.read({requests: cursor}, 1, 0)
            asked_ms = parse_stream_id(cursor)[0] if unread else server_ms  # who waits there has parts, too
            needed = [each for key, row in grid.open.items() if key.startswith(owner) for each in row.parts]
            needed.append(f"{max(asked_ms - PARTS_WAIT_MS, 0)}-0")
            await self.store.trim(stream, min(needed, key=parse_stream_id))
            most = 2 * grid.rules_of(client).max_open_bytes
            if size > most:
                log.warning("%s takes %d MB: its oldest entries go", stream, size // 1_000_000)
                await self.store.shorten(stream, count * most // size)
        except NoPermissionError as error:
            self._may_trim_parts = False
            log.warning("%s: parts are not trimmed from now on", in_short(error))

    async def free(self, freed: Mapping[str, Collection[str]], grid: Grid) -> None:
        """Drop parts whose request has ended, unless another open one names them, too."""
        for client, parts in freed.items() if self._may_trim_parts else ():
            owner = f"{client}/"
            held = {each for key, row in grid.open.items() if key.startswith(owner) for each in row.parts}
            try:
                await self.store.drop(f"parts:{client}", sorted(set(parts) - held))
            except NoPermissionError:
                return  # `trim_parts` says so

    async def trim_work(self, name: str, grid: Grid) -> None:
        """Trim a node's work below what its agent has read and finished."""
        node = grid.nodes.get(name)
        if node is not None and node.work_read:
            await self.store.trim(
                f"work:{name}", min([node.work_read, *node.assignments], key=parse_stream_id)
            )

    async def trim_replies(self, client: str, grid: Grid, guard: Guard) -> None:
        """Trim a client's replies below the remembered terminal ones and the oldest open request. Above
        the limit in number, forget the oldest ids first."""
        stream, owner = f"replies:{client}", f"{client}/"
        count, _ = await self.store.size(stream)
        if count == 0:
            return
        needed = [row.reply_id for row in grid.closed.get(client, {}).values()]
        surplus = count - self.config.retention.replies_entries
        if surplus <= 0:  # above the limit a slow reader loses tokens, never a terminal reply
            needed += [row.entry_id for key, row in grid.open.items() if key.startswith(owner)]
        # the server's clock may have been put back below ids that were given out
        needed.append(max(f"{grid.server_ms}-0", guard.out_id, key=parse_stream_id))
        floor = min(needed, key=parse_stream_id)
        if surplus <= 0:
            floor = f"{max(parse_stream_id(floor)[0] - GRACE_MS, 0)}-0"
        await self.store.trim(stream, floor)
        ends = [row.reply_id for row in grid.closed.get(client, {}).values()]
        if surplus > 0 and len(ends) > 1:  # else the trim took all that may go
            # each end has its share of the entries: its own reply and the tokens before it
            last = min(surplus * len(ends) // count + 1, len(ends) - 1)
            self._due[client] = ev.RepliesTrimmed(client, ends[last])

    async def trim_log(self, grid: Grid) -> None:
        """Trim what is older than `log_keep_ms` or, with its snapshots, exceeds `log_keep_mb`; the log then
        begins at a snapshot, so that every position left can be loaded. Keep everything from the last
        snapshot but one on."""
        newest = await self.store.snapshot_before(END)
        older = await self.store.snapshot_before(newest.position - 1) if newest is not None else None
        if older is None:
            return
        keep, floor = self.config.retention, older.position
        first = await self.store.first_position()
        try:
            wanted = await position_at(self.store, grid.server_ms - keep.log_keep_ms)
        except LogError:
            if await self.store.first_position() == first:
                raise
            return  # another router trimmed it meanwhile
        size = sum([(await self.store.size(stream))[1] for stream in ("log", "snapshots")])
        surplus = size - keep.log_keep_mb * 1_000_000
        if surplus > 0:
            wanted = max(wanted, first + (grid.position - first) * surplus // size)
        wanted = min(wanted, floor)
        if keep.archive_dir:
            self.archive(floor)
            wanted = self.within_archive(wanted, size)
        base = await self.store.snapshot_before(wanted)
        if base is not None:
            await self.store.trim("log", f"{base.position + 1}-0")
            await self.store.trim("snapshots", f"{base.position}-0")

    def within_archive(self, wanted: int, size: int) -> int:
        """Return how far a log of `size` bytes may be trimmed: what is not archived is kept until the log
        takes twice `log_keep_mb`."""
        if wanted <= self._archived or size <= 2 * self.config.retention.log_keep_mb * 1_000_000:
            return min(wanted, self._archived)
        message = "the log takes %d MB: it is trimmed to position %d, archived only to %d (%s)"
        why = self._archive_fault or "the archive is too slow"
        log.error(message, size // 1_000_000, wanted, self._archived, why)
        return wanted
