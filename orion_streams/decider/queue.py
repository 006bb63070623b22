"""The queue: which requests wait, in which order they are served, and where each goes. Pure.

Requests wait here and not on a node, so each choice is made as late as possible. Within a priority the
earliest due goes first: due is the deadline, and sooner the less work a request is, so that short
requests do not wait behind long ones, nor long ones for ever. A request that needs a model evicted which
others wait for lets those go first, for a bounded time: runs of one model are done together, and models
do not take turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from orion_streams.decider.estimates import best_pace, expected_work_us
from orion_streams.decider.route import (
    Ahead,
    Decision,
    Reject,
    Route,
    Wait,
    Waiting,
    num_ctx_on,
    open_slots,
    route,
    running,
)
from orion_streams.model import events as ev
from orion_streams.model.state import Grid, Request
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import AT_REST, UnloadReason, WaitKind


def placements(grid: Grid) -> Iterator[ev.AnyEvent]:
    """Send waiting requests to their best nodes, highest priority and earliest due first.

    A request that waits for a busy node counts as work ahead of the next one there, so a queue spills
    over as soon as that is faster. Bodies beyond `max_bytes` in all are left for the next commit. Of the
    requests that were deferred before, at most `max_scan` of a kind are looked at again, and one of a
    kind that has no node.
    """
    if all(request.work_id for request in grid.open.values()):
        return
    queue = Queue(grid)
    for key in queue.order:
        request = grid.open[key]
        if request.work_id or queue.is_settled(request):
            continue
        decision = route(grid, request, queue.waiting)
        if isinstance(decision, Route) and queue.is_drained(request, decision.node):
            decision = Wait(WaitKind.BUSY, decision.node, decision.verdicts)
        if isinstance(decision, Route):
            first = queue.goes_first(request, decision)
            if first is not None:
                yield from queue.place(*first)
                decision = route(grid, request, queue.waiting)
        yield from queue.place(key, request, decision)
        if queue.is_full:
            return


Kin = tuple[str, int, int, tuple[str, ...]]
"""Model, tier, context length and needs: the same nodes take requests that share them."""


class Queue:
    """The waiting requests in the order of service, and what becomes of them in one round."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.policy = grid, grid.policy
        rows = [(key, request) for key, request in grid.open.items() if not request.work_id]
        paces: dict[str, tuple[int, int]] = {}
        if len(rows) > 1:
            rows.sort(key=lambda row: (-row[1].priority, due_ms(grid, row[1], paces), row[1].accepted))
        self.order = [key for key, _ in rows]
        self.waiting = Waiting(models=dict(Counter(request.model for _, request in rows)))
        self.is_full = False
        self._free = all_free_slots(grid)
        self._nowhere: dict[Kin, WaitKind] = {}
        self._scanned: Counter[Kin] = Counter()
        self._bytes = 0
        self._draining: dict[str, tuple[str, ...]] = {}

    def is_settled(self, request: Request) -> bool:
        """Whether there is no need to look again at a request that was deferred before. Of those that wait
        for nodes at rest, each is looked at when that begins and ends: their time counts otherwise."""
        if not request.deferred:
            return False
        nowhere = self._nowhere.get(kin(request))
        if request.deferred == nowhere and not request.failures:
            return True
        if request.deferred in AT_REST or nowhere in AT_REST:
            return False
        if self._free <= 0:
            return True
        self._scanned[kin(request)] += 1
        return self._scanned[kin(request)] > self.policy.max_scan

    def goes_first(self, request: Request, decision: Route) -> tuple[str, Request, Route] | None:
        """Return what runs before a request whose load would evict a model that others wait for: the
        first of those, if it would run on the same node, and the request can afford to wait for it."""
        verdict = verdict_on(decision.node, decision.verdicts)
        if not verdict.evicts or self.is_impatient(request, verdict):
            return None
        key = next((each for each in self.order if self._outranks(each, request, verdict.evicts)), None)
        if key is None:
            return None
        other = self.grid.open[key]
        found = route(self.grid, other, self.waiting)
        if not isinstance(found, Route) or found.node != decision.node:
            return None
        longest_ms = request.deadline_ms - self.grid.at_ms - verdict.cost_ms
        fits = verdict_on(found.node, found.verdicts).cost_ms < longest_ms
        return (key, other, found) if fits else None

    def _outranks(self, key: str, request: Request, evicts: tuple[str, ...]) -> bool:
        """Whether a request waits for one of the models that would go, at no lower priority."""
        other = self.grid.open.get(key)
        return (
            other is not None
            and not other.work_id
            and other.model in evicts
            and other.priority >= request.priority
        )

    def is_impatient(self, request: Request, verdict: Verdict) -> bool:
        """Whether a request has let others go first for long enough: `group_loads` times what its load
        costs it and others, at most `group_wait_ms`, at most a quarter of its time."""
        patience_ms = self.policy.group_loads * (verdict.load_ms + verdict.evict_ms)
        share_ms = (request.deadline_ms - request.accepted_ms) // 4
        waited_ms = self.grid.at_ms - request.accepted_ms - request.rested_ms
        return waited_ms >= min(patience_ms, self.policy.group_wait_ms, share_ms)

    def is_drained(self, request: Request, node: str) -> bool:
        """Whether an impatient request waits for this model to go from the node."""
        return request.model in self._draining.get(node, ())

    def place(self, key: str, request: Request, decision: Decision) -> Iterator[ev.AnyEvent]:
        """Answer for one request."""
        match decision:
            case Route():
                yield from self._send(key, request, decision)
            case Wait():
                yield from self._defer(key, request, decision)
            case Reject():
                yield ev.RequestFailed(key, decision.code)

    def _send(self, key: str, request: Request, decision: Route) -> Iterator[ev.AnyEvent]:
        """Route it, unless its body is too much for this commit."""
        self._bytes += request.body_bytes
        if self._bytes > self.policy.max_bytes and self._bytes > request.body_bytes:
            self.is_full = True
            return
        for model in verdict_on(decision.node, decision.verdicts).evicts:
            yield ev.UnloadOrdered(decision.node, model, UnloadReason.ROOM)
        self._free -= 1
        self.waiting.copies.clear()
        num_ctx = num_ctx_on(self.grid, self.grid.nodes[decision.node], request)
        yield ev.RequestRouted(
            request=key,
            attempt=request.attempt + 1,
            node=decision.node,
            policy_id=self.grid.policy_id,
            position=self.grid.position,
            verdicts=decision.verdicts,
            num_ctx=num_ctx if num_ctx != request.num_ctx else 0,
        )

    def _defer(self, key: str, request: Request, decision: Wait) -> Iterator[ev.AnyEvent]:
        """Count it as work ahead of others; say that it waits when the kind of its wait changes."""
        if decision.node:
            verdict = verdict_on(decision.node, decision.verdicts)
            if verdict.evicts and self.is_impatient(request, verdict):
                self._draining.setdefault(decision.node, verdict.evicts)
            self._put_ahead(request, verdict)
        elif not request.failures:  # a pause after a failure is its own
            self._nowhere[kin(request)] = decision.kind
        if request.deferred != decision.kind:
            yield ev.RequestDeferred(key, decision.kind, decision.node, decision.verdicts)

    def _put_ahead(self, request: Request, verdict: Verdict) -> None:
        """Add its work to the wait of later requests for this node."""
        ahead = self.waiting.ahead.setdefault(verdict.node, Ahead())
        run_ms = verdict.run_ms // self.grid.nodes[verdict.node].rules.slots
        if verdict.load_ms or request.model in ahead.coming:
            ahead.cold_ms += run_ms
            if request.model not in ahead.coming:
                ahead.coming += (request.model,)
        else:
            ahead.warm_ms += run_ms


def verdict_on(node: str, verdicts: tuple[Verdict, ...]) -> Verdict:
    """Return the verdict on one node."""
    return next(each for each in verdicts if each.node == node)


def due_ms(grid: Grid, request: Request, paces: dict[str, tuple[int, int]]) -> int:
    """Return when a request is due: by its deadline, and at the latest `due_stretch` times its work
    after it came. `paces` remembers what a token takes, by model."""
    pace = paces.get(request.model)
    if pace is None:
        pace = paces[request.model] = best_pace(grid, request.model)
    work_us = expected_work_us(grid, request, pace)
    return min(request.deadline_ms, request.accepted_ms + grid.policy.due_stretch * work_us // 1000)


def kin(request: Request) -> Kin:
    """Return what decides which nodes take the request."""
    return (request.model, request.tier, request.num_ctx, request.needs)


def all_free_slots(grid: Grid) -> int:
    """Return how many more runs all inference nodes may hold."""
    return sum(
        max(open_slots(grid, node) + grid.policy.prefetch - running(node), 0)
        for node in grid.nodes.values()
        if node.rules.takes_inference
    )
