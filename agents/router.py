"""The router: fold all that is known, ask `decide` what is missing, commit the answer.

Safety needs no election: a commit is a compare-and-set, so of two routers one loses, folds what the other
wrote and goes on. The grid is changed before the commit is written; unless that certainly succeeded, the
router drops the grid and loads it again from snapshot and tail.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable

from msgspec import Struct, structs

from orion_streams.agents.input_reader import InputReader, Inputs
from orion_streams.agents.local_time import local_offset_s
from orion_streams.agents.retention import Retention
from orion_streams.agents.stream_losses import lost_group, lost_stream, was_deleted
from orion_streams.config import Config
from orion_streams.decider.decide import decide, is_timed
from orion_streams.decider.placement import missing_pins
from orion_streams.decider.standings import Told, is_news, standings
from orion_streams.errors import BodyGoneError, CommitConflictError, ConfigError, LogError
from orion_streams.eventlog.loader import catch_up, check_cursors, check_guard, extend, load, still_holds
from orion_streams.eventlog.port import Log
from orion_streams.model import events as ev
from orion_streams.model.commit import Extent, Guard
from orion_streams.model.policy import DECIDER, policy_id
from orion_streams.model.state import Grid, parse_stream_id
from orion_streams.protocol.commit_builder import GENESIS, CommitBuilder, LoggedGrid, is_token
from orion_streams.protocol.disk_entries import dropped_disks, overdue_disks
from orion_streams.protocol.public_row import PublicRow

log = logging.getLogger("orion.router")


class LastCommit(Struct, frozen=True):
    """The last commit known to be in the log: its number, its last position, the running hash up to it."""

    number: int = 0
    position: int = 0
    digest: bytes = GENESIS


ANNOUNCE_EVERY_MS, TELL_EVERY_MS = 2_000, 1_000
MAX_COMMIT_EVENTS = 256
"""A commit that exceeds it takes no further input: one inventory is many events, and the commit script
blocks the server."""


class Router:
    """The reconciler of one grid. `token` gives each commit a random token; `offset_s`: how far this
    machine's local time is ahead of UTC at a moment in ms since 1970."""

    def __init__(
        self,
        store: Log,
        config: Config,
        token: Callable[[], str] = lambda: secrets.token_hex(4),
        clock: Callable[[], float] = time.monotonic,
        offset_s: Callable[[int], int] = local_offset_s,
    ) -> None:
        self.store, self.config, self._token, self._offset_s = store, config, token, offset_s
        self.inputs = InputReader(store, config, clock)
        self.state = LoggedGrid(Grid())
        self.guard = Guard()
        self.retention = Retention(store, config)
        self.following, self._unfinished, self._lost_in_a_row = False, False, 0
        self._last_commit = LastCommit()
        self._gone: set[tuple[str, str]] = set()
        self._announced_ms, self._may_announce = 0, True
        self._told_ms, self._told = 0, dict[str, Told]()
        self._announced = self.state.grid.guests
        self._missing_pins: set[tuple[str, str]] = set()
        self._extents: dict[str, Extent] = {}

    async def start(self) -> None:
        """Fold to the end of the log, put the configured policy into force, then take all results and
        health that wait, so that no decision uses old temperatures. Raise ConfigError or LogError."""
        await self.recover()
        if not self._extents:  # a running router reads deleted streams again from their beginning
            await check_cursors(self.store, self.guard, self.config.prefix)
        await self.propose_policy()
        while await self.take_backlog():
            pass

    async def recover(self) -> bool:
        """Load grid and guard, and forget what was told. Return whether the log still holds this router's
        last commit; raise LogError if log or guard was deleted.

        The guard is read after the grid: a commit in between makes the next one conflict, unless it only
        passed tokens on. Then the grid catches up, since it must hold every input below the guard's
        cursors: trimming needs to know which requests are open."""
        before = self._last_commit
        self._told.clear()
        self.state = await load(self.store)
        await self.read_guard()
        self.state = await catch_up(self.store, self.state)
        number = self.state.grid.number
        await check_guard(self.store, self.guard, number, before.number, self.config.prefix)
        self.note_last_commit()
        holds = await still_holds(self.store, self.state, before.position, before.digest)
        if holds and self.guard.number >= before.number:
            return True
        what = lost(before, self._last_commit, holds, self.config.prefix)
        log.warning("the server lost its tail: %s", what)
        self.retention.begin_anew()
        self._gone.clear()
        self._extents.clear()
        return False

    async def read_guard(self) -> None:
        """Read the guard, but keep the highest id given out: after a lost tail no other server's clock
        may repeat an attempt's fence or put a reply below what a client has read."""
        guard = await self.store.guard()
        out_id = max(self.guard.out_id, guard.out_id, key=parse_stream_id)
        self.guard = structs.replace(guard, out_id=out_id)

    def note_last_commit(self) -> None:
        """Remember the commit at which grid and guard stand."""
        self._last_commit = LastCommit(self.guard.number, self.state.grid.position, self.state.digest)

    async def fold_again(self) -> None:
        """Drop what was not committed and load the grid again; after a lost tail, start again."""
        if not await self.recover():
            await self.start()
        if proposal(self.state.grid, self.config) is None:  # else it is about to put its version into force
            self.check_decider()

    def streams(self) -> list[str]:
        """List the input streams of all that the grid and the configuration know."""
        return self.inputs.streams(self.state.grid)

    async def propose_policy(self) -> None:
        """Commit the configured rules if their revision is above the log's, and this version of the code if
        it is newer than the log's. Raise ConfigError if the log has the same revision with other rules;
        keep the log's rules if they have a higher revision."""
        config = self.config
        while (changed := proposal(self.state.grid, config)) is not None:
            if self.state.grid.revision and self.state.grid.decider != DECIDER:
                taken = "version %d of the decider takes over from %d"
                log.warning(taken, DECIDER, self.state.grid.decider)
            server_ms, _ = await self.store.read({"log": "0-0"}, 1, 0)
            builder = CommitBuilder(self.state, self.guard, server_ms)
            builder.begin(decided=False)
            for end in dropped_disks(self.state.grid, changed.nodes):
                builder.stage(end)
            builder.stage(changed)
            builder.mark_inputs()
            await self.commit(builder)
        grid, proposed = self.state.grid, config.policy_id()
        if config.revision < grid.revision:
            older = "the log has revision %d, streams.toml only %d: the log's rules hold"
            log.warning(older, grid.revision, config.revision)
        elif proposed != grid.policy_id:
            raise ConfigError(
                f"revision: {config.revision} is in the log with other rules ({grid.policy_id}; the "
                f"file has {proposed}): set revision = {grid.revision + 1} to put these into force"
            )
        self.check_decider()

    def check_decider(self) -> None:
        """Raise ConfigError if the log says that another version of the code decides."""
        grid = self.state.grid
        if grid.decider != DECIDER:
            raise ConfigError(
                f"revision: version {grid.decider} of the decider is in force, and this is version "
                f"{DECIDER}: run that version; to go back to this one, stop all routers of the other and "
                f"set revision = {grid.revision + 1}"
            )

    async def cycle(self, block_ms: int) -> bool:
        """Read what waits, fold it, ask `decide` what is missing, and commit all of it. Return whether
        there was anything to commit."""
        unanswered = self._unfinished and bool(decide(self.state.grid))
        inputs = await self.inputs.read(self.streams(), self.guard, 0 if unanswered else block_ms)
        await self.announce(inputs.server_ms)
        if inputs.slept_ms > self.state.grid.policy.stale_ms:
            await self.start()  # what was read may be outdated
            return True
        tick = unanswered or self.tick_is_due(inputs.server_ms)  # tokens alone must not stop the clock
        builder = self.fold(inputs, tick=tick, deciding=True)
        if builder is None:
            return False
        if builder.decides:
            self.answer(builder)
            self.tell(builder)
        await self.announce(inputs.server_ms)
        await self.commit(builder)
        return True

    async def announce(self, server_ms: int) -> None:
        """Say in the grid's public row, now and then, whose requests are read, and that somebody looks; of
        guests who come or go before anybody is told."""
        is_known = self._announced is self.state.grid.guests
        is_fresh = is_known and 0 <= server_ms - self._announced_ms < ANNOUNCE_EVERY_MS
        if not self._may_announce or is_fresh:
            return
        self._announced_ms, self._announced = server_ms, self.state.grid.guests
        grid = self.state.grid
        if self.config.revision < grid.revision:
            return  # its list of clients may be an old one
        names = tuple(sorted(grid.all_clients(self.config.clients)))
        row = PublicRow(names, grid.revision, server_ms)
        self._may_announce = await self.store.announce(row.fields())
        if not self._may_announce:
            log.warning("%sgrid may not be written: clients cannot see who is read", self.config.prefix)

    async def take_backlog(self) -> bool:
        """Fold and commit results and health that wait, without deciding. Return whether any waited."""
        inputs = await self.inputs.read(self.inputs.of_nodes, self.guard, 0)
        builder = self.fold(inputs, tick=False, deciding=False)
        if builder is not None:
            await self.commit(builder)
        return builder is not None

    def fold(self, inputs: Inputs, *, tick: bool, deciding: bool) -> CommitBuilder | None:
        """Fold inputs and the router's own events into the grid. Return a commit of them, or None if there
        is nothing to commit. Without events it only passes tokens on."""
        limits, policy = self.config.limits, self.state.grid.policy
        overdue = overdue_disks(self.state.grid, limits.pull_deadline_ms, limits.load_deadline_ms)
        moved = self.zone_change(inputs.server_ms)
        own: list[ev.AnyEvent] = [*self.lost_bodies(), *moved, *overdue, *self.retention.due()]
        eventful = tick or bool(own) or not all(is_token(raw) for raw in inputs.entries)
        if not (inputs.entries or eventful):
            return None
        builder = CommitBuilder(self.state, self.guard, inputs.server_ms, inputs.drained)
        if eventful:
            builder.begin(deciding)
        for event in own:
            builder.stage(event)
        age_max_ms = policy.max_step_ms if deciding else None
        bounds = limits.answer_max_bytes, limits.drain_ms, self.config.pull_from
        for raw in inputs.entries:
            if builder.bytes > policy.max_bytes or builder.count > MAX_COMMIT_EVENTS:
                break  # the rest is read again
            builder.take(raw, limits.entry_max_bytes, age_max_ms, *bounds)
        builder.mark_inputs()
        return builder

    def answer(self, builder: CommitBuilder) -> None:
        """Add what `decide` finds missing in the grid."""
        answers = decide(self.state.grid)
        self._unfinished = bool(answers)
        for answer in answers:
            builder.stage(answer)

    def tell(self, builder: CommitBuilder) -> None:
        """Tell clients that asked for it where their requests stand: new ones at once, the others every
        TELL_EVERY_MS, if there is news."""
        grid = self.state.grid
        wanted = {key for key, row in grid.open.items() if row.notify and not row.started}
        self._told = {key: told for key, told in self._told.items() if key in wanted}
        if 0 <= grid.server_ms - self._told_ms < TELL_EVERY_MS:
            wanted -= self._told.keys()
        else:
            self._told_ms = grid.server_ms
        for key, standing in standings(grid, wanted).items() if wanted else ():
            if is_news(grid, self._told.get(key), standing):
                self._told[key] = Told(standing, grid.at_ms + standing.eta_ms)
                builder.tell(key, standing)

    def tick_is_due(self, server_ms: int) -> bool:
        """Whether a commit is due for the time alone: something in the grid depends on it."""
        grid = self.state.grid
        passed_ms = server_ms - grid.server_ms
        return is_timed(grid) and not 0 <= passed_ms < grid.policy.max_step_ms // 2

    def lost_bodies(self) -> list[ev.BodyLost]:
        """Return an event for each open request whose entry a commit did not find."""
        rows = self.state.grid.open.items() if self._gone else ()
        return [
            ev.BodyLost(key)
            for key, request in rows
            if not request.body_lost
            and (f"requests:{key.partition('/')[0]}", request.entry_id) in self._gone
        ]

    def zone_change(self, server_ms: int) -> list[ev.ZoneChanged]:
        """Return an event if quiet hours go by a local time that is no longer that of this machine: at the
        start, and when its offset from UTC changes."""
        grid = self.state.grid
        if not any(node.rules.quiet for node in grid.nodes.values()):
            return []
        offset_s = self._offset_s(server_ms)
        return [ev.ZoneChanged(offset_s)] if offset_s != grid.zone_s else []

    async def make_groups(self) -> None:
        """Create the consumer groups that are missing, behind all work handed out so far. Work that was
        deleted unread is missing in the next health entry, and becomes a new attempt."""
        for name in self.config.nodes:
            node = self.state.grid.nodes.get(name)
            if not await self.store.make_group(f"work:{name}", self.guard.out_id) or node is None:
                continue
            read = parse_stream_id(node.work_read)
            if read != (0, 0):
                unread = sum(parse_stream_id(work_id) > read for work_id in node.assignments)
                log.error("%s", lost_group(f"{self.config.prefix}work:{name}", unread))

    def note_missing_pins(self) -> None:
        """Log, once, where a model that is to stay in memory is not even on disk."""
        missing = set(missing_pins(self.state.grid))
        for node, model in sorted(missing - self._missing_pins):
            log.warning('%s lacks %s, which models."%s".resident_on wants there', node, model, model)
        self._missing_pins = missing

    async def look_for_losses(self) -> None:
        """Log streams that were deleted since the last look, and read their successors from the beginning:
        after a clock was put back their ids may be below the cursor."""
        streams, clients = self.streams(), self.state.grid.all_clients(self.config.clients)
        before = self._extents
        self._extents = await self.store.extents([*streams, *(f"replies:{name}" for name in clients)])
        lost = [name for name, now in self._extents.items() if was_deleted(before.get(name, now), now)]
        builder = CommitBuilder(self.state, self.guard, self.state.grid.server_ms)
        for name in lost:
            cursor = self.guard.cursors.get(name, "")
            log.error("%s", lost_stream(self.config.prefix, name, before[name].top, cursor))
            if parse_stream_id(cursor) > parse_stream_id(self._extents[name].top):
                builder.begin_again(name)
        if builder.moves:
            await self.commit(builder)

    async def commit(self, builder: CommitBuilder) -> None:
        """Write the commit. After a refusal load the grid again: the log says what holds."""
        commit, guard = builder.finish(self._token())
        try:
            await self.store.commit(commit)
        except CommitConflictError as conflict:
            self._lost_in_a_row += 1
            log.info("%s (%d in a row)", conflict, self._lost_in_a_row)
            await self.fold_again()
            self.following = self._lost_in_a_row >= self.config.limits.lose_before_following
        except BodyGoneError as gone:
            log.warning("%s: its request ends as body_gone", gone)
            key, entry_id = gone.source
            self._gone.add((key.removeprefix(self.config.prefix), entry_id))
            await self.fold_again()
            await self.note_cut(key.removeprefix(self.config.prefix))
        else:
            self.guard = guard
            self.note_last_commit()
            self._lost_in_a_row = 0
            self._gone.clear()
            await self.retention.free(builder.freed, self.state.grid)

    async def note_cut(self, stream: str) -> None:
        """Note all bodies that a client cut from its stream at once, instead of reloading for each."""
        oldest = parse_stream_id(next(iter(await self.store.oldest_ids(stream, 1)), ""))
        for key, request in self.state.grid.open.items():
            lost = oldest == (0, 0) or parse_stream_id(request.entry_id) < oldest
            if lost and stream == f"requests:{key.partition('/')[0]}":
                self._gone.add((stream, request.entry_id))

    async def follow(self, block_ms: int) -> None:
        """Fold what the leader commits; take over when inputs wait and it commits nothing."""
        number = self.guard.number
        cursors = {name: self.guard.cursors.get(name, "0-0") for name in self.streams()}
        _, waiting = await self.store.read(cursors, 1, 0)
        _, news = await self.store.read({"log": f"{self.state.grid.position}-0"}, 1, block_ms)
        last = await self.store.last_position()
        try:
            if last < self.state.grid.position:
                raise LogError(f"the log ends at {last}")
            await extend(self.store, self.state, last)
        except LogError:  # the log was trimmed beyond the grid, or lost its tail
            await self.fold_again()
            return
        await self.read_guard()
        self.note_last_commit()
        if waiting and not news and self.guard.number == number:
            log.info("the leader stands still at number %d: taking over", number)
            self.following, self._lost_in_a_row = False, 0
            await self.start()


def proposal(grid: Grid, config: Config) -> ev.PolicyChanged | None:
    """Return what a router puts into force before it leads: the file's rules, if their revision is above
    the log's. Else, if this code is newer than the log's, the same revision under this version, with the
    rules of whichever has the higher revision. The revision guards what the file says, but a newer version
    may have other defaults: rules that an older one wrote yield to the file's of the same revision."""
    is_older = grid.decider < DECIDER or (grid.inherited and config.policy_id() != grid.policy_id)
    if config.revision > grid.revision or (config.revision == grid.revision and is_older):
        rules = (config.policy, config.rules(), config.model_rules(), DECIDER, config.clients)
        return ev.PolicyChanged(config.revision, config.policy_id(), *rules)
    if grid.decider < DECIDER:
        nodes = tuple(node.rules for _, node in sorted(grid.nodes.items()))
        known = policy_id(grid.policy, nodes, grid.models, grid.clients)
        rules = (grid.policy, nodes, grid.models, DECIDER, grid.clients)
        return ev.PolicyChanged(grid.revision, known, *rules, inherited=True)
    return None


def lost(before: LastCommit, now: LastCommit, holds: bool, prefix: str) -> str:
    """Return in words what a server lost."""
    had = f"this router had committed {before.position} (commit {before.number})"
    if holds or now.position < before.position:
        return f"{prefix}log ends at {now.position} (commit {now.number}), {had}"
    return f"{prefix}log was written anew by others, up to {now.position} (commit {now.number}); {had}"
