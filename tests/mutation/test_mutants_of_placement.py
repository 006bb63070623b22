"""The plan line by line, with its reasons, and its work event by event."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.memory import default_num_ctx
from orion_streams.decider.placement import (
    COPY_MILLI,
    Candidate,
    Placement,
    candidates,
    chosen,
    demand_of,
    is_there,
    make_room,
    may_load,
    plan,
    quickest_loads,
    rank,
    work_of,
    worth_now,
)
from orion_streams.model import events as ev
from orion_streams.model.marks import is_heard
from orion_streams.model.policy import ModelRules, NodeRules
from orion_streams.model.state import Demand, Grid, Resident, Speed
from orion_streams.model.vocabulary import Mark, UnloadReason
from tests.grids import AT_MS, BIG, DISK, HEAVY, LIBRARY, MODEL, TWIN, grid, holding, loading, node

HEAVY_MB = 2_019 + 165 + 204
HERE = Resident("a", 470, 4_096)
ONE = Candidate(1_003, "n", MODEL, 477, pinned=False, resident=False)


def test_demand_is_what_is_left_of_it() -> None:
    """In thousandths, by now; what nothing is left of is not listed."""
    some = grid(demand={MODEL: Demand(801, AT_MS - 600_000), HEAVY: Demand(1, AT_MS - 600_000)})
    assert demand_of(some) == {MODEL: 400}


def test_a_plan_says_why() -> None:
    """Pins first, then by worth; what is there but is worth less than others is left, with the reason."""
    rows = {MODEL: HERE, BIG: Resident("c", 7_400), HEAVY: Resident("b", 2_300)}
    some = grid(
        node("n", installed=LIBRARY, resident=rows, ram_total_mb=4_000),
        models={TWIN: ModelRules(resident_on=("n",))},
    )
    demand = {HEAVY: 5_000, BIG: 1_000}
    assert plan(some, demand) == (
        Placement("n", HEAVY, "keep", HEAVY_MB, 11_977, "saves 11977 µs of loading per MB and request"),
        Placement("n", TWIN, "keep", 477, 0, "pinned here by streams.toml"),
        Placement("n", BIG, "leave", 8_173, 2_553, "others save more in its place"),
        Placement("n", MODEL, "leave", 477, 0, "asked for too seldom of late"),
    )


def test_a_place_is_given_to_the_last_mb() -> None:
    """What fits exactly gets in, one MB less and it does not."""
    for total_mb, placed in ((1_111, 1), (1_110, 0)):  # 88 % less 500 MB: 477 and 476
        some = grid(node("n", ram_total_mb=total_mb))
        assert len(plan(some, {MODEL: 1_000})) == placed


@pytest.mark.parametrize(
    ("values", "planned"),
    [
        ({}, 1),
        ({"heard_ms": None}, 0),
        ({"heard_ms": AT_MS - 5_000}, 1),
        ({"heard_ms": AT_MS - 5_001}, 0),
        ({"inventory_known": False}, 0),
        ({"installed": {}}, 0),
        ({"inference": False}, 0),
    ],
)
def test_a_plan_is_for_nodes_that_are_known(values: dict[str, Any], planned: int) -> None:
    """Heard from of late, with a known inventory, and for inference."""
    row = node("n", **values)
    assert len(plan(grid(row), {MODEL: 1_000})) == planned
    assert is_heard(grid(row), row) is (values.get("heard_ms", AT_MS) in (AT_MS, AT_MS - 5_000))


def test_copies_are_counted_in_the_reason() -> None:
    """Each further copy is worth a quarter of the one before, and only of what is asked for often."""
    some = grid(node("l"), node("m"), node("n"))
    rows = plan(some, {MODEL: COPY_MILLI})
    assert [(each.node, each.saved_us_per_mb, each.reason) for each in rows] == [
        ("l", 9_016, "saves 9016 µs of loading per MB and request"),
        ("m", 2_254, "saves 2254 µs of loading per MB and request, copy 2 of it"),
        ("n", 563, "saves 563 µs of loading per MB and request, copy 3 of it"),
    ]
    assert len(plan(some, {MODEL: COPY_MILLI - 1})) == 1


def test_the_lines_are_sorted() -> None:
    """By node; what stays or comes before what goes; then by worth, then by name."""
    here = {MODEL: HERE, TWIN: HERE}
    some = grid(node("n", installed=LIBRARY, resident=here), node("m", installed=DISK))
    rows = plan(some, {HEAVY: 2_000, MODEL: 1_000})
    assert [(each.node, each.model, each.action) for each in rows] == [
        ("m", HEAVY, "load"),
        ("n", MODEL, "keep"),
        ("n", TWIN, "leave"),
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (False, -1_003)),
        ({"pinned": True}, (True, -1_003)),
        ({"resident": True}, (False, -1_254)),
        ({"resident": True, "worth": 0}, (False, -1)),
    ],
)
def test_what_is_there_has_an_advantage(values: dict[str, Any], expected: tuple[bool, int]) -> None:
    """A quarter more and one; pins before all."""
    pinned, worth = expected
    found = rank(replace(ONE, **values), {}, {})
    assert found == (not pinned, worth, "n", MODEL)
    assert type(found[1]) is int


@pytest.mark.parametrize(
    ("copies", "asked", "expected"),
    [
        ({}, {}, 1_003),
        ({HEAVY: 3}, {}, 1_003),
        ({MODEL: 1}, {MODEL: COPY_MILLI}, 250),
        ({MODEL: 2}, {MODEL: COPY_MILLI}, 62),
        ({MODEL: 1}, {MODEL: COPY_MILLI - 1}, 0),
        ({MODEL: 1}, {HEAVY: 9_000}, 0),
    ],
)
def test_a_further_copy_is_worth_a_quarter(
    copies: dict[str, int], asked: dict[str, int], expected: int
) -> None:
    """Nothing, where the model is not asked for often."""
    assert worth_now(ONE, copies, asked) == expected


def test_what_a_place_is_worth_may_be_very_little() -> None:
    """From the 17th copy on it no longer falls: 2 to the 32nd part."""
    rich = replace(ONE, worth=1 << 33)
    assert [worth_now(rich, {MODEL: n}, {MODEL: 9_000}) for n in (15, 16, 17, 40)] == [8, 2, 2, 2]


def test_a_line_of_what_gets_a_place() -> None:
    """Its worth and its copy; pinned ones say so and nothing else."""
    assert chosen(ONE, 9, 1) == Placement(
        "n", MODEL, "load", 477, 9, "saves 9 µs of loading per MB and request"
    )
    second = "saves 9 µs of loading per MB and request, copy 2 of it"
    assert chosen(replace(ONE, resident=True), 9, 2) == Placement("n", MODEL, "keep", 477, 9, second)
    assert chosen(replace(ONE, pinned=True), 9, 2) == Placement(
        "n", MODEL, "load", 477, 9, "pinned here by streams.toml"
    )


def test_candidates_are_worth_the_quickest_load_of_all() -> None:
    """µs per MB of their own size and per request of any model; worthless ones only if there or pinned."""
    slow = replace(
        node("n", resident={TWIN: HERE}, installed=LIBRARY),
        rules=NodeRules("n", slots=2, load_us_per_mb=90_000),
    )
    models = {MODEL: ModelRules(num_ctx=8_192), BIG: ModelRules(resident_on=("n",))}
    some = grid(slow, node("m"), models=models, speeds={("m", HEAVY): Speed(30_001)})
    found = candidates(some, {"m": 0, "n": 0}, {MODEL: 500, HEAVY: 700})
    small_mb, twice_mb = 253 + 41 + 204, 253 + 82 + 204
    assert found == [
        Candidate(4_301 * 1000 * 500 // 1_200 // small_mb, "m", MODEL, small_mb, False, False),
        Candidate(30_001 * 1000 * 700 // 1_200 // HEAVY_MB, "m", HEAVY, HEAVY_MB, False, False),
        Candidate(4_301 * 1000 * 500 // 1_200 // twice_mb, "n", MODEL, twice_mb, False, True),
        Candidate(0, "n", TWIN, 253 + 41 + 204, False, True),
        Candidate(0, "n", BIG, 7_366 + 1_206 + 204, True, False),
        Candidate(
            30_001 * 1000 * 700 // 1_200 // (2_019 + 330 + 204), "n", HEAVY, 2_019 + 330 + 204, False, False
        ),
    ]


def test_without_demand_only_what_is_there_or_pinned_counts() -> None:
    """Nothing is worth anything, and nobody divides by nothing."""
    some = grid(node("n", resident={MODEL: HERE}), footprints={("a", 4096, 1): 0, ("b", 4096, 1): 0})
    assert candidates(some, {"n": 0}, {}) == [Candidate(0, "n", MODEL, 0, False, True)]
    worths = {each.model: each.worth for each in candidates(some, {"n": 0}, {HEAVY: 1})}
    assert worths == {MODEL: 0, HEAVY: 34_323_000}


@pytest.mark.parametrize(
    ("values", "there"),
    [
        ({}, False),
        ({"resident": {MODEL: replace(HERE, digest="old")}}, True),
        ({"resident": {TWIN: HERE}}, True),
        ({"resident": {TWIN: replace(HERE, digest="z")}}, False),
        ({"assignments": {"1-0": loading(MODEL)}}, True),
        ({"assignments": {"1-0": holding(HEAVY)}}, False),
    ],
)
def test_a_model_is_there_by_name_weights_or_on_its_way(values: dict[str, Any], there: bool) -> None:
    """In memory, maybe under another name, or about to be."""
    assert is_there(node("n", **values), MODEL, LIBRARY[MODEL]) is there


def test_the_quickest_load_is_that_of_the_fastest_node() -> None:
    """Of those that are asked about, by model."""
    speeds = {
        ("l", MODEL): Speed(900),
        ("m", MODEL): Speed(800),
        ("n", MODEL): Speed(850),
        ("o", MODEL): Speed(1),
    }
    some = grid(*(node(name) for name in "lmno"), speeds=speeds)
    assert quickest_loads(some, dict.fromkeys("lmn", 0)) == {MODEL: 800, HEAVY: 34_323}


def test_a_context_is_the_models_own_or_the_policys() -> None:
    """Unless a request asks for another."""
    some = grid(models={MODEL: ModelRules(num_ctx=8_192), HEAVY: ModelRules()})
    assert [default_num_ctx(some, model) for model in (MODEL, HEAVY, BIG)] == [8_192, 4_096, 4_096]


def tight(**values: Any) -> Grid:
    """A node on which one of two idle models has to go for the heavy one."""
    rows = {MODEL: HERE, "x:1b": Resident("x", 2_000)}
    usual: dict[str, Any] = {"resident": rows, "ram_total_mb": 4_000, "ram_used_mb": 3_000}
    return grid(node("n", **{**usual, **values}), models={HEAVY: ModelRules(num_ctx=4_096, num_thread=2)})


LINES = [
    Placement("n", HEAVY, "load", HEAVY_MB, 9, "why"),
    Placement("n", MODEL, "leave", 477, 0, "seldom"),
    Placement("n", "x:1b", "leave", 2_000, 0, "seldom"),
    Placement("m", "x:1b", "leave", 2_000, 0, "elsewhere"),
]


def test_what_goes_for_a_load_says_so() -> None:
    """The least that is enough, on that node; the other lines stay as they are."""
    going = replace(LINES[2], action="unload", reason=f"makes room for {HEAVY}")
    assert make_room(tight(), LINES) == [LINES[0], LINES[1], going, LINES[3]]
    kept = replace(LINES[2], action="keep")
    assert make_room(tight(), [LINES[0], kept]) == [LINES[0], kept]
    assert make_room(tight(), [replace(LINES[0], action="keep"), LINES[2]])[1] == LINES[2]


def test_what_goes_depends_on_the_context_of_the_load() -> None:
    """Its own, if it has one: a larger one takes more."""
    small = Placement("n", HEAVY, "load", HEAVY_MB, 9, "why")
    rows = {"a:1b": Resident("a", 100), "b:1b": Resident("b", 300)}
    row = node("n", resident=rows, used_ms={"a:1b": 1, "b:1b": 2}, ram_total_mb=4_000, ram_used_mb=1_133)
    lines = [small, *(Placement("n", model, "leave", 1, 0, "") for model in rows)]
    for num_ctx, going in ((0, "a:1b"), (8_192, "b:1b")):
        some = grid(row, models={HEAVY: ModelRules(num_ctx=num_ctx)})
        assert [each.model for each in make_room(some, lines) if each.action == "unload"] == [going]


def test_only_the_next_load_of_each_node_makes_room() -> None:
    """What goes for later ones is decided then."""
    rows = {"x:1b": Resident("x", 2_000), "y:1b": Resident("y", 1_900)}
    some = grid(
        *(
            node(name, resident=rows, ram_total_mb=4_500, ram_used_mb=3_000, installed=LIBRARY)
            for name in "mn"
        )
    )
    lines = [
        Placement(name, model, action, 1, 1, "")
        for name in "mn"
        for model, action in ((MODEL, "load"), (HEAVY, "load"), ("x:1b", "leave"), ("y:1b", "leave"))
    ]
    found = make_room(some, lines)
    assert [(each.node, each.model) for each in found if each.action == "unload"] == [
        ("m", "x:1b"),
        ("n", "x:1b"),
    ]
    assert {each.reason for each in found if each.action == "unload"} == {f"makes room for {MODEL}"}


ORDER = ev.LoadOrdered("n", HEAVY, 4_096, "num_thread=2", load_ms=34_323, reserve_mb=HEAVY_MB)


def test_the_work_of_a_plan_is_one_load_and_what_goes_for_it() -> None:
    """With the options that requests will ask for, and what the load is expected to take."""
    lines = tuple(make_room(tight(), LINES[:3]))
    assert list(work_of(tight(), lines)) == [ev.UnloadOrdered("n", "x:1b", UnloadReason.ROOM), ORDER]
    free = replace(
        tight(resident={}, ram_used_mb=600), models={}, speeds={("n", HEAVY): Speed(77, at_ms=AT_MS)}
    )
    assert list(work_of(free, lines[:1])) == [replace(ORDER, runner="", load_ms=77)]


def test_a_model_that_failed_to_load_is_not_ordered_at_once() -> None:
    """The others of the plan may be."""
    lines = tuple(make_room(tight(), LINES[:1]))
    assert list(work_of(tight(load_failed_ms={HEAVY: AT_MS}), lines)) == []
    assert list(work_of(tight(load_failed_ms={MODEL: AT_MS}), lines)) != []


def test_what_the_plan_wants_does_not_go_for_it() -> None:
    """If room needs a model that stays, the load waits."""
    keeps = (LINES[0], replace(LINES[2], action="keep"))
    assert list(work_of(tight(), keeps)) == []


@pytest.mark.parametrize(
    "values",
    [
        {"ram_used_mb": 3_500, "resident": {}},
        {"resident": {"x:1b": Resident("x", 2_000, since_ms=AT_MS - 1)}},
    ],
)
def test_a_load_without_room_waits(values: dict[str, Any]) -> None:
    """None at all, or only when a young model may go; another load of the node goes before."""
    some = tight(**values)
    assert list(work_of(some, tuple(LINES[:3]))) == []
    small = Placement("n", MODEL, "load", 477, 1, "")
    [order] = work_of(
        replace(some, nodes={"n": replace(some.nodes["n"], resident={}, ram_used_mb=3_000)}),
        (LINES[0], small),
    )
    assert isinstance(order, ev.LoadOrdered)
    assert order.model == MODEL


def test_each_node_has_one_load_at_a_time_and_no_node_waits_for_another() -> None:
    """One that is busy, or has its load, is passed over; the next one gets its own."""
    rows = (node("l", assignments={"1-0": holding()}), node("m"), node("n"))
    lines = tuple(Placement(name, model, "load", 1, 1, "") for name in "lmn" for model in (MODEL, HEAVY))
    found = list(work_of(grid(*rows), (replace(lines[0], action="keep"), *lines)))
    assert [(each.node, each.model) for each in found if isinstance(each, ev.LoadOrdered)] == [
        ("m", MODEL),
        ("n", MODEL),
    ]


@pytest.mark.parametrize(
    ("values", "idle"),
    [
        ({}, True),
        ({"used_ms": {HEAVY: AT_MS - 5_000, BIG: 5}}, True),
        ({"used_ms": {HEAVY: AT_MS - 4_999, BIG: 5}}, False),
        ({"load_failed_ms": {MODEL: AT_MS - 300_000}}, True),
        ({"load_failed_ms": {MODEL: AT_MS - 299_999}}, False),
        ({"load_failed_ms": {HEAVY: AT_MS}}, True),
        ({"forecast_mc": 70_000}, True),
        ({"forecast_mc": 70_001}, False),
        ({"opened_ms": AT_MS - 1, "open_ms": 15_000}, False),
        ({"opened_ms": AT_MS - 99_000, "open_ms": 1}, False),
        ({"temp_mc": 75_001}, False),
        ({"temp_mc": None}, False),
        ({"ram_used_mb": 7_300}, False),
        ({"backed_off": (Mark.HOT,)}, False),
        ({"backed_off": (Mark.RAM,)}, False),
        ({"two_agents_ms": AT_MS}, False),
        ({"assignments": {"1-0": holding()}}, False),
        ({"assignments": {"1-0": loading(MODEL)}}, False),
        ({"heard_ms": None}, False),
        ({"heard_ms": AT_MS - 5_000}, True),
        ({"heard_ms": AT_MS - 5_001}, False),
    ],
)
def test_a_node_is_idle_when_all_speaks_for_it(values: dict[str, Any], idle: bool) -> None:
    """Each condition at its mark."""
    row = node("n", **values)
    assert may_load(grid(row), row, MODEL) is idle


def test_a_node_that_never_worked_is_idle_from_the_start() -> None:
    """Once the log is as old as the wait."""
    row = node("n", heard_ms=5_000)
    for at_ms, idle in ((5_000, True), (4_999, False)):
        assert may_load(replace(grid(row), at_ms=at_ms), row, MODEL) is idle
