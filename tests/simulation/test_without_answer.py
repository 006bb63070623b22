"""The virtual engine where requests end without an answer."""

from __future__ import annotations

from msgspec.structs import replace

from orion_streams.model.policy import Policy
from orion_streams.simulation.baseline_policies import OURS, questions_of
from orion_streams.simulation.node_physics import NEVER
from orion_streams.simulation.virtual_grid import Engine
from orion_streams.simulation.virtual_house import Loss, usual_house
from orion_streams.simulation.workloads import NUM_CTX, Arrival, scenario

WORKER, MASTER = "orion-worker", "orion-master"


def engine_of(arrivals: list[Arrival], losses: tuple[Loss, ...] = (), nodes: int = 3) -> Engine:
    """The usual house with these requests, under rules that let requests expire."""
    scene = scenario("load-heavy", "steady", len(arrivals), nodes)
    house = usual_house(scene, 2_000)
    policy = Policy(num_ctx=NUM_CTX, stale_ms=6_000)
    rules = replace(house.rules[0][1], policy=policy)
    house = replace(house, rules=((0, rules),), losses=losses)
    engine = Engine(scene, iter(arrivals), questions_of(OURS, 1), house)
    engine.run()
    return engine


def arrival(at_ms: int, **values: int) -> Arrival:
    """A request for a long answer."""
    return replace(Arrival(at_ms, "llama3.2:3b", 100, 500, 200, ""), **values)


def test_a_request_expires_and_its_machine_stops() -> None:
    """One whose deadline is too short has no answer, and the next one is answered as if it had come alone.
    Negative control: with time enough both are answered, the second one after the first."""
    alone = engine_of([arrival(10_000)], nodes=1)
    short = engine_of([arrival(0, deadline_ms=9_000), arrival(10_000)], nodes=1)
    enough = engine_of([arrival(0), arrival(10_000)], nodes=1)
    assert short.ended == {"expired": 1}
    [answered_ms] = short.latencies_ms
    assert abs(answered_ms - alone.latencies_ms[0]) < 100
    assert not enough.ended and max(enough.latencies_ms) > alone.latencies_ms[0] + 50_000


def test_a_prompt_takes_as_long_as_the_machine_finds_it() -> None:
    """What it reads counts, where that is not what was expected; where it is not known, what was."""
    short, long = (engine_of([arrival(0, read_tokens=n)]).latencies_ms[0] for n in (100, 1_000))
    assert engine_of([arrival(0)]).latencies_ms[0] == short < long - 10_000


def test_a_client_gives_up() -> None:
    """Before the answer it is cancelled; after it nothing happens."""
    assert engine_of([arrival(0, cancel_ms=5_000)]).ended == {"cancelled": 1}
    assert not engine_of([arrival(0, cancel_ms=5_000_000)]).ended


def test_a_client_may_give_up_as_the_answer_comes() -> None:
    """Who says so first has it; the other one changes nothing."""
    [answered_ms] = engine_of([arrival(0)]).latencies_ms
    both = engine_of([arrival(0, cancel_ms=answered_ms)])
    assert both.ended.total() + len(both.latencies_ms) == 1
    assert not any(row.assignments for row in both.grid.nodes.values())


def test_a_machine_may_be_away_from_the_beginning() -> None:
    """It is never heard until it comes; the others are."""
    engine = engine_of([arrival(0)], (Loss(WORKER, 0, NEVER),))
    assert engine.grid.nodes[WORKER].heard_ms is None
    assert engine.grid.nodes[MASTER].heard_ms is not None and engine.answered == {MASTER: 1}


def test_requests_expire_though_no_machine_lives() -> None:
    """Time goes on where nobody is heard, as the router's ticks let it."""
    losses = tuple(Loss(name, 0, NEVER) for name in (MASTER, WORKER, "orion-edge"))
    engine = engine_of([arrival(1_000, deadline_ms=60_000)], losses)
    assert engine.ended == {"expired": 1}
    assert 61_000 <= engine.now <= 66_000
