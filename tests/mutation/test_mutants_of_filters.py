"""Filters, each at its boundary and in their order."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.filters import first_filter, node_filter
from orion_streams.decider.route import Reject, Wait, unplaceable
from orion_streams.model.marks import ram_permille
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Failure, Rest
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Blame, Code, Filter, Mark
from tests.grids import AT_MS, DISK, HEAVY, grid, node, request, under
from tests.mutation.verdicts import COLD, WARM, judged, warm


def test_no_room_is_a_filter_with_its_figures() -> None:
    """What the load needs, and what there is; one that never fits is too large."""
    found = judged(node("n", ram_used_mb=6_564))
    assert found == Verdict(node="n", filter=Filter.MEMORY, value=477, limit=476)
    tiny = node("n", ram_total_mb=1_110, ram_used_mb=600)
    assert judged(tiny) == Verdict(node="n", filter=Filter.TOO_LARGE, value=477, limit=476)
    assert judged(replace(tiny, ram_total_mb=1_111, ram_used_mb=501)) == Verdict(
        node="n", filter=Filter.MEMORY, value=477, limit=476
    )


Failures = tuple[Failure, ...]


def failed(*ages_ms: int, node: str = "n", code: str = "no_done", blame: Blame = Blame.NODE) -> Failures:
    """Failures of the request, so long ago."""
    return tuple(Failure(node, code, blame, at_ms=AT_MS - age_ms) for age_ms in ages_ms)


def paused(value: int, limit: int) -> Verdict:
    """The verdict on a node that is not tried again yet."""
    return Verdict(node="n", filter=Filter.PAUSED, value=value, limit=limit)


FILTERS: list[tuple[dict[str, Any], dict[str, Any], Verdict | None]] = [
    ({}, {}, None),
    ({"inference": False}, {}, Verdict(node="n", filter=Filter.ROLE)),
    ({"heard_ms": None}, {}, Verdict(node="n", filter=Filter.SILENT)),
    ({"heard_ms": AT_MS - 5_000}, {}, None),
    ({"heard_ms": AT_MS - 5_001}, {}, Verdict(node="n", filter=Filter.STALE, value=5_001, limit=5_000)),
    ({"leaving": True}, {}, Verdict(node="n", filter=Filter.LEAVING)),
    ({"leaving": True, "left": True}, {}, Verdict(node="n", filter=Filter.LEFT)),
    ({"leaving": True, "left": True, "heard_ms": 1}, {}, Verdict(node="n", filter=Filter.LEFT)),
    (
        {"leaving": True, "heard_ms": AT_MS - 5_001},
        {},
        Verdict(node="n", filter=Filter.STALE, value=5_001, limit=5_000),
    ),
    ({"inventory_known": False}, {}, Verdict(node="n", filter=Filter.INVENTORY_UNKNOWN)),
    ({"installed": {HEAVY: DISK[HEAVY]}}, {}, Verdict(node="n", filter=Filter.NOT_INSTALLED)),
    ({"tiers": (1,)}, {"tier": 2}, Verdict(node="n", filter=Filter.TIER, value=2)),
    ({"tiers": (1,)}, {"tier": 1}, None),
    ({"tiers": (2,)}, {"tier": 2}, None),
    ({"two_agents_ms": AT_MS - 30_000}, {}, Verdict(node="n", filter=Filter.TWO_AGENTS)),
    ({"two_agents_ms": AT_MS - 30_001}, {}, None),
    ({"temp_mc": None}, {}, Verdict(node="n", filter=Filter.NO_TEMPERATURE)),
    ({"temp_mc": 50_001, "still_ms": 599_999}, {}, None),
    (
        {"temp_mc": 50_001, "still_ms": 600_000},
        {},
        Verdict(node="n", filter=Filter.STUCK_SENSOR, value=600_000, limit=600_000),
    ),
    ({"temp_mc": 50_000, "still_ms": 3_599_999}, {}, None),
    (
        {"temp_mc": 50_000, "still_ms": 3_600_000},
        {},
        Verdict(node="n", filter=Filter.STUCK_SENSOR, value=3_600_000, limit=3_600_000),
    ),
    ({"temp_mc": 75_000}, {}, None),
    ({"temp_mc": 75_001}, {}, Verdict(node="n", filter=Filter.HOT, value=75_001, limit=75_000)),
    (
        {"temp_mc": 75_001, "backed_off": (Mark.HOT,)},
        {},
        Verdict(node="n", filter=Filter.HOT, value=75_001, limit=70_000),
    ),
    (
        {"temp_mc": 60_000, "backed_off": "hot ram"},
        {},
        Verdict(node="n", filter=Filter.HOT, value=60_000, limit=70_000),
    ),
    ({"ram_used_mb": 7_200}, {"num_ctx": 4_096}, None),
    ({"ram_used_mb": 7_201}, {}, Verdict(node="n", filter=Filter.RAM, value=901, limit=900)),
    (
        {"ram_used_mb": 7_201, "backed_off": (Mark.RAM,)},
        {},
        Verdict(node="n", filter=Filter.RAM, value=901, limit=850),
    ),
    ({"backed_off": (Mark.RAM,)}, {}, Verdict(node="n", filter=Filter.RAM, value=250, limit=850)),
    (
        {"opened_ms": AT_MS - 14_999, "open_ms": 15_000},
        {},
        Verdict(node="n", filter=Filter.BREAKER, value=14_999, limit=15_000),
    ),
    ({"opened_ms": AT_MS - 15_000, "open_ms": 15_000}, {}, None),
    ({}, {"failures": failed(1_000)}, None),
    ({}, {"failures": failed(999)}, paused(999, 1_000)),
    ({}, {"failures": failed(9_000, 1_999)}, paused(1_999, 2_000)),
    ({}, {"failures": failed(9_000, 2_000)}, None),
    ({}, {"failures": failed(9_000, 9_000, 3_999)}, paused(3_999, 4_000)),
    ({}, {"failures": failed(*[90_000] * 6, 29_999)}, paused(29_999, 30_000)),
    ({}, {"failures": failed(*[90_000] * 31, 29_999)}, paused(29_999, 30_000)),
    ({}, {"failures": failed(*[90_000] * 6, 30_000)}, None),
    ({}, {"failures": failed(0, node="m")}, None),
    ({}, {"failures": failed(0, blame=Blame.REQUEST)}, None),
    ({}, {"failures": failed(0, blame=Blame.OURS)}, paused(0, 1_000)),
    *(
        ({}, {"failures": failed(0, code=code)}, None)
        for code in ("ollama_unreachable", "agent_leaving", "cancelled", "gone", "left")
    ),
    ({}, {"failures": (*failed(9_000, 500), *failed(0, node="m"))}, paused(500, 2_000)),
]


@pytest.mark.parametrize(("values", "asked", "expected"), FILTERS)
def test_each_filter_says_what_tripped_it(
    values: dict[str, Any], asked: dict[str, Any], expected: Verdict | None
) -> None:
    """The value and its limit; at a mark it passes. What is asked for directly and by a route agree."""
    row, policy = warm(**values), Policy(spill_forbidden=(2,))
    assert first_filter(under(grid(row), policy), row, request(**asked)) == expected
    found = judged(row, request(**asked), policy)
    assert found == expected if expected else found.filter == ""


ALL_AT_ONCE: list[dict[str, Any]] = [
    {"inference": False},
    {"rest": Rest("cli", AT_MS)},
    {"heard_ms": None},
    {"left": True},
    {"heard_ms": AT_MS - 9_000},
    {"inventory_known": False},
    {"installed": {}},
    {"tiers": (1,)},
    {"leaving": True},
    {"two_agents_ms": AT_MS},
    {"temp_mc": None},
    {"still_ms": 3_600_000, "temp_mc": 80_000},
    {"temp_mc": 80_000},
    {"ram_used_mb": 7_900},
    {"opened_ms": AT_MS, "open_ms": 15_000},
    {},
]
"""What is wrong with the node; the request failed there just now."""


NAMES = (
    "role", "drained", "silent", "left", "stale", "inventory_unknown", "not_installed", "tier", "leaving",
    "two_agents", "no_temperature", "stuck_sensor", "hot", "ram", "breaker", "paused",
)  # fmt: skip


@pytest.mark.parametrize("first", range(len(NAMES)))
def test_filters_are_asked_in_order(first: int) -> None:
    """Of all that is wrong the first is said."""
    values: dict[str, Any] = {"tiers": (2,)}
    for each in reversed(ALL_AT_ONCE[first:]):
        values |= each
    asked = request(tier=2, failures=failed(0))
    assert judged(warm(**values), asked, Policy(spill_forbidden=(2,))).filter == NAMES[first]


def test_a_machine_without_a_sensor_is_not_hot() -> None:
    """No reading is no trouble where none is expected; a known backoff is, all the same."""
    row = replace(node("n", temp_mc=None), rules=NodeRules("n", temperature_sensor=False))
    assert node_filter(grid(row), row) is None
    assert judged(row) == COLD
    off = replace(row, backed_off=(Mark.HOT,))
    assert node_filter(grid(off), off) == Verdict(node="n", filter=Filter.HOT, value=0, limit=70_000)


def test_a_model_in_memory_fits() -> None:
    """However large it seems; with another context it has to fit anew."""
    row = warm(ram_total_mb=1_000, ram_used_mb=900)
    assert judged(row) == WARM
    assert judged(row, request(num_ctx=8_192)) == Verdict(
        node="n", filter=Filter.TOO_LARGE, value=498, limit=380
    )


@pytest.mark.parametrize(
    ("used_mb", "total_mb", "expected"),
    [(900, 1_000, 900), (9_001, 10_000, 901), (0, 1_000, 0), (1, 1_000_000, 1), (5, 0, 0)],
)
def test_memory_in_thousandths_is_rounded_up(used_mb: int, total_mb: int, expected: int) -> None:
    """Whatever is above a mark reads so; without a total there is nothing to say."""
    found = ram_permille(node("n", ram_used_mb=used_mb, ram_total_mb=total_mb))
    assert (found, type(found)) == (expected, int)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), ("no_node", "")),
        (("role",), "unknown_model"),
        (("role", "not_installed"), "unknown_model"),
        (("too_large", "not_installed", "role"), "model_too_large"),
        (("too_large", "silent"), ("no_node", "")),
        (("too_large", "tier"), "model_too_large"),
        (("too_large", "tier", "role", "not_installed"), "model_too_large"),
        (("not_installed", "tier"), "unknown_model"),
        (("not_installed", "memory"), ("no_node", "")),
    ],
)
def test_hopeless_is_what_can_never_be(filters: tuple[str, ...], expected: Any) -> None:
    """Only roles, disks and sizes stand for ever; anything else is waited for."""
    verdicts = tuple(Verdict(node=str(n), filter=Filter(each)) for n, each in enumerate(filters))
    wanted = (
        Reject(Code(expected), verdicts)
        if isinstance(expected, str)
        else Wait(expected[0], expected[1], verdicts)
    )
    assert unplaceable(verdicts) == wanted
