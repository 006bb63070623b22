"""decide(): what is missing in this state? Pure and level-triggered.

It asks the same questions in the same order whoever woke it: which nodes pass a safety mark or have
cooled down, which full ones let go of a model, which attempts are lost, which requests have come to an
end, where the waiting ones go. Its own answers folded in, it has nothing to add: that is its fixed point.
"""

from __future__ import annotations

from collections.abc import Iterator

from orion_streams import events as ev
from orion_streams.config import Policy
from orion_streams.projections import apply
from orion_streams.routing import Reject, Route, Wait, ram_permille, route
from orion_streams.state import UNREACHABLE, Grid, Holding, Node, Request


def decide(grid: Grid, policy: Policy) -> tuple[ev.AnyEvent, ...]:
    """At most `policy.max_events` answers. Each question sees what was answered before it."""
    draft = grid.draft()
    answers: list[ev.AnyEvent] = []
    for question in (safety, relief, lost_attempts, ends, placements):
        for answer in question(draft, policy):
            if len(answers) == policy.max_events:
                return tuple(answers)
            answers.append(answer)
            apply(draft, answer)
    return tuple(answers)


def safety(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """Strictly above a mark: backed off. At or below the lower marks for some samples: back."""
    for name, node in sorted(grid.nodes.items()):
        if node.heard_ms is None:
            continue
        if node.backed_off:
            if node.calm_samples >= policy.return_samples:
                yield ev.NodeReturned(name)
        elif node.temp_mc is not None and node.temp_mc > policy.temp_max_mc:
            yield ev.NodeBackedOff(name, "hot", node.temp_mc, policy.temp_max_mc)
        elif node.ram_used_mb * 1000 > policy.ram_max_permille * node.ram_total_mb:
            yield ev.NodeBackedOff(name, "ram", ram_permille(node), policy.ram_max_permille)


def relief(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """A node that backed off for its memory lets go of idle models until it is at the lower mark, the
    least recently used first and one at a time: otherwise it would stay full, and away, for ever."""
    for name, node in sorted(grid.nodes.items()):
        fresh = node.heard_ms is not None and grid.at_ms - node.heard_ms <= policy.stale_ms
        full = node.backed_off == "ram" and ram_permille(node) > policy.ram_return_permille
        horizon_ms = grid.at_ms - policy.unload_again_ms
        told = any(ordered_ms >= horizon_ms for ordered_ms in node.unload_ordered_ms.values())
        if not (full and fresh) or told:
            continue
        busy = {held.model for held in node.holdings.values()}
        idle = [(node.used_ms.get(model, 0), model) for model in node.resident if model not in busy]
        if idle:
            yield ev.UnloadOrdered(name, min(idle)[1])


def lost_attempts(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """Attempts whose node no longer has them, is silent, too slow, or unfit before they started."""
    for name, node in sorted(grid.nodes.items()):
        for work_id, held in list(node.holdings.items()):
            reason = why_lost(grid, node, work_id, held, policy)
            if reason:
                yield ev.AttemptAbandoned(held.request, held.attempt, name, work_id, reason)


def why_lost(grid: Grid, node: Node, work_id: str, held: Holding, policy: Policy) -> str:
    """Why this attempt is given up, or nothing."""
    if held.missing >= policy.gone_samples:
        return "gone"
    request = grid.open.get(held.request)
    if request is None or request.work_id != work_id:
        return ""  # it only waits for its slot to come free
    if node.heard_ms is None or grid.at_ms - node.heard_ms > policy.stale_ms:
        return "silent"
    if grid.at_ms - held.since_ms > policy.attempt_deadline_ms:
        return "overdue"
    if node.backed_off and not held.started:
        return node.backed_off
    return ""


def ends(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """Requests past their deadline, without a body, refused for their own fault, or out of attempts; and
    attempts on a node that new rules removed."""
    for key, request in list(grid.open.items()):
        if grid.at_ms > request.deadline_ms:
            yield ev.RequestExpired(key)
        elif request.work_id and request.node not in grid.nodes:
            yield ev.AttemptAbandoned(key, request.attempt, request.node, request.work_id, "removed")
        elif not request.work_id and (request.failures or request.body_lost):
            code = why_hopeless(request, policy)
            if code:
                yield ev.RequestFailed(key, code)


def why_hopeless(request: Request, policy: Policy) -> str:
    """The code of a waiting request that gets no further attempt, or nothing."""
    if request.body_lost:
        return "body_gone"
    refusals = sum(failure.blame == "request" for failure in request.failures)
    if refusals >= policy.max_refusals:
        return "answer_too_large" if request.failures[-1].code == "answer_too_large" else "refused"
    begun = sum(failure.code != UNREACHABLE for failure in request.failures)
    return "attempts_exhausted" if begun >= policy.max_attempts else ""


def placements(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """Waiting requests, highest priority and earliest deadline first, each to its best node.

    Who waits for a busy node counts as work ahead of the next one there, so a queue spills over as soon
    as that is faster. Bodies beyond `max_bytes` in all are left for the next commit. Of those that were
    deferred before, at most `max_scan` are looked at again, and one per model that has no node.
    """
    waiting = [(key, request) for key, request in grid.open.items() if not request.work_id]
    waiting.sort(key=lambda row: (-row[1].priority, row[1].deadline_ms, row[1].accepted))
    free = free_slots(grid, policy)
    ahead: dict[str, int] = {}
    nowhere: set[str] = set()
    routed_bytes = 0
    scanned: dict[str, int] = {}
    for key, request in waiting:
        hopeless = request.model in nowhere and request.deferred == "no_node"
        if request.deferred and (free <= 0 or scanned.get(request.model, 0) >= policy.max_scan or hopeless):
            continue
        scanned[request.model] = scanned.get(request.model, 0) + 1
        match route(grid, request, policy, ahead):
            case Route(node, verdicts):
                routed_bytes += request.body_bytes
                if routed_bytes > policy.max_bytes and routed_bytes > request.body_bytes:
                    return
                yield ev.RequestRouted(
                    key, request.attempt + 1, node, grid.policy_id, grid.position, verdicts
                )
                free -= 1
            case Wait(kind, node, verdicts):
                if node:
                    run_ms = next(each.run_ms for each in verdicts if each.node == node)
                    ahead[node] = ahead.get(node, 0) + run_ms // grid.nodes[node].rules.slots
                else:
                    nowhere.add(request.model)
                if request.deferred != kind:
                    yield ev.RequestDeferred(key, kind, node, verdicts)
            case Reject(code, _):
                yield ev.RequestFailed(key, code)


def free_slots(grid: Grid, policy: Policy) -> int:
    """How many more items all inference nodes may hold."""
    return sum(
        max(node.rules.slots + policy.prefetch - len(node.holdings), 0)
        for node in grid.nodes.values()
        if node.rules.inference
    )


def is_timed(grid: Grid) -> bool:
    """Whether the mere passing of time may change the answer: then the router commits ticks."""
    return bool(grid.open) or any(node.backed_off for node in grid.nodes.values())
