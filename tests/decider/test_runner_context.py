"""Which context a run gets: the model's own, what it asks for, or what the runner has that is there."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.decide import decide
from orion_streams.decider.memory import default_num_ctx
from orion_streams.decider.placement import plan, work_of
from orion_streams.decider.route import Reject, Route, num_ctx_on, route
from orion_streams.model import events as ev
from orion_streams.model.description import Description
from orion_streams.model.policy import ModelRules, NodeRules, Policy
from orion_streams.model.state import Grid, Node, Request, Resident
from orion_streams.projections import evolve, fold
from orion_streams.protocol.admission import runner_options
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry
from tests.grids import (
    AT_MS,
    DISK,
    HEAVY,
    LIBRARY,
    LIMITS,
    MODEL,
    TWIN,
    grid,
    holding,
    loading,
    node,
    request,
    under,
)

EXACT = Policy(num_ctx_reuse="exact")


def here(**values: Any) -> Node:
    """A node with the model in memory."""
    return node("n", resident={MODEL: Resident("a", 470, **values)})


def described(some: Grid, **values: Any) -> Grid:
    """The grid once it is known what the model is."""
    return evolve(some, ev.ModelDescribed("n", MODEL, "a", Description(**values)))


@pytest.mark.parametrize(
    ("rules", "policy", "said", "expected"),
    [
        ({}, {}, {}, 4_096),
        ({}, {}, {"num_ctx": 2_048}, 2_048),
        ({}, {"num_ctx": 8_192}, {"num_ctx": 2_048}, 8_192),
        ({"num_ctx": 1_024}, {"num_ctx": 8_192}, {"num_ctx": 2_048}, 1_024),
        ({}, {}, {"context_length": 2_000}, 2_000),
        ({}, {}, {"context_length": 32_768}, 4_096),
        ({}, {"num_ctx": 8_192}, {"context_length": 4_000}, 4_000),
    ],
)
def test_who_asks_for_no_context_gets_the_models_own(
    rules: dict[str, Any], policy: dict[str, Any], said: dict[str, Any], expected: int
) -> None:
    """Pinned, by policy, its Modelfile's, Ollama's: never more than it was trained for."""
    some = described(grid(node("n"), models={MODEL: ModelRules(**rules)}, policy=Policy(**policy)), **said)
    assert default_num_ctx(some, MODEL) == expected
    assert runner_options(some, MODEL, {}) == (expected, "")


@pytest.mark.parametrize(
    ("rules", "asked", "expected"),
    [
        ({}, 50_000, 32_768),
        ({"max_num_ctx": 10_000}, 50_000, 10_000),
        ({"max_num_ctx": 10_000}, 9_999, 9_999),
    ],
)
def test_nobody_gets_more_than_there_can_be(rules: dict[str, Any], asked: int, expected: int) -> None:
    """What the model was trained for, and the owner's limit; at the end it is said."""
    some = described(grid(node("n"), models={MODEL: ModelRules(**rules)}), context_length=32_768)
    fields = {"id": "q", "model": MODEL, "prompt": "p", "options": f'{{"num_ctx":{asked}}}'}
    raw = {name.encode(): value.encode() for name, value in fields.items()}
    [accepted] = take(some, Entry("requests", "brain", "5-0", raw), **LIMITS).events
    assert isinstance(accepted, ev.RequestAccepted)
    assert accepted.num_ctx == expected
    assert accepted.ignored == (("options.num_ctx",) if asked != expected else ())


@pytest.mark.parametrize(
    ("has", "asked", "policy", "gets", "loads"),
    [
        ({"num_ctx": 8_192}, 4_096, Policy(), 8_192, False),
        ({"context_length": 8_192}, 4_096, Policy(), 8_192, False),
        ({"num_ctx": 8_192}, 8_192, EXACT, 8_192, False),
        ({"num_ctx": 8_192}, 4_096, EXACT, 4_096, True),
        ({"context_length": 8_192}, 4_096, EXACT, 4_096, True),
        ({"num_ctx": 4_096}, 8_192, Policy(), 8_192, True),
        ({"context_length": 4_096}, 4_097, Policy(), 4_097, True),
        ({}, 8_192, Policy(), 8_192, False),
        ({"num_ctx": 8_192, "runner": "num_thread=2"}, 4_096, Policy(), 4_096, True),
    ],
)
def test_a_run_takes_the_runner_that_is_there(
    has: dict[str, Any], asked: int, policy: Policy, gets: int, loads: bool
) -> None:
    """If it has enough; by the policy `exact` only if it has as much. Else it is loaded anew."""
    some, wanted = under(grid(here(**has)), policy), request(num_ctx=asked)
    found = route(some, wanted)
    assert isinstance(found, Route)
    assert (num_ctx_on(some, some.nodes["n"], wanted), found.verdicts[0].load_ms > 0) == (gets, loads)


@pytest.mark.parametrize("held", [holding(num_ctx=8_192), loading(MODEL, num_ctx=8_192)])
def test_a_run_joins_the_runner_that_is_on_its_way(held: Any) -> None:
    """One load for both."""
    some, wanted = grid(node("n", slots=2, assignments={"1-0": held})), request(num_ctx=4_096)
    assert num_ctx_on(some, some.nodes["n"], wanted) == 8_192
    exact = under(some, EXACT)
    assert num_ctx_on(exact, exact.nodes["n"], wanted) == 4_096


def test_two_clients_of_different_context_load_once() -> None:
    """In turn, 2,048 and 4,096: the second one loads it with more, and all later ones run on that. The
    control: under `exact` each turn loads."""
    for policy, loads in ((Policy(), 2), (EXACT, 10)):
        some, found = under(grid(node("n")), policy), 0
        for turn in range(10):
            opened = {f"brain/{turn}": request(num_ctx=(2_048, 4_096)[turn % 2])}
            some = replace(some, open=opened)
            [routed] = [each for each in decide(some) if isinstance(each, ev.RequestRouted)]
            found += routed.verdicts[0].load_ms > 0
            routed = replace(routed, work_id=f"{turn + 1}-0")
            ended = ev.RequestCompleted(
                routed.request, 1, "n", routed.work_id, 9, 9, 0, 10, 10, 30, cold=False, alone=True
            )
            some = fold(some, (routed, ended))
        assert found == loads


def test_a_node_may_have_a_limit_of_its_own() -> None:
    """No run there gets more, which is said at its end, and no load by the plan; elsewhere it does."""
    small = replace(node("n"), rules=NodeRules("n", max_num_ctx=2_048))
    some, wanted = grid(small, node("m")), request(num_ctx=8_192)
    assert num_ctx_on(some, small, wanted) == 2_048
    assert num_ctx_on(some, some.nodes["m"], wanted) == 8_192
    alone = grid(small, open_requests={"brain/a": wanted})
    [routed] = [each for each in decide(alone) if isinstance(each, ev.RequestRouted)]
    assert routed.num_ctx == 2_048
    assert fold(alone, (routed, routed)).open["brain/a"].ignored == ("options.num_ctx",)
    pins = {MODEL: ModelRules(resident_on=("n",), max_num_ctx=3_000)}
    idle = grid(small, models=pins)
    assert default_num_ctx(idle, MODEL) == 3_000
    [ordered] = [each for each in work_of(idle, plan(idle, {})) if isinstance(each, ev.LoadOrdered)]
    assert ordered.num_ctx == 2_048


def test_two_names_of_one_runner_take_one_place_of_the_plan() -> None:
    """As they do in memory."""
    pins = {name: ModelRules(resident_on=("n",)) for name in (MODEL, TWIN, HEAVY)}
    row = replace(node("n", installed=LIBRARY), rules=NodeRules("n", max_models=2))
    placed = {each.model for each in plan(grid(row, models=pins), {}) if each.action == "load"}
    assert placed == {MODEL, TWIN, HEAVY}


CAN = Description(capabilities=("completion", "tools"))


@pytest.mark.parametrize(
    ("needs", "row", "takes"),
    [
        (("completion",), CAN, True),
        (("completion", "tools"), CAN, True),
        (("completion", "vision"), CAN, False),
        (("embedding",), CAN, False),
        (("embedding",), Description(), True),
        (("embedding",), None, True),
        ((), CAN, True),
    ],
)
def test_a_model_is_asked_what_it_can_do(
    needs: tuple[str, ...], row: Description | None, takes: bool
) -> None:
    """Where that is known; an older Ollama does not say it."""
    some = grid(node("n"), described={"a": row} if row else {})
    found = route(some, request(needs=needs))
    assert isinstance(found, Route if takes else Reject)
    if isinstance(found, Reject):
        assert (found.code, found.verdicts[0].filter) == ("incapable", "incapable")


@pytest.mark.parametrize(
    ("fields", "lacks"),
    [
        ({"input": '["a"]'}, "embedding"),
        ({"prompt": "p", "images": '["aGk="]'}, "vision"),
        ({"messages": '[{"role":"user","content":"x","images":["aGk="]}]'}, "vision"),
        ({"messages": '[{"role":"user"}]', "tools": '[{"type":"function"}]'}, "tools"),
        ({"prompt": "p", "think": "true"}, "thinking"),
        ({"prompt": "p", "think": "false"}, ""),
        ({"prompt": "p"}, ""),
    ],
)
def test_what_no_model_there_can_do_is_refused_at_once(fields: dict[str, str], lacks: str) -> None:
    """By name, also while it is in memory; if another node's model of that name can, it is asked."""
    some = grid(here(), described={"a": Description(capabilities=("completion",))})
    raw = {name.encode(): value.encode() for name, value in {"id": "q", "model": MODEL, **fields}.items()}
    taken = take(some, Entry("requests", "brain", "5-0", raw), **LIMITS)
    [event] = taken.events
    assert getattr(event, "code", "") == ("incapable" if lacks else "")
    assert taken.message.endswith(f" {MODEL} lacks: {lacks}." if lacks else "")
    other = node("m", installed={MODEL: replace(DISK[MODEL], digest="z")})
    able = replace(some, nodes={**some.nodes, "m": other})
    [event] = take(able, Entry("requests", "brain", "5-0", raw), **LIMITS).events
    assert isinstance(event, ev.RequestAccepted)


def crowded(most: int = 2, **values: Any) -> Node:
    """Two small models in memory, and place for no more."""
    there = {name: Resident(name, 10) for name in ("x:1b", "y:1b")}
    used = {"y:1b": AT_MS - 90_000, "x:1b": AT_MS - 100_000}
    row = node("n", **{"resident": there, "used_ms": used, **values})
    return replace(row, rules=NodeRules("n", max_models=most))


def test_a_place_is_made_for_one_model_more() -> None:
    """The one that was not asked for the longest goes, though there is memory for all."""
    found = route(grid(crowded()), request())
    assert isinstance(found, Route)
    assert found.verdicts[0].evicts == ("x:1b",)
    assert found.verdicts[0].evict_ms == 0
    free = route(grid(crowded(3)), request())
    assert isinstance(free, Route)
    assert free.verdicts[0].evicts == ()


def test_without_a_place_it_waits() -> None:
    """Pinned models do not go."""
    pins = {name: ModelRules(resident_on=("n",)) for name in ("x:1b", "y:1b")}
    [verdict] = route(grid(crowded(), models=pins), request()).verdicts
    assert (verdict.filter, verdict.value, verdict.limit) == ("places", 3, 2)


def three(**values: Any) -> Grid:
    """Two models in memory, the third is being loaded."""
    held = {"5-0": holding(cold=True, reserve_mb=500)}
    return grid(crowded(3, assignments=held, **values), open_requests={"brain/other": wanted()})


def wanted() -> Request:
    """The request whose run loads it."""
    return request(node="n", work_id="5-0", attempt=1)


GONE = ev.ModelUnloaded("n", "x:1b")


@pytest.mark.parametrize(
    ("values", "learned"),
    [
        ({}, 2),
        ({"unload_ordered_ms": {"x:1b": AT_MS - 90_000}}, 0),
        ({"inventory_known": False}, 0),
        ({"failed_ms": AT_MS - 4_999}, 0),
        ({"failed_ms": AT_MS - 5_000}, 2),
        ({"used_ms": {"x:1b": AT_MS - 239_999}}, 2),
        ({"used_ms": {"x:1b": AT_MS - 240_000}}, 0),
        ({"used_ms": {}}, 0),
        ({"ram_total_mb": 1_134}, 2),
        ({"ram_total_mb": 1_133}, 0),
    ],
)
def test_a_model_that_was_thrown_out_shows_the_limit(values: dict[str, Any], learned: int) -> None:
    """It vanished while another was loaded, and nobody had told it to; nor is its Ollama away, or
    broken."""
    assert evolve(three(**values), GONE).nodes["n"].most_models == learned


def test_a_model_that_goes_alone_shows_nothing() -> None:
    """Its time had come."""
    assert evolve(grid(crowded(3)), GONE).nodes["n"].most_models == 0


def test_what_was_learned_holds_until_more_are_seen_or_for_a_while() -> None:
    """Then it is tried again."""
    learned = evolve(three(), GONE)
    came = evolve(learned, ev.ModelLoaded("n", MODEL, "a", 470, 4_096))
    assert came.nodes["n"].most_models == 2
    third = request(model=HEAVY)
    assert route(came, third).verdicts[0].evicts == ("y:1b",)
    later = replace(came, at_ms=AT_MS + 3_600_000)
    later = replace(later, nodes={"n": replace(later.nodes["n"], heard_ms=later.at_ms)})
    assert route(later, third).verdicts[0].evicts == ()
    more = evolve(came, ev.ModelLoaded("n", HEAVY, "b", 2_500, 4_096))
    assert more.nodes["n"].most_models == 0
