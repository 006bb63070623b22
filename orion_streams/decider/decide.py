"""decide(): what is missing in this state? Pure and level-triggered.

It asks the same questions in the same order whoever woke it: which nodes pass a safety mark or have
cooled down, which full ones let go of a model, which attempts are lost, which requests have come to an
end, where the waiting ones go. Its own answers folded in, it has nothing to add: that is its fixed point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from orion_streams.decider.memory import is_going, weights
from orion_streams.decider.placement import demand_of, is_quiet, plan, work_of
from orion_streams.decider.queue import placements
from orion_streams.decider.route import is_heard, ram_permille
from orion_streams.model import events as ev
from orion_streams.model.policy import NO_RULES, Policy
from orion_streams.model.state import UNREACHABLE, Grid, Holding, Node, Request
from orion_streams.projections import apply
from orion_streams.projections.breaker import DOUBTFUL

Question = Callable[[Grid, Policy], Iterator[ev.AnyEvent]]


def decide(
    grid: Grid, policy: Policy, questions: Sequence[Question] | None = None
) -> tuple[ev.AnyEvent, ...]:
    """Answer each question (None: QUESTIONS) in turn, the answers before it folded in; at most
    `policy.max_events` answers."""
    draft = grid.draft()
    answers: list[ev.AnyEvent] = []
    for question in QUESTIONS if questions is None else questions:
        for answer in question(draft, policy):
            if len(answers) == policy.max_events:
                return tuple(answers)
            answers.append(answer)
            apply(draft, answer)
    return tuple(answers)


def safety(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """Strictly above a mark: backed off. At or below the lower marks of what was passed, and not above
    any other, for some samples: back."""
    for name, node in sorted(grid.nodes.items()):
        if node.heard_ms is None:
            continue
        if node.backed_off and node.calm_samples >= policy.return_samples:
            yield ev.NodeReturned(name)
            continue
        temp_mc = node.temp_mc
        if temp_mc is not None and temp_mc > policy.temp_max_mc and "hot" not in node.backed_off:
            yield ev.NodeBackedOff(name, "hot", temp_mc, policy.temp_max_mc)
        full = node.ram_used_mb * 1000 > policy.ram_max_permille * node.ram_total_mb
        if full and "ram" not in node.backed_off:
            yield ev.NodeBackedOff(name, "ram", ram_permille(node), policy.ram_max_permille)


def relief(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """A node that backed off for its memory lets go of idle models until it is at the lower mark, the
    least recently used first, pinned ones last, one at a time: else it would stay away for ever."""
    for name, node in sorted(grid.nodes.items()):
        full = "ram" in node.backed_off and ram_permille(node) > policy.ram_return_permille
        told = any(is_going(grid, node, model, policy) for model in node.unload_ordered_ms)
        if not full or told or not is_heard(grid, node, policy):
            continue
        busy = {name for held in node.holdings.values() for name in (held.model, weights(node, held.model))}
        idle = [
            (name in grid.models.get(model, NO_RULES).resident_on, node.used_ms.get(model, 0), model)
            for model, row in node.resident.items()
            if not {row.digest, model} & busy
        ]
        if idle:
            yield ev.UnloadOrdered(name, min(idle)[2])


def breakers(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """Too many requests failed on a node: open its breaker, each time in a row for twice as long; an
    answer closes it."""
    for name, node in sorted(grid.nodes.items()):
        if node.opened_ms is not None and node.ramp is not None:
            yield ev.BreakerClosed(name)
        elif len(node.suspects) >= (policy.breaker_failures if node.opened_ms is None else 1):
            open_ms = min(policy.breaker_open_ms << min(node.trips, 16), policy.breaker_open_max_ms)
            yield ev.BreakerOpened(name, len(node.suspects), open_ms)


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
        return node.backed_off.partition(" ")[0]
    if node.temp_mc is not None and node.temp_mc > policy.temp_critical_mc:
        return "critical"
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
            code = why_hopeless(grid, request, policy)
            if code:
                yield ev.RequestFailed(key, code)


NO_ATTEMPT = (UNREACHABLE, "hot", "ram", "critical", "removed")
"""Ends of attempts that are no failures: Ollama was away, or we moved the work ourselves."""


def why_hopeless(grid: Grid, request: Request, policy: Policy) -> str:
    """The code of a waiting request that gets no further attempt, or nothing."""
    if request.body_lost:
        return "body_gone"
    if is_refused(grid, request, policy):
        return "answer_too_large" if request.failures[-1].code == "answer_too_large" else "refused"
    begun = sum(failure.code not in NO_ATTEMPT for failure in request.failures)
    return "attempts_exhausted" if begun >= policy.max_attempts else ""


def is_refused(grid: Grid, request: Request, policy: Policy) -> bool:
    """Whether the request has itself to blame: refused alike by a second node, or `max_refusals` times by
    the only one that has its model."""
    refusals = [each for each in request.failures if each.blame == "request" or each.code == DOUBTFUL]
    if len(refusals) < policy.max_refusals:
        return False
    refusers = {each.node for each in refusals}
    return len(refusers) > 1 or not any(
        request.model in node.installed and node.rules.takes_inference and name not in refusers
        for name, node in grid.nodes.items()
    )


def housekeeping(grid: Grid, policy: Policy) -> Iterator[ev.AnyEvent]:
    """Now and then, while nobody waits: idle nodes load what the plan wants there, one model at a time."""
    every_ms = policy.plan_every_ms
    if not every_ms or grid.before_ms // every_ms == grid.at_ms // every_ms:
        return
    if any(not request.work_id for request in grid.open.values()):
        return
    if not any(is_quiet(grid, node, policy) for node in grid.nodes.values()):
        return
    yield from work_of(grid, plan(grid, demand_of(grid, policy), policy), policy)


QUESTIONS: tuple[Question, ...] = (
    safety,
    relief,
    breakers,
    lost_attempts,
    ends,
    placements,
    housekeeping,
)


def is_timed(grid: Grid) -> bool:
    """Whether the mere passing of time may change the answer: then the router commits ticks."""
    return bool(grid.open) or any(node.backed_off for node in grid.nodes.values())
