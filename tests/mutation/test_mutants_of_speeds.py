"""What one answer, load or request teaches, to the last integer."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.estimates import expected_speed
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules
from orion_streams.model.state import Assignment, Demand, Grid, Length, Speed
from orion_streams.model.vocabulary import RequestKind
from orion_streams.projections import evolve
from orion_streams.projections.speeds import LONGER_MAX, MAX_MODELS, MEMORY, SAMPLES, longer, median
from tests.grids import AT_MS, HEAVY, MODEL, grid, holding, loading, node, request

LOADS, PREFILLS, DECODES = (900, 1_000, 1_100), (1_900, 2_000, 2_100), (39_000, 40_000, 41_000)
KNOWN = Speed(1_000, 2_000, 40_000, AT_MS - 1, LOADS, PREFILLS, DECODES)
ANSWER = ev.RequestCompleted(
    "brain/a", 1, "n", "5-1", tokens=7, prompt_tokens=11, load_ms=503, prefill_ms=23, decode_ms=295,
    total_ms=900, cold=True, alone=True,
)  # fmt: skip


def learned(known: Speed | None = KNOWN, cached: bool = False, **values: Any) -> Speed:
    """The speed of the model on the node after an answer."""
    other = Speed(1, 1, 1, AT_MS - 1)
    speeds = {("n", HEAVY): other} | ({("n", MODEL): known} if known else {})
    asked = request(node="n", work_id="5-1")
    some = grid(
        node("n", assignments={"5-1": holding(cached=cached)}),
        open_requests={"brain/a": asked},
        speeds=speeds,
    )
    after = evolve(some, replace(ANSWER, **values)).speeds
    assert after.pop(("n", HEAVY)) == other
    [(key, speed)] = after.items()
    assert key == ("n", MODEL)
    assert all(type(each) is int for each in (*speed.loads, *speed.prefills, *speed.decodes))
    return speed


def test_an_answer_adds_a_sample_to_each_speed() -> None:
    """Load in ms, prompt and answer in µs per token, rounded down. The middle sample counts."""
    assert learned() == Speed(
        900, 2_000, 40_000, AT_MS, (*LOADS, 503), (*PREFILLS, 2_090), (*DECODES, 42_142)
    )


def test_the_first_answer_counts_less_than_what_was_assumed() -> None:
    """One sample of three: two are the prior's, by the weights of the model and the rates of the node."""
    expected = expected_speed(grid(node("n")), node("n"), MODEL, node("n").installed[MODEL])
    found = learned(None)
    assert (found.loads, found.prefills, found.decodes) == ((503,), (2_090,), (42_142,))
    assert (found.load_ms, found.prefill_us_per_token, found.decode_us_per_token) == (
        expected.load_ms,
        expected.prefill_us_per_token,
        expected.decode_us_per_token,
    )


def test_an_answer_that_measured_nothing_leaves_all_as_it_was() -> None:
    """Also the moment of the last sample: nothing was learned."""
    assert learned(load_ms=0, prefill_ms=0, decode_ms=0) == KNOWN


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"cold": False}, LOADS),
        ({"alone": False}, LOADS),
        ({"load_ms": 0}, LOADS),
        ({"load_ms": 1}, (*LOADS, 1)),
    ],
)
def test_a_load_is_learned_only_from_a_cold_run_alone(
    values: dict[str, Any], expected: tuple[int, ...]
) -> None:
    """A warm answer's load, or one beside other work, is a wait; 0 is no measurement."""
    found = learned(**values)
    assert found == replace(learned(), loads=expected, load_ms=900 if expected != LOADS else 1_000)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"prompt_tokens": 0}, PREFILLS),
        ({"prompt_tokens": 1}, (*PREFILLS, 23_000)),
        ({"prefill_ms": 0}, PREFILLS),
        ({"prefill_ms": 1}, (*PREFILLS, 90)),
        ({"cached": True}, PREFILLS),
    ],
)
def test_a_prefill_is_learned_where_it_was_measured_and_whole(
    values: dict[str, Any], expected: tuple[int, ...]
) -> None:
    """No tokens, no time, or a part that a session's cache has saved: nothing to learn."""
    assert learned(**values).prefills == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tokens": 1}, DECODES),
        ({"tokens": 2}, (*DECODES, 147_500)),
        ({"decode_ms": 0}, DECODES),
        ({"decode_ms": 1}, (*DECODES, 142)),
    ],
)
def test_decoding_is_learned_from_two_tokens_on(values: dict[str, Any], expected: tuple[int, ...]) -> None:
    """One token says nothing of the time between two."""
    assert learned(**values).decodes == expected


def test_a_run_that_no_node_holds_teaches_its_prefill_too() -> None:
    """Only a holding that says so was cached; also where the node is gone or the slot was freed. Where the
    weights are not known, there is no prior."""
    gone = evolve(grid(open_requests={"brain/a": request(node="n", work_id="5-1")}), ANSWER).speeds
    assert gone == {("n", MODEL): Speed(503, 2_090, 42_142, AT_MS, (503,), (2_090,), (42_142,))}
    freed = grid(node("n"), open_requests={"brain/a": request(node="n", work_id="5-1")})
    assert evolve(freed, ANSWER).speeds["n", MODEL].prefills == (2_090,)


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


@pytest.mark.parametrize(("milli", "most"), [(10_000, 80), (1_000, 8), (0, 8)])
def test_an_absurd_answer_counts_as_a_long_one(milli: int, most: int) -> None:
    """At most eight times the mean before it, and of a mean below one token eight tokens."""
    mean = Length(milli, 3)
    assert longer(mean, 2**24) == longer(mean, most) != longer(mean, most - 1)
    assert most == LONGER_MAX * max(milli, 1_000) // 1_000


LOADING: dict[str, Assignment] = {"5-1": loading(MODEL, alone=True)}
ENDED = ev.LoadEnded("n", MODEL, "5-1", ok=True, load_ms=503, alone=True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (*LOADS, 503)),
        ({"ok": False}, LOADS),
        ({"alone": False}, LOADS),
        ({"ok": False, "alone": False}, LOADS),
        ({"load_ms": 0}, LOADS),
        ({"load_ms": 1}, (*LOADS, 1)),
    ],
)
def test_an_ordered_load_teaches_if_it_ran_alone(values: dict[str, Any], expected: tuple[int, ...]) -> None:
    """The other speeds stay; a load that failed or took no time teaches nothing."""
    some = grid(node("n", assignments=LOADING), speeds={("n", MODEL): KNOWN})
    at_ms = AT_MS if expected != LOADS else KNOWN.at_ms
    after = replace(KNOWN, loads=expected, load_ms=median(expected, 0), at_ms=at_ms)
    assert evolve(some, replace(ENDED, **values)).speeds == {("n", MODEL): after}


def test_the_first_ordered_load_is_a_sample_of_the_load_alone() -> None:
    """Nothing is known of the rest."""
    some = grid(node("n", assignments=LOADING))
    found = evolve(some, ENDED).speeds["n", MODEL]
    assert (found.loads, found.prefills, found.decodes) == ((503,), (), ())
    assert (found.prefill_us_per_token, found.decode_us_per_token) == (0, 0)
    assert evolve(some, replace(ENDED, load_ms=0)).speeds == {}
    assert evolve(grid(node("n")), ENDED).speeds == evolve(grid(), ENDED).speeds == {}


@pytest.mark.parametrize(
    ("samples", "prior", "expected"),
    [
        ((), 7, 0),
        ((900,), 7, 7),
        ((1,), 7, 7),
        ((900,), 0, 900),
        ((900, 800), 7, 800),
        ((900, 1), 7, 7),
        ((900, 800), 0, 800),
        ((900, 800, 1), 7, 800),
        ((900, 800, 1, 2), 7, 2),
        ((9, 9, 9, 10**9, 10**9), 7, 9),
        ((9, 10**9, 10**9, 10**9, 9), 7, 10**9),
    ],
)
def test_a_median_resists_what_is_absurd(samples: tuple[int, ...], prior: int, expected: int) -> None:
    """One sample of three, two of five. The control: three of five it believes."""
    assert median(samples, prior) == expected


def test_old_samples_are_forgotten() -> None:
    """The last five count."""
    known = replace(KNOWN, loads=(1, 2, 3, 4, 5))
    found = learned(known).loads
    assert found == (2, 3, 4, 5, 503)
    assert len(found) == SAMPLES


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
