"""What must hold of every answer of `decide`, whoever drives it: each law by its own arithmetic."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from orion_streams.decider.decide import decide
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules
from orion_streams.model.state import Assignment, Grid, Node, Run
from orion_streams.projections import evolve
from tests.grids import request
from tests.properties.oracle import limit_mb, obstacles, promised_mb

Decide = Callable[[Grid], tuple[ev.AnyEvent, ...]]
Check = Callable[[Grid, ev.AnyEvent, Grid], None]
ROUNDS = 60
TERMINAL = (ev.RequestCompleted, ev.RequestFailed, ev.RequestExpired, ev.RequestCancelled)


def check(before: Grid, answer: ev.AnyEvent, after: Grid) -> None:
    """The laws of one answer, given the grid before and after it."""
    match answer:
        case ev.RequestRouted():
            routed(before, answer, after)
        case ev.UnloadOrdered(reason="room"):
            makes_room(before, answer)
        case ev.UnloadOrdered():
            relieves(before, answer)
        case ev.LoadOrdered():
            loads(before, answer, after)
        case _:
            pass


def routed(before: Grid, answer: ev.RequestRouted, after: Grid) -> None:
    """It goes to a fit node with a free slot, once, and neither memory nor a load is promised twice."""
    node, asked = before.nodes[answer.node], before.open[answer.request]
    assert obstacles(before, answer.node, asked) == []
    assert asked.work_id == ""
    assert answer.attempt == asked.attempt + 1
    assert (answer.request, answer.attempt) not in attempts(before)
    runs = [held for held in node.assignments.values() if isinstance(held, Run)]
    assert len(runs) < node.rules.slots + before.policy.prefetch
    within_memory(before, after, answer.node)
    loads_once(node, after.nodes[answer.node])


def loads(before: Grid, answer: ev.LoadOrdered, after: Grid) -> None:
    """Only an idle, fit node loads what the plan wants, and only what fits."""
    node = before.nodes[answer.node]
    about = request(model=answer.model, num_ctx=answer.num_ctx, runner=answer.runner)
    assert obstacles(before, answer.node, about) == []
    assert not node.assignments
    assert node.opened_ms is None
    within_memory(before, after, answer.node)


def within_memory(before: Grid, after: Grid, name: str) -> None:
    """No more is promised than the limit, unless it was above before."""
    limit = limit_mb(after.nodes[name])
    assert promised_mb(after, after.nodes[name]) <= max(limit, promised_mb(before, before.nodes[name]))


def loads_once(before: Node, after: Node) -> None:
    """What is new on a node loads nothing that is being loaded there."""
    loading = [digest_of(before, held) for held in before.assignments.values() if held.reserve_mb]
    for work_id, held in after.assignments.items():
        if work_id not in before.assignments and held.reserve_mb:
            assert digest_of(after, held) not in loading


def makes_room(before: Grid, answer: ev.UnloadOrdered) -> None:
    """What goes for a load is idle, not pinned there and not young."""
    node = before.nodes[answer.node]
    row = node.resident[answer.model]
    assert is_idle(node, answer.model)
    assert answer.node not in before.models.get(answer.model, ModelRules()).resident_on
    assert row.since_ms == 0 or before.at_ms - row.since_ms >= before.policy.min_stay_ms


def relieves(before: Grid, answer: ev.UnloadOrdered) -> None:
    """Only a full node is relieved, of an idle model."""
    node = before.nodes[answer.node]
    assert "ram" in node.backed_off
    assert is_idle(node, answer.model)


def is_idle(node: Node, model: str) -> bool:
    """Whether nothing that the node holds uses the model, under whatever name."""
    digest = node.resident[model].digest
    return not any(
        held.model == model or digest_of(node, held) == digest for held in node.assignments.values()
    )


def digest_of(node: Node, held: Assignment) -> str:
    """The weights that an attempt uses: two names may stand for the same."""
    on_disk = node.installed.get(held.model)
    return on_disk.digest if on_disk is not None else held.model


def attempts(grid: Grid) -> list[tuple[str, int]]:
    """Every attempt that any node holds."""
    return [
        (held.request, held.attempt)
        for node in grid.nodes.values()
        for held in node.assignments.values()
        if isinstance(held, Run)
    ]


def settle(
    grid: Grid, answering: Decide = decide, checking: Check | None = check
) -> tuple[Grid, list[ev.AnyEvent]]:
    """Fold the answers in, with the stamps that a commit gives them, until there are none."""
    given: list[ev.AnyEvent] = []
    for _ in range(ROUNDS):
        answers = answering(grid)
        assert len(answers) <= grid.policy.max_events
        if not answers:
            return grid, given
        for answer in answers:
            given.append(stamped(answer, f"{100 + len(given)}-0"))
            after = evolve(grid, given[-1])
            if checking is not None:
                checking(grid, given[-1], after)
            grid = after
    raise AssertionError(f"no fixed point after {ROUNDS} rounds: {given[-3:]}")


def stamped(answer: ev.AnyEvent, entry_id: str) -> ev.AnyEvent:
    """The answer with the id of the entry that it causes."""
    if isinstance(answer, ev.RequestRouted | ev.LoadOrdered):
        return replace(answer, work_id=entry_id)
    return replace(answer, reply_id=entry_id) if isinstance(answer, TERMINAL) else answer
