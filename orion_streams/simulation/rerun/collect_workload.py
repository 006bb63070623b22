"""Collect the workload and the machines of a log. Pure; nothing is decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.state import Grid, Installed, Load, Node
from orion_streams.projections import apply
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.rule_changes import rules_of
from orion_streams.simulation.node_physics import LOADING_HEAT, NEVER
from orion_streams.simulation.rerun.recorded_heat import Point
from orion_streams.simulation.simulation_results import percentiles
from orion_streams.simulation.virtual_house import Loss

POINT_MS = 5_000
"""Time between the temperatures that a curve is fitted to."""
CLOCK_S = 60
"""A change of local time that is smaller is none."""
BREAK_MS = 30_000
"""After so long without a sample a new series of temperatures begins."""


class Figures(Struct, frozen=True, kw_only=True):
    """The outcome of a workload. `p50_ms`, `p95_ms`, `max_ms`: times to the answer; `hot_ms`: time above
    `mark_mc`, summed over the nodes; `cold_loads`: loads that were ordered or part of a run."""

    answered: int
    p50_ms: int
    p95_ms: int
    max_ms: int
    cold_loads: int
    hot_ms: int
    mark_mc: int
    expired: int
    failed: int
    cancelled: int
    by_node: dict[str, int]


class RecordedRequest(Struct):
    """One accepted request. `tokens` of its answer and `read_tokens` of its prompt, as its node counted
    them; `cancel_ms`: time from its arrival to its cancel, if there was one."""

    at_ms: int
    event: ev.RequestAccepted
    tokens: int | None = None
    read_tokens: int = 0
    cancel_ms: int = 0


class RecordedNode(Struct):
    """One node. `least`: the fewest MB that models took, and the memory in use then; `points`: its
    temperatures; `losses`: when it was silent."""

    ram_total_mb: int = 0
    least: tuple[int, int] = (NEVER, 0)
    temp_mc: int | None = None
    points: list[Point] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    heard_ms: int = -1
    boot: str = ""
    sampled_ms: int = 0
    load_ms: float = 0.0
    since_point_ms: int = 0

    @property
    def base_mb(self) -> int:
        """Return the memory in use without models. Memory-mapped weights may hide a part of theirs."""
        resident_mb, used_mb = self.least
        return max(used_mb - resident_mb, 0)


class RecordedWorkload:
    """The workload of a log from `base` on. Times are ms of grid time since then, which no jump of the
    server's clock moves. Requests that were open at the beginning are left out."""

    def __init__(self, base: LoggedGrid) -> None:
        self.grid = base.grid.copy()
        self.began_ms, self.now = base.grid.at_ms, 0
        self.taught = taught(base.grid)
        self.rules = [(0, rules_of(base.grid))] if base.grid.revision else []
        self.rests = rests_of(base.grid)
        self._ahead_s: int | None = None
        self.asked: list[RecordedRequest] = []
        self.nodes: dict[str, RecordedNode] = {}
        self.installed: dict[str, dict[str, Installed]] = {
            name: dict(node.installed) for name, node in base.grid.nodes.items()
        }
        self.resident: dict[str, tuple[str, ...]] | None = None
        self.warm_ms: dict[str, list[int]] = {}
        self._open: dict[str, RecordedRequest] = {}
        self._latencies_ms: list[int] = []
        self._ended: Counter[str] = Counter()
        self._by_node: Counter[str] = Counter()
        self._cold_loads = self._hot_ms = 0

    def take(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Take the next rows of the log, without verifying them."""
        for _, raw in rows:
            event = event_codec.decode(raw)
            if isinstance(event, ev.Committed):
                apply(self.grid, event)
                self.now = self.grid.at_ms - self.began_ms
                self._look_at_clock()
            else:
                self._note(event)
                apply(self.grid, event)

    def figures(self) -> Figures:
        """Return the recorded outcome."""
        return Figures(
            answered=len(self._latencies_ms),
            **percentiles(self._latencies_ms),
            cold_loads=self._cold_loads,
            hot_ms=self._hot_ms,
            mark_mc=self.grid.policy.temp_max_mc,
            expired=self._ended["expired"],
            failed=self._ended["failed"],
            cancelled=self._ended["cancelled"],
            by_node=dict(sorted(self._by_node.items())),
        )

    def losses(self) -> tuple[Loss, ...]:
        """Return when nodes were silent; those that are at the end stay so."""
        stale_ms, found = self.grid.policy.stale_ms, []
        for name, machine in sorted(self.nodes.items()):
            found += machine.losses
            if self.now - machine.heard_ms > stale_ms:
                found.append(Loss(name, machine.heard_ms, NEVER))
        return tuple(found)

    # one event

    def _note(self, event: ev.AnyEvent) -> None:
        """Record what an event shows, before it is folded."""
        match event:
            case ev.NodeSampled():
                self._sampled(event)
            case ev.PolicyChanged():
                self.rules.append((self.now, event))
            case ev.NodeDrained() | ev.NodeResumed() if event.by:  # what ended by itself does so again
                self.rests.append((self.now, event))
            case ev.ModelInstalled(node, model, digest, size_mb):
                self.installed.setdefault(node, {})[model] = Installed(digest, size_mb)
            case ev.RequestAccepted():
                self._accepted(event)
            case ev.RequestCompleted():
                self._completed(event)
            case ev.RequestExpired():
                self._end(event.request, "expired")
            case ev.RequestFailed():
                self._end(event.request, "failed")
            case ev.RequestCancelled():
                found = self._end(event.request, "cancelled")
                if found is not None:
                    found.cancel_ms = max(self.now - found.at_ms, 1)
            case ev.LoadEnded(ok=True):
                self._cold_loads += 1
            case _:
                pass

    def _look_at_clock(self) -> None:
        """Record how far local time is ahead of grid time, which the simulator's clock shows."""
        ahead_s = (self.grid.server_ms - self.now) // 1_000 + self.grid.zone_s
        if self._ahead_s is None or abs(ahead_s - self._ahead_s) >= CLOCK_S:
            self._ahead_s = ahead_s
            self.rests.append((self.now, ev.ZoneChanged(ahead_s)))

    def _accepted(self, event: ev.RequestAccepted) -> None:
        if self.resident is None:
            self.resident = {name: tuple(node.resident) for name, node in self.grid.nodes.items()}
        found = RecordedRequest(max(self.now - event.age_ms, 0), event)
        self.asked.append(found)
        self._open[event.request] = found

    def _end(self, request: str, how: str) -> RecordedRequest | None:
        found = self._open.pop(request, None)
        if found is not None:
            self._ended[how] += 1
        return found

    def _completed(self, event: ev.RequestCompleted) -> None:
        found = self._end(event.request, "done")
        if found is None:
            return
        found.tokens, found.read_tokens = event.tokens, event.prompt_tokens
        self._latencies_ms.append(self.now - found.at_ms)
        self._by_node[event.node] += 1
        self._cold_loads += event.cold
        if not event.cold:
            self.warm_ms.setdefault(found.event.model, []).append(event.load_ms)

    def _sampled(self, event: ev.NodeSampled) -> None:
        node = self.grid.nodes.get(event.node)
        if node is None:
            return
        machine = self.nodes.setdefault(event.node, RecordedNode())
        heard_ms = max(self.now - event.age_ms, 0)
        away_ms = heard_ms - max(machine.heard_ms, 0)
        if away_ms > self.grid.policy.stale_ms:
            machine.losses.append(Loss(event.node, max(machine.heard_ms, 0), heard_ms))
        elif node.rules.takes_inference and (event.temp_mc or 0) > self.grid.policy.temp_max_mc:
            self._hot_ms += away_ms
        machine.heard_ms = max(heard_ms, machine.heard_ms)
        machine.ram_total_mb = event.ram_total_mb or machine.ram_total_mb
        resident_mb = sum(row.size_mb for row in node.resident.values())
        machine.least = min(machine.least, (resident_mb, event.ram_used_mb))
        if event.temp_mc is not None:
            self._warmed(machine, event, event.temp_mc, load_of(node, self.grid.at_ms))

    def _warmed(self, machine: RecordedNode, event: ev.NodeSampled, temp_mc: int, load: float) -> None:
        """Add a temperature every POINT_MS, with the mean load since the last one."""
        passed_ms = event.sampled_ms - machine.sampled_ms
        if event.boot != machine.boot or not 0 < passed_ms <= BREAK_MS:
            machine.points.append(Point(self.now, 0, temp_mc, load))
            machine.load_ms, machine.since_point_ms = 0.0, 0
        else:
            machine.load_ms += load * passed_ms
            machine.since_point_ms += passed_ms
            if machine.since_point_ms >= POINT_MS:
                mean = machine.load_ms / machine.since_point_ms
                machine.points.append(Point(self.now, machine.since_point_ms, temp_mc, mean))
                machine.load_ms, machine.since_point_ms = 0.0, 0
        if machine.temp_mc is None:
            machine.temp_mc = temp_mc
        machine.boot, machine.sampled_ms = event.boot, event.sampled_ms


def load_of(node: Node, at_ms: int) -> float:
    """Return a node's load (0 to 1) by its assignments: a run computes, unless its model is loading."""
    load = 0.0
    for held in node.assignments.values():
        if isinstance(held, Load) or held.started:
            loads = isinstance(held, Load) or at_ms - held.since_ms < held.load_ms
            load = max(load, LOADING_HEAT if loads else 1.0)
    return load


def rests_of(grid: Grid) -> list[tuple[int, ev.AnyEvent]]:
    """Return the drains that hold at the beginning, for as long as they still last."""
    found: list[tuple[int, ev.AnyEvent]] = []
    for name, node in grid.nodes.items():
        if (rest := node.rest) is not None:
            left_ms = max(rest.since_ms + rest.for_ms - grid.at_ms, 1) if rest.for_ms else 0
            found.append((0, ev.NodeDrained(name, rest.by, left_ms, rest.drain_ms)))
    return found


def taught(grid: Grid) -> Grid:
    """Return a grid with only what this one has learned, its clock at 0."""
    demand = {model: replace(row, at_ms=row.at_ms - grid.at_ms) for model, row in grid.demand.items()}
    return Grid(
        speeds=dict(grid.speeds),
        answers=dict(grid.answers),
        footprints=dict(grid.footprints),
        demand=demand,
    )
