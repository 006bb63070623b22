"""What one answer, load or request teaches, to the last integer."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules
from orion_streams.model.state import Demand, Grid, Length, Speed
from orion_streams.model.vocabulary import RequestKind
from orion_streams.projections import evolve
from orion_streams.projections.speeds import MAX_MODELS, MEMORY, average, longer
from tests.grids import AT_MS, HEAVY, MODEL, grid, holding, node, request

KNOWN = Speed(load_ms=1_000, prefill_us_per_token=2_000, decode_us_per_token=40_000)
ANSWER = ev.RequestCompleted(
    "brain/a", 1, "n", "5-1", tokens=7, prompt_tokens=11, load_ms=503, prefill_ms=23, decode_ms=295,
    total_ms=900, cold=True, alone=True,
)  # fmt: skip


def learned(known: Speed | None = KNOWN, cached: bool = False, **values: Any) -> Speed:
    """The speed of the model on the node after an answer."""
    speeds = {("n", HEAVY): Speed(1, 1, 1)} | ({("n", MODEL): known} if known else {})
    asked = request(node="n", work_id="5-1")
    some = grid(
        node("n", assignments={"5-1": holding(cached=cached)}),
        open_requests={"brain/a": asked},
        speeds=speeds,
    )
    after = evolve(some, replace(ANSWER, **values)).speeds
    assert after.pop(("n", HEAVY)) == Speed(1, 1, 1)
    [(key, speed)] = after.items()
    assert key == ("n", MODEL)
    assert [
        type(each) for each in (speed.load_ms, speed.prefill_us_per_token, speed.decode_us_per_token)
    ] == [int] * 3
    return speed


def test_an_answer_moves_each_speed_a_quarter_of_the_way() -> None:
    """Load in ms, prompt and answer in µs per token, rounded down."""
    assert learned() == Speed(875, (6_000 + 2_090) // 4, (120_000 + 42_142) // 4)


def test_the_first_answer_counts_whole() -> None:
    """Nothing was known before."""
    assert learned(None) == Speed(503, 2_090, 42_142)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"cold": False}, 1_000),
        ({"alone": False}, 1_000),
        ({"load_ms": 0}, 1_000),
        ({"load_ms": 1}, 750),
    ],
)
def test_a_load_is_learned_only_from_a_cold_run_alone(values: dict[str, Any], expected: int) -> None:
    """A warm answer's load, or one beside other work, is a wait; 0 is no measurement."""
    assert learned(**values) == replace(learned(), load_ms=expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"prompt_tokens": 0}, 2_000),
        ({"prompt_tokens": 1}, (6_000 + 23_000) // 4),
        ({"prefill_ms": 0}, 2_000),
        ({"prefill_ms": 1}, (6_000 + 90) // 4),
        ({"cached": True}, 2_000),
    ],
)
def test_a_prefill_is_learned_where_it_was_measured_and_whole(
    values: dict[str, Any], expected: int
) -> None:
    """No tokens, no time, or a part that a session's cache has saved: nothing to learn."""
    assert learned(**values) == replace(learned(), prefill_us_per_token=expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tokens": 1}, 40_000),
        ({"tokens": 2}, (120_000 + 147_500) // 4),
        ({"decode_ms": 0}, 40_000),
        ({"decode_ms": 1}, (120_000 + 142) // 4),
    ],
)
def test_decoding_is_learned_from_two_tokens_on(values: dict[str, Any], expected: int) -> None:
    """One token says nothing of the time between two."""
    assert learned(**values) == replace(learned(), decode_us_per_token=expected)


def test_a_run_that_no_node_holds_teaches_its_prefill_too() -> None:
    """Only a holding that says so was cached; also where the node is gone or the slot was freed."""
    for nodes in ((), (node("n"),)):
        some = grid(*nodes, open_requests={"brain/a": request(node="n", work_id="5-1")})
        assert evolve(some, ANSWER).speeds == {("n", MODEL): Speed(503, 2_090, 42_142)}


def test_a_closed_request_teaches_nothing() -> None:
    """Its model is no longer known."""
    after = evolve(grid(node("n"), open_requests={"brain/b": request()}), ANSWER)
    assert (after.speeds, after.answers) == ({}, {})


def lengths(tokens: int, known: dict[str, Length], rules: ModelRules | None = None) -> dict[str, Length]:
    """Mean answers after one of so many tokens."""
    models = {MODEL: rules} if rules else {}
    opened = {"brain/a": request(node="n", work_id="5-1")}
    some = grid(node("n"), open_requests=opened, answers=known, models=models)
    return evolve(some, replace(ANSWER, tokens=tokens)).answers


def test_the_first_answer_of_a_model_outweighs_what_was_assumed() -> None:
    """The prior counts as half an answer: of the policy, or of the model's own rules."""
    assert lengths(7, {}) == {MODEL: Length((200_000 + 14_000) // 3, 1)}
    assert lengths(7, {}, ModelRules(prior_tokens=50)) == {MODEL: Length((50_000 + 14_000) // 3, 1)}
    assert lengths(1, {}) == {MODEL: Length((200_000 + 2_000) // 3, 1)}


def test_an_empty_answer_is_no_length() -> None:
    """An embedding has no tokens."""
    known = {MODEL: Length(5_000, 3), HEAVY: Length(9_000, 1)}
    assert lengths(0, known) == known
    assert lengths(8, known) == {MODEL: Length((7 * 5_000 + 16_000) // 9, 4), HEAVY: Length(9_000, 1)}


@pytest.mark.parametrize(
    ("answers", "weight", "after"),
    [(0, 1, 1), (1, 3, 2), (MEMORY - 1, 2 * MEMORY - 1, MEMORY), (MEMORY, 2 * MEMORY, MEMORY)],
)
def test_a_mean_weighs_its_answers_up_to_a_limit(answers: int, weight: int, after: int) -> None:
    """Twice the answers and one half for the prior, at most `MEMORY` answers in all."""
    found = longer(Length(10_001, answers), 31)
    assert found == Length((weight * 10_001 + 62_000) // (weight + 2), after)
    assert type(found.milli) is int


ENDED = ev.LoadEnded("n", MODEL, "5-1", ok=True, load_ms=503, alone=True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 875),
        ({"ok": False}, 1_000),
        ({"alone": False}, 1_000),
        ({"ok": False, "alone": False}, 1_000),
        ({"load_ms": 0}, 1_000),
        ({"load_ms": 1}, 750),
    ],
)
def test_an_ordered_load_teaches_if_it_ran_alone(values: dict[str, Any], expected: int) -> None:
    """The other speeds stay; a load that failed or took no time teaches nothing."""
    some = grid(node("n"), speeds={("n", MODEL): KNOWN})
    assert evolve(some, replace(ENDED, **values)).speeds == {("n", MODEL): replace(KNOWN, load_ms=expected)}


def test_the_first_ordered_load_counts_whole() -> None:
    """Nothing is known of the rest."""
    assert evolve(grid(node("n")), ENDED).speeds == {("n", MODEL): Speed(503, 0, 0)}
    assert evolve(grid(node("n")), replace(ENDED, load_ms=0)).speeds == {}


@pytest.mark.parametrize(("known", "expected"), [(0, 7), (1, 2), (10, 9), (11, 10)])
def test_an_average_moves_a_quarter(known: int, expected: int) -> None:
    """Rounded down; from nothing it jumps."""
    assert average(known, 7) == expected


def test_demand_is_halved_by_time_and_grows_by_one() -> None:
    """In thousandths; other models' demand stays as it was written."""
    demand = {MODEL: Demand(3_001, AT_MS - 600_000), HEAVY: Demand(5, 6)}
    some: Grid = grid(node("n"), demand=demand)
    asked = ev.RequestAccepted("brain/a", "7-0", RequestKind.CHAT, MODEL, 1, 1, 1)
    assert evolve(some, asked).demand == {MODEL: Demand(2_500, AT_MS), HEAVY: Demand(5, 6)}
    assert evolve(grid(node("n")), asked).demand == {MODEL: Demand(1_000, AT_MS)}


def test_demand_is_remembered_of_so_many_models() -> None:
    """The one that was asked for the longest ago goes first; asking again makes a model the youngest."""
    asked = ev.RequestAccepted("brain/a", "7-0", RequestKind.CHAT, MODEL, 1, 1, 1)
    others = {f"x{n}:1b": Demand(1, AT_MS) for n in range(MAX_MODELS)}
    almost = dict(list(others.items())[1:])
    assert list(evolve(grid(demand=others), asked).demand) == [*list(others)[1:], MODEL]
    assert list(evolve(grid(demand=almost), asked).demand) == [*almost, MODEL]
    known = {MODEL: Demand(1, AT_MS), **almost}
    assert list(evolve(grid(demand=known), asked).demand) == [*almost, MODEL]
