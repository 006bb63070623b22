"""Laws 7 and 21: a node is out exactly above its marks, back exactly below the lower ones, and beyond the
critical temperature even what runs is moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider.decide import decide
from orion_streams.decider.route import Route, route
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.projections import evolve, fold
from tests.grids import (
    FENCE,
    HEAVY,
    MEMORY,
    POLICY,
    fails,
    grid,
    holding,
    kinds,
    node,
    request,
    sample,
    under,
)
from tests.properties import strategies as make
from tests.properties.world import MASTER, WORKER, World

TEMPERATURES = (50_000, 69_999, 70_000, 70_001, 75_000, 75_001, 85_001, None)
MEMORIES = (100, 849, 850, 851, 900, 901)
Sample = tuple[int | None, int]


@dataclass
class Thermostat:
    """The marks in the plainest words. `passed`: the marks that have yet to be returned from."""

    has_sensor: bool
    passed: set[str] = field(default_factory=set)
    calm: int = 0

    def see(self, temp_mc: int | None, permille: int) -> None:
        """One more sample."""
        cool = 70_000 if "hot" in self.passed else 75_000
        light = 850 if "ram" in self.passed else 900
        is_cool = not self.has_sensor if temp_mc is None else temp_mc <= cool
        self.calm = self.calm + 1 if is_cool and permille <= light else 0
        if self.passed and self.calm == 3:
            self.passed.clear()
        for mark, is_above in (("hot", temp_mc is not None and temp_mc > 75_000), ("ram", permille > 900)):
            if is_above and mark not in self.passed:
                self.passed.add(mark)
                self.calm = 0


def follows_the_marks(samples: list[Sample], has_sensor: bool, policy: Policy) -> None:
    """Law 7: after each sample the node is out for exactly the reasons that the thermostat names."""
    rules = NodeRules("n", temperature_sensor=has_sensor)
    fresh = replace(node("n", resident=MEMORY, boot="before"), rules=rules, heard_ms=None)
    row, thermostat = grid(fresh), Thermostat(has_sensor)
    for temp_mc, permille in samples:
        row = evolve(row, sample("n", temp_mc=temp_mc, ram_used_mb=permille * 16, ram_total_mb=16_000))
        row = fold(row, decide(under(row, policy)))
        thermostat.see(temp_mc, permille)
        assert set(row.nodes["n"].backed_off) == thermostat.passed
        blind = temp_mc is None and has_sensor
        is_chosen = isinstance(route(under(row, policy), request()), Route)
        assert is_chosen == (not thermostat.passed and not blind)


SAMPLES = st.lists(st.tuples(st.sampled_from(TEMPERATURES[:7]), st.sampled_from(MEMORIES)), max_size=14)
BLIND = st.lists(st.tuples(st.sampled_from(TEMPERATURES), st.sampled_from(MEMORIES)), max_size=14)


@make.MANY
@given(st.one_of(SAMPLES, BLIND), st.booleans())
def test_a_node_follows_the_marks_exactly(samples: list[Sample], has_sensor: bool) -> None:
    """Whatever the samples: out strictly above a mark, back after three at or below the lower one."""
    follows_the_marks(samples, has_sensor, POLICY)


BACK: list[Sample] = [(75_001, 100), (70_000, 100), (70_000, 100), (70_000, 100)]


@pytest.mark.parametrize(
    ("samples", "wrong"),
    [
        ([(75_000, 100)], Policy(temp_max_mc=74_999)),
        ([(75_001, 100)], Policy(temp_max_mc=75_001)),
        ([(50_000, 900)], Policy(ram_max_permille=899)),
        ([(50_000, 901)], Policy(ram_max_permille=901)),
        (BACK, Policy(return_samples=4)),
        (BACK[:3], Policy(return_samples=2)),
    ],
)
def test_marks_that_are_one_off_break_the_law(samples: list[Sample], wrong: Policy) -> None:
    """Negative control: "at or above" instead of "above", or one sample more or less, is noticed."""
    follows_the_marks(samples, True, POLICY)
    assert fails(follows_the_marks, samples, True, wrong)


def running(started: bool = True, **values: Any) -> Grid:
    """`worker` runs brain/q1, `other` is idle."""
    held = holding(request="brain/q1", started=started)
    row = request(node="worker", work_id=FENCE, attempt=1, started=started)
    return grid(
        node("worker", assignments={FENCE: held}, **values), node("other"), open_requests={"brain/q1": row}
    )


@pytest.mark.parametrize(
    ("temp_mc", "started", "expected"),
    [
        (75_001, True, ["node.backed_off"]),
        (85_000, True, ["node.backed_off"]),
        (85_001, True, ["node.backed_off", "attempt.abandoned", "request.routed"]),
        (75_001, False, ["node.backed_off", "attempt.abandoned", "request.routed"]),
        (75_000, False, []),
    ],
)
def test_beyond_the_critical_mark_running_work_moves(
    temp_mc: int, started: bool, expected: list[str]
) -> None:
    """Strictly above 85 °C what runs is given up and goes elsewhere; below, only what has not begun."""
    answers = decide(running(started, temp_mc=temp_mc))
    assert kinds(answers) == expected
    assert all(each.node == "other" for each in answers if isinstance(each, ev.RequestRouted))


def test_work_that_moved_is_withdrawn_and_answered_elsewhere() -> None:
    """The hot node is told to stop, the other one answers, and the client gets one reply."""
    world = World()
    world.beat()
    world.settle()
    key = world.ask("q", HEAVY)
    world.settle()
    first = world.request(key).node
    world.read_work(first)
    [work_id] = world.machines[first].in_hand
    world.begin(first, work_id)
    world.machines[first].temp_mc = 85_001
    world.beat()
    world.settle()
    assert world.request(key).node == ({MASTER, WORKER} - {first}).pop()
    assert [head.op for _, head in world.machines[first].inbox] == ["cancel"]
    world.work_all()
    assert world.replies == {key: ["done"]}
    assert not world.node(first).assignments
