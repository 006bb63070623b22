"""Laws 12 and 22: nobody waits for ever while a node is eligible, and who never fits is told at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.decider.decide import QUESTIONS, decide
from orion_streams.decider.queue import placements
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid, Resident
from orion_streams.projections import fold
from orion_streams.protocol.agent_entries import InstalledModel
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry, Taken
from tests.grids import (
    AT_MS,
    BIG,
    HEAVY,
    LIBRARY,
    LIMITS,
    MEMORY,
    MODEL,
    TWIN,
    fails,
    grid,
    kinds,
    loading,
    node,
    request,
    under,
)
from tests.properties import strategies as make
from tests.properties.world import WORKER, World

OTHER = "other:3b"


def everybody_is_answered(world: World, asked: list[dict[str, Any]]) -> None:
    """Law 12: on a healthy grid every request ends, answered, within its deadline."""
    world.beat()
    world.settle()
    keys = []
    for n, values in enumerate(asked):
        keys.append(world.ask(f"q{n}", **values))
        if n % 3 == 2:
            world.work_all()
    for _ in range(12 * len(asked)):
        world.work_all(2_000)
    assert {key: kinds_of for key, kinds_of in world.replies.items() if kinds_of != ["done"]} == {}
    assert sorted(world.replies) == sorted(keys)


ASKED = make.pick(
    model=(MODEL, HEAVY, TWIN, BIG),
    tier=(0, 1, 2),
    priority=(0, 0, 1),
    session=("", "s"),
    options=(None, {"num_ctx": 8_192}, {"num_predict": 9}),
)


@make.FEW
@given(st.lists(ASKED, min_size=1, max_size=9))
def test_everybody_is_answered(asked: list[dict[str, Any]]) -> None:
    """Whatever models, tiers, contexts and priorities are asked for together."""
    everybody_is_answered(World(), asked)


def test_a_router_that_places_nothing_breaks_the_law() -> None:
    """Negative control: without placements nobody is answered."""
    idle = World(questions=[each for each in QUESTIONS if each is not placements])
    assert fails(everybody_is_answered, idle, [{"model": MODEL}])


def overtaken(slots: int) -> World:
    """One node, room for one of two models. One is asked for without a pause; then once for the other."""
    world = World((NodeRules("n", slots=slots),))
    machine = world.machines["n"]
    machine.other_mb = 3_000
    machine.installed[OTHER] = InstalledModel(OTHER, "d", 2_019)
    world.beat()
    world.settle()
    for n in range(slots):
        world.ask(f"first{n}", HEAVY)
    world.settle()
    for n in range(200):
        world.read_work("n")
        for work_id in list(machine.in_hand):
            world.begin("n", work_id)
        if n == 3:
            world.ask("the-other", OTHER)
        world.ask(f"more{n}", HEAVY)
        world.beat()
        world.settle(2_000)
        if machine.in_hand:
            world.end("n", next(iter(machine.in_hand)), decode_ms=4_000, total_ms=4_000)
        world.settle(2_000)
        if "brain/the-other" in world.replies:
            break
    return world


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_stream_for_one_model_does_not_starve_another(slots: int) -> None:
    """However many ask for the model that is there, who needs another one gets his turn in time."""
    world = overtaken(slots)
    assert world.replies.get("brain/the-other") == ["done"]


def test_a_run_that_hangs_holds_up_nobody_else_for_long() -> None:
    """While a warm node hangs in a run, who waits for it goes elsewhere once a load is the better bet."""
    world = World((NodeRules("a"), NodeRules("b")))
    world.beat()
    world.settle()
    world.ask("warm-up", HEAVY)
    world.settle()
    world.work_all()
    [warm] = [name for name, machine in world.machines.items() if machine.resident]
    world.ask("hangs", HEAVY)
    world.settle()
    world.read_work(warm)
    [work_id] = world.machines[warm].in_hand
    world.begin(warm, work_id)
    key = world.ask("next", HEAVY)
    for _ in range(150):
        world.beat()
        world.settle(2_000)
    assert world.grid.at_ms > 250_000
    assert world.request(key).work_id, "it waits for a node that has been hanging for five minutes"
    assert world.request(key).node != warm


def test_requests_that_no_node_may_take_do_not_hold_up_others() -> None:
    """More than max_scan wait for a tier whose node is out: one of another tier, same model, still goes."""
    policy = Policy(max_scan=4, spill_forbidden=(1,))
    rows = {f"brain/q{n}": request(accepted=n, tier=1, deferred="no_node") for n in range(5)}
    rows["brain/last"] = request(accepted=9, tier=2, deferred="busy")
    nodes = (node("master", tiers=(1,), temp_mc=80_000), node("worker", tiers=(2,)))
    answers = decide(under(grid(*nodes, open_requests=rows, policy=policy), policy))
    assert [each.request for each in answers if isinstance(each, ev.RequestRouted)] == ["brain/last"]


def test_an_ordered_load_takes_nobodys_slot() -> None:
    """Who waits is looked at although every node is loading what the plan wants there."""
    busy = node("n", resident=MEMORY, installed=LIBRARY, assignments={"5-0": loading(BIG)})
    for deferred in ("", "busy"):
        answers = decide(grid(busy, open_requests={"brain/q": request(deferred=deferred)}))
        assert kinds(answers) == ["request.routed"]


def test_who_is_rejected_while_it_waits_ends_and_holds_up_nobody() -> None:
    """A model that was removed everywhere ends its requests; one behind them that needs room still goes."""
    tight = node("n", ram_total_mb=4_000, resident={HEAVY: Resident("b", 3_000, 4_096, 4_096)})
    rows = {
        "brain/gone": request(model="gone:1b", priority=1),
        "brain/q": request(accepted=2, num_ctx=4_096),
    }
    answers = decide(grid(tight, open_requests=rows))
    assert kinds(answers) == ["request.failed", "model.unload_ordered", "request.routed"]


# --- who never fits --------------------------------------------------------------------------------


def asking(some: Grid, model: str = BIG, **fields: str) -> Taken:
    """What a request means to the grid."""
    raw = {
        name.encode(): value.encode()
        for name, value in {"id": "q", "model": model, "prompt": "p", **fields}.items()
    }
    return take(some, Entry("requests", "brain", "5-0", raw), **LIMITS)


def small(name: str, **values: Any) -> Any:
    """A node of 8 GB with all models on disk."""
    return node(name, installed=LIBRARY, **values)


def test_what_fits_nowhere_is_rejected_at_once_with_figures() -> None:
    """The reply says what each node has room for and what the model needs."""
    taken = asking(
        grid(small("a"), small("b", ram_total_mb=6_000), small("orion-edge", ram_total_mb=64_000))
    )
    [rejected] = taken.events
    assert isinstance(rejected, ev.RequestRejected)
    assert rejected.code == "model_too_large"
    need_mb = 7_366 + 7_366 * 4_096 // 50_000 + 204
    assert f"a has room for {8_000 * 88 // 100 - 500} MB and it needs {need_mb} MB" in taken.message
    assert f"b has room for {6_000 * 88 // 100 - 500} MB and it needs {need_mb} MB" in taken.message
    assert "edge" not in taken.message


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({}, "model_too_large"),
        ({"temp_mc": 80_000}, "model_too_large"),
        ({"ram_used_mb": 7_900}, "model_too_large"),
        ({"ram_total_mb": 16_000}, ""),
        ({"ram_total_mb": 16_000, "ram_used_mb": 13_000}, ""),
        ({"ram_total_mb": 16_000, "temp_mc": 80_000}, ""),
        ({"heard_ms": AT_MS - 9_000}, ""),
        ({"heard_ms": None}, ""),
        ({"inventory_known": False}, ""),
    ],
)
def test_only_what_is_known_to_fit_nowhere_is_rejected(values: dict[str, Any], code: str) -> None:
    """A node that is full, hot or silent now may take it later: then the request waits."""
    [event] = asking(grid(small("a"), small("b", **values))).events
    assert (event.code if isinstance(event, ev.RequestRejected) else "") == code
    if not code:
        some = fold(grid(small("a"), small("b", **values)), [event])
        assert kinds(decide(some))[-1] in ("request.deferred", "request.routed")


def test_a_larger_context_may_be_what_does_not_fit() -> None:
    """The same model fits with the usual context and not with a huge one."""
    assert isinstance(asking(grid(small("a")), HEAVY).events[0], ev.RequestAccepted)
    asked = asking(grid(small("a")), HEAVY, options='{"num_ctx": 200000}').events[0]
    assert isinstance(asked, ev.RequestRejected)


def test_a_model_in_memory_is_never_called_too_large() -> None:
    """It stands there, under whatever name: whatever the estimate says, it fits, also on a hot node."""
    there = {MODEL: Resident("a", 350, 4_096, 4_096)}
    for values in ({}, {"temp_mc": 80_000}):
        some = grid(small("n", ram_total_mb=1_000, ram_used_mb=700, resident=there, **values))
        for name in (MODEL, TWIN):
            assert isinstance(asking(some, name).events[0], ev.RequestAccepted)


def test_a_tier_that_may_not_spill_does_not_hide_that_nothing_fits() -> None:
    """Too large for every node there is, the request is rejected whatever its tier forbids."""
    policy = Policy(spill_forbidden=(1,))
    some = grid(small("a", tiers=(1,)), small("b", tiers=(2,)), policy=policy)
    assert isinstance(asking(some, tier="1").events[0], ev.RequestRejected)


def test_what_fits_later_waits_and_is_answered() -> None:
    """A node that is full now takes the request as soon as there is room."""
    world = World((NodeRules(WORKER),))
    world.machines[WORKER].other_mb = 7_000
    world.beat()
    world.settle()
    key = world.ask("q", HEAVY)
    world.settle()
    assert world.request(key).deferred == "no_node"
    world.machines[WORKER].other_mb = 1_500
    world.beat()
    world.settle()
    world.work_all()
    assert world.replies == {key: ["done"]}


def test_a_model_that_runs_elsewhere_is_refused_by_name() -> None:
    """Whatever Ollama lists: the reply says which node would have asked it outside the house."""
    cloud = "big:1t-cloud"
    taken = asking(grid(small("a", remote=(cloud,)), small("b")), model=cloud)
    [rejected] = taken.events
    assert isinstance(rejected, ev.RequestRejected)
    assert rejected.code == "unknown_model"
    assert taken.message.endswith(" a would ask it outside this house: that is never done.")
