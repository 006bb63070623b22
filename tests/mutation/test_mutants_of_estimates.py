"""What is expected of a node, at the boundaries: as answers taught it, and as its work and heat say."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.estimates import answer_tokens, best_pace, demand_now, expected_speed
from orion_streams.decider.route import (
    Waiting,
    copies,
    derating_permille,
    loss_ms,
    open_slots,
    remaining_ms,
)
from orion_streams.model.learned import decayed
from orion_streams.model.policy import ROBOT, ModelRules, NodeRules, Policy
from orion_streams.model.state import Assignment, Demand, Length, Resident, Speed
from tests.grids import AT_MS, BIG, HEAVY, LIBRARY, MODEL, grid, holding, loading, node, request
from tests.mutation.verdicts import HERE, judged, warm


def test_a_load_is_expected_as_measured_else_by_the_disk() -> None:
    """On this node, of this model."""
    row = node("n")
    speeds = {("n", HEAVY): Speed(77), ("m", MODEL): Speed(88)}
    assert expected_speed(grid(row, speeds=speeds), row, HEAVY, LIBRARY[HEAVY]).load_ms == 77
    assert expected_speed(grid(row, speeds=speeds), row, MODEL, LIBRARY[MODEL]).load_ms == 4_301
    slow = replace(row, rules=NodeRules("n", load_us_per_mb=10_003))
    assert expected_speed(grid(slow), slow, MODEL, LIBRARY[MODEL]).load_ms == 2_530


@pytest.mark.parametrize(
    ("age_ms", "expected"),
    [(0, 77), (1_800_000, 8_638), (3_600_000, 17_200), (7_200_000, 25_761), (36_000_000, 34_323)],
)
def test_what_was_learned_drifts_back_to_the_prior(age_ms: int, expected: int) -> None:
    """Half of the way in each hour without a sample: 34.3 s is what the disk says of its weights."""
    row, speeds = node("n"), {("n", HEAVY): Speed(77, 78, 79, at_ms=AT_MS - age_ms)}
    found = expected_speed(grid(row, speeds=speeds), row, HEAVY, LIBRARY[HEAVY])
    prior = expected_speed(grid(row), row, HEAVY, LIBRARY[HEAVY])
    assert found.load_ms == expected
    for learned, now, usual in (
        (78, found.prefill_us_per_token, prior.prefill_us_per_token),
        (79, found.decode_us_per_token, prior.decode_us_per_token),
    ):
        assert min(learned, usual) <= now <= max(learned, usual)
        assert (now == learned, now == usual) == (age_ms == 0, age_ms == 36_000_000)


@pytest.mark.parametrize(
    ("age_ms", "expected"),
    [
        (-5, 1_001),
        (0, 1_001),
        (1, 1_001),
        (100, 951),
        (500, 751),
        (999, 502),
        (1_000, 500),
        (1_500, 375),
        (9_000, 1),
        (10_000, 0),
        (64_000, 0),
        (10**9, 0),
    ],
)
def test_decay_halves_by_time(age_ms: int, expected: int) -> None:
    """Straight lines between the halves; what lies in the future counts as now."""
    found = decayed(Demand(1_001, 50_000), 50_000 + age_ms, 1_000)
    assert (found, type(found)) == (expected, int)


def test_at_once_nothing_has_decayed() -> None:
    """Not even of much; one ms later it has."""
    assert [decayed(Demand(10_000, 5), at_ms, 1_000) for at_ms in (4, 5, 6)] == [10_000, 10_000, 9_995]


def test_what_was_asked_for_long_ago_is_forgotten_in_the_end() -> None:
    """63 halves leave nothing of any number that fits 63 bits."""
    assert decayed(Demand(1 << 63, 0), 63, 1) == 1
    assert decayed(Demand(1 << 63, 0), 99, 1) == 1


def test_demand_now_is_that_of_the_model() -> None:
    """Decayed by the policy's half time; nothing where nobody asked."""
    some = grid(demand={MODEL: Demand(800, AT_MS - 600_000)})
    assert demand_now(some, MODEL) == 400
    assert demand_now(some, HEAVY) == 0


def test_the_best_pace_is_the_fastest_answer() -> None:
    """Of nodes that have the model on disk and take inference; without any it is nothing."""
    speeds = {
        ("l", MODEL): Speed(0, 10, 500),
        ("m", MODEL): Speed(0, 99, 400),
        ("o", MODEL): Speed(0, 1, 1),
        f"{ROBOT} {MODEL}": Speed(0, 1, 1),
    }
    rows = (node("l"), node("m"), node("n"), node("o", installed={}), node(ROBOT))
    assert best_pace(grid(*rows, speeds=speeds), MODEL) == (99, 400)
    twice = {("l", MODEL): Speed(0, 11, 500), ("m", MODEL): Speed(0, 10, 500)}
    assert best_pace(grid(node("l"), node("m"), speeds=twice), MODEL) == (10, 500)
    assert best_pace(grid(node("n")), MODEL) == (4_048, 25_300)
    assert best_pace(grid(*rows, speeds=speeds), BIG) == (0, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 77),
        ({"num_predict": 76}, 76),
        ({"num_predict": 78}, 77),
        ({"num_predict": 1}, 1),
        ({"model": HEAVY}, 200),
        ({"model": HEAVY, "num_predict": 150}, 150),
        ({"model": BIG}, 50),
        ({"kind": "embed"}, 0),
        ({"kind": "embed", "num_predict": 9}, 0),
    ],
)
def test_an_answer_is_as_long_as_the_model_usually_answers(values: dict[str, Any], expected: int) -> None:
    """Its mean, else its own prior, else the policy's; at most what is allowed; an embedding has none."""
    some = grid(answers={MODEL: Length(77_999, 3)}, models={BIG: ModelRules(prior_tokens=50)})
    found = answer_tokens(some, request(**values))
    assert (found, type(found)) == (expected, int)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (holding(started=True, run_ms=1_003, since_ms=AT_MS), 1_003),
        (holding(started=True, run_ms=1_003, since_ms=AT_MS - 752), 251),
        (holding(started=True, run_ms=1_003, since_ms=AT_MS - 753), 250),
        (holding(started=True, run_ms=1_003, since_ms=AT_MS - 754), 250),
        (holding(started=True, run_ms=1_003, since_ms=AT_MS - 1_253), 250),
        (holding(started=True, run_ms=1_003, since_ms=AT_MS - 1_254), 251),
        (holding(started=True, run_ms=1_003, since_ms=AT_MS - 9_000), 7_997),
        (loading(MODEL, run_ms=1_003, since_ms=AT_MS - 1_002), 1),
        (loading(MODEL, run_ms=1_003, since_ms=AT_MS - 1_003), 0),
        (loading(MODEL, run_ms=1_003, since_ms=AT_MS - 9_000), 0),
    ],
)
def test_a_run_that_takes_longer_keeps_a_share(held: Assignment, expected: int) -> None:
    """A quarter of what was expected remains of a run, or as much as it is late; nothing of a load."""
    found = remaining_ms(grid(), held)
    assert (found, type(found)) == (expected, int)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 3),
        ({"ramp": 0}, 1),
        ({"ramp": 1}, 2),
        ({"ramp": 9}, 3),
        ({"opened_ms": AT_MS - 20_000, "ramp": 1}, 1),
        ({"forecast_mc": 75_000}, 3),
        ({"forecast_mc": 75_001}, 0),
        ({"forecast_mc": 75_001, "opened_ms": 1}, 0),
    ],
)
def test_slots_open_one_by_one(values: dict[str, Any], expected: int) -> None:
    """None when it is about to get hot, one for a probe, then one more with each answer."""
    row = warm(slots=3, **values)
    assert open_slots(grid(row), row) == expected
    assert judged(row).free_slots == expected


@pytest.mark.parametrize(
    ("forecast_mc", "expected"),
    [(0, 0), (70_000, 0), (70_009, 0), (70_010, 1), (74_999, 499), (75_000, 500), (80_000, 500)],
)
def test_derating_rises_from_mark_to_mark(forecast_mc: int, expected: int) -> None:
    """In thousandths, rounded down."""
    assert derating_permille(grid(), node("n", forecast_mc=forecast_mc)) == expected


def test_marks_that_are_close_derate_at_once() -> None:
    """At the lower one not yet, a thousandth of a degree above it by all."""
    close = Policy(temp_return_mc=74_999)
    found = [
        derating_permille(grid(policy=close), node("n", forecast_mc=mc)) for mc in (74_998, 74_999, 75_000)
    ]
    assert found == [0, 0, 500]


@pytest.mark.parametrize(
    ("demand_milli", "waiting", "expected"),
    [
        (0, Waiting(copies={HEAVY: 1}), 0),
        (3_001, Waiting(copies={HEAVY: 1}), 34_323 * 1_386 // 1000),
        (3_001, Waiting(copies={HEAVY: 2}), 34_323 * 1_386 // 1000 // 2),
        (100, Waiting(models={HEAVY: 1}, copies={HEAVY: 1}), 34_323),
        (100, Waiting(models={MODEL: 1}, copies={HEAVY: 1}), 34_323 * 46 // 1000),
        (3_001, Waiting(models={HEAVY: 1}, copies={HEAVY: 1}), 34_323 * 1_386 // 1000),
    ],
)
def test_what_others_lose(demand_milli: int, waiting: Waiting, expected: int) -> None:
    """A load per request within the horizon, at least one if any waits, half with a copy elsewhere."""
    row = node("n", resident={HEAVY: Resident("b", 2_019)})
    demand = {HEAVY: Demand(demand_milli, AT_MS)} if demand_milli else {}
    found = loss_ms(grid(row, demand=demand), row, HEAVY, waiting)
    assert (found, type(found)) == (expected, int)


def test_a_young_grid_has_a_short_past() -> None:
    """Demand is spread over the time that the log covers, at least a ms; unknown weights cost nobody."""
    row, waiting = node("n"), Waiting(copies={HEAVY: 1})
    for at_ms, window_ms in ((0, 1), (1, 1), (2, 2), (500_000, 500_000)):
        some = replace(grid(row, demand={HEAVY: Demand(700, at_ms)}), at_ms=at_ms)
        expected = 34_323 * (700 * 400_000 // window_ms) // 1000
        assert loss_ms(some, row, HEAVY, waiting) == expected
    assert loss_ms(grid(row, demand={BIG: Demand(700, AT_MS)}), row, BIG, Waiting(models={BIG: 1})) == 0


def test_copies_are_counted_once() -> None:
    """In memory or on its way, on each node once; then the count is remembered."""
    both = node("o", resident={MODEL: HERE}, assignments={"1-0": holding()})
    some = grid(
        node("l"),
        node("m", assignments={"1-0": holding(HEAVY), "2-0": holding()}),
        node("n", resident={MODEL: HERE}),
        both,
    )
    waiting = Waiting(copies={HEAVY: 7})
    assert copies(some, MODEL, waiting) == 3
    assert waiting.copies == {HEAVY: 7, MODEL: 3}
    assert copies(some, HEAVY, waiting) == 7
    assert copies(grid(), MODEL, waiting) == 3


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ({}, 1),
        ({"inference": False}, 0),
        ({"inventory_known": False}, 0),
        ({"heard_ms": None}, 0),
        ({"heard_ms": AT_MS - 5_000}, 1),
        ({"heard_ms": AT_MS - 5_001}, 0),
        ({"temp_mc": 75_001}, 0),
    ],
)
def test_a_copy_on_a_node_that_is_out_does_not_count(values: dict[str, Any], counts: int) -> None:
    """Nobody can use it now, be it in memory or on its way."""
    for row in (warm(**values), node("n", assignments={"1-0": holding()}, **values)):
        assert copies(grid(row), MODEL, Waiting()) == counts
