"""The router: fold what waits, decide, commit. One instance leads; any other only follows.

Safety needs no election: the commit is a compare-and-set, so of two routers one loses, folds to the head
and goes on. The grid is folded before the commit; whenever the commit's outcome is not a clear yes, the
router forgets it and folds again from snapshot and tail.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct, structs

from orion_streams.agents.retention import Retention
from orion_streams.agents.stream_losses import lost_group, lost_stream, was_deleted
from orion_streams.config import Config
from orion_streams.decider.decide import decide, is_timed
from orion_streams.errors import BodyGoneError, CommitConflictError, ConfigError, LogError
from orion_streams.eventlog.loader import catch_up, check_cursors, check_guard, extend, load, still_holds
from orion_streams.eventlog.port import Log
from orion_streams.model import events as ev
from orion_streams.model.commit import Extent, Guard, Raw
from orion_streams.model.policy import DECIDER
from orion_streams.model.state import Grid, work_order
from orion_streams.protocol.commit_builder import GENESIS, Draft, LoggedGrid, is_token

log = logging.getLogger("orion.router")


class Written(Struct, frozen=True):
    """What this router knows to be in the log: the last commit, its last position, the hash up to it."""

    number: int = 0
    position: int = 0
    digest: bytes = GENESIS


MAX_COMMIT_EVENTS = 256
"""Inputs taken until a commit has so many events: an inventory is many, and a script holds the server."""


class Router:
    """The reconciler of one grid. `token` makes the random mark of a commit."""

    def __init__(
        self,
        store: Log,
        config: Config,
        token: Callable[[], str] = lambda: secrets.token_hex(4),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._read_s = clock, clock()
        self.store, self.config, self._token = store, config, token
        self.state = LoggedGrid(Grid())
        self.guard = Guard()
        self.retention = Retention(store, config)
        self.following = False
        self._written = Written()
        self._unfinished = False
        self._lost_in_a_row = 0
        self._gone: set[tuple[str, str]] = set()
        self._extents: dict[str, Extent] = {}

    @property
    def input_streams(self) -> list[str]:
        """In the order of taking: a node's results before the health entry that counts on them."""
        nodes, clients = sorted(self.config.nodes), self.config.clients.names
        return [
            *(f"results:{name}" for name in nodes),
            *(f"health:{name}" for name in nodes),
            *(f"requests:{name}" for name in clients),
        ]

    async def start(self) -> None:
        """Fold to the head, take the configuration's policy, then all health and results that wait:
        nobody routes on yesterday's temperature. Raises ConfigError, LogError."""
        await self.recover()
        if not self._extents:  # what is deleted under a running router is read anew
            await check_cursors(self.store, self.guard, self.config.prefix)
        await self.propose_policy()
        waiting = [name for name in self.input_streams if not name.startswith("requests:")]
        while await self.cycle(block_ms=0, streams=waiting, deciding=False):
            pass

    async def recover(self) -> bool:
        """The grid as the log has it; no if the log does not hold what this router had committed. LogError
        when log or guard was deleted. The guard is read after the grid: whatever was committed in between
        makes the next commit conflict, unless it only passed tokens on. What the guard counts as taken is
        in the grid all the same: trimming below cursors must know what is open."""
        before = self._written
        self.state = await load(self.store)
        await self.read_guard()
        self.state = await catch_up(self.store, self.state)
        number = self.state.grid.number
        await check_guard(self.store, self.guard, number, before.number, self.config.prefix)
        self._written = Written(self.guard.number, self.state.grid.position, self.state.digest)
        holds = await still_holds(self.store, self.state, before.position, before.digest)
        if holds and self.guard.number >= before.number:
            return True
        log.warning("the server lost its tail: %s", lost(before, self._written, holds, self.config.prefix))
        self.retention.begin_anew()
        self._gone.clear()
        self._extents.clear()
        return False

    async def read_guard(self) -> None:
        """The guard as the server has it. After a lost tail ids go on above those that were given out: no
        other server's clock brings an attempt's fence back, or a reply below what a client has read."""
        guard = await self.store.guard()
        out_id = max(self.guard.out_id, guard.out_id, key=work_order)
        self.guard = structs.replace(guard, out_id=out_id)

    async def fold_again(self) -> None:
        """Forget what was not committed; after a lost tail, begin as at the start."""
        if not await self.recover():
            await self.start()

    async def propose_policy(self) -> None:
        """Put the file's rules into the log if their revision is higher; refuse the same revision with
        other content (ConfigError); keep the log's if it is lower."""
        config = self.config
        proposed = config.policy_id()
        while config.revision > self.state.grid.revision:
            server_ms, _ = await self.store.read({"log": "0-0"}, 1, 0)
            draft = Draft(self.state, self.guard, server_ms)
            draft.begin(decided=False)
            models = config.model_rules()
            rules = (config.policy, config.rules(), models)
            draft.stage(ev.PolicyChanged(config.revision, proposed, *rules, decider=DECIDER))
            draft.mark_inputs()
            await self.commit(draft)
        grid = self.state.grid
        if config.revision < grid.revision:
            log.warning(
                "the log has revision %d, streams.toml only %d: the log's rules hold",
                grid.revision,
                config.revision,
            )
        elif proposed != grid.policy_id:
            raise ConfigError(
                f"revision: {config.revision} is in the log with other rules ({grid.policy_id}; the "
                f"file has {proposed}): set revision = {grid.revision + 1} to put these into force"
            )

    async def cycle(self, block_ms: int, streams: list[str] | None = None, deciding: bool = True) -> bool:
        """Read what waits, fold, decide, commit once. Whether anything was committed."""
        limits, policy = self.config.limits, self.state.grid.policy
        cursors = {name: self.guard.cursors.get(name, "0-0") for name in streams or self.input_streams}
        more = deciding and self._unfinished and bool(decide(self.state.grid, policy))
        server_ms, found = await self.store.read(cursors, limits.batch_entries, 0 if more else block_ms)
        if self.stood_still(block_ms) and deciding:
            await self.start()  # what was read may be long over
            return True
        noted: list[ev.AnyEvent] = [*self.lost_bodies(), *self.retention.due()]
        tick = deciding and self.tick_is_due(server_ms)  # tokens alone must not stop the clock
        eventful = more or tick or bool(noted) or any(not is_token(raw) for raw in found)
        if not (found or eventful):
            return False
        draft = Draft(self.state, self.guard, server_ms, drained(cursors, found, limits.batch_entries))
        if eventful:
            draft.begin(deciding)
        for event in noted:
            draft.stage(event)
        for raw in found:
            if draft.bytes > policy.max_bytes or draft.count > MAX_COMMIT_EVENTS:
                break  # the rest is read again
            age_max_ms = policy.max_step_ms if deciding else None
            draft.take(raw, limits.entry_max_bytes, age_max_ms, limits.answer_max_bytes)
        draft.mark_inputs()
        if deciding and eventful:
            answers = decide(self.state.grid, self.state.grid.policy)
            self._unfinished = bool(answers)
            for answer in answers:
                draft.stage(answer)
        return await self.commit(draft)

    def stood_still(self, block_ms: int) -> bool:
        """Whether this process, not the server's clock, slept since it last read."""
        before_s, self._read_s = self._read_s, self._clock()
        return (self._read_s - before_s) * 1000 - block_ms > self.state.grid.policy.stale_ms

    def tick_is_due(self, server_ms: int) -> bool:
        """While anything is timed, the clock itself is worth a commit."""
        grid = self.state.grid
        passed_ms = server_ms - grid.server_ms
        return is_timed(grid) and not 0 <= passed_ms < grid.policy.max_step_ms // 2

    def lost_bodies(self) -> list[ev.BodyLost]:
        """Open requests whose entries the last commit did not find."""
        rows = self.state.grid.open.items() if self._gone else ()
        return [
            ev.BodyLost(key)
            for key, request in rows
            if not request.body_lost
            and (f"requests:{key.partition('/')[0]}", request.entry_id) in self._gone
        ]

    async def make_groups(self) -> None:
        """See that every agent can read its work. Where its stream or group was deleted, nothing old is
        handed out a second time: what it had not read yet, its health will not list, and that is tried
        again as a new attempt."""
        for name in self.config.nodes:
            node = self.state.grid.nodes.get(name)
            if not await self.store.make_group(f"work:{name}", self.guard.out_id) or node is None:
                continue
            read = work_order(node.work_read)
            if read != (0, 0):
                unread = sum(work_order(work_id) > read for work_id in node.holdings)
                log.error("%s", lost_group(f"{self.config.prefix}work:{name}", unread))

    async def look_for_losses(self) -> None:
        """Say which streams were deleted since the last look, and read what is there now from its
        beginning: by a clock that was put back it could stand below the cursor."""
        replies = [f"replies:{name}" for name in self.config.clients.names]
        before = self._extents
        self._extents = await self.store.extents([*self.input_streams, *replies])
        lost = [name for name, now in self._extents.items() if was_deleted(before.get(name, now), now)]
        draft = Draft(self.state, self.guard, self.state.grid.server_ms)
        for name in lost:
            cursor = self.guard.cursors.get(name, "")
            log.error("%s", lost_stream(self.config.prefix, name, before[name].top, cursor))
            if work_order(cursor) > work_order(self._extents[name].top):
                draft.begin_again(name)
        if draft.moves:
            await self.commit(draft)

    async def commit(self, draft: Draft) -> bool:
        """Write it, or forget it: after a refusal or an unknown outcome the log says what holds."""
        commit, guard = draft.finish(self._token())
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
            self._written = Written(guard.number, self.state.grid.position, self.state.digest)
            self._lost_in_a_row = 0
            self._gone.clear()
        return True

    async def note_cut(self, stream: str) -> None:
        """A client cut its stream: note all its lost bodies at once, not one reload each."""
        oldest = work_order(next(iter(await self.store.oldest_ids(stream, 1)), ""))
        for key, request in self.state.grid.open.items():
            lost = oldest == (0, 0) or work_order(request.entry_id) < oldest
            if lost and stream == f"requests:{key.partition('/')[0]}":
                self._gone.add((stream, request.entry_id))

    async def follow(self, block_ms: int) -> None:
        """Fold what the leader writes; lead again when inputs wait and its commits stand still."""
        number = self.guard.number
        _, inputs = await self.store.read(
            {name: self.guard.cursors.get(name, "0-0") for name in self.input_streams}, 1, 0
        )
        _, news = await self.store.read({"log": f"{self.state.grid.position}-0"}, 1, block_ms)
        last = await self.store.last_position()
        try:
            if last < self.state.grid.position:
                raise LogError(f"the log ends at {last}")
            await extend(self.store, self.state, last)
        except LogError:  # it was trimmed beyond what this router knows, or lost its tail
            await self.fold_again()
            return
        await self.read_guard()
        self._written = Written(self.guard.number, self.state.grid.position, self.state.digest)
        if inputs and not news and self.guard.number == number:
            log.info("the leader stands still at number %d: taking over", number)
            self.following = False
            self._lost_in_a_row = 0
            await self.start()


def drained(streams: Iterable[str], found: Sequence[Raw], limit: int) -> frozenset[str]:
    """Streams of which a read found all there was. Its answer is of one moment, for all of them."""
    counts = Counter(raw.stream for raw in found)
    return frozenset(name for name in streams if counts[name] < limit)


def lost(before: Written, now: Written, holds: bool, prefix: str) -> str:
    """What a server lost, by name."""
    had = f"this router had committed {before.position} (commit {before.number})"
    if holds or now.position < before.position:
        return f"{prefix}log ends at {now.position} (commit {now.number}), {had}"
    return f"{prefix}log was written anew by others, up to {now.position} (commit {now.number}); {had}"
