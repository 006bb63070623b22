"""Hypothesis strategies: grids in every condition, the marks included, and requests that wait in them."""

from __future__ import annotations

import os
from math import prod
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider.route import Ahead, Waiting
from orion_streams.model.policy import ModelRules, NodeRules, Policy
from orion_streams.model.state import (
    Assignment,
    Demand,
    Failure,
    Grid,
    Length,
    Node,
    Request,
    Resident,
    Rest,
    Speed,
)
from orion_streams.model.vocabulary import Blame, Mark
from tests.grids import (
    AT_MS,
    BIG,
    DISK,
    HEAVY,
    LIBRARY,
    MODEL,
    POLICY,
    TWIN,
    grid,
    holding,
    loading,
    request,
)

TIMES = int(os.environ.get("ORION_TEST_TIMES", "1"))
"""So many times as many examples: to look for more than there is time for in every run."""
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


def laws(examples: int) -> settings:
    """Settings of a law: without an explanation that takes longer than the law."""
    return settings(max_examples=examples * TIMES, phases=PHASES)


FEW, MANY = laws(40), laws(100)
Values = dict[str, Any]

NAMES = ("orion-master", "orion-spare", "orion-worker", "orion-edge")
HOUSES = (
    ("orion-worker",),
    ("orion-master", "orion-worker"),
    ("orion-worker", "orion-master"),
    ("orion-spare", "orion-master", "orion-worker"),
    ("orion-edge",),
    ("orion-edge", "orion-worker"),
    ("orion-worker", "orion-edge", "orion-master", "orion-spare"),
)
MODELS = (MODEL, HEAVY, TWIN, BIG)
CONTEXTS = (4_096, 4_096, 8_192, 0)
RUNNERS = ("", "", "num_thread=2")
AGES = (0, 1, 500, 29_999, 30_000, 30_001, 90_000)

TROUBLES: list[Values] = [
    {"heard_ms": None},
    {"heard_ms": AT_MS - 5_001},
    {"temp_mc": None},
    {"temp_mc": 75_001, "forecast_mc": 75_001},
    {"temp_mc": 90_000, "forecast_mc": 99_000},
    {"ram_used_mb": 15_000},
    {"backed_off": (Mark.HOT,)},
    {"backed_off": (Mark.RAM,)},
    {"leaving": True},
    {"leaving": True, "left": True},
    {"rest": Rest("cli", AT_MS - 700, 90_000, 20_000)},
    {"rest": Rest("cli", AT_MS - 30_000, 0, 20_000)},
    {"rest": Rest("cli", AT_MS - 700), "heard_ms": None},
    {"two_agents_ms": AT_MS - 30_000},
    {"inventory_known": False},
    {"installed": {}},
    {"opened_ms": AT_MS - 14_999, "open_ms": 15_000},
]
"""A filter stands behind each of these."""
CONDITIONS: list[Values] = [
    {"heard_ms": AT_MS},
    {"heard_ms": AT_MS - 5_000},
    {"heard_ms": AT_MS - 2_001},
    {"temp_mc": 75_000, "forecast_mc": 75_000},
    {"temp_mc": 70_001, "forecast_mc": 78_000},
    {"temp_mc": 60_000, "forecast_mc": 72_500},
    {"two_agents_ms": AT_MS - 30_001},
    {"opened_ms": AT_MS - 15_000, "open_ms": 15_000, "trips": 1},
    {"ramp": 0},
    {"ramp": 1},
    {"suspects": ("brain/x", "brain/y")},
]
"""The node is fit, but not just as usual."""


def pick(**choices: Any) -> st.SearchStrategy[Values]:
    """One value of each, by one draw: the first ones are the simplest."""
    rows = {name: tuple(values) for name, values in choices.items()}

    def chosen(index: int) -> Values:
        found = {}
        for name, values in rows.items():
            index, rest = divmod(index, len(values))
            found[name] = values[rest]
        return found

    return st.integers(0, prod(len(values) for values in rows.values()) - 1).map(chosen)


def table(keys: tuple[Any, ...], rows: st.SearchStrategy[Any], most: int = 2) -> st.SearchStrategy[Any]:
    """A few rows by name."""
    return st.dictionaries(st.sampled_from(keys), rows, max_size=most)


def seldom(strategy: st.SearchStrategy[Values]) -> st.SearchStrategy[Values]:
    """Nothing, two times in three."""
    nothing: Values = {}
    return st.sampled_from((0, 0, 1)).flatmap(lambda there: strategy if there else st.just(nothing))


RULES = pick(
    inference=(True,) * 7 + (False,),
    slots=(1, 2, 3),
    tiers=((), (1,), (2,), (1, 2)),
    temperature_sensor=(True, True, False),
    load_us_per_mb=(0, 0, 2_000),
    decode_us_per_mb=(0, 0, 300),
    prefill_us_per_mb=(0, 0, 5),
    quiet=("", "", "", "", "", "00:10-00:30", "23:00-07:00"),
)


def assignment(request: str, started: bool, **values: Any) -> Assignment:
    """A run of a request, or an ordered load without one."""
    if not request:
        return loading(**values)
    return holding(request=request, started=started, **values)


SINCE = (0, AT_MS - 90_000, AT_MS - 30_000, AT_MS - 29_999, AT_MS)
RESIDENT = pick(num_ctx=CONTEXTS, runner=RUNNERS, since_ms=SINCE, is_pending=(False, False, True))
HOLDING = pick(
    model=MODELS,
    request=("brain/other", "brain/another", ""),
    run_ms=(0, 999, 60_000, 100_000),
    since_ms=(AT_MS, AT_MS - 700, AT_MS - 70_000),
    started=(False, True),
    reserve_mb=(0, 0, 600, 2_500),
    num_ctx=CONTEXTS,
    runner=RUNNERS,
).map(lambda values: assignment(**values))
TIME = st.sampled_from(AGES).map(lambda age_ms: AT_MS - age_ms)


def residents(rows: dict[str, Values]) -> dict[str, Resident]:
    """Rows as health, or a run that has just ended, leaves them. Ollama holds one runner per digest."""
    found = {}
    for model, row in rows.items():
        on_disk, size_mb = LIBRARY[model], LIBRARY[model].size_mb + 300
        context, runner, since_ms = row["num_ctx"], row["runner"], row["since_ms"]
        if model == TWIN and MODEL in rows:
            continue
        if row["is_pending"]:
            found[model] = Resident(on_disk.digest, on_disk.size_mb, 0, context, runner, since_ms, size_mb)
        else:
            found[model] = Resident(on_disk.digest, size_mb, context or 4_096, context, runner, since_ms)
    return found


NODE = st.fixed_dictionaries(
    {
        "rules": RULES,
        "usual": pick(
            ram_total_mb=(8_000, 16_000, 16_000, 4_000, 1_000),
            ram_used_mb=(400, 0, 700, 880, 900),  # in thousandths
            installed=(LIBRARY, LIBRARY, DISK, {MODEL: LIBRARY[MODEL]}),
        ),
        "resident": table(MODELS, RESIDENT, 3).map(residents),
        "assignments": seldom(table(("5-0", "6-0", "7-0"), HOLDING)),
        "used_ms": seldom(table(MODELS, TIME)),
        "unload_ordered_ms": seldom(table(MODELS, TIME)),
        "sessions": seldom(table(MODELS, st.sampled_from((("s1",), ("s2",), ("",), ("s1", "s2"))))),
    }
)
HEALTHY: list[Values] = [{}] * len(CONDITIONS) + CONDITIONS


def nodes(name: str, *, fit: bool = False) -> st.SearchStrategy[Node]:
    """Nodes in every condition; a `fit` one passes every filter that is not about the request."""
    conditions = st.sampled_from(HEALTHY if fit else HEALTHY + TROUBLES)
    return st.tuples(NODE, conditions).map(lambda parts: node_of(name, *parts, fit=fit))


def node_of(name: str, parts: Values, condition: Values, *, fit: bool) -> Node:
    """A node of what the strategies chose."""
    usual = {"heard_ms": AT_MS - 500, "temp_mc": 50_000, "forecast_mc": 50_000, "inventory_known": True}
    values = {**parts, **parts["usual"]}
    values["ram_used_mb"] = values["ram_total_mb"] * values["ram_used_mb"] // 1_000
    del values["usual"]
    rules = NodeRules(name, **values.pop("rules"))
    if fit:
        rules = replace(rules, inference=True, quiet="")
    room_mb = values["ram_total_mb"] * 880 // 1_000 - 500
    values["assignments"] = {
        key: held for key, held in values["assignments"].items() if need_mb(held, rules.slots) <= room_mb
    }
    return Node(rules, **{**usual, **values, **condition})


def need_mb(held: Assignment, slots: int) -> int:
    """What it takes at most: what could never have been sent to the node is not held there."""
    size_mb = LIBRARY[held.model].size_mb
    return max(size_mb * 5 // 4, size_mb + size_mb * (held.num_ctx or 4_096) * slots // 50_000) + 400


SPEED = pick(
    load_ms=(0, 900, 40_000),
    prefill_us_per_token=(0, 20_000),
    decode_us_per_token=(0, 70_000, 300_000),
    at_ms=(AT_MS, AT_MS - 500_000),
)
DEMAND = pick(milli=(1_000, 0, 9_000), at_ms=(AT_MS, AT_MS - 300_000, AT_MS - 700_000))
PINS = pick(prior_tokens=(0, 50), resident_on=((), ("orion-worker",), ("orion-master",)))
FOOTPRINTS = {
    (digest, num_ctx, slots): sizes_mb
    for digest, sizes_mb in (("a", (250, 700)), ("b", (1_900, 2_500)), ("c", (7_000, 9_000)))
    for num_ctx in (4_096, 8_192)
    for slots in (1, 2)
}
FACTS: dict[str, st.SearchStrategy[Any]] = {
    "speeds": table(
        tuple((name, model) for name in NAMES for model in MODELS), SPEED.map(lambda v: Speed(**v)), 3
    ),
    "answers": table(MODELS, st.sampled_from((Length(1_000, 1), Length(60_500, 3), Length(900_000, 16)))),
    "footprints": table(tuple(FOOTPRINTS), st.booleans()).map(
        lambda seen: {key: FOOTPRINTS[key][large] for key, large in seen.items()}
    ),
    "demand": table(MODELS, DEMAND.map(lambda v: Demand(**v)), 3),
    "models": table(MODELS, PINS.map(lambda v: ModelRules(**v))),
    "policy": st.sampled_from((POLICY, Policy(spill_forbidden=(1,)), Policy(prefetch=1))),
}


def grids(*, fit: bool = False, least: int = 1) -> st.SearchStrategy[Grid]:
    """Grids of up to four nodes in every condition, with what a log may have taught them."""
    houses = st.sampled_from([names for names in HOUSES if len(names) >= least])
    rows = houses.flatmap(lambda some: st.tuples(*(nodes(name, fit=fit) for name in some)))
    facts = seldom(st.fixed_dictionaries({}, optional=FACTS))
    return st.builds(lambda some, known: grid(*some, **known), rows, facts)


FAILURES = (
    (),
    (),
    (),
    (Failure("orion-worker", "stream_cut", Blame.NODE),),
    (Failure("orion-master", "gone", Blame.NODE, at_ms=AT_MS),) * 2,
    (Failure("orion-worker", "no_done", Blame.NODE, at_ms=AT_MS - 900),),
    (Failure("orion-worker", "no_done", Blame.NODE, at_ms=AT_MS - 1_000),) * 2,
    (Failure("orion-worker", "bad_option", Blame.REQUEST, at_ms=AT_MS),),
)
REQUEST: Values = {
    "model": (*MODELS, MODEL, HEAVY),
    "kind": ("generate", "chat", "embed"),
    "tier": (0, 1, 2, 3),
    "priority": (0, 0, 1),
    "prompt_tokens": (20, 0, 9_999),
    "num_predict": (0, 10, 5_000),
    "num_ctx": CONTEXTS,
    "runner": RUNNERS,
    "session": ("", "s1", "s2"),
    "failures": FAILURES,
    "accepted_ms": tuple(AT_MS - age_ms for age_ms in AGES),
    "deadline_ms": (AT_MS + 60_000, AT_MS + 1_000, AT_MS, AT_MS - 1),
}


def requests(**choices: Any) -> st.SearchStrategy[Request]:
    """Waiting requests; `choices` replace a field's values."""
    return pick(**{**REQUEST, **choices}).map(lambda values: request(**values))


AHEAD = pick(warm_ms=(0, 9_000), cold_ms=(0, 90_000), coming=((), (MODEL,), (HEAVY,))).map(
    lambda v: Ahead(**v)
)
WAITINGS = st.builds(Waiting, ahead=seldom(table(NAMES, AHEAD)), models=seldom(table(MODELS, st.just(1))))


def queues(*, fit: bool = False, most: int = 5) -> st.SearchStrategy[Grid]:
    """Grids with requests that wait."""
    keys = tuple(f"brain/q{n}" for n in range(most + 1))
    waiting = table(
        keys, requests(deferred=("", "busy", "no_node", "quiet"), body_bytes=(100, 700_000)), most
    )
    return st.builds(with_open, grids(fit=fit), waiting)


def with_open(some: Grid, rows: dict[str, Request]) -> Grid:
    """The grid with these requests, each accepted at a position of its own."""
    some.open = {
        key: replace(row, accepted=position) for position, (key, row) in enumerate(rows.items(), 1)
    }
    return some
