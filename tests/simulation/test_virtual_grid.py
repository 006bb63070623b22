"""Whole simulated runs on the real core."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from orion_streams.decider.route import running
from orion_streams.model import events as ev
from orion_streams.model.policy import ROBOT
from orion_streams.model.state import Grid, Request
from orion_streams.model.vocabulary import RequestKind
from orion_streams.simulation.baseline_policies import (
    BASELINES,
    LOWER_BOUND,
    POLICIES,
    questions_of,
    round_robin,
)
from orion_streams.simulation.machine_spec import ModelSpec
from orion_streams.simulation.run_workload import Trial, simulate
from orion_streams.simulation.virtual_grid import Engine
from orion_streams.simulation.virtual_house import usual_house
from orion_streams.simulation.workloads import (
    REGIMES,
    UTILISATION,
    WORKLOADS,
    Arrival,
    Scenario,
    arrivals,
    scenario,
)

REQUESTS = 40


class Watched(Engine):
    """Remembers what was decided and what became of it."""

    def __init__(self, regime: str, workload: str, policy: str, nodes: int = 3) -> None:
        scene = scenario(regime, workload, REQUESTS, nodes)
        self.seen: list[Arrival] = []
        self.answers: list[ev.AnyEvent] = []
        self.completed: Counter[str] = Counter()
        questions = questions_of(policy, 7)
        self.deepest = 0
        house = usual_house(scene, 2_000)
        super().__init__(scene, self.noted(scene), questions, house, all_warm=policy == LOWER_BOUND)

    def noted(self, scene: Scenario) -> Iterator[Arrival]:
        for each in arrivals(scene, 7):
            self.seen.append(each)
            yield each

    def act(self, now: int, answer: ev.AnyEvent) -> None:
        self.answers.append(answer)
        super().act(now, answer)

    def commit(self, now: int) -> None:
        self.completed.update(each.request for each in self.inputs if isinstance(each, ev.RequestCompleted))
        super().commit(now)
        runs = [running(row) for row in self.grid.nodes.values()]
        self.deepest = max(self.deepest, *runs)

    @property
    def routed(self) -> list[ev.RequestRouted]:
        return [each for each in self.answers if isinstance(each, ev.RequestRouted)]


def watched(regime: str, workload: str, policy: str, nodes: int = 3) -> Watched:
    """A run that has ended."""
    engine = Watched(regime, workload, policy, nodes)
    engine.run()
    return engine


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_bytes(policy: str) -> None:
    """Two runs of a seed have one outcome; another seed has another."""
    outcomes = [
        msgspec.json.encode(simulate(Trial("load-heavy", "bursty", policy, seed, REQUESTS)))
        for seed in (3, 3, 4)
    ]
    assert outcomes[0] == outcomes[1] != outcomes[2]


def test_every_policy_sees_the_same_trace() -> None:
    """Arrivals, models and lengths do not depend on who routes."""
    first, *others = [watched("load-heavy", "steady", policy).seen for policy in POLICIES]
    assert len(first) == REQUESTS
    assert all(each == first for each in others)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_answered_once_though_a_node_is_lost(policy: str) -> None:
    """A silent node's work moves: each request has one answer, none is refused, and there was a loss."""
    engine = watched("load-heavy", "node-loss", policy)
    assert engine.boots["orion-worker"] == 2
    assert set(engine.completed.values()) == {1} and len(engine.completed) == REQUESTS
    assert engine.result(policy, 7).rejected == 0


def test_work_on_a_lost_node_is_given_up_as_silent() -> None:
    """The negative control of the test above: without the loss no attempt is given up."""
    lost, whole = (
        [each for each in watched("load-heavy", workload, "round-robin").answers
         if isinstance(each, ev.AttemptAbandoned)]
        for workload in ("node-loss", "steady")
    )  # fmt: skip
    assert {each.reason for each in lost} == {"silent"} and not whole


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("policy", POLICIES)
def test_only_nodes_that_pass_every_filter_are_chosen(policy: str, workload: str) -> None:
    """Whoever routes, the chosen node's verdict names no filter, and the robot is never chosen."""
    routed = watched("load-heavy", workload, policy).routed
    for each in routed:
        chosen = next(verdict for verdict in each.verdicts if verdict.node == each.node)
        assert not chosen.filter and each.node != ROBOT
    assert len(routed) >= REQUESTS


@pytest.mark.parametrize("policy", ["ours", *BASELINES])
def test_baselines_bind_at_once(policy: str) -> None:
    """In a burst a baseline gives a node more runs than it has slots for; ours never does."""
    deepest = watched("load-heavy", "bursty", policy).deepest
    assert deepest == 1 if policy == "ours" else deepest > 1


def test_round_robin_takes_turns() -> None:
    """The next of those that are eligible, whoever was skipped before."""
    pick, grid = round_robin(), Grid()
    request = Request("1-0", RequestKind.GENERATE, "a", 0, 0, True, "", 0, 0, 1, 1, 1, 0)
    turns = [["a", "b", "c"], ["a", "b", "c"], ["a", "c"], ["a", "b", "c"], ["b"], ["a", "c"]]
    assert [pick(grid, request, eligible) for eligible in turns] == ["a", "b", "c", "a", "b", "c"]


def test_hot_time_is_that_of_a_hot_afternoon() -> None:
    """The same run without the afternoon has no second above the mark."""
    hot, cool = (
        simulate(Trial("decode-heavy", workload, "least-connections", 1, REQUESTS)).hot_ms
        for workload in ("hot-afternoon", "steady")
    )
    assert hot > 60_000 and cool == 0


@pytest.mark.parametrize("regime", REGIMES)
def test_the_lower_bound_never_loads(regime: str) -> None:
    """Every model is warm everywhere: no cold load, where a baseline has some."""
    assert simulate(Trial(regime, "two-big", LOWER_BOUND, 1, REQUESTS)).cold_loads == 0
    assert simulate(Trial(regime, "two-big", "points", 1, REQUESTS)).cold_loads > 0


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_grid_is_as_busy_as_it_is_said_to_be(workload: str) -> None:
    """Requests come so often that warm nodes work two thirds of the time."""
    scene = scenario("decode-heavy", workload, 4_000, 3)
    last_ms = max(each.at_ms for each in arrivals(scene, 1))
    work_ms = sum(service_of(each, scene.mix.models) for each in arrivals(scene, 1))
    assert work_ms / 2 / last_ms == pytest.approx(UTILISATION, abs=0.07)


def service_of(arrival: Arrival, models: tuple[ModelSpec, ...]) -> float:
    """Warm ms of a request: 60 tokens/s of prefill and 10 of decode per GB."""
    size_mb = next(each.size_mb for each in models if each.name == arrival.model)
    per_mb = arrival.prompt_tokens / 60 + arrival.tokens / 10
    return size_mb * per_mb + arrival.overhead_ms


def test_two_big_models_fit_on_no_node_together() -> None:
    """Each fits on both inference nodes, both on neither."""
    engine = Watched("decode-heavy", "two-big", "ours")
    sizes = [each.resident_mb for each in engine.nodes["orion-worker"].models.values()]
    for name in ("orion-master", "orion-worker"):
        assert max(sizes) <= engine.nodes[name].room_mb < sum(sizes)


def test_more_nodes_share_the_work() -> None:
    """With six nodes all five inference nodes are used."""
    routed = watched("decode-heavy", "bursty", "ours", nodes=6).routed
    assert {each.node for each in routed} == {
        "orion-master", "orion-worker", "orion-worker-2", "orion-worker-3", "orion-worker-4"
    }  # fmt: skip
