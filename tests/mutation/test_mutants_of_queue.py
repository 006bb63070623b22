"""Who is served next, who lets others go first, and what is counted ahead of whom."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.decide import decide
from orion_streams.decider.queue import Queue, all_free_slots, due_ms, kin, placements
from orion_streams.decider.route import Ahead, Reject, Route, Wait, running
from orion_streams.model import events as ev
from orion_streams.model.events import Verdict
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid, Node, Request, Resident
from orion_streams.model.vocabulary import Code, Filter, UnloadReason, WaitKind
from tests.grids import (
    AT_MS,
    BIG,
    HEAVY,
    LIBRARY,
    MEMORY,
    MODEL,
    POLICY,
    grid,
    holding,
    loading,
    node,
    request,
    under,
)

HERE = {MODEL: Resident("a", 470, 4_096)}


def answers(
    *rows: Node, opened: dict[str, Request], policy: Policy = POLICY, **values: Any
) -> list[ev.AnyEvent]:
    """What becomes of the waiting requests in one round."""
    return list(decide(under(grid(*rows, open_requests=opened, **values), policy), (placements,)))


def keys(found: list[ev.AnyEvent], kind: Any = ev.RequestRouted) -> list[str]:
    """The requests of one kind of answer, in order."""
    rows: list[Any] = [each for each in found if isinstance(each, kind)]
    return [each.request for each in rows]


def test_the_order_is_priority_then_due_then_age() -> None:
    """The key of a request decides nothing."""
    late = {"deadline_ms": AT_MS + 900_000}
    some = grid(
        node("n"),
        open_requests={
            "d": request(accepted=4, **late),
            "c": request(accepted=3, num_predict=9, **late),
            "b": request(accepted=2, **late),
            "a": request(accepted=1, priority=1, deadline_ms=AT_MS + 999_999, num_predict=99_999),
            "e": request(accepted=5, deadline_ms=AT_MS + 10, **{}),
            "x": request(accepted=0, node="n", work_id="5-1"),
        },
    )
    queue = Queue(some)
    assert queue.order == ["a", "e", "c", "b", "d"]
    assert (queue.waiting.models, queue.waiting.ahead, queue.is_full) == ({MODEL: 5}, {}, False)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, AT_MS - 50 + 2 * (20 * 4_048 + 200 * 25_300) // 1000),
        ({"num_predict": 7}, AT_MS - 50 + 2 * (20 * 4_048 + 7 * 25_300) // 1000),
        ({"prompt_tokens": 0, "kind": "embed"}, AT_MS - 50),
        ({"deadline_ms": AT_MS + 5}, AT_MS + 5),
        ({"model": BIG}, AT_MS - 50),
    ],
)
def test_a_request_is_due_by_its_work_or_its_deadline(values: dict[str, Any], expected: int) -> None:
    """So many times the work after it came, whichever is sooner."""
    paces: dict[str, tuple[int, int]] = {}
    asked = request(accepted_ms=AT_MS - 50, **values)
    found = due_ms(grid(node("n")), asked, paces)
    assert (found, type(found)) == (expected, int)
    assert paces == {asked.model: (0, 0) if asked.model == BIG else (4_048, 25_300)}


def test_paces_are_remembered_by_model() -> None:
    """Once known they are not asked for again."""
    paces = {MODEL: (1_000, 2_000), HEAVY: (7, 7)}
    assert due_ms(grid(node("n")), request(), paces) == AT_MS + 2 * (20_000 + 400_000) // 1000
    assert paces == {MODEL: (1_000, 2_000), HEAVY: (7, 7)}


def test_kin_are_taken_by_the_same_nodes() -> None:
    """By model, tier and context."""
    assert kin(request(tier=2, num_ctx=8_192)) == (MODEL, 2, 8_192)


def test_free_slots_are_those_of_inference_nodes() -> None:
    """Slots and prefetch less runs, each node at least none; ordered loads take no slot."""
    busy = node("a", slots=2, assignments={"1-0": holding(), "2-0": loading(HEAVY)})
    over = node("b", assignments={"1-0": holding(), "2-0": holding(), "3-0": holding()})
    idle, robot = node("c", slots=3), node("d", inference=False, slots=9)
    assert running(busy) == 1
    assert running(over) == 3
    some = grid(busy, over, idle, robot)
    assert all_free_slots(some) == 1 + 0 + 3
    assert all_free_slots(under(some, Policy(prefetch=1))) == 2 + 0 + 4
    assert all_free_slots(grid(over, idle)) == 3


def test_a_routed_request_names_what_it_was_decided_on() -> None:
    """The next attempt, the policy, the position and all verdicts; what is assigned is left alone."""
    opened = {"brain/a": request(attempt=2), "brain/b": request(node="n", work_id="5-1")}
    [found] = answers(node("n", resident=HERE), opened=opened, policy_id="p9", position=41)
    assert isinstance(found, ev.RequestRouted)
    assert (found.request, found.attempt, found.node, found.policy_id, found.position) == (
        "brain/a",
        3,
        "n",
        "p9",
        41,
    )
    assert [each.node for each in found.verdicts] == ["n"]


def test_what_goes_for_a_load_is_told_first() -> None:
    """An unload for room, then the request."""
    row = node("n", ram_used_mb=6_600, resident={HEAVY: Resident("b", 2_019)})
    unload, routed = answers(row, opened={"brain/a": request()})
    assert unload == ev.UnloadOrdered("n", HEAVY, UnloadReason.ROOM)
    assert keys([routed]) == ["brain/a"]


def test_who_can_never_be_served_fails() -> None:
    """With the code of the rejection."""
    assert answers(node("n"), opened={"brain/a": request(model=BIG)}) == [
        ev.RequestFailed("brain/a", "unknown_model")
    ]


def test_who_waits_says_so_once() -> None:
    """For a node or for none, and again only when that changes."""
    busy = node("n", resident=HERE, assignments={"1-0": holding()})
    other = node("o", installed={})
    [found] = answers(busy, other, opened={"brain/a": request(deferred="no_node")})
    assert isinstance(found, ev.RequestDeferred)
    assert (found.request, found.kind, found.node, len(found.verdicts)) == ("brain/a", "busy", "n", 2)
    assert answers(busy, other, opened={"brain/a": request(deferred="busy")}) == []
    [away] = answers(node("n", heard_ms=None), opened={"brain/a": request(deferred="busy")})
    assert away == ev.RequestDeferred(
        "brain/a", WaitKind.NO_NODE, "", (Verdict(node="n", filter=Filter.SILENT),)
    )


@pytest.mark.parametrize(
    ("sizes", "limit", "sent"),
    [
        ((60, 40), 100, 2),
        ((60, 41), 100, 1),
        ((60, 41, 1), 100, 1),
        ((101, 1), 100, 1),
        ((500,), 100, 1),
    ],
)
def test_bodies_are_bounded_in_all(sizes: tuple[int, ...], limit: int, sent: int) -> None:
    """What is too much waits for the next commit, with whatever comes after it; a large one goes alone."""
    opened = {f"brain/{n}": request(accepted=n, body_bytes=size) for n, size in enumerate(sizes)}
    opened["brain/unknown"] = request(priority=-1, model=BIG)
    found = answers(node("n", slots=9, resident=HERE), opened=opened, policy=Policy(max_bytes=limit))
    assert keys(found) == [f"brain/{n}" for n in range(sent)]
    assert keys(found, ev.RequestFailed) == (["brain/unknown"] if sent == len(sizes) else [])
    assert len(found) == sent + (sent == len(sizes))


def queue_of(*rows: Node, policy: Policy = POLICY, **values: Any) -> Queue:
    """A queue on these nodes."""
    return Queue(under(grid(*rows, **values), policy))


def test_a_request_that_is_new_is_always_looked_at() -> None:
    """Settled is only who was deferred before."""
    full = node("n", resident=HERE, assignments={"1-0": holding()})
    assert queue_of(full).is_settled(request()) is False
    assert queue_of(full).is_settled(request(deferred="busy")) is True
    assert queue_of(node("n")).is_settled(request(deferred="busy")) is False


def test_so_many_of_a_model_are_looked_at_again() -> None:
    """The limit is that of each kind; new ones are not counted."""
    queue = queue_of(node("n"), policy=Policy(max_scan=2))
    asked = [request(deferred="busy"), request(), request(tier=2, deferred="busy")]
    seen = [[queue.is_settled(each) for each in asked] for _ in range(3)]
    assert seen == [[False, False, False], [False, False, False], [True, False, True]]


def test_of_those_without_a_node_one_of_a_kind_is_looked_at() -> None:
    """Once it found none, its kin find none; whoever waits for a busy node is looked at all the same."""
    queue = queue_of(node("n", temp_mc=80_000, slots=3))
    lost = request(deferred="no_node")
    assert queue.is_settled(lost) is False
    assert list(queue.place("brain/a", lost, Wait(WaitKind.NO_NODE, "", ()))) == []
    assert queue.is_settled(lost) is True
    assert queue.is_settled(replace(lost, deferred="busy")) is False
    assert queue.is_settled(replace(lost, tier=2)) is False


def test_a_placed_request_takes_a_slot() -> None:
    """The last free one taken, all who were deferred are settled; counts of copies are made anew."""
    queue = queue_of(node("n", slots=2))
    queue.waiting.copies[MODEL] = 1
    routed = Route("n", (Verdict(node="n"),))
    for settled in (False, True):
        list(queue.place("brain/a", request(), routed))
        assert queue.is_settled(request(deferred="busy")) is settled
    assert queue.waiting.copies == {}
    assert list(queue.place("brain/a", request(), Reject(Code("x"), ()))) == [
        ev.RequestFailed("brain/a", "x")
    ]


def test_who_waits_counts_ahead_of_the_next() -> None:
    """Warm or cold, shared among the slots; a model that will be loaded by then is named once."""
    queue = queue_of(node("m"), node("n", slots=2))
    warm, cold = (
        Verdict(node="n", prefill_ms=10, decode_ms=91),
        Verdict(node="n", load_ms=500, decode_ms=101),
    )
    steps: list[tuple[str, Verdict]] = [
        (MODEL, warm),
        (MODEL, warm),
        (HEAVY, cold),
        (HEAVY, warm),
        (BIG, cold),
        (BIG, cold),
    ]
    for model, verdict in steps:
        list(
            queue.place(
                "brain/a",
                request(model=model, deferred="busy"),
                Wait(WaitKind.BUSY, "n", (Verdict(node="m"), verdict)),
            )
        )
    assert queue.waiting.ahead == {
        "n": Ahead(warm_ms=100, cold_ms=300 + 50 + 300 + 300, coming=(HEAVY, BIG))
    }


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


def test_a_round_ends_when_it_is_full_and_goes_on_after_who_is_settled() -> None:
    """Deferred ones whose slots are gone are passed over; new ones behind them are still answered."""
    busy = node(
        "n", resident=MEMORY, installed=LIBRARY, assignments={"1-0": holding()}, ram_total_mb=16_000
    )
    opened = {"brain/0": request(deferred="busy"), "brain/1": request(accepted=2)}
    assert keys(answers(busy, opened=opened), ev.RequestDeferred) == ["brain/1"]
