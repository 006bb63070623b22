"""`orion plan`: which models should live where, why, and on what grounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.cli import tables
from orion_streams.cli.plan_rows import PlanNode, PlanRows, plan_rows
from orion_streams.cli.plan_words import MOST_LINES
from orion_streams.config import Config
from orion_streams.decider.memory import capacity_mb, committed_mb
from orion_streams.decider.placement import Placement, demand_of, plan, quickest_loads
from orion_streams.model.policy import ModelRules
from orion_streams.model.state import Demand, Grid, Rest
from orion_streams.model.text import duration, gigabytes
from tests.cli.run_cli import MODEL, OTHER
from tests.grids import AT_MS, HEAVY, MEMORY, edge, grid, node, under

Read = Callable[..., Any]


def wanted(**requests: int) -> Grid:
    """A house of three in which the small model and the big one were asked for so often."""
    names = {"small": MODEL, "big": HEAVY}
    house = grid(edge(), node("master", resident={MODEL: MEMORY[MODEL]}), node("worker"))
    house.demand = {names[each]: Demand(1_000 * times, AT_MS) for each, times in requests.items()}
    return house


def shown(found: PlanRows, capsys: pytest.CaptureFixture[str]) -> str:
    """What a person reads."""
    tables.show("plan", found, Config())
    return capsys.readouterr().out


def test_the_plan_is_that_of_the_core() -> None:
    """Lines and demand are what plan() gives; the robot has no part in it."""
    house = wanted(small=3, big=1)
    found = plan_rows(house)
    assert tuple(found.placements) == plan(house, demand_of(house))
    assert found.placements
    assert list(found.demand.items()) == [(MODEL, 3_000), (HEAVY, 1_000)]
    assert [each.node for each in found.nodes] == ["master", "worker"]


def test_the_memory_of_a_node_is_what_is_planned_of_what_there_is() -> None:
    """Models that are kept or loaded count; those that are left where they are do not."""
    house = wanted(big=1)
    [master, worker] = plan_rows(house).nodes
    big_mb = next(each.size_mb for each in plan_rows(house).placements if each.model == HEAVY)
    actions = {each.model: each.action for each in plan_rows(house).placements if each.node == "master"}
    assert actions == {MODEL: "leave", HEAVY: "load"}
    assert (master.planned_mb, worker.planned_mb) == (big_mb, 0)
    policy, row = house.policy, house.nodes["master"]
    assert master.capacity_mb == capacity_mb(row, policy)
    assert master.committed_mb == committed_mb(under(house, policy), row)
    assert master.limit_mb == 8_000 * 880 // 1_000


def test_a_sentence_says_what_becomes_of_a_model_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    """For a person: what is done, the size, who needs it, what its load would cost; memory and demand."""
    house = wanted(small=3, big=1)
    house.models = {HEAVY: ModelRules(resident_on=("worker",))}
    found = plan_rows(house)
    lines = shown(found, capsys).splitlines()
    [kept] = [line for line in lines if line.startswith(f"  {MODEL} ")]
    load_ms = quickest_loads(house, {"master": 0, "worker": 0})[MODEL]
    assert "GB) is kept in memory: 75 % of the requests of late need it, and each would else wait" in kept
    assert kept.endswith(f" {duration(load_ms)} for its load")
    [pinned] = [line for line in lines if line.startswith(f"  {HEAVY} ")]
    assert "is to be loaded: pinned here by streams.toml; 25 % of the requests of late need it" in pinned
    capacity = gigabytes(capacity_mb(house.nodes["worker"], house.policy))
    assert any(line.startswith("worker: ") and f" of {capacity} GB for models" in line for line in lines)
    assert f"(one counts half after 10 min): {MODEL} 3.0 (75 %), {HEAVY} 1.0 (25 %)" in lines[-1]


def test_a_further_copy_says_whom_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """The second place of a model names the node that has the first."""
    house = wanted(small=40)
    out = shown(plan_rows(house), capsys)
    assert "a 2nd copy, so that master is not alone with all requests of late" in out
    assert out.count("all requests of late need it, and each would else wait") == 1


def test_the_lines_of_a_node_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """However many models there are; the data has all."""
    rows = [
        Placement("master", f"model-{n}", "keep", 1, 1, "pinned here by streams.toml") for n in range(40)
    ]
    found = PlanRows(rows, [PlanNode("master", True, 9, 9, 9, 9)], {}, 1_000, True)
    out = shown(found, capsys)
    assert out.count("pinned here") == MOST_LINES
    assert f"… and {40 - MOST_LINES} more; --json has them all" in out


def test_without_demand_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing asked for: what is in memory may go, and where nothing is, there is nothing to plan."""
    house = wanted()
    out = shown(plan_rows(house), capsys)
    assert "may go from memory when its place is needed: nobody asked for it of late" in out
    assert "no demand is known yet: no model was asked for of late" in out
    house.nodes["master"] = replace(house.nodes["master"], resident={})
    found = plan_rows(house)
    assert (found.placements, found.demand) == ([], {})
    assert "nothing to plan: no model is in memory, pinned or asked for of late" in shown(found, capsys)


def test_a_node_that_nothing_is_known_of_has_no_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """Never heard from, or its models are not known: no line, and no figures that mean nothing."""
    house = grid(node("silent", heard_ms=None, ram_total_mb=0, ram_used_mb=0))
    found = plan_rows(house)
    assert found.nodes == [PlanNode("silent", False, 0, 0, 0, 0)]
    assert "silent: not heard from, or its models are not known" in shown(found, capsys)


def test_a_node_that_rests_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Why nothing is loaded there, and until when; the others say nothing of it."""
    house = grid(node("one", rest=Rest("cli", AT_MS - 9_000, 7_200_000)), node("two"))
    found = plan_rows(house)
    assert [each.rests for each in found.nodes] == ["drained 9.0 s ago, for 2 h", ""]
    out = shown(found, capsys)
    assert out.count("nothing is loaded there now: drained 9.0 s ago, for 2 h") == 1


def test_a_plan_that_nobody_acts_on_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    """With policy.plan_every_ms 0 the router loads nothing by itself."""
    house = wanted(small=1)
    house.policy = replace(house.policy, plan_every_ms=0)
    assert "policy.plan_every_ms is 0: the router does not act on it" in shown(plan_rows(house), capsys)


def test_the_data_of_a_plan(read: Read) -> None:
    """--json: placements, nodes and demand, with stable keys."""
    found = read("plan")
    assert set(found) == {"placements", "nodes", "demand", "half_ms", "acted_on"}
    assert {frozenset(each) for each in found["placements"]} == {
        frozenset({"node", "model", "action", "size_mb", "saved_us_per_mb", "reason"})
    }
    assert [(each["node"], each["known"]) for each in found["nodes"]] == [
        ("master", True), ("never", False), ("worker", True),
    ]  # fmt: skip
    assert {"node", "capacity_mb", "planned_mb", "committed_mb"} < set(found["nodes"][0])
    assert set(found["demand"]) == {MODEL, OTHER}
