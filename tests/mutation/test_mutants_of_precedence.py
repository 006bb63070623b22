"""Who lets others go first, and until when."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.decide import decide
from orion_streams.decider.queue import Queue, placements
from orion_streams.decider.route import Ahead, Route, Wait
from orion_streams.model import events as ev
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import WaitKind
from tests.grids import AT_MS, BIG, HEAVY, MODEL, POLICY, grid, holding, node, request, under
from tests.mutation.queues import HERE, answers, keys, queue_of


def crowded(**values: Any) -> Grid:
    """A node where the small model has to go for the heavy one; who asked for the heavy one waits first."""
    opened = {
        "brain/heavy": request(
            model=HEAVY, accepted=1, **{"deadline_ms": AT_MS + 900_000, "num_predict": 1, **values}
        ),
        "brain/small": request(accepted=2, deadline_ms=AT_MS + 950_000),
    }
    row = node("n", ram_total_mb=3_400, ram_used_mb=970, resident=HERE)
    return grid(row, open_requests=opened)


def sent(some: Grid, policy: Policy = POLICY) -> list[str]:
    """Who is sent off, in order."""
    return keys(list(decide(under(some, policy), (placements,))))


def test_who_needs_the_model_that_would_go_is_first() -> None:
    """The one for the small model runs before it goes; the other waits for it, and says so."""
    some = crowded()
    found = list(decide(some, (placements,)))
    assert (keys(found), keys(found, ev.RequestDeferred)) == (["brain/small"], ["brain/heavy"])
    [behind] = [each.verdicts[0] for each in found if isinstance(each, ev.RequestDeferred)]
    assert (behind.drain_ms, behind.evict_ms, behind.evicts) == (5_140, 4_301, (MODEL,))


@pytest.mark.parametrize(
    ("waited_ms", "first"), [(0, "brain/small"), (899_999, "brain/small"), (900_000, "brain/heavy")]
)
def test_patience_ends(waited_ms: int, first: str) -> None:
    """After `group_wait_ms` it goes ahead, however many wait for the other model."""
    some = crowded(accepted_ms=AT_MS - waited_ms, deadline_ms=AT_MS + 9_000_000)
    assert sent(some, Policy(group_loads=1_000))[:1] == [first]


@pytest.mark.parametrize(("less_ms", "impatient"), [(1, False), (0, True)])
def test_patience_is_some_loads(less_ms: int, impatient: bool) -> None:
    """`group_loads` times what the load costs it and others."""
    queue, verdict = queue_of(node("n")), Verdict(node="n", load_ms=500, evict_ms=70)
    asked = request(accepted_ms=AT_MS - 3 * 570 + less_ms)
    assert queue.is_impatient(asked, verdict) is impatient
    bounded = queue_of(node("n"), policy=Policy(group_wait_ms=100))
    assert bounded.is_impatient(request(accepted_ms=AT_MS - 100 + less_ms), verdict) is impatient
    urgent = request(accepted_ms=AT_MS - 100 + less_ms, deadline_ms=AT_MS + 303 + less_ms)
    assert queue.is_impatient(urgent, verdict) is impatient


def test_who_has_waited_long_enough_drains_the_node() -> None:
    """Nobody else is sent there for the models that have to go; the first who waits so decides which."""
    queue, patient = queue_of(node("n"), node("m")), request(deferred="busy")
    impatient = request(accepted_ms=0, deferred="busy")
    for key, asked, evicts in (
        ("a", patient, (MODEL,)),
        ("b", impatient, ()),
        ("c", impatient, (HEAVY, BIG)),
        ("d", impatient, (MODEL,)),
    ):
        list(
            queue.place(
                key, asked, Wait(WaitKind.BUSY, "n", (Verdict(node="n", load_ms=9, evicts=evicts),))
            )
        )
    assert [queue.is_drained(request(model=model), "n") for model in (MODEL, HEAVY, BIG)] == [
        False,
        True,
        True,
    ]
    assert queue.is_drained(request(model=HEAVY), "m") is False


def test_a_drained_node_is_waited_for() -> None:
    """The model that has to go gets no new work there, though a slot is free; it waits as busy."""
    row = node(
        "n", slots=2, ram_total_mb=4_000, ram_used_mb=970, resident=HERE,
        assignments={"1-0": holding(started=True, num_ctx=0)},
    )  # fmt: skip
    heavy = request(model=HEAVY, accepted=1, accepted_ms=AT_MS - 800_000, deadline_ms=AT_MS + 900)
    small = request(accepted=2, deadline_ms=AT_MS + 950_000)
    opened = {"brain/heavy": heavy, "brain/small": small}
    found = answers(row, opened=opened)
    assert [
        (each.request, each.kind, each.node) for each in found if isinstance(each, ev.RequestDeferred)
    ] == [
        ("brain/heavy", "busy", "n"),
        ("brain/small", "busy", "n"),
    ]
    assert len(found) == 2
    assert keys(answers(row, opened={"brain/small": small})) == ["brain/small"]


def test_who_is_of_lower_priority_does_not_go_first() -> None:
    """Equal or higher does; who is placed already, or asks for another model, is passed over."""
    some = crowded(priority=1)
    assert sent(some)[:1] == ["brain/heavy"]
    small = some.open["brain/small"]
    rows = {"brain/heavy": request(model=HEAVY, num_predict=1, accepted=1, deadline_ms=AT_MS + 900_000)}
    away = {"brain/0": replace(small, node="n", work_id="4-0", accepted=0)}
    assert sent(replace(some, open={**rows, **away, "brain/small": small}))[:1] == ["brain/small"]
    assert sent(replace(some, open={**rows, **away}))[:1] == ["brain/heavy"]


def test_a_request_that_cannot_afford_it_lets_nobody_go_first() -> None:
    """Its own cost and the other's have to fit before its deadline."""
    decision_cost_ms = next(
        each.verdicts[0].cost_ms
        for each in decide(
            replace(crowded(), open={"brain/heavy": crowded().open["brain/heavy"]}), (placements,)
        )
        if isinstance(each, ev.RequestRouted)
    )
    queue = Queue(crowded())
    routed = [each for each in decide(crowded(), (placements,)) if isinstance(each, ev.RequestRouted)]
    other_ms = routed[0].verdicts[0].cost_ms
    for spare_ms, first in ((0, None), (1, "brain/small")):
        asked = replace(
            crowded().open["brain/heavy"], deadline_ms=AT_MS + decision_cost_ms + other_ms + spare_ms
        )
        verdict = Verdict(node="n", cost_ms=decision_cost_ms, load_ms=500_000, evicts=(MODEL,))
        found = queue.goes_first(asked, Route("n", (Verdict(node="m"), verdict)))
        assert (found[0] if found else None) == first


def test_only_who_runs_on_the_same_node_goes_first() -> None:
    """If the first of them runs elsewhere, or cannot run at all, nobody does."""
    some = crowded()
    verdict = Verdict(node="n", load_ms=500_000, evicts=(MODEL,))
    asked = some.open["brain/heavy"]
    found = Queue(some).goes_first(asked, Route("n", (verdict,)))
    assert found is not None
    assert (found[0], found[1], found[2].node) == ("brain/small", some.open["brain/small"], "n")
    elsewhere = replace(some, nodes={**some.nodes, "a": node("a", resident=HERE)})
    assert Queue(elsewhere).goes_first(asked, Route("n", (verdict,))) is None
    busy = replace(some, nodes={"n": replace(some.nodes["n"], assignments={"1-0": holding()})})
    assert Queue(busy).goes_first(asked, Route("n", (verdict,))) is None
    assert Queue(some).goes_first(asked, Route("n", (replace(verdict, evicts=()),))) is None
    assert Queue(some).goes_first(asked, Route("n", (replace(verdict, evicts=("x:1b",)),))) is None


def test_who_goes_first_is_judged_behind_who_waits() -> None:
    """Work that is ahead on the node counts for it too."""
    some = crowded()
    queue = Queue(replace(some, nodes={**some.nodes, "o": node("o", resident=HERE)}))
    verdict = Verdict(node="n", load_ms=500_000, evicts=(MODEL,))
    asked = some.open["brain/heavy"]
    assert queue.goes_first(asked, Route("n", (verdict,))) is not None
    queue.waiting.ahead["n"] = Ahead(warm_ms=100_000)
    assert queue.goes_first(asked, Route("n", (verdict,))) is None
