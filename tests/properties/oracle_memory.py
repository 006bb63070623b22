"""The oracle of memory: what is taken or promised on a node, and what goes for a load, worked out anew.

It shares no code with decider/memory.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orion_streams.model.policy import ModelRules, Policy
from orion_streams.model.state import Assignment, Grid, Node, Request, Resident


@dataclass
class Queue:
    """What waits beside the request: by node the ms of warm and of cold work, and what will be loaded."""

    warm_ms: dict[str, int] = field(default_factory=dict)
    cold_ms: dict[str, int] = field(default_factory=dict)
    coming: dict[str, tuple[str, ...]] = field(default_factory=dict)
    models: tuple[str, ...] = ()


@dataclass
class Row:
    """A model that takes memory on a node, or is about to."""

    model: str
    size_mb: int
    young_ms: int
    used_ms: int
    is_busy: bool
    is_needed: bool


class Memory:
    """One question: this request on this node."""

    def __init__(self, grid: Grid, node: Node, request: Request, queue: Queue) -> None:
        self.grid, self.node, self.request, self.queue = grid, node, request, queue
        self.policy: Policy = grid.policy
        self.name = node.rules.name
        self.num_ctx = request.num_ctx or 4_096

    def footprint_mb(self) -> int:
        """What a runner of the request takes here."""
        on_disk, slots = self.node.installed[self.request.model], self.node.rules.slots
        learned = self.grid.footprints.get((on_disk.digest, self.num_ctx, slots))
        if learned is not None:
            return learned
        return on_disk.size_mb + on_disk.size_mb * self.num_ctx * slots // 50_000 + 204

    def capacity_mb(self) -> int:
        """88 % of the memory, without what the system needs."""
        return self.node.ram_total_mb * 880 // 1000 - 500

    def is_there(self) -> bool:
        """Whether a runner in memory, under whatever name of its weights, shows that it fits."""
        on_disk = self.node.installed.get(self.request.model)
        return on_disk is not None and any(
            row.digest == on_disk.digest and self.serves(model) for model, row in self.node.resident.items()
        )

    def serves(self, model: str) -> bool:
        """Whether this runner has the request's options, as far as anybody knows."""
        return self.fits(self.node.resident[model], self.num_ctx, self.request.runner)

    def fits(self, row: Resident, num_ctx: int, runner: str) -> bool:
        """Whether a runner takes a run with these options: with as much context, or more. Of one that
        another program has loaded only the context is known, if that."""
        if row.num_ctx == num_ctx:
            return row.runner == runner
        if num_ctx == 0 or (row.num_ctx == 0 and row.context_length == 0):
            return True
        if row.num_ctx == 0:
            return row.context_length >= num_ctx
        return row.runner == runner and row.num_ctx > num_ctx

    def is_going(self, model: str) -> bool:
        """Whether the model was told to go, within the last 30 seconds."""
        ordered_ms = self.node.unload_ordered_ms.get(model)
        return ordered_ms is not None and self.grid.at_ms <= ordered_ms + 30_000

    def is_loaded_by(self, held: Assignment) -> bool:
        """Whether the load that this attempt brings has yet to be seen: it is not the runner that stands
        there, or that one was told to go before."""
        row = self.node.resident.get(held.model)
        if not held.reserve_mb or row is None or self.is_going(held.model):
            return held.reserve_mb > 0
        return not self.fits(row, held.num_ctx, held.runner)

    def others_mb(self) -> int:
        """What all but the request's own model will take once everything that was ordered is done."""
        node, own = self.node, self.request.model
        shown_mb = sum(row.size_mb for row in node.resident.values() if not row.pending_mb)
        total_mb = max(node.ram_used_mb, 500 + shown_mb) - shown_mb
        for model in sorted({*node.resident, *(held.model for held in node.assignments.values())}):
            row = node.resident.get(model)
            loads = [h for h in node.assignments.values() if h.model == model and self.is_loaded_by(h)]
            if loads:
                total_mb += sum(held.reserve_mb for held in loads)
            elif row is not None and model != own and not self.is_going(model):
                total_mb += row.pending_mb or row.size_mb
        return total_mb

    def rows(self) -> list[Row]:
        """Models that may go, in the order of going."""
        node = self.node
        found: dict[str, Row] = {}
        busy = {
            name for held in node.assignments.values() for name in (held.model, self.digest(held.model))
        }
        for held in node.assignments.values():
            found[held.model] = Row(held.model, 0, self.policy.min_stay_ms, 0, True, False)
        for model, row in node.resident.items():
            young_ms = max(row.since_ms + 30_000 - self.grid.at_ms, 0) if row.since_ms else 0
            found[model] = Row(
                model,
                row.pending_mb or row.size_mb,
                young_ms,
                0,
                model in busy or row.digest in busy,
                False,
            )
        for each in found.values():
            loads = [h for h in node.assignments.values() if h.model == each.model and self.is_loaded_by(h)]
            each.size_mb = sum(held.reserve_mb for held in loads) or each.size_mb
            each.used_ms = node.used_ms.get(each.model, 0)
            each.is_needed = each.model in self.queue.models
        return sorted(
            (row for row in found.values() if self.may_go(row.model)),
            key=lambda row: (row.is_busy, row.young_ms > 0, row.is_needed, row.used_ms, row.model),
        )

    def may_go(self, model: str) -> bool:
        """Not itself, nothing that is pinned here, nothing that goes anyway."""
        pinned_on = self.grid.models.get(model, ModelRules()).resident_on
        return model != self.request.model and self.name not in pinned_on and not self.is_going(model)

    def crowd(self) -> int:
        """How many models have to go by their number alone: a machine has three places."""
        there = {name for name in self.node.resident if not self.is_going(name)}
        there |= {held.model for held in self.node.assignments.values()}
        others = {self.digest(name) for name in there} - {self.digest(self.request.model)}
        return len(others) - 2

    def room(self) -> tuple[int, int, list[Row]]:
        """How many MB and places are missing whatever goes, and what goes."""
        crowd, missing_mb = (
            self.crowd(),
            self.others_mb() + self.footprint_mb() - self.node.ram_total_mb * 880 // 1000,
        )
        going: list[Row] = []
        for row in self.rows():
            if sum(each.size_mb for each in going) < missing_mb or len(going) < crowd:
                going.append(row)
        for row in list(going):
            if sum(each.size_mb for each in going) - row.size_mb >= missing_mb and len(going) > crowd:
                going.remove(row)
        left_mb = max(missing_mb - sum(each.size_mb for each in going), 0)
        return left_mb, max(crowd - len(going), 0), going

    def digest(self, model: str) -> str:
        """What a name stands for."""
        return self.node.installed[model].digest if model in self.node.installed else model

    def same_weights(self, model: str) -> bool:
        """Whether another name stands for the request's model on this node."""
        mine, other = self.node.installed.get(self.request.model), self.node.installed.get(model)
        return model == self.request.model or (
            mine is not None and other is not None and mine.digest == other.digest
        )
