"""The moments at which something went wrong, as a fold of the log's events alone. Pure.

It needs no table, so that a whole log can be read for them; they are bounded, and what is dropped first is
what came again soonest.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from orion_streams.gateway.page_rows import Tick
from orion_streams.gateway.page_words import above, passed, short
from orion_streams.model import events as ev
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid, client_of
from orion_streams.model.text import seconds, why_abandoned, why_failed
from orion_streams.model.vocabulary import AbandonReason, Blame, Code
from orion_streams.protocol.public_row import SILENT_MS

MOST_TICKS = 500
AGAIN_MS = 5_000
"""The same on the same node is no tick again so soon."""
SILENT, LEFT, GAP, BREAKER, FAILED, ENDED, LOAD = (
    "silent", "left", "gap", "breaker", "failed", "ended", "load",
)  # fmt: skip
LASTING = ("hot", "ram", SILENT, LEFT, BREAKER)
"""Kinds that last until something happens; `hot` and `ram` are the marks' own names."""


class Ticks:
    """Folds events, one by one in their order, into ticks. `open`: those that last, by node and kind."""

    def __init__(self, most: int = MOST_TICKS) -> None:
        self.open: dict[tuple[str, str], Tick] = {}
        self._found: dict[tuple[int, str, str], Tick] = {}
        self._most, self._ms = most, 0
        self._heard_ms: dict[str, int] = {}
        self._stale_ms = Policy().stale_ms

    @property
    def ticks(self) -> list[Tick]:
        """All ticks, at most as many as may be, by position."""
        return thinned(self._found.values(), self._most)

    def begin(self, grid: Grid) -> None:
        """Go on from a table: nothing is known of what was before."""
        self._stale_ms, self._ms = grid.policy.stale_ms, grid.server_ms
        self._heard_ms = {name: grid.server_ms for name, node in grid.nodes.items() if not node.left}
        self.open = {key: tick for key, tick in self.open.items() if still_lasts(grid, *key)}

    def add(self, grid: Grid, ticks: Iterable[Tick]) -> None:
        """Take ticks that were found elsewhere, of the same log up to this grid."""
        for tick in ticks:
            known = self._found.get(key_of(tick))
            if known is None or not known.until_ms:
                self._found[key_of(tick)] = tick
                if tick.kind in LASTING and not tick.until_ms and still_lasts(grid, tick.node, tick.kind):
                    self.open.setdefault((tick.node, tick.kind), tick)
        self._bound()

    def forget_after(self, position: int) -> None:
        """Forget what stands above a position: that part of the log was lost."""
        self._found = {key: tick for key, tick in self._found.items() if tick.position <= position}
        self.open = {key: tick for key, tick in self.open.items() if tick.position <= position}

    def take(self, position: int, event: ev.AnyEvent) -> None:
        """Fold one event."""
        match event:
            case ev.Committed():
                self._moved(position, event.server_ms)
            case ev.PolicyChanged():
                self._stale_ms = event.policy.stale_ms
                names = {rules.name for rules in event.nodes}
                self._heard_ms = {name: ms for name, ms in self._heard_ms.items() if name in names}
            case ev.NodeSampled():
                self._sampled(position, event)
            case ev.NodeBackedOff():
                text = f"{short(event.node)}: {above(event.reason, event.value, event.mark)}"
                self._begin(position, event.reason, event.node, text)
            case ev.NodeReturned():
                self._end(event.node, "hot", "ram")
            case ev.BreakerOpened():
                text = f"{short(event.node)}: breaker open, {event.failures} failed in a row"
                self._begin(position, BREAKER, event.node, text)
            case ev.BreakerClosed():
                self._end(event.node, BREAKER)
            case _:
                self._outcome(position, event)

    def _outcome(self, position: int, event: ev.AnyEvent) -> None:
        """Fold what came of a request, an attempt or a load."""
        match event:
            case ev.AttemptFailed() if event.blame != Blame.REQUEST and event.code not in NO_TICK:
                self._once(
                    position, FAILED, event.node, f"{short(event.node)} failed: {why_failed(event.code)}"
                )
            case ev.AttemptAbandoned() if event.reason not in (AbandonReason.LEFT, AbandonReason.DRAINED):
                why = why_abandoned(event.reason)
                self._once(position, FAILED, event.node, f"{short(event.node)} lost an attempt: {why}")
            case ev.RequestFailed():
                text = (
                    f"a request of {client_of(event.request)} ended as an error: {why_failed(event.code)}"
                )
                self._once(position, ENDED, "", text)
            case ev.RequestExpired():
                self._once(position, ENDED, "", f"a request of {client_of(event.request)} expired")
            case ev.LoadEnded(ok=False):
                self._once(position, LOAD, event.node, f"{short(event.node)} could not load {event.model}")
            case _:
                pass

    def _moved(self, position: int, server_ms: int) -> None:
        """Note a commit: nothing was written before it, or nodes say nothing meanwhile."""
        passed_ms = server_ms - self._ms if self._ms else 0
        self._ms = max(server_ms, self._ms)
        if passed_ms > SILENT_MS:
            self._once(position, GAP, "", f"nothing was written for {passed(passed_ms)}")
            self._heard_ms = dict.fromkeys(self._heard_ms, self._ms)
        for node, heard_ms in self._heard_ms.items():
            if self._ms - heard_ms > self._stale_ms:
                what = f"{short(node)} was not heard for {seconds(self._stale_ms)}"
                self._begin(position, SILENT, node, what)

    def _sampled(self, position: int, event: ev.NodeSampled) -> None:
        if event.goodbye:
            self._heard_ms.pop(event.node, None)
            self._begin(position, LEFT, event.node, f"{short(event.node)} has left")
            return
        self._heard_ms[event.node] = self._ms
        self._end(event.node, SILENT, LEFT)

    def _begin(self, position: int, kind: str, node: str, text: str) -> None:
        """Note that something lasts from here on, unless it does already."""
        if (node, kind) not in self.open:
            self.open[node, kind] = tick = Tick(position, self._ms, kind, node, text)
            self._put(tick)

    def _end(self, node: str, *kinds: str) -> None:
        """Note that something is over."""
        for kind in kinds:
            tick = self.open.pop((node, kind), None)
            if tick is not None:
                self._put(replace(tick, until_ms=max(self._ms, tick.ms + 1)))

    def _once(self, position: int, kind: str, node: str, text: str) -> None:
        """Note something that is over at once, unless the same was noted just now."""
        last = next(reversed(self._found.values()), None)
        if last is None or (last.kind, last.node) != (kind, node) or self._ms - last.ms >= AGAIN_MS:
            self._put(Tick(position, self._ms, kind, node, text))

    def _put(self, tick: Tick) -> None:
        self._found[key_of(tick)] = tick
        self._bound()

    def _bound(self) -> None:
        if len(self._found) > 2 * self._most:
            self._found = {key_of(each): each for each in thinned(self._found.values(), self._most)}


def still_lasts(grid: Grid, node: str, kind: str) -> bool:
    """Whether the table says that something lasts on a node."""
    row = grid.nodes.get(node)
    if row is None:
        return False
    if kind == BREAKER:
        return row.opened_ms is not None
    return row.left if kind == LEFT else kind == SILENT or kind in row.backed_off


NO_TICK = (Code.AGENT_LEAVING, Code.CANCELLED)
"""Ends of attempts that are nobody's failure."""


def key_of(tick: Tick) -> tuple[int, str, str]:
    """Return what tells ticks apart."""
    return tick.position, tick.kind, tick.node


def thinned(ticks: Iterable[Tick], most: int) -> list[Tick]:
    """Return at most so many, by position: what came again soonest on the same node is left out first."""
    rows = sorted(ticks, key=key_of)
    if len(rows) <= most:
        return rows
    last: dict[tuple[str, str], int] = {}
    gaps: list[tuple[int, int]] = []
    for index, tick in enumerate(rows):
        about = (tick.kind, tick.node)
        gaps.append((tick.ms - last.get(about, -(2**62)), index))
        last[about] = tick.ms
    kept = sorted(gaps, key=lambda each: (-each[0], -each[1]))[:most]
    return [rows[index] for index in sorted(index for _, index in kept)]
