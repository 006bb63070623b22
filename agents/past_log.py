"""A log's past: the grid at any position with the minutes before it, its ticks, and a node's day.

A state is folded from the nearest snapshot, or from a state that was folded before and is near: who drags
the time bar asks for neighbours.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from orion_streams.agents.past_messages import Bounds, Question, Scanned
from orion_streams.errors import OrionError
from orion_streams.eventlog.loader import (
    decoded,
    extend,
    fold_each,
    goes_on_from,
    load,
    next_head,
    position_at,
)
from orion_streams.eventlog.port import Log
from orion_streams.gateway.grid_state import moved_on
from orion_streams.gateway.page_day import DAY_MS, MOST_POINTS, STEP_MS, Day, DayPoint
from orion_streams.gateway.page_queue import why
from orion_streams.gateway.page_recent import Known, Recent, Routed
from orion_streams.gateway.page_ticks import Ticks
from orion_streams.gateway.page_view import view
from orion_streams.gateway.timestamps import on_clock
from orion_streams.model import events as ev
from orion_streams.model.marks import ram_permille
from orion_streams.protocol.commit_builder import LoggedGrid

RECENT_EVENTS = 4_000
"""What stands before a moment is told by so many events: ten minutes of three quiet nodes."""
KEPT_STATES = 16
SCAN_EVENTS, CHUNK = 4_000, 1_000
"""Events that one question reads for ticks; entries that are read at once."""
WHY_EVENTS = 20_000
"""So far behind its acceptance it is looked where a request went."""
DAY_EVENTS = 60_000
"""A day of more events is looked at in MOST_POINTS windows."""
WINDOW = 40
LATER_MS = 60_000
"""A time so far beyond the last commit is not in the log."""


class Refused(OrionError):
    """A question that has no answer: `status` 404, and a sentence."""

    status = 404


class Where(Struct, frozen=True):
    """A position, and the moment there: the time that was asked for, or that of its commit (0)."""

    position: int
    ms: int = 0


def trimmed(first: int) -> str:
    """Say why there is nothing before the log's first position; "" if there never was."""
    return ": what was before is trimmed" if first > 1 else ""


class PastLog:
    """Answers questions about one log."""

    def __init__(self, store: Log) -> None:
        self.store = store
        self._states: dict[int, LoggedGrid] = {}
        self._ticks, self._scanned = Ticks(), 0

    async def answer(self, question: Question) -> bytes:
        """Work out one question. Raise Refused, LogError, RedisError."""
        match question.op:
            case "past":
                return await self.past(question)
            case "why":
                return await self.why(question)
            case "day":
                return msgspec.json.encode(await self.day(question))
            case "recent":
                return msgspec.msgpack.encode(
                    (await self.recent(await self.store.last_position()))[1].rows()
                )
            case "scan":
                return msgspec.msgpack.encode(await self.scan())
            case "bounds":
                return msgspec.msgpack.encode(await self.bounds())
            case other:
                raise Refused(f"{other}: no such question")

    # where

    async def where(self, question: Question) -> Where:
        """Return what is meant, within the log. Raise Refused beyond it."""
        first, last = await self.store.first_position(), await self.store.last_position()
        if not last:
            raise Refused("the log is empty: no router has run on this Redis yet")
        if question.position is not None:
            if question.position > last:
                raise Refused(f"the log ends at position {last}")
            if question.position < first:
                raise Refused(f"the log begins at position {first}{trimmed(first)}")
            return Where(question.position)
        if question.ms is None:
            return Where(last)
        found = await position_at(self.store, question.ms)
        if found < first:
            head, _ = await next_head(self.store, first, last)
            begins = on_clock(head.server_ms, question.tz) if head is not None else f"at position {first}"
            raise Refused(f"the log begins {begins}{trimmed(first)}")
        if found == last and (ended_ms := await self.ms_at(last)) + LATER_MS < question.ms:
            raise Refused(f"the log ends {on_clock(ended_ms, question.tz)}")
        return Where(found, question.ms)

    async def ms_at(self, position: int) -> int:
        """Return the server's time of the commit that holds a position; 0 if it cannot be told."""
        first, step = await self.store.first_position(), 64
        while True:
            start = max(position - step, first - 1)
            for at, raw in reversed(await self.store.events(start, position - start)):
                event = decoded(at, raw)
                if isinstance(event, ev.Committed):
                    return event.server_ms
            if start < first:
                return 0
            step *= 4

    async def bounds(self) -> Bounds:
        """Return where the log begins and ends."""
        first, last = await self.store.first_position(), await self.store.last_position()
        if not last:
            return Bounds(0, 0, 0, 0)
        head, _ = await next_head(self.store, first, last)
        return Bounds(first, last, head.server_ms if head is not None else 0, await self.ms_at(last))

    # states

    async def state_at(self, position: int) -> LoggedGrid:
        """Return the state at a position, which the caller owns. Raise LogError."""
        first = await self.store.first_position()
        near = max((each for each in self._states if first - 1 <= each <= position), default=None)
        if near is not None:
            base = self._states[near]
            snapshot = await self.store.snapshot_before(position)
            is_nearer = snapshot is None or snapshot.position <= near
            if is_nearer and await goes_on_from(self.store, near, base.digest.hex()):
                state = copied(base)
                await extend(self.store, state, position)
                return state
        return await load(self.store, position)

    def _keep(self, state: LoggedGrid) -> None:
        """Remember a state, the last KEPT_STATES."""
        self._states.pop(state.grid.position, None)
        self._states[state.grid.position] = copied(state)
        while len(self._states) > KEPT_STATES:
            del self._states[next(iter(self._states))]

    async def recent(self, position: int) -> tuple[LoggedGrid, Recent]:
        """Return the state at a position, and what the events before it tell."""
        first = await self.store.first_position()
        start = max(position - RECENT_EVENTS, first - 1, 0)
        if first and start >= first:  # at the end of a commit, where a state can be checked against the log
            _, head = await next_head(self.store, start, position)
            start = head - 1
        state, recent = await self.state_at(start), Recent()
        self._keep(state)
        recent.begin(state.grid)
        while state.grid.position < position:
            at = state.grid.position
            rows = await self.store.events(at, min(CHUNK, position - at))
            if not rows:
                break
            for _, event in fold_each(state, rows):
                recent.take(state.grid, event)
        return state, recent

    # questions

    async def past(self, question: Question) -> bytes:
        """Return the page as it was, as JSON."""
        where = await self.where(question)
        state, recent = await self.recent(where.position)
        grid = moved_on(state.grid, where.ms)
        shown = view(grid, 0, 0, recent, question.caller, live=False, aliases=question.aliases)
        return msgspec.json.encode(shown)

    async def why(self, question: Question) -> bytes:
        """Return why a request goes where it goes, or went, as JSON."""
        where = await self.where(question)
        state = await self.state_at(where.position)
        found = why(
            state.grid,
            await self._routed(question.number, where.position),
            question.number,
            question.caller,
        )
        if found is None:
            raise Refused(f"nothing is known of a request that was accepted at position {question.number}")
        return msgspec.json.encode(found)

    async def _routed(self, number: int, until: int) -> Recent:
        """Return where a request that was accepted at a position went last, up to another position."""
        found, known, key = Recent(), None, ""
        at, end = number - 1, min(until, number + WHY_EVENTS)
        if number < await self.store.first_position():
            return found
        while at < end and (rows := await self.store.events(at, min(CHUNK, end - at))):
            for position, raw in rows:
                event = decoded(position, raw)
                if known is None:
                    if not isinstance(event, ev.RequestAccepted):
                        return found
                    known, key = Known(event.model, number), event.request
                elif isinstance(event, ev.RequestRouted) and event.request == key:
                    found.routed[number] = Routed(key, known.model, event)
            at = rows[-1][0]
        return found

    async def scan(self) -> Scanned:
        """Read on in the log for its ticks."""
        first, last = await self.store.first_position(), await self.store.last_position()
        if last < self._scanned:  # it lost its tail, or is another one
            self._ticks, self._scanned = Ticks(), 0
        at = max(self._scanned, first - 1)
        end = min(at + SCAN_EVENTS, last)
        while at < end and (rows := await self.store.events(at, min(CHUNK, end - at))):
            for position, raw in rows:
                self._ticks.take(position, decoded(position, raw))
            at = rows[-1][0]
        self._scanned = at
        return Scanned(self._ticks.ticks, at >= last)

    async def day(self, question: Question) -> Day:
        """Return a node's day up to the moment, without its ticks."""
        where = await self.where(question)
        to_ms = where.ms or await self.ms_at(where.position)
        first = await self.store.first_position()
        start = max(await position_at(self.store, to_ms - DAY_MS), first - 1)
        points: dict[int, DayPoint] = {}
        from_ms = 0
        for begin, count in windows(start, where.position):
            now_ms = 0
            at, end = begin, begin + count
            while at < end and (rows := await self.store.events(at, min(CHUNK, end - at))):
                for position, raw in rows:
                    event = decoded(position, raw)
                    if isinstance(event, ev.Committed):
                        now_ms = event.server_ms
                        from_ms = from_ms or now_ms
                    elif isinstance(event, ev.NodeSampled) and event.node == question.node and now_ms:
                        point = (now_ms, event.temp_mc, ram_permille(event), event.cpu_permille)
                        points.setdefault(now_ms // STEP_MS, point)
                at = rows[-1][0]
        if not points and question.node not in (await self.state_at(where.position)).grid.nodes:
            raise Refused(f"{question.node}: no such node in the log then")
        shown = sorted(points.values())[-MOST_POINTS:]
        return Day(question.node, max(from_ms, to_ms - DAY_MS), to_ms, shown)


def copied(state: LoggedGrid) -> LoggedGrid:
    """Return a state that its owner may fold into."""
    return LoggedGrid(state.grid.copy(), state.digest, state.confirmed)


def windows(start: int, end: int) -> list[tuple[int, int]]:
    """Return which parts of the log between two positions are read for a day: all of it, or windows."""
    whole = end - start
    if whole <= DAY_EVENTS:
        return [(start, whole)]
    return [(start + whole * n // MOST_POINTS, WINDOW) for n in range(MOST_POINTS)]
