"""Laws 11, 15, 16 and 17: memory is promised once, a model loaded once, and what has come stays a while."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider import memory
from orion_streams.decider.decide import decide
from orion_streams.decider.route import Route, Wait, route
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules, NodeRules
from orion_streams.model.state import Grid, Node, Resident
from orion_streams.projections import fold
from tests.grids import (
    AT_MS,
    BIG,
    HEAVY,
    LIBRARY,
    MODEL,
    POLICY,
    TWIN,
    fails,
    grid,
    holding,
    kinds,
    node,
    request,
    under,
    verdict,
)
from tests.properties import strategies as make
from tests.properties.laws import settle
from tests.properties.oracle import limit_mb, promised_mb
from tests.properties.world import World

HEAVY_HERE = Resident("b", 2_300, 4_096, 4_096)
LOAD_MS = 34_323
"""Of llama3.2:3b: 2019 MB from an SD card."""


def asks(*models: str, **values: Any) -> dict[str, Any]:
    """Requests that wait, one for each model."""
    rows = enumerate(models, start=1)
    return {
        f"brain/q{n}": request(**{"model": model, "accepted": n, "num_ctx": 4_096, **values})
        for n, model in rows
    }


def only(some: Grid) -> Node:
    """The one node of a grid."""
    [row] = some.nodes.values()
    return row


def promises_no_more_than_there_is(some: Grid) -> None:
    """Law 11: all answers folded in, no node is promised more than its limit, unless it was before."""
    before = {name: promised_mb(some, row) for name, row in some.nodes.items()}
    after, _ = settle(some)
    for name, row in after.nodes.items():
        assert promised_mb(after, row) <= max(limit_mb(row), before[name])


@make.MANY
@given(make.queues(fit=True))
def test_memory_is_never_promised_twice(some: Grid) -> None:
    """Whatever is asked at once, and whatever goes and comes for it."""
    promises_no_more_than_there_is(some)


@make.MANY
@given(make.queues(fit=True))
def test_the_ledger_says_so_too(some: Grid) -> None:
    """By its own account as well: after each round no more is committed than the limit, or than before."""
    after = fold(some, decide(some))
    for name, row in after.nodes.items():
        was_mb = memory.committed_mb(some, some.nodes[name])
        limit = memory.limit_mb(row, some.policy)
        assert memory.committed_mb(under(after, some.policy), row) <= max(limit, was_mb)


@pytest.mark.parametrize(
    ("row", "waiting"),
    [
        pytest.param(
            node(
                "n", ram_used_mb=7_100, resident={HEAVY: HEAVY_HERE}, unload_ordered_ms={HEAVY: AT_MS - 500}
            ),
            asks(HEAVY),
            id="a model that is going is asked for again",
        ),
        pytest.param(
            node("n", slots=3, ram_used_mb=2_800, resident={HEAVY: HEAVY_HERE}, installed=LIBRARY),
            {**asks(HEAVY, num_ctx=32_000), "brain/last": request(accepted=9, num_ctx=100_000)},
            id="a runner that grows",
        ),
        pytest.param(
            node(
                "n",
                ram_total_mb=4_000,
                ram_used_mb=1_000,
                resident={HEAVY: replace(HEAVY_HERE, pending_mb=2_388)},
            ),
            asks(MODEL, num_ctx=80_000),
            id="a model that goes before health has shown it",
        ),
    ],
)
def test_what_comes_and_goes_is_counted_once(row: Node, waiting: Any) -> None:
    """A model that is told to go counts once as gone; one that is loaded anew counts as it will be."""
    some = grid(row, open_requests=waiting)
    promises_no_more_than_there_is(some)
    after = fold(some, decide(some))
    committed_mb = memory.committed_mb(after, only(after))
    assert committed_mb <= max(limit_mb(row), memory.committed_mb(some, row))


def test_a_ledger_that_does_not_count_breaks_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: if nothing ever counted as taken, two models would be sent to room for one."""
    asked = {**asks(HEAVY, num_ctx=32_000), "brain/more": request(accepted=2, num_ctx=200_000)}
    two = grid(node("n", slots=2), open_requests=asked)
    promises_no_more_than_there_is(two)
    monkeypatch.setattr(memory, "committed_mb", lambda *_: 0)
    assert fails(promises_no_more_than_there_is, two)


@make.FEW
@given(
    st.lists(st.tuples(st.sampled_from((MODEL, HEAVY, BIG)), st.sampled_from((4_096, 8_192))), max_size=8)
)
def test_no_load_causes_a_memory_backoff(asked: list[tuple[str, int]]) -> None:
    """On machines that really fill up, whatever is asked, no node passes its memory mark by our doing."""
    rules = (NodeRules("a", slots=2, ram_mb=4_096), NodeRules("b", ram_mb=12_000))
    world = World(rules)
    for machine in world.machines.values():
        machine.other_mb = 600
    world.beat()
    world.settle()
    for n, (model, num_ctx) in enumerate(asked):
        world.ask(f"q{n}", model, options={"num_ctx": num_ctx})
        world.work_all()
    for _ in range(60):
        world.work_all(2_000)
    assert not [event for event in world.log if isinstance(event, ev.NodeBackedOff)]
    assert len(world.replies) + len([e for e in world.log if isinstance(e, ev.RequestRejected)]) == len(
        asked
    )


# --- one load at a time ----------------------------------------------------------------------------


def loads_each_model_once(some: Grid) -> None:
    """Law 15: on no node are the same weights loaded twice at a time."""
    for row in settle(some)[0].nodes.values():
        loading = [row.installed[held.model].digest for held in row.assignments.values() if held.reserve_mb]
        assert len(loading) == len(set(loading))


@pytest.mark.parametrize(
    "waiting",
    [
        pytest.param(asks(HEAVY, HEAVY, HEAVY), id="the same runner"),
        pytest.param(
            {**asks(HEAVY), "brain/more": request(model=HEAVY, accepted=2, num_ctx=8_192)},
            id="another context",
        ),
        pytest.param(
            {
                **asks(HEAVY),
                "brain/more": request(model=HEAVY, accepted=2, num_ctx=4_096, runner="num_thread=2"),
            },
            id="other options",
        ),
        pytest.param(asks(MODEL, TWIN), id="another name of the same weights"),
    ],
)
def test_one_load_of_a_model_at_a_time_on_a_node(waiting: Any) -> None:
    """Whoever needs the same weights waits for the load that is on its way, or until its work is done."""
    loads_each_model_once(grid(node("n", slots=3, installed=LIBRARY), open_requests=waiting))


def test_two_loads_of_a_model_break_the_law() -> None:
    """Negative control: the check sees two attempts that both load."""
    twice = {
        f"{n}-0": holding(HEAVY, request=f"brain/{n}", reserve_mb=2_388, num_ctx=4_096) for n in (5, 6)
    }
    assert fails(loads_each_model_once, grid(node("n", slots=3, assignments=twice)))


@make.MANY
@given(st.integers(0, 8 * LOAD_MS), st.booleans())
def test_a_second_node_loads_only_if_that_is_faster_than_waiting(left_ms: int, started: bool) -> None:
    """While one node loads a model, another loads it too only when that costs less than waiting."""
    run_ms = LOAD_MS + left_ms
    since_ms = AT_MS - (LOAD_MS if started else 0)
    held = holding(
        HEAVY, run_ms, started=started, since_ms=since_ms, load_ms=LOAD_MS, reserve_mb=2_388, num_ctx=4_096
    )
    both = grid(node("a", assignments={"5-0": held}), node("b"))
    decision = route(both, request(model=HEAVY, num_ctx=4_096))
    waits_ms = max(left_ms, run_ms // 4) if started else run_ms
    assert verdict(decision, "a").drain_ms == waits_ms
    loads_too = isinstance(decision, Route) and decision.node == "b"
    assert loads_too == (LOAD_MS * (1 + POLICY.copy_loads) < waits_ms)
    assert loads_too or isinstance(decision, Wait)


# --- staying ---------------------------------------------------------------------------------------


def tight(**values: Any) -> Node:
    """A node with llama3.2:3b in memory and no room for another model beside it."""
    usual: dict[str, Any] = {"ram_total_mb": 4_000, "ram_used_mb": 1_500, "resident": {HEAVY: HEAVY_HERE}}
    return node("n", **{**usual, **values})


def big_ask(**values: Any) -> dict[str, Any]:
    """A request that needs the room of llama3.2:3b."""
    return asks(
        MODEL,
        **{"num_ctx": 200_000, "accepted_ms": AT_MS - 900_000, "deadline_ms": AT_MS + 900_000, **values},
    )


@pytest.mark.parametrize(
    ("age_ms", "is_evicted"), [(0, False), (29_999, False), (30_000, True), (90_000, True)]
)
def test_a_model_stays_for_a_minimum(age_ms: int, is_evicted: bool) -> None:
    """Loaded less than min_stay_ms ago it is not evicted for another's load, which waits; then it is."""
    row = tight(resident={HEAVY: replace(HEAVY_HERE, since_ms=AT_MS - age_ms)})
    answers = decide(grid(row, open_requests=big_ask()))
    expected = ["model.unload_ordered", "request.routed"] if is_evicted else ["request.deferred"]
    assert kinds(answers) == expected
    if not is_evicted:
        [deferred] = answers
        assert isinstance(deferred, ev.RequestDeferred)
        assert deferred.verdicts[0].drain_ms == 30_000 - age_ms


def test_a_minimum_of_nothing_lets_a_young_model_go() -> None:
    """Negative control: it is min_stay_ms that keeps it."""
    young = tight(resident={HEAVY: replace(HEAVY_HERE, since_ms=AT_MS)})
    policy = replace(POLICY, min_stay_ms=0)
    answers = decide(under(grid(young, open_requests=big_ask(), policy=policy), policy))
    assert kinds(answers) == ["model.unload_ordered", "request.routed"]


@pytest.mark.parametrize(("place", "is_evicted"), [("n", False), ("elsewhere", True)])
def test_a_pinned_model_is_never_evicted_for_a_load(place: str, is_evicted: bool) -> None:
    """Where streams.toml wants it, it stays; a pin to another node does not matter."""
    pinned = {HEAVY: ModelRules(resident_on=(place,))}
    some = grid(tight(), open_requests=big_ask(), models=pinned)
    assert ("model.unload_ordered" in kinds(decide(some))) == is_evicted
    assert isinstance(route(some, some.open["brain/q1"]), Route) == is_evicted


def test_relief_spares_neither_young_nor_pinned_models() -> None:
    """Memory comes first: a node beyond its mark lets go of what it has."""
    young = tight(ram_used_mb=3_700, resident={HEAVY: replace(HEAVY_HERE, since_ms=AT_MS)})
    pinned = {HEAVY: ModelRules(resident_on=("n",))}
    answers = decide(grid(young, models=pinned))
    assert kinds(answers) == ["node.backed_off", "model.unload_ordered"]


@pytest.mark.parametrize("name", [HEAVY, "llama3.2:latest"])
def test_a_model_that_works_is_not_told_to_go(name: str) -> None:
    """Neither for a load nor for relief, under whatever name its run was asked for."""
    disk = {**LIBRARY, "llama3.2:latest": LIBRARY[HEAVY]}
    works = tight(installed=disk, slots=2, assignments={"5-0": holding(name, started=True, num_ctx=4_096)})
    assert "model.unload_ordered" not in kinds(decide(grid(works, open_requests=big_ask())))
    full = replace(works, ram_used_mb=3_700)
    assert "model.unload_ordered" not in kinds(decide(grid(full)))


@pytest.mark.parametrize(("total_mb", "runs_both"), [(4_000, False), (6_500, True)])
def test_one_models_work_at_a_time_unless_memory_takes_both(total_mb: int, runs_both: bool) -> None:
    """With a slot free, another model's request begins beside running work only if both fit."""
    works = tight(
        slots=2, ram_total_mb=total_mb, assignments={"5-0": holding(HEAVY, started=True, num_ctx=4_096)}
    )
    answers = decide(grid(works, open_requests=big_ask()))
    assert kinds(answers) == (["request.routed"] if runs_both else ["request.deferred"])
    same = decide(grid(works, open_requests=asks(HEAVY)))
    assert kinds(same) == ["request.routed"]
