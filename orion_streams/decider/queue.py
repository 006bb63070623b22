"""The queue: who waits, in which order they are served, and where each goes. Pure.

Requests wait here and not on a node, so each choice is made as late as it can be. Within a priority the
earliest due goes first: due is the deadline, and sooner the less work a request is, so that short ones do
not wait behind long ones, nor long ones for ever. Who needs a model evicted that others wait for lets
those go first, for a bounded while: runs of one model are done together, and models do not take turns.
"""

from __future__ import annotations

from collections.abc import Iterator

from orion_streams.decider.estimates import answer_tokens, best_pace
from orion_streams.decider.route import Ahead, Decision, Reject, Route, Wait, Waiting, open_slots, route
from orion_streams.model import events as ev
from orion_streams.model.events import Verdict
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid, Node, Request


def placements(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """Waiting requests, highest priority and earliest due first, each to its best node.

    Who waits for a busy node counts as work ahead of the next one there, so a queue spills over as soon
    as that is faster. A model that others wait for is not evicted at once: they go first, for a while.
    Bodies beyond `max_bytes` in all are left for the next commit. Of those that were deferred before, at
    most `max_scan` of a kind are looked at again, and one of a kind that has no node.
    """
    if all(request.work_id for request in grid.open.values()):
        return
    queue = Queue(grid, policy)
    for key in queue.order:
        request = grid.open[key]
        if request.work_id or queue.is_settled(request):
            continue
        decision = route(grid, request, policy, queue.waiting)
        if isinstance(decision, Route) and queue.is_drained(request, decision.node):
            decision = Wait("busy", decision.node, decision.verdicts)
        if isinstance(decision, Route):
            first = queue.goes_first(request, decision)
            if first is not None:
                yield from queue.place(*first)
                decision = route(grid, request, policy, queue.waiting)
        yield from queue.place(key, request, decision)
        if queue.is_full:
            return


class Queue:
    """The waiting requests in the order of service, and what becomes of them in one round."""

    def __init__(self, grid: Grid, policy: Policy) -> None:
        self.grid, self.policy = grid, policy
        rows = [(key, request) for key, request in grid.open.items() if not request.work_id]
        paces: dict[str, tuple[int, int]] = {}
        if len(rows) > 1:
            rows.sort(
                key=lambda row: (-row[1].priority, due_ms(grid, row[1], policy, paces), row[1].accepted)
            )
        self.order = [key for key, _ in rows]
        models: dict[str, int] = {}
        for _, request in rows:
            models[request.model] = models.get(request.model, 0) + 1
        self.waiting = Waiting(ahead={}, models=models)
        self.is_full = False
        self._free = free_slots(grid, policy)
        self._nowhere: set[tuple[str, int, int]] = set()
        self._scanned: dict[tuple[str, int, int], int] = {}
        self._bytes = 0
        self._draining: dict[str, tuple[str, ...]] = {}

    def is_settled(self, request: Request) -> bool:
        """Whether there is no need to look again at a request that was deferred before."""
        if not request.deferred:
            return False
        if self._free <= 0 or (request.deferred == "no_node" and kin(request) in self._nowhere):
            return True
        scanned = self._scanned.get(kin(request), 0)
        self._scanned[kin(request)] = scanned + 1
        return scanned >= self.policy.max_scan

    def goes_first(self, request: Request, decision: Route) -> tuple[str, Request, Route] | None:
        """Who runs before a request whose load would evict a model that others wait for: the first of
        those, if it would run on the same node, and the request can afford to wait for it."""
        verdict = verdict_on(decision.node, decision.verdicts)
        if not verdict.evicts or self.is_impatient(request, verdict):
            return None
        for key in self.order:
            other = self.grid.open.get(key)
            if (
                other is None
                or other.work_id
                or other.model not in verdict.evicts
                or other.priority < request.priority
            ):
                continue
            found = route(self.grid, other, self.policy, self.waiting)
            if not isinstance(found, Route) or found.node != decision.node:
                return None
            longest_ms = request.deadline_ms - self.grid.at_ms - verdict.cost_ms
            return (
                (key, other, found) if verdict_on(found.node, found.verdicts).cost_ms < longest_ms else None
            )
        return None

    def is_impatient(self, request: Request, verdict: Verdict) -> bool:
        """Whether a request has let others go first for long enough: `group_loads` times what its load
        costs it and others, at most `group_wait_ms`."""
        patience_ms = self.policy.group_loads * (verdict.load_ms + verdict.evict_ms)
        share_ms = (request.deadline_ms - request.accepted_ms) // 4
        waited_ms = self.grid.at_ms - request.accepted_ms
        return waited_ms >= min(patience_ms, self.policy.group_wait_ms, share_ms)

    def is_drained(self, request: Request, node: str) -> bool:
        """Whether somebody waits, and has waited long enough, for this model to go from the node."""
        return request.model in self._draining.get(node, ())

    def place(self, key: str, request: Request, decision: Decision) -> Iterator[ev.AnyEvent]:
        """What is answered for one request."""
        match decision:
            case Route(node, verdicts):
                self._bytes += request.body_bytes
                if self._bytes > self.policy.max_bytes and self._bytes > request.body_bytes:
                    self.is_full = True
                    return
                for model in verdict_on(node, verdicts).evicts:
                    yield ev.UnloadOrdered(node, model, "room")
                self._free -= 1
                self.waiting.copies.clear()
                yield ev.RequestRouted(
                    key, request.attempt + 1, node, self.grid.policy_id, self.grid.position, verdicts
                )
            case Wait(kind, node, verdicts):
                if node:
                    verdict = verdict_on(node, verdicts)
                    if verdict.evicts and self.is_impatient(request, verdict):
                        self._draining.setdefault(node, verdict.evicts)
                    self.put_ahead(request, verdict_on(node, verdicts))
                else:
                    self._nowhere.add(kin(request))
                if request.deferred != kind:
                    yield ev.RequestDeferred(key, kind, node, verdicts)
            case Reject(code, _):
                yield ev.RequestFailed(key, code)

    def put_ahead(self, request: Request, verdict: Verdict) -> None:
        """It waits for this node: its work counts for whoever comes after it."""
        ahead = self.waiting.ahead.setdefault(verdict.node, Ahead())
        run_ms = verdict.run_ms // self.grid.nodes[verdict.node].rules.slots
        if verdict.load_ms or request.model in ahead.coming:
            ahead.cold_ms += run_ms
            if request.model not in ahead.coming:
                ahead.coming += (request.model,)
        else:
            ahead.warm_ms += run_ms


def verdict_on(node: str, verdicts: tuple[Verdict, ...]) -> Verdict:
    """The verdict on one node."""
    return next(each for each in verdicts if each.node == node)


def due_ms(grid: Grid, request: Request, policy: Policy, paces: dict[str, tuple[int, int]]) -> int:
    """When a request is due: by its deadline, and at the latest `due_stretch` times its work after it came.
    `paces` remembers what a token takes, by model."""
    pace = paces.get(request.model)
    if pace is None:
        pace = paces[request.model] = best_pace(grid, request.model, policy)
    work_us = request.prompt_tokens * pace[0] + answer_tokens(grid, request, policy) * pace[1]
    return min(request.deadline_ms, request.accepted_ms + policy.due_stretch * work_us // 1000)


def kin(request: Request) -> tuple[str, int, int]:
    """Requests that the same nodes take."""
    return (request.model, request.tier, request.num_ctx)


def free_slots(grid: Grid, policy: Policy) -> int:
    """How many more items all inference nodes may hold."""
    return sum(
        max(open_slots(node, policy) + policy.prefetch - running(node), 0)
        for node in grid.nodes.values()
        if node.rules.takes_inference
    )


def running(node: Node) -> int:
    """Runs that the node holds; ordered loads take no slot."""
    return sum(bool(held.request) for held in node.holdings.values())
