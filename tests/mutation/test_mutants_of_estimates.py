"""What answers taught and how it decays, at the boundaries."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.estimates import answer_tokens, best_pace, demand_now, expected_speed
from orion_streams.model.learned import decayed
from orion_streams.model.policy import ROBOT, ModelRules, NodeRules
from orion_streams.model.state import Demand, Length, Speed
from tests.grids import AT_MS, BIG, HEAVY, LIBRARY, MODEL, grid, node, request


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
