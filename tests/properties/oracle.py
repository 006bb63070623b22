"""A deliberately dumb router: no shortcut, no hot path, everything worked out anew for each question.

It shares no code with the decider; what the two must agree on is written down here a second time, in the
words of the policy and of streams.toml.
"""

from __future__ import annotations

from msgspec.structs import replace

from orion_streams.model.policy import ModelRules
from orion_streams.model.state import Assignment, Grid, Installed, Node, Request, Run
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Filter, RequestKind
from tests.properties.oracle_memory import Memory, Queue, Row

OF_THE_REQUEST = frozenset(("not_installed", "tier", "too_large", "paused"))
"""Filters that say something of the request, not of the node."""


NO_PAUSE = (
    "ollama_unreachable",
    "agent_leaving",
    "left",
    "cancelled",
    "gone",
    "silent",
    "overdue",
    "hot",
    "ram",
    "critical",
    "removed",
    "drained",
)
MOVED = ("agent_leaving", "left", "drained")


class Oracle(Memory):
    """One question: this request on this node."""

    def verdict(self) -> Verdict:
        """The first filter, or the cost."""
        for reason, value, limit, is_true in self.filters():
            if is_true:
                return Verdict(node=self.name, filter=Filter(reason), value=value, limit=limit)
        return self.cost()

    def filters(self) -> list[tuple[str, int, int, bool]]:
        """Every filter in order: its name, what is measured, the limit, and whether it is true."""
        node, policy, now_ms = self.node, self.policy, self.grid.at_ms
        age_ms = now_ms - node.heard_ms if node.heard_ms is not None else 0
        installed = self.request.model in node.installed
        if node.disk is not None and node.disk.op == "remove" and node.disk.model == self.request.model:
            installed = False
        tier = self.request.tier
        need_mb = self.footprint_mb() if installed else 0
        seen_ms = now_ms - (node.opened_ms or 0)
        temp_mc, total_mb = node.temp_mc or 0, node.ram_total_mb
        was_hot, was_full = "hot" in node.backed_off, "ram" in node.backed_off
        permille = (node.ram_used_mb * 1000 + total_mb - 1) // total_mb if total_mb else 0
        is_full = node.ram_used_mb * 10 > total_mb * 9
        rest, is_heard = (
            node.rest,
            node.heard_ms is not None and age_ms <= policy.stale_ms and not node.left,
        )
        rested_ms, rest_ms = (now_ms - rest.since_ms, rest.for_ms) if rest is not None else (0, 0)
        still_limit_ms = 600_000 if temp_mc % 1_000 else 3_600_000
        is_still = node.still_ms >= still_limit_ms
        return [
            ("role", 0, 0, not node.rules.inference or self.name == "orion-edge"),
            ("drained", rested_ms, rest_ms, rest is not None and not is_heard),
            ("silent", 0, 0, node.heard_ms is None),
            ("left", 0, 0, node.left),
            ("stale", age_ms, policy.stale_ms, age_ms > policy.stale_ms),
            ("inventory_unknown", 0, 0, not node.inventory_known),
            ("not_installed", 0, 0, not installed),
            ("tier", tier, 0, tier in policy.spill_forbidden and tier not in node.rules.tiers),
            (
                "too_large",
                need_mb,
                self.capacity_mb(),
                not self.is_there() and need_mb > self.capacity_mb(),
            ),
            ("drained", rested_ms, rest_ms, rest is not None),
            ("quiet", *self.quiet()),
            ("leaving", 0, 0, node.leaving),
            (
                "two_agents",
                0,
                0,
                node.two_agents_ms is not None and now_ms - node.two_agents_ms <= policy.two_agents_ms,
            ),
            ("no_temperature", 0, 0, node.temp_mc is None and node.rules.temperature_sensor),
            ("stuck_sensor", node.still_ms, still_limit_ms, node.temp_mc is not None and is_still),
            ("hot", temp_mc, 70_000 if was_hot else 75_000, temp_mc > 75_000 or was_hot),
            ("ram", permille, 850 if was_full else 900, is_full or was_full),
            ("breaker", seen_ms, node.open_ms, node.opened_ms is not None and seen_ms < node.open_ms),
            ("paused", *self.pause()),
        ]

    def quiet(self) -> tuple[int, int, bool]:
        """The minute of the day, the one at which quiet hours end, and whether they are on: minute by
        minute from their begin."""
        if not self.node.rules.quiet:
            return 0, 0, False
        hours = self.node.rules.quiet.split("-")
        begin, end = (int(each[:2]) * 60 + int(each[3:]) for each in hours)
        now = (self.grid.server_ms // 1_000 + self.grid.zone_s) // 60 % 1_440
        while begin != end:
            if begin == now:
                return now, end, True
            begin = (begin + 1) % 1_440
        return 0, 0, False

    def pause(self) -> tuple[int, int, bool]:
        """How long ago it failed here, for how long it stays away for that, and whether it still does."""
        ends = [
            each
            for each in self.request.failures
            if each.node == self.name and each.blame != "request" and each.code not in NO_PAUSE
        ]
        if not ends:
            return 0, 0, False
        passed_ms, pause_ms = self.grid.at_ms - ends[-1].at_ms, 1_000
        for _ in ends[1:]:
            pause_ms = min(pause_ms * 2, 30_000)
        return passed_ms, pause_ms, passed_ms < pause_ms

    def is_warm(self) -> bool:
        """Whether a runner that stays serves the request, under whatever name of its weights."""
        on_disk = self.node.installed[self.request.model]
        return any(
            row.digest == on_disk.digest and self.serves(model) and not self.is_going(model)
            for model, row in self.node.resident.items()
        )

    def left_ms(self, held: Assignment) -> int:
        """What is left of an attempt; of one that has begun a quarter always remains, or as much as it is
        overdue."""
        if isinstance(held, Run) and not held.started:
            return held.run_ms
        elapsed_ms = self.grid.at_ms - held.since_ms
        if not isinstance(held, Run):
            return max(0, held.run_ms - elapsed_ms)
        return max(held.run_ms // 4, abs(held.run_ms - elapsed_ms))

    def load_ms(self, model: str, on_disk: Installed) -> int:
        """A load here: learned, else by the disk."""
        prior_ms = on_disk.size_mb * (self.node.rules.load_us_per_mb or 17_000) // 1000
        return self.learned(model, "load_ms", prior_ms)

    def learned(self, model: str, what: str, prior: int) -> int:
        """A speed here: on its way from what was learned back to the prior, half of it in each hour."""
        known = self.grid.speeds.get((self.name, model))
        value = getattr(known, what) if known is not None else 0
        if known is None or not value:
            return prior
        age_ms, milli = self.grid.at_ms - known.at_ms, 1_000
        while age_ms >= 3_600_000:
            age_ms, milli = age_ms - 3_600_000, milli // 2
        milli -= milli * age_ms // 7_200_000
        return prior + (value - prior) * milli // 1_000

    def decayed(self, model: str) -> int:
        """Its demand now: halved every ten minutes, a straight line between."""
        demand = self.grid.demand[model]
        age_ms, value = self.grid.at_ms - demand.at_ms, demand.milli
        while age_ms >= 600_000:
            age_ms, value = age_ms - 600_000, value // 2
        return value - value * age_ms // 1_200_000

    def tokens(self) -> int:
        """How long the answer will be."""
        if self.request.kind == "embed":
            return 0
        rules = self.grid.models.get(self.request.model, ModelRules())
        known = self.grid.answers.get(self.request.model)
        mean = known.milli // 1000 if known is not None else rules.prior_tokens or 200
        limit = self.request.num_predict
        return limit if 0 < limit < mean else mean

    def per_token_us(self, what: str, us_per_mb: int) -> int:
        """Time per token: learned, else by the weights."""
        size_mb = self.node.installed[self.request.model].size_mb
        return self.learned(self.request.model, what, size_mb * us_per_mb)

    def heat_permille(self) -> int:
        """0 at 70 °C, 500 at 75 °C."""
        return 500 * (min(max(self.node.forecast_mc, 70_000), 75_000) - 70_000) // 5_000

    def is_coming(self) -> bool:
        """Whether something that is ahead of the request loads the runner that it needs."""
        request = self.request
        return any(
            self.same_weights(held.model) and held.num_ctx >= self.num_ctx and held.runner == request.runner
            for held in self.node.assignments.values()
        )

    def is_behind(self) -> bool:
        """Whether somebody who waits for this node will have loaded the model by then."""
        return self.request.model in self.queue.coming.get(self.name, ())

    def slots(self) -> int:
        """How many runs the node may hold."""
        node = self.node
        if node.forecast_mc > 75_000:
            return 0
        if node.opened_ms is not None:
            return 1
        return node.rules.slots if node.ramp is None else min(1 + node.ramp, node.rules.slots)

    def cost(self) -> Verdict:
        """Each term for itself."""
        node, request, queue, name = self.node, self.request, self.queue, self.name
        warm = self.is_warm()
        held = list(node.assignments.values())
        same = [each for each in held if self.same_weights(each.model)]
        coming = self.is_coming()
        behind = not warm and not coming and self.is_behind()
        counted = [
            each for each in held if isinstance(each, Run) or not warm or each.model == request.model
        ]
        drain_ms = sum(self.left_ms(each) for each in counted) // node.rules.slots
        drain_ms += 30_000 if node.forecast_mc > 75_000 else 0
        drain_ms += queue.warm_ms.get(name, 0) + (0 if warm else queue.cold_ms.get(name, 0))
        ahead = self.policy.prefetch if node.opened_ms is None else 0  # a probe is one run
        free = self.slots() + ahead - sum(1 for each in held if isinstance(each, Run))
        if behind:
            free, coming = 0, True
        load_ms = evict_ms = need_mb = 0
        going: list[Row] = []
        if not warm and not coming:
            missing_mb, crowd, going = self.room()
            need_mb = self.footprint_mb()
            if crowd:
                return Verdict(node=name, filter=Filter.PLACES, value=3 + crowd, limit=3)
            if missing_mb:
                return Verdict(node=name, filter=Filter.MEMORY, value=need_mb, limit=need_mb - missing_mb)
            load_ms = self.load_ms(request.model, node.installed[request.model])
            evict_ms = sum(self.loss_ms(row) for row in going)
            if self.copies(request.model):
                evict_ms += load_ms * self.policy.copy_loads
            drain_ms += max((row.young_ms for row in going), default=0)
            if same or any(row.is_busy or row.young_ms for row in going):
                free = 0
        rules = node.rules
        prefill_us = self.per_token_us("prefill_us_per_token", rules.prefill_us_per_mb or 16)
        decode_us = self.per_token_us("decode_us_per_token", rules.decode_us_per_mb or 100)
        prefill_ms = request.prompt_tokens * prefill_us // 1000
        decode_ms = self.tokens() * decode_us // 1000
        knows = warm and request.session != "" and request.session in node.sessions.get(request.model, ())
        cached_ms = prefill_ms * 800 // 1000 if knows else 0
        heat_ms = (prefill_ms - cached_ms + decode_ms) * self.heat_permille() // 1000
        spill_ms = 15_000 if request.tier and request.tier not in rules.tiers else 0
        failed = [each.node for each in request.failures if each.code not in MOVED]
        retry_ms = 60_000 * failed.count(name)
        late_ms = max(self.grid.at_ms - (node.heard_ms or 0) - 2_000, 0)
        total_ms = (
            drain_ms
            + load_ms
            + evict_ms
            + prefill_ms
            + decode_ms
            - cached_ms
            + heat_ms
            + spill_ms
            + retry_ms
            + late_ms
        )
        return Verdict(
            node=name, cost_ms=total_ms, drain_ms=drain_ms, load_ms=load_ms, evict_ms=evict_ms,
            prefill_ms=prefill_ms, cached_ms=cached_ms, decode_ms=decode_ms, heat_ms=heat_ms,
            spill_ms=spill_ms, retry_ms=retry_ms, late_ms=late_ms, free_slots=free, reserve_mb=need_mb,
            evicts=tuple(sorted(row.model for row in going)),
        )  # fmt: skip

    def loss_ms(self, row: Row) -> int:
        """What others lose when it goes: a load for each request that is expected before long, for one at
        least if any waits; half of that while another node keeps a copy."""
        on_disk = self.node.installed.get(row.model)
        if on_disk is None:
            return 0
        milli = self.decayed(row.model) if row.model in self.grid.demand else 0
        milli = milli * self.policy.evict_horizon_ms // min(865_800, self.grid.at_ms)
        if row.is_needed and milli < 1000:
            milli = 1000
        lost_ms = self.load_ms(row.model, on_disk) * milli // 1000
        return lost_ms // 2 if self.copies(row.model) > 1 else lost_ms

    def copies(self, model: str) -> int:
        """On how many nodes that take requests the model is, or is about to be."""
        grid, found = self.grid, 0
        for node in grid.nodes.values():
            there = model in node.resident or model in {held.model for held in node.assignments.values()}
            about = Oracle(grid, node, replace(self.request, tier=0), self.queue).filters()
            out = [reason for reason, _, _, is_true in about if is_true and reason not in OF_THE_REQUEST]
            found += there and not out
        return found


def dumb_route(
    grid: Grid, request: Request, queue: Queue | None = None
) -> tuple[str, str, tuple[Verdict, ...]]:
    """What becomes of the request, the node, and every node's verdict."""
    names = sorted(grid.nodes)
    verdicts = tuple(Oracle(grid, grid.nodes[name], request, queue or Queue()).verdict() for name in names)
    fit = [each for each in verdicts if not each.filter]
    if fit:
        best = min(fit, key=lambda each: (each.cost_ms, each.node))
        return ("route" if best.free_slots > 0 else "busy"), best.node, verdicts
    reasons = {each.filter for each in verdicts}
    if verdicts and not reasons - {"role", "not_installed", "tier", "too_large"}:
        return "model_too_large" if "too_large" in reasons else "unknown_model", "", verdicts
    if "quiet" in reasons:
        never = {
            name: replace(each, rules=replace(each.rules, quiet="")) for name, each in grid.nodes.items()
        }
        if dumb_route(replace(grid, nodes=never), request)[1]:
            return "quiet", "", verdicts
    for_ever = {"role", "not_installed", "incapable", "tier", "too_large"}
    if "drained" in reasons and not reasons - for_ever - {"drained", "quiet"}:
        return "drained", "", verdicts
    return "no_node", "", verdicts


def promised_mb(grid: Grid, node: Node) -> int:
    """What the node's memory will hold once everything that was ordered is done."""
    nobody = Request("", RequestKind.GENERATE, "", 0, 0, True, "", 0, 0, 0, 0, 0, 0)
    return Oracle(grid, node, nobody, Queue()).others_mb()


def limit_mb(node: Node) -> int:
    """88 % of it may be promised."""
    return node.ram_total_mb * 880 // 1000


def obstacles(grid: Grid, name: str, request: Request) -> list[str]:
    """Every filter that holds the node back from this request, whatever its memory."""
    node = grid.nodes[name]
    return [reason for reason, _, _, is_true in Oracle(grid, node, request, Queue()).filters() if is_true]
