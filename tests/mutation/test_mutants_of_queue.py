"""Who is served next, who lets others go first, and what is counted ahead of whom."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.queue import Queue, all_free_slots, due_ms, kin
from orion_streams.decider.route import Ahead, Reject, Route, Wait, running
from orion_streams.model import events as ev
from orion_streams.model.policy import Policy
from orion_streams.model.state import Resident
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Code, Filter, UnloadReason, WaitKind
from tests.grids import (
    AT_MS,
    BIG,
    HEAVY,
    LIBRARY,
    MEMORY,
    MODEL,
    grid,
    holding,
    loading,
    node,
    request,
    under,
)
from tests.mutation.queues import HERE, answers, keys, queue_of


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
    """By model, tier, context and needs."""
    asked = request(tier=2, num_ctx=8_192, needs=("completion",))
    assert kin(asked) == (MODEL, 2, 8_192, ("completion",))


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


def test_a_round_ends_when_it_is_full_and_goes_on_after_who_is_settled() -> None:
    """Deferred ones whose slots are gone are passed over; new ones behind them are still answered."""
    busy = node(
        "n", resident=MEMORY, installed=LIBRARY, assignments={"1-0": holding()}, ram_total_mb=16_000
    )
    opened = {"brain/0": request(deferred="busy"), "brain/1": request(accepted=2)}
    assert keys(answers(busy, opened=opened), ev.RequestDeferred) == ["brain/1"]
