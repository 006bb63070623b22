"""Law 23: the plan fills the memory of the house with what saves most, and its work comes to an end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider.placement import Placement, demand_of, missing_pins, plan, work_of
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules, NodeRules
from orion_streams.model.state import Grid, Resident
from orion_streams.projections import fold
from tests.grids import AT_MS, BIG, DISK, HEAVY, LIBRARY, MODEL, TWIN, edge, fails, grid, kinds, node
from tests.properties import strategies as make
from tests.properties.laws import check
from tests.properties.oracle import promised_mb
from tests.properties.world import World

GOING = ("leave", "unload", "missing")
ASKED = {HEAVY: 5_000, MODEL: 1_000}


def planned(some: Grid, demand: dict[str, int] | None = None) -> tuple[Placement, ...]:
    """The plan, for the demand of late or another."""
    return plan(some, demand_of(some) if demand is None else demand)


def actions(rows: tuple[Placement, ...]) -> dict[tuple[str, str], str]:
    """What is to become of each model on each node."""
    return {(each.node, each.model): each.action for each in rows}


def work(some: Grid, demand: dict[str, int]) -> list[ev.AnyEvent]:
    """The plan's next step."""
    return list(work_of(some, planned(some, demand)))


def respects_what_there_is(rows: tuple[Placement, ...], some: Grid) -> None:
    """What stays and what comes fits the memory of its node, is on its disk, and is listed once."""
    assert len(actions(rows)) == len(rows)
    for name in {each.node for each in rows}:
        row = some.nodes[name]
        assert row.rules.inference
        assert name != "orion-edge"
        placed = [each for each in rows if each.node == name]
        missing = {each.model for each in placed if each.action == "missing"}
        assert {each.model for each in placed} - missing <= set(row.installed)
        assert not missing & set(row.installed)
        stays = {row.installed[each.model].digest for each in placed if each.action not in GOING}
        assert len(stays) <= row.rules.max_models
        there = sum(each.size_mb for each in placed if each.action not in GOING)
        assert there <= row.ram_total_mb * 880 // 1_000 - 500


@make.MANY
@given(make.grids(), st.dictionaries(st.sampled_from(make.MODELS), st.integers(1, 90_000), max_size=4))
def test_the_plan_respects_memory_and_disks(some: Grid, demand: dict[str, int]) -> None:
    """On every node that may take requests, and only there."""
    respects_what_there_is(planned(some, demand), some)


def test_a_plan_for_more_memory_than_there_is_breaks_the_law() -> None:
    """Negative control: the same lines on a smaller machine."""
    some = grid(node("n", installed=LIBRARY, ram_total_mb=16_000))
    rows = planned(some, dict.fromkeys(make.MODELS, 9_000))
    respects_what_there_is(rows, some)
    assert fails(respects_what_there_is, rows, grid(node("n", installed=LIBRARY, ram_total_mb=8_000)))


@make.FEW
@given(
    make.grids(),
    st.dictionaries(st.sampled_from(make.MODELS), st.integers(1, 90_000), max_size=4),
    st.randoms(use_true_random=False),
)
def test_the_plan_does_not_depend_on_any_order(some: Grid, demand: dict[str, int], random: Any) -> None:
    """Nodes, demand and models in another order: the same plan, the same work."""
    names, asked = list(some.nodes), list(demand.items())
    random.shuffle(names)
    random.shuffle(asked)
    rows = {
        name: replace(some.nodes[name], installed=dict(reversed(some.nodes[name].installed.items())))
        for name in names
    }
    shuffled = replace(some, nodes=rows)
    assert planned(shuffled, dict(asked)) == planned(some, demand)
    assert work(shuffled, dict(asked)) == work(some, demand)


def test_what_is_asked_for_most_per_mb_comes_first() -> None:
    """With room for one, the one that saves more load time for its memory; with room for both, both."""
    small, large = (grid(node("n", ram_total_mb=total_mb)) for total_mb in (3_400, 8_000))
    assert actions(planned(large, ASKED)) == {("n", HEAVY): "load", ("n", MODEL): "load"}
    assert actions(planned(small, ASKED)) == {("n", HEAVY): "load"}
    assert actions(planned(small, {HEAVY: 1_000, MODEL: 5_000})) == {("n", MODEL): "load"}


def test_what_nobody_asks_for_may_go() -> None:
    """It is left where it is until its place is needed, then it makes room."""
    here = {MODEL: Resident("a", 477, 4_096, 4_096)}
    assert actions(planned(grid(node("n", resident=here)), {})) == {("n", MODEL): "leave"}
    tight = grid(node("n", ram_total_mb=3_400, ram_used_mb=900, resident=here))
    assert actions(planned(tight, {HEAVY: 5_000})) == {("n", HEAVY): "load", ("n", MODEL): "unload"}
    assert kinds(tuple(work(tight, {HEAVY: 5_000}))) == ["model.unload_ordered", "model.load_ordered"]


def test_pins_come_first() -> None:
    """Whatever is asked for, what streams.toml wants somewhere is there, and no other load moves it."""
    pins = {MODEL: ModelRules(resident_on=("n",))}
    tight = grid(node("n", ram_total_mb=3_400), models=pins)
    assert actions(planned(tight, ASKED)) == {("n", MODEL): "load"}
    here = grid(
        node("n", ram_total_mb=3_400, ram_used_mb=900, resident={MODEL: Resident("a", 477, 4_096, 4_096)}),
        models=pins,
    )
    assert actions(planned(here, {HEAVY: 90_000})) == {("n", MODEL): "keep"}
    assert work(here, {HEAVY: 90_000}) == []


def test_the_robot_is_not_planned_for() -> None:
    """Under any configuration: its memory is its own."""
    for inference in (True, False):
        assert planned(grid(edge(inference=inference)), ASKED) == ()


@pytest.mark.parametrize(("age_ms", "moves"), [(0, False), (29_999, False), (30_000, True)])
def test_a_planned_load_waits_until_what_goes_for_it_has_stayed(age_ms: int, moves: bool) -> None:
    """min_stay_ms holds for the plan, too."""
    young = {MODEL: Resident("a", 477, 4_096, 4_096, since_ms=AT_MS - age_ms)}
    answers = work(grid(node("n", ram_total_mb=3_400, ram_used_mb=900, resident=young)), {HEAVY: 5_000})
    assert kinds(tuple(answers)) == (["model.unload_ordered", "model.load_ordered"] if moves else [])


def test_one_load_at_a_time_on_a_node() -> None:
    """Each node the most valuable one first, the next when that has ended."""
    some, demand = (
        grid(node("a"), node("b", installed={MODEL: LIBRARY[MODEL]})),
        {HEAVY: 90_000, MODEL: 9_000},
    )
    first = [each for each in work(some, demand) if isinstance(each, ev.LoadOrdered)]
    assert [(each.node, each.model) for each in first] == [("a", HEAVY), ("b", MODEL)]
    ordered = fold(some, first)
    assert work(ordered, demand) == []
    second = [each for each in work(done(ordered, list(first)), demand) if isinstance(each, ev.LoadOrdered)]
    assert [(each.node, each.model) for each in second] == [("a", MODEL)]


def test_a_load_brings_the_runner_that_requests_will_ask_for() -> None:
    """The pinned context and threads, or the policy's context; what it needs is set aside."""
    pins = {HEAVY: ModelRules(num_ctx=8_192, num_thread=3)}
    [ordered] = work(grid(node("n"), models=pins), {HEAVY: 5_000})
    assert ordered == ev.LoadOrdered("n", HEAVY, 8_192, "num_thread=3", 34_323, 2_019 + 330 + 204)
    [plain] = work(grid(node("n")), {HEAVY: 5_000})
    assert plain == ev.LoadOrdered("n", HEAVY, 4_096, "", 34_323, 2_019 + 165 + 204)


@make.MANY
@given(
    make.grids(fit=True),
    st.dictionaries(st.sampled_from(make.MODELS), st.integers(1, 90_000), min_size=1, max_size=4),
)
def test_the_work_of_a_plan_comes_to_an_end(some: Grid, demand: dict[str, int]) -> None:
    """Each load ends, each unload is seen: then there is less to do, and finally nothing."""
    some = replace(some, nodes={name: replace(row, assignments={}) for name, row in some.nodes.items()})
    for _ in range(40):
        answers = work(some, demand)
        if not answers:
            return
        for answer in answers:
            after = fold(some, [answer])
            check(some, answer, after)
            some = after
        some = done(some, answers)
    raise AssertionError(f"it goes on and on: {answers}")


def done(some: Grid, answers: list[ev.AnyEvent]) -> Grid:
    """A minute later: the unloads are seen, the loads have ended and are seen."""
    for each in answers:
        if isinstance(each, ev.UnloadOrdered):
            some = fold(some, [ev.ModelUnloaded(each.node, each.model)])
        elif isinstance(each, ev.LoadOrdered):
            [work_id] = some.nodes[each.node].assignments
            digest = some.nodes[each.node].installed[each.model].digest
            seen = ev.ModelLoaded(each.node, each.model, digest, each.reserve_mb, each.num_ctx)
            some = fold(
                some, [ev.LoadEnded(each.node, each.model, work_id, ok=True, load_ms=900, alone=True), seen]
            )
    at_ms = some.at_ms + 60_000
    heard = {name: replace(row, heard_ms=at_ms) for name, row in some.nodes.items()}
    return replace(some, at_ms=at_ms, nodes=heard)


@pytest.mark.parametrize("models", [(MODEL, HEAVY), (MODEL, TWIN), (MODEL, TWIN, HEAVY, BIG)])
def test_a_quiet_house_comes_to_rest(models: tuple[str, ...]) -> None:
    """End to end: after some requests the idle nodes load what is worth it, then nothing more."""
    world = World((NodeRules("a", ram_mb=16_384), NodeRules("b")))
    for machine in world.machines.values():
        machine.installed = {model: machine.installed[model] for model in models}
    world.beat()
    world.settle()
    for n in range(5):
        for model in models:
            world.ask(f"{model}{n}", model)
            world.work_all()
    for _ in range(40):
        world.work_all(2_000)
    position = len(world.log)
    for _ in range(30):
        world.work_all(2_000)
    assert [
        each for each in world.log[position:] if isinstance(each, ev.LoadOrdered | ev.UnloadOrdered)
    ] == []
    for row in world.grid.nodes.values():
        assert promised_mb(world.grid, row) <= row.ram_total_mb * 880 // 1_000
        assert row.resident


def test_a_pinned_model_that_is_not_on_disk_is_told() -> None:
    """With the line that brings it; a node whose models are unknown is not accused."""
    pins = {"big:27b": ModelRules(resident_on=("n", "m"))}
    some = grid(node("n"), node("m", inventory_known=False), models=pins)
    assert missing_pins(some) == [("n", "big:27b")]
    [line] = [each for each in plan(some, {}) if each.action == "missing"]
    assert (line.node, line.model, line.reason) == (
        "n", "big:27b", "pinned, and not on disk: ollama pull big:27b",
    )  # fmt: skip
    there = node("n", installed={**DISK, "big:27b": DISK[HEAVY]})
    assert missing_pins(grid(there, models=pins)) == []
