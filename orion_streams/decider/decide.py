"""decide(): what is missing in this state? Pure and level-triggered.

It asks the same questions in the same order, whatever woke the router: whose rest is over, which nodes
pass a safety mark or have cooled down, which full ones let go of a model, which attempts are lost, which
requests have come to an end, where the waiting ones go. With its own answers folded in it has nothing to
add: that is its fixed point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from orion_streams.decider.memory import assigned_models, unload_pending
from orion_streams.decider.placement import demand_of, is_idle, plan, work_of
from orion_streams.decider.queue import placements
from orion_streams.decider.route import MOVED, route
from orion_streams.model import events as ev
from orion_streams.model import marks
from orion_streams.model.policy import NO_RULES
from orion_streams.model.state import Assignment, Grid, Node, Request, Run, parse_stream_id
from orion_streams.model.vocabulary import AbandonReason, Blame, Code, Mark, UnloadReason
from orion_streams.projections import apply

Question = Callable[[Grid], Iterator[ev.AnyEvent]]


def decide(grid: Grid, questions: Sequence[Question] | None = None) -> tuple[ev.AnyEvent, ...]:
    """Answer each question (None: QUESTIONS) in turn, the answers before it folded in; at most
    `policy.max_events` answers."""
    draft = grid.draft()
    answers: list[ev.AnyEvent] = []
    for question in QUESTIONS if questions is None else questions:
        for answer in question(draft):
            if len(answers) == grid.policy.max_events:
                return tuple(answers)
            answers.append(answer)
            apply(draft, answer)
    return tuple(answers)


def rests(grid: Grid) -> Iterator[ev.AnyEvent]:
    """Let a node go on that an operator drained for a time which has passed."""
    for name, node in sorted(grid.nodes.items()):
        rest = node.rest
        if rest is not None and rest.for_ms and grid.at_ms - rest.since_ms >= rest.for_ms:
            yield ev.NodeResumed(name)


def safety(grid: Grid) -> Iterator[ev.AnyEvent]:
    """Back a node off above a mark; let it return after `return_samples` calm samples in a row."""
    policy = grid.policy
    for name, node in sorted(grid.nodes.items()):
        if node.heard_ms is None:
            continue
        if node.backed_off and node.calm_samples >= policy.return_samples:
            yield ev.NodeReturned(name)
            continue
        if (
            node.temp_mc is not None
            and marks.is_hot(node.temp_mc, policy)
            and Mark.HOT not in node.backed_off
        ):
            yield ev.NodeBackedOff(name, Mark.HOT, node.temp_mc, policy.temp_max_mc)
        if marks.is_fuller(node, policy.ram_max_permille) and Mark.RAM not in node.backed_off:
            yield ev.NodeBackedOff(name, Mark.RAM, marks.ram_permille(node), policy.ram_max_permille)


def relief(grid: Grid) -> Iterator[ev.AnyEvent]:
    """Tell a node that backed off for its memory to unload idle models until it is at the lower mark,
    the least recently used first, pinned ones last, one at a time: else it would stay away for ever."""
    for name, node in sorted(grid.nodes.items()):
        full = Mark.RAM in node.backed_off and marks.ram_permille(node) > grid.policy.ram_return_permille
        if not full or node.leaving or not marks.is_heard(grid, node):
            continue
        if any(unload_pending(grid, node, model) for model in node.unload_ordered_ms):
            continue
        busy = assigned_models(node)
        idle = [
            (name in grid.models.get(model, NO_RULES).resident_on, node.used_ms.get(model, 0), model)
            for model, row in node.resident.items()
            if not {row.digest, model} & busy
        ]
        if idle:
            yield ev.UnloadOrdered(name, min(idle)[2], UnloadReason.RELIEF)


def breakers(grid: Grid) -> Iterator[ev.AnyEvent]:
    """Open the breaker of a node on which too many requests failed, each time in a row for twice as
    long; close it after an answer."""
    policy = grid.policy
    for name, node in sorted(grid.nodes.items()):
        if node.opened_ms is not None and node.ramp is not None:
            yield ev.BreakerClosed(name)
        elif len(node.suspects) >= (policy.breaker_failures if node.opened_ms is None else 1):
            open_ms = min(policy.breaker_open_ms << min(node.trips, 16), policy.breaker_open_max_ms)
            yield ev.BreakerOpened(name, len(node.suspects), open_ms)


def lost_attempts(grid: Grid) -> Iterator[ev.AnyEvent]:
    """Abandon attempts whose node no longer has them, left before it read them, is silent, too slow, was
    drained, or unfit before they started."""
    for name, node in sorted(grid.nodes.items()):
        for work_id, held in list(node.assignments.items()):
            reason = why_lost(grid, node, work_id, held)
            if reason is not None:
                request, attempt = (held.request, held.attempt) if isinstance(held, Run) else ("", 0)
                yield ev.AttemptAbandoned(request, attempt, name, work_id, reason)


def why_lost(grid: Grid, node: Node, work_id: str, held: Assignment) -> AbandonReason | None:
    """Return why this assignment is given up, or None."""
    policy = grid.policy
    if held.missing >= policy.gone_samples:
        return AbandonReason.GONE
    if not isinstance(held, Run) or not is_current(grid, work_id, held):
        return None  # it only waits for its slot to come free
    if node.left and parse_stream_id(work_id) > parse_stream_id(node.work_read):
        return AbandonReason.LEFT
    if marks.is_silent(grid, node):
        return AbandonReason.SILENT
    if grid.at_ms - held.since_ms > policy.attempt_deadline_ms:
        return AbandonReason.OVERDUE
    rest = node.rest
    if rest is not None and (not held.started or grid.at_ms - rest.since_ms >= rest.drain_ms):
        return AbandonReason.DRAINED
    if node.backed_off and not held.started:
        return AbandonReason(node.backed_off[0])
    if node.temp_mc is not None and node.temp_mc > policy.temp_critical_mc:
        return AbandonReason.CRITICAL
    return None


def is_current(grid: Grid, work_id: str, held: Run) -> bool:
    """Whether the run is the current attempt of an open request."""
    request = grid.open.get(held.request)
    return request is not None and request.work_id == work_id


def ends(grid: Grid) -> Iterator[ev.AnyEvent]:
    """End requests past their deadline, without a body, refused for their own fault, or out of
    attempts; abandon attempts on a node that new rules removed."""
    for key, request in list(grid.open.items()):
        if grid.at_ms > request.deadline_ms:
            yield ev.RequestExpired(key)
        elif request.work_id and request.node not in grid.nodes:
            yield ev.AttemptAbandoned(
                key, request.attempt, request.node, request.work_id, AbandonReason.REMOVED
            )
        elif not request.work_id and (request.failures or request.body_lost):
            code = why_hopeless(grid, request)
            if code is not None:
                yield ev.RequestFailed(key, code)


NO_ATTEMPT = (
    Code.OLLAMA_UNREACHABLE,
    *MOVED,
    AbandonReason.HOT,
    AbandonReason.RAM,
    AbandonReason.CRITICAL,
    AbandonReason.REMOVED,
)
"""Ends of attempts that are no failures: Ollama was away, the node was left on purpose, or the router moved
it itself."""


def why_hopeless(grid: Grid, request: Request) -> Code | None:
    """Return the code of a waiting request that gets no further attempt, or None."""
    if request.body_lost:
        return Code.BODY_GONE
    if request.failures and request.failures[-1].code == Code.PARTS_GONE:
        return Code.PARTS_GONE
    if is_refused(grid, request):
        too_large = request.failures[-1].code == Code.ANSWER_TOO_LARGE
        return Code.ANSWER_TOO_LARGE if too_large else Code.REFUSED
    begun = sum(failure.code not in NO_ATTEMPT for failure in request.failures)
    return Code.ATTEMPTS_EXHAUSTED if begun >= grid.policy.max_attempts else None


def is_refused(grid: Grid, request: Request) -> bool:
    """Whether the request has itself to blame: refused alike by a second node, or `max_refusals` times
    while no other could be asked."""
    refusals = [each for each in request.failures if each.blame == Blame.REQUEST]
    if len(refusals) < grid.policy.max_refusals:
        return False
    refusers = {each.node for each in refusals}
    others = [each for each in route(grid, request).verdicts if each.node not in refusers]
    return len(refusers) > 1 or all(each.filter for each in others)


def housekeeping(grid: Grid) -> Iterator[ev.AnyEvent]:
    """While no request waits, at each multiple of `plan_every_ms`: idle nodes load what the plan wants
    there, one model at a time."""
    every_ms = grid.policy.plan_every_ms
    if not every_ms or grid.before_ms // every_ms == grid.at_ms // every_ms:
        return
    if any(not request.work_id for request in grid.open.values()):
        return
    if not any(is_idle(grid, node) for node in grid.nodes.values()):
        return
    yield from work_of(grid, plan(grid, demand_of(grid)))


QUESTIONS: tuple[Question, ...] = (
    rests,
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
    return bool(grid.open) or any(
        node.backed_off or (node.rest is not None and node.rest.for_ms) for node in grid.nodes.values()
    )
