"""What differs between two moments, in words."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.cli.diff_words import MOST_LINES, MOST_NAMED, WHY, chapters, state_words
from orion_streams.model.policy import ClientRules, ModelRules, Policy
from orion_streams.model.state import Closed, Demand, Grid, Length, Node, Speed
from orion_streams.model.vocabulary import Filter, Mark, RequestState
from tests.cli.run_cli import MODEL
from tests.grids import AT_MS, MEMORY, fails, grid, holding, loading, node, request


def lines(before: Grid, after: Grid) -> dict[str, list[str]]:
    """What is said, by title."""
    return {chapter.title: chapter.lines for chapter in chapters(before, after)}


def worker(**values: Any) -> Grid:
    """A grid of one node."""
    return grid(node("worker", **values))


def test_the_same_grid_has_nothing_to_tell() -> None:
    """No chapter, and none for what only counts on."""
    assert chapters(worker(), worker()) == []
    counted = worker(heard_ms=AT_MS - 1, sampled_ms=9, calm_samples=7, work_read="9-9", cpu_permille=400)
    assert chapters(worker(), counted) == []


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ({}, {"temp_mc": 61_000}, "61.0 °C, was 50.0 °C"),
        ({"ram_used_mb": 2_000}, {"ram_used_mb": 6_100}, "memory 6.0 of 7.8 GB used, was 2.0 GB"),
        ({"engine": "ollama 1"}, {"engine": "ollama 2"}, "its engine is ollama 2, was ollama 1"),
        ({"resident": {}}, {"resident": {MODEL: MEMORY[MODEL]}}, f"came into memory: {MODEL} ("),
        ({"resident": {MODEL: MEMORY[MODEL]}}, {"resident": {}}, f"left memory: {MODEL}"),
        ({}, {"installed": {}}, "gone from disk: "),
        ({"installed": {}}, {}, "new on disk: "),
        ({}, {"assignments": {"1-0": holding()}}, "has in hand: brain/other"),
        ({}, {"assignments": {"1-0": loading(MODEL)}}, f"has in hand: the load of {MODEL}"),
        ({"assignments": {"1-0": holding()}}, {}, "has in hand: nothing"),
        ({"heard_ms": None}, {}, "was heard from for the first time at 50.0 °C"),
    ],
)
def test_what_happened_to_a_node(was: dict[str, Any], now: dict[str, Any], said: str) -> None:
    """Each change of a node that a person looks for; not the other way round."""
    assert any(line.startswith(said) for line in lines(worker(**was), worker(**now))["worker"])
    back = lines(worker(**now), worker(**was)).get("worker", [])
    assert not any(line.startswith(said) for line in back)


def test_another_agent_is_said() -> None:
    """A boot that is another one, or a goodbye; the first boot of all is none."""
    first, second = worker(boot="b1"), worker(boot="b2")
    assert lines(first, second)["worker"] == ["its agent was started anew"]
    assert chapters(worker(boot=""), first) == []
    assert "its agent said goodbye" in lines(first, worker(boot="b1", left=True))["worker"]


@pytest.mark.parametrize(("mc", "mb"), [(900, 0), (0, 90)])
def test_small_changes_are_left_out(mc: int, mb: int) -> None:
    """Less than a degree, less than 0.1 GB."""
    assert chapters(worker(), worker(temp_mc=50_000 + mc, ram_used_mb=2_000 + mb)) == []


def test_a_node_that_goes_out_is_said_once() -> None:
    """The reason without its figures: they move on while nothing changes."""
    hot = {"backed_off": (Mark.HOT,)}
    found = lines(worker(), worker(temp_mc=76_000, **hot))["worker"]
    assert found[0] == "takes none: too hot; before: takes requests"
    assert chapters(worker(temp_mc=76_000, **hot), worker(temp_mc=76_900, **hot)) == []
    assert lines(worker(temp_mc=76_000, **hot), worker(temp_mc=72_000, **hot))["worker"] == [
        "72.0 °C, was 76.0 °C"
    ]
    calmer = lines(worker(temp_mc=76_000, **hot), worker(temp_mc=60_000, **hot))["worker"]
    assert calmer[0] == "takes none: too hot of late, and not calm yet; before: takes none: too hot"


def test_each_reason_has_words() -> None:
    """None is told by the program's word, nor with figures."""
    assert set(WHY) >= {"hot", "ram", "stale", "breaker", "stuck_sensor", "memory", "places", "too_large"}
    known = {str(each) for each in Filter}
    assert {name.removesuffix(" of late") for name in WHY} <= known
    assert not any(any(letter.isdigit() for letter in words) for words in WHY.values())
    assert state_words(worker(), worker().nodes["worker"]) == "takes requests"


def test_nodes_that_come_and_go() -> None:
    """A new one with what is in its memory; one that is no longer configured."""
    before, after = grid(node("old")), grid(node("new", resident={MODEL: MEMORY[MODEL]}))
    found = lines(before, after)
    assert found["old"] == ["is no longer configured"]
    assert found["new"][0] == "is new"
    assert found["new"][1].startswith(f"came into memory: {MODEL}")


def test_rules_are_named_as_in_streams_toml() -> None:
    """The keys with both values; whose rules are others; which code decides."""
    before = replace(worker(), revision=1)
    after = replace(
        before,
        policy=Policy(temp_max_mc=70_000),
        decider=before.decider + 1,
        models={MODEL: ModelRules(resident_on=("worker",))},
        guests={"anna": ClientRules()},
    )
    assert lines(before, after)["Rules"] == [
        "policy.temp_max_mc is 70000, was 75000",
        f"version {after.decider} of the code decides, was {before.decider}",
        f"the rules of the model {MODEL} are new",
        "the rules of the guest anna are new",
    ]
    assert lines(after, before)["Rules"][-1] == "the rules of the guest anna are gone"


def closed(count: int, state: str = "done") -> dict[str, dict[str, Closed]]:
    """Remembered ends."""
    row = Closed(RequestState(state), "1-0", AT_MS)
    return {"brain": {f"brain/c{n}": row for n in range(count)}}


def test_requests_are_counted_and_the_first_named() -> None:
    """What ended, how; what came and where it stands; what moved on."""
    before, after = worker(), worker()
    runs = {"node": "worker", "work_id": "1-0"}
    before.open = {"brain/o1": request(), "brain/gone": request(), "brain/same": request()}
    after.open = {
        "brain/o1": request(**runs, started=True),
        "brain/same": request(),
        "brain/n1": request(),
        "brain/n2": request(),
        "brain/n3": request(**runs),
    }
    after.closed = closed(9)
    names = ", ".join(f"brain/c{n}" for n in range(MOST_NAMED))
    assert lines(before, after)["Requests"] == [
        f"9 answered: {names} and {9 - MOST_NAMED} more",
        "1 ended, how is no longer remembered: brain/gone",
        "2 new, waiting: brain/n1, brain/n2",
        "1 new, about to begin on worker: brain/n3",
        "brain/o1 is running on worker, was waiting",
    ]


def test_what_is_forgotten_makes_a_count_the_least() -> None:
    """Ids are remembered for a while: where some are gone, there may have been more."""
    before, after = worker(), worker()
    before.closed = {"brain": {"brain/old": Closed(RequestState.DONE, "1-0", AT_MS)}}
    after.closed = closed(2, "error")
    assert lines(before, after)["Requests"] == ["at least 2 ended as an error: brain/c0, brain/c1"]


def test_what_was_learned_is_told_in_units_of_people() -> None:
    """Tokens a second, loads, lengths, demand; a tenth is no news."""
    before, after = worker(), worker()
    before.speeds = {("worker", MODEL): Speed(load_ms=4_000, decode_us_per_token=50_000)}
    after.speeds = {("worker", MODEL): Speed(load_ms=8_000, decode_us_per_token=400_000)}
    before.answers, after.answers = {MODEL: Length(20_000, 5)}, {MODEL: Length(41_000, 9)}
    after.demand = {MODEL: Demand(3_000, AT_MS)}
    found = lines(before, after)
    assert found["Learned"] == [
        f"{MODEL} on worker writes 2.5 tokens a second, was 20",
        f"{MODEL} on worker loads in 8.0 s, was 4.0 s",
        f"answers of {MODEL} have about 41 tokens, was 20",
    ]
    assert found["Requests of late (half as much after 10 min)"] == [f"{MODEL} 3.0, was none"]
    near = worker()
    near.speeds = {("worker", MODEL): Speed(load_ms=4_300, decode_us_per_token=53_000)}
    near.answers = {MODEL: Length(21_500, 9)}
    assert "Learned" not in lines(before, near)


def bounded(found: dict[str, list[str]]) -> None:
    """No chapter is longer than its limit, and the last line says what is left out."""
    for told in found.values():
        assert len(told) <= MOST_LINES + 1


def test_many_changes_are_bounded() -> None:
    """However much there is to tell."""
    before, after = worker(), worker()
    after.speeds = {("worker", f"model-{n}"): Speed(load_ms=1_000) for n in range(100)}
    found = lines(before, after)
    bounded(found)
    assert found["Learned"][-1] == f"… and {100 - MOST_LINES} more; --json has them all"
    assert fails(bounded, {"Learned": ["one more"] * (MOST_LINES + 2)})


def test_a_row_of_an_unheard_node_is_enough() -> None:
    """A node that nothing is known of has words, too."""
    silent: Node = node("worker", heard_ms=None, ram_total_mb=0, ram_used_mb=0)
    assert state_words(grid(silent), silent) == "takes none: never heard from"
