"""Bounded streams: snapshots, and trimming below what anybody may still need."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog.archive import archive_next
from orion_streams.eventlog.loader import END, position_at, save_verified
from orion_streams.eventlog.port import Log
from orion_streams.model import events as ev
from orion_streams.model.commit import Guard, Snapshot
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid, parse_stream_id
from orion_streams.protocol.commit_builder import LoggedGrid

log = logging.getLogger("orion.retention")

TRIM_STEP = 200
GRACE_MS = 600_000
"""Replies are kept so much longer than the ids that they answer."""


class Retention:
    """What the router keeps. It only ever trims below snapshots, cursors and remembered replies."""

    def __init__(self, store: Log, config: Config) -> None:
        self.store, self.config = store, config
        self._due: dict[str, ev.RepliesTrimmed] = {}
        self._snapshot_position = 0
        self._verifying: asyncio.Task[None] | None = None
        self._archiving: asyncio.Task[None] | None = None
        self._void: set[asyncio.Task[None]] = set()
        self._archive_folder = Path(config.retention.archive_dir).expanduser()
        self._archived = 0
        self._archive_fault = ""
        self._closing = False

    def due(self) -> list[ev.RepliesTrimmed]:
        """Trims that forget ids: they are committed first, the streams are trimmed later."""
        due, self._due = list(self._due.values()), {}
        return due

    async def keep(self, state: LoggedGrid, guard: Guard) -> None:
        """One round of snapshots and trims, a few milliseconds."""
        if await self.store.snapshot_before(END) is None:
            await self.replace_snapshots(state)
        await self.snapshot(state)
        grid = state.grid
        for client in self.config.clients.names:
            await self.trim_requests(client, grid, guard)
            await self.trim_replies(client, grid, guard)
        for name in self.config.nodes:
            await self.trim_work(name, grid)
        await self.trim_log(grid)

    async def replace_snapshots(self, state: LoggedGrid) -> None:
        """Without any snapshot nobody can load a log whose beginning was trimmed: keep what this router
        knows, though nothing is left to verify it with."""
        if await self.store.first_position() <= 1:
            return
        self.begin_anew()
        position = state.grid.position
        await self.store.save_snapshot(Snapshot(position, state.digest.hex(), encode_grid(state.grid)))
        log.error("all snapshots were deleted: the state at position %d is kept, unverified", position)
        self._snapshot_position = position

    async def snapshot(self, state: LoggedGrid) -> None:
        """Take a snapshot every `snapshot_events`; it is verified from the log before it is kept."""
        if self._verifying is not None:
            if not self._verifying.done():
                return
            task, self._verifying = self._verifying, None
            if error := self.fault(task):
                raise error
        if not self._snapshot_position:
            kept = await self.store.snapshot_before(END)
            self._snapshot_position = kept.position if kept is not None else 0
        position = state.grid.position
        if position - self._snapshot_position < self.config.retention.snapshot_events:
            return
        taken = Snapshot(position, state.digest.hex(), encode_grid(state.grid))
        self._snapshot_position = position
        self.verify(taken)

    def verify(self, taken: Snapshot) -> None:
        """Verify and keep a snapshot in the background."""
        self._verifying = asyncio.create_task(save_verified(self.store, taken))

    def begin_anew(self) -> None:
        """The log or its snapshots were lost: what is under way and what was reached with them is void."""
        if self._verifying is not None:
            self._verifying.cancel()  # Python may lose that: it is waited for all the same
        self._void = {task for task in (self._verifying, self._archiving) if task is not None}
        self._snapshot_position = self._archived = 0
        self._archive_fault = ""
        self._due.clear()

    def fault(self, task: asyncio.Task[None]) -> BaseException | None:
        """What a task that is done failed with; of a void one it is about what was lost, and nothing."""
        error = None if task.cancelled() else task.exception()
        return None if task in self._void else error

    async def close(self) -> None:
        """Let a verification and a file of the archive that are under way come to their end."""
        self._closing = True
        for task in (self._verifying, self._archiving):
            if task is not None:
                await asyncio.wait({task})
                if error := self.fault(task):
                    log.error("%s", error)
        self._closing = False

    def archive(self, until: int) -> None:
        """See that the log is in the archive up to a position, in a task of its own."""
        if self._archiving is not None:
            if not self._archiving.done():
                return
            task, self._archiving = self._archiving, None
            if error := self.fault(task):
                raise error
        if self._archived < until:
            self._archiving = asyncio.create_task(self._archive(until))

    async def _archive(self, until: int) -> None:
        """File by file. What is wrong is said when it begins and when it is over, and tried again."""
        prefix, folder, task = self.config.prefix, self._archive_folder, asyncio.current_task()
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
            if task not in self._void:
                if str(error) != self._archive_fault:
                    log.error("the log is not archived: %s", error)
                self._archive_fault = str(error)
            return
        if task in self._void:
            return
        self._archived = max(self._archived, until)
        if self._archive_fault:
            log.warning("the log is archived again, up to position %d", self._archived)
        self._archive_fault = ""

    async def trim_requests(self, client: str, grid: Grid, guard: Guard) -> None:
        """Below the oldest open request, or below the cursor."""
        stream, owner = f"requests:{client}", f"{client}/"
        needed = [request.entry_id for key, request in grid.open.items() if key.startswith(owner)]
        needed.append(guard.cursors.get(stream, "0-0"))
        await self.store.trim(stream, min(needed, key=parse_stream_id))

    async def trim_work(self, name: str, grid: Grid) -> None:
        """Below what the node's agent has read and finished."""
        node = grid.nodes.get(name)
        if node is not None and node.work_read:
            await self.store.trim(
                f"work:{name}", min([node.work_read, *node.assignments], key=parse_stream_id)
            )

    async def trim_replies(self, client: str, grid: Grid, guard: Guard) -> None:
        """Below the remembered terminal replies and the oldest open request. Over the limit in number,
        ids are forgotten first."""
        stream, owner = f"replies:{client}", f"{client}/"
        count, _ = await self.store.size(stream)
        if count == 0:
            return
        needed = [row.reply_id for row in grid.closed.get(client, {}).values()]
        surplus = count - self.config.retention.replies_entries
        if surplus <= 0:  # over the limit, a slow reader loses tokens, never an end
            needed += [row.entry_id for key, row in grid.open.items() if key.startswith(owner)]
        needed.append(
            max(f"{grid.server_ms}-0", guard.out_id, key=parse_stream_id)
        )  # a clock that was put back
        floor = min(needed, key=parse_stream_id)
        if surplus <= 0:
            floor = f"{max(parse_stream_id(floor)[0] - GRACE_MS, 0)}-0"
        await self.store.trim(stream, floor)
        if surplus > 0:
            oldest = await self.store.oldest_ids(stream, min(surplus, TRIM_STEP) + 1)
            if oldest:  # else nobody remembered any of them, and all are gone
                self._due[client] = ev.RepliesTrimmed(client, oldest[-1])

    async def trim_log(self, grid: Grid) -> None:
        """What is older than `log_keep_ms` or, with its snapshots, beyond `log_keep_mb`, but only below the
        last snapshot but one, and below what is archived: as long as the log is not twice as large as it
        should be. What is left begins at a snapshot, so that any moment of it can be looked at."""
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
            return  # another router has trimmed it meanwhile
        size = sum([(await self.store.size(stream))[1] for stream in ("log", "snapshots")])
        surplus = size - keep.log_keep_mb * 1_000_000
        if surplus > 0:
            wanted = max(wanted, first + (grid.position - first) * surplus // size)
        wanted = min(wanted, floor)
        if keep.archive_dir:
            self.archive(floor)
            if wanted > self._archived and surplus > keep.log_keep_mb * 1_000_000:
                log.error(
                    "the log takes %d MB: it is trimmed to position %d, archived only to %d (%s)",
                    size // 1_000_000,
                    wanted,
                    self._archived,
                    self._archive_fault or "the archive is too slow",
                )
            else:
                wanted = min(wanted, self._archived)
        base = await self.store.snapshot_before(wanted)
        if base is not None:
            await self.store.trim("log", f"{base.position + 1}-0")
            await self.store.trim("snapshots", f"{base.position}-0")
