"""A recorded workload run again in the simulator: what is taken from the log, and what comes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from orion_streams.decider.decide import QUESTIONS
from orion_streams.errors import OrionError
from orion_streams.eventlog.loader import fold_raw
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules
from orion_streams.replay.rule_changes import Change, change_of
from orion_streams.simulation.node_physics import NEVER
from orion_streams.simulation.rerun.collect_workload import RecordedWorkload
from orion_streams.simulation.rerun.recorded_scene import heats, scene_of, unmeasured
from orion_streams.simulation.rerun.rerun_workload import Rerun, rerun
from orion_streams.simulation.virtual_grid import Engine
from orion_streams.simulation.workloads import AMBIENT_MC, NUM_CTX, Arrival
from tests.grids import HEAVY, MODEL, sample
from tests.replay.books import NODES, QUIET, A, B, accepted, beat, completed, house, started
from tests.replay.decided import Row, chained, chunks, nothing, simulated

WORKER, MASTER = "orion-worker", "orion-master"
AS_IT_WAS = Change()


def gathered(rows: list[Row]) -> RecordedWorkload:
    """What a log says, read in pieces."""
    found = RecordedWorkload(nothing())
    for stretch in chunks(rows):
        found.take(stretch)
    return found


def again(rows: list[Row], change: Change = AS_IT_WAS) -> Rerun:
    """The workload of a log run again."""
    return rerun(gathered(rows), change)


def near(found: int, expected: int, per_cent: int) -> bool:
    """Whether it is off by so much at most."""
    return abs(found - expected) * 100 <= expected * per_cent


@pytest.mark.parametrize("workload", ["steady", "bursty", "node-loss"])
def test_the_simulator_finds_again_what_was_recorded(workload: str) -> None:
    """On the log of a simulated house: times within 5 %, loads, and who answered; nothing is lost."""
    found = again(simulated("load-heavy", workload, 80).rows)
    was, now = found.recorded, found.simulated_as_it_was
    assert was.answered == now.answered == found.requests == 80
    assert near(now.p50_ms, was.p50_ms, 5) and near(now.p95_ms, was.p95_ms, 5)
    assert abs(now.cold_loads - was.cold_loads) <= 2
    assert near(now.by_node[WORKER], was.by_node[WORKER], 10)


def test_slower_answers_in_the_log_are_slower_in_the_simulator() -> None:
    """Negative control of the test above: the same log with every decoding twice as long in its results."""
    rows = simulated("load-heavy", "steady", 80).rows
    events = [event_codec.decode(raw) for _, raw in rows]
    slower = [
        replace(each, decode_ms=2 * each.decode_ms) if isinstance(each, ev.RequestCompleted) else each
        for each in events
    ]
    found = again(chained(slower))
    assert not near(found.simulated_as_it_was.p50_ms, found.recorded.p50_ms, 20)


def test_the_same_log_gives_the_same_bytes() -> None:
    """Two runs have one outcome, however the log was cut; without a change both sides are equal."""
    rows = simulated("load-heavy", "bursty", 40).rows
    whole = RecordedWorkload(nothing())
    whole.take(rows)
    outcomes = [msgspec.json.encode(each) for each in (again(rows), rerun(whole, AS_IT_WAS))]
    assert outcomes[0] == outcomes[1]
    found = again(rows)
    assert found.simulated_as_it_was == found.simulated_changed
    assert found.simulated_changed != again(rows, change_of([], [WORKER])).simulated_changed


def test_without_a_node_the_other_answers_all() -> None:
    """And it takes longer: the change reaches the simulated rules, and only them."""
    found = again(simulated("load-heavy", "steady", 60).rows, change_of([], [WORKER]))
    assert found.simulated_as_it_was.by_node[WORKER] > 0
    assert found.simulated_changed.by_node == {MASTER: 60}
    assert found.simulated_changed.p95_ms > found.simulated_as_it_was.p95_ms
    assert WORKER in found.recorded.by_node


def test_time_above_the_mark_is_that_of_each_policy() -> None:
    """A mark within reach is passed in the simulator where the recorded one was not."""
    change = change_of(["policy.temp_max_mc=60000", "policy.temp_return_mc=55000"])
    found = again(simulated("load-heavy", "steady", 60).rows, change)
    assert (found.recorded.mark_mc, found.simulated_changed.mark_mc) == (75_000, 60_000)
    assert found.recorded.hot_ms == found.simulated_as_it_was.hot_ms == 0 < found.simulated_changed.hot_ms


def test_recorded_time_above_the_mark_comes_from_the_samples() -> None:
    """As much as the machines themselves were hot, to a sample."""
    run = simulated("decode-heavy", "hot-afternoon", 80)
    hot_ms = sum(node.thermals.hot_ms for node in run.nodes.values())
    found = again(run.rows)
    assert hot_ms > 100_000 and near(found.recorded.hot_ms, round(hot_ms), 5)
    assert near(found.simulated_as_it_was.hot_ms, round(hot_ms), 20)


def test_a_log_that_begins_in_the_middle_keeps_what_was_known() -> None:
    """From a snapshot on: rules and speeds are those of the base, and only what came later is asked."""
    rows = simulated("load-heavy", "steady", 80).rows
    cut = next(
        n for n, (_, raw) in enumerate(rows) if n > len(rows) // 2 and raw.startswith(b'{"event":"comm')
    )
    base = nothing()
    fold_raw(base, rows[:cut])
    found = RecordedWorkload(base)
    found.take(rows[cut:])
    assert 0 < len(found.asked) < 80 and len(found.rules) == 1
    assert found.taught.speeds == base.grid.speeds and found.taught.at_ms == 0
    demand = base.grid.demand
    assert {m: row.at_ms for m, row in found.taught.demand.items()} == {
        m: row.at_ms - base.grid.at_ms for m, row in demand.items()
    }
    assert found.asked[0].at_ms < 60_000
    done = rerun(found, AS_IT_WAS)
    assert done.simulated_as_it_was.answered == done.requests == len(found.asked)


def test_a_log_without_rules_cannot_be_run_again() -> None:
    """There is no house in it."""
    with pytest.raises(OrionError, match=r"no policy\.changed"):
        rerun(RecordedWorkload(nothing()), AS_IT_WAS)


# what is taken from the log


def test_machines_are_as_the_log_shows_them() -> None:
    """Memory, models and their sizes, slots, measured speeds, when one was away, what was in memory."""
    run = simulated("load-heavy", "node-loss", 60)
    found = gathered(run.rows)
    scene = scene_of(found, change_of(["nodes.orion-master.slots=2"]), heats(found))
    specs = {each.name: each for each in scene.scenario.nodes}
    real = {each.name: each for each in run.scene.nodes}
    for name in (WORKER, MASTER):
        assert specs[name].ram_total_mb == real[name].ram_total_mb
        assert specs[name].base_ram_mb == real[name].base_ram_mb
    assert (specs[MASTER].slots, specs[WORKER].slots) == (2, 1)
    assert {m.name: (m.digest, m.size_mb) for m in scene.house.nodes[WORKER].models.values()} == {
        m.name: (m.digest, m.size_mb) for m in run.nodes[WORKER].models.values()
    }
    key, speed = next(iter(run.grid.speeds.items()))
    name, model = key
    pace = scene.house.nodes[name].paces[model]
    assert (pace.prefill_us, pace.decode_us) == (speed.prefill_us_per_token, speed.decode_us_per_token)
    [loss] = scene.house.losses
    begun, ended = run.house.losses[0].from_ms, run.house.losses[0].until_ms
    assert (loss.node, loss.until_ms) == (WORKER, ended)
    assert 0 <= begun - loss.from_ms <= run.house.health_ms


def test_a_node_that_never_came_back_stays_away() -> None:
    """And one that is still heard does not."""
    events = [event_codec.decode(raw) for _, raw in simulated("load-heavy", "steady", 20).rows]
    last = len(events) * 2 // 3
    gone = [
        each for n, each in enumerate(events)
        if n < last or not (isinstance(each, ev.NodeSampled) and each.node == WORKER)
    ]  # fmt: skip
    found = RecordedWorkload(nothing())
    found.take([(n, event_codec.encode(each)) for n, each in enumerate(gone, 1)])
    assert [(each.node, each.until_ms) for each in found.losses()] == [(WORKER, NEVER)]
    assert not gathered(chained(events)).losses()


def test_requests_are_as_they_came() -> None:
    """Times, models, prompts, sessions and lengths are those of the trace that made the log."""
    run = simulated("load-heavy", "bursty", 40)
    found = gathered(run.rows)
    scene = scene_of(found, AS_IT_WAS, {})
    fields = [(a.at_ms, a.model, a.prompt_tokens, a.tokens, a.session) for a in run.traced]
    assert [(a.at_ms, a.model, a.prompt_tokens, a.tokens, a.session) for a in scene.trace] == fields


def test_every_wish_of_a_request_is_kept() -> None:
    """Tier, priority, limits, session, deadline, when it was sent, how long its prompt turned out to be,
    when its client gave up, and what a warm start took."""
    book = house(a=(MODEL,))
    wishes: dict[str, Any] = {
        "tier": 2,
        "priority": 1,
        "num_predict": 7,
        "session": "s",
        "deadline_ms": 90_000,
    }
    book.commit(accepted("q1", age_ms=700, **wishes))
    book.commit(started(book, "q1"))
    book.commit(completed(book, "q1", tokens=5, prompt_tokens=33, load_ms=140))
    book.commit(accepted("q2"))
    book.commit(ev.RequestCancelled("brain/q2"), passed_ms=1_500)
    found = gathered(book.rows)
    came_ms = found.asked[1].at_ms - 3_000 - 700
    usual = found.grid.answers[MODEL].milli // 1000
    first = Arrival(came_ms, MODEL, 20, 5, 140, "s", 33, "generate", 7, 2, 1, 90_000, 0, NUM_CTX, "")
    second = Arrival(came_ms + 3_700, MODEL, 20, usual, 140, "", deadline_ms=600_000, cancel_ms=1_500)
    assert scene_of(found, AS_IT_WAS, {}).trace == (first, second)
    done = rerun(found, AS_IT_WAS)
    assert (done.recorded.answered, done.recorded.cancelled, done.recorded.cold_loads) == (1, 1, 0)
    assert done.recorded.p50_ms == 2_700


def test_what_was_known_at_the_beginning_is_there() -> None:
    """Models in memory when the first request came, the temperature of then, and what the base had learned;
    a machine that takes no requests stays as warm as it was."""
    nodes = (NodeRules(A), NodeRules("robot", inference=False))
    book = house(nodes=nodes, a=(MODEL,))
    book.commit(accepted("q1"))
    book.commit(ev.ModelLoaded(A, HEAVY, "d2", 2_400, 4_096))
    found = gathered(book.rows)
    house_of, specs = (scene := scene_of(found, AS_IT_WAS, heats(found))).house, scene.scenario.nodes
    setups = house_of.nodes
    assert {name: each.resident for name, each in setups.items()} == {A: (MODEL,), "robot": ()}
    assert {name: each.temp_mc for name, each in setups.items()} == {A: 50_000, "robot": 50_000}
    assert house_of.taught is found.taught
    assert {each.name: each.ambient_mc for each in specs} == {A: AMBIENT_MC, "robot": 50_000}


def test_a_course_of_temperatures_begins_anew_after_a_break() -> None:
    """Another boot, or half a minute without a sample: what happened between is not known."""
    book = house(nodes=(NodeRules(A),))
    for passed_ms in (*[1_000] * 12, 40_000, *[1_000] * 6):
        beat(book, {A: 50_000}, passed_ms)
    book.commit(sample(A, boot="b2", sampled_ms=book.now_ms + 9_000))
    points = gathered(book.rows).nodes[A].points
    assert [each.passed_ms for each in points] == [0, 5_000, 5_000, 0, 5_000, 0]


def test_rules_that_changed_in_the_log_change_in_the_simulator() -> None:
    """At the same time, each with the setting on top; the first ones hold from the beginning."""
    book = house(a=(MODEL,))
    for _ in range(3):
        beat(book, {A: 50_000, B: 50_000})
    later = ev.PolicyChanged(2, "p2", replace(QUIET, retry_ms=5), NODES)
    book.commit(later, accepted("q1"))
    found = gathered(book.rows)
    scene = scene_of(found, change_of(["policy.spill_ms=4"]), {})
    assert [at_ms for at_ms, _ in scene.house.rules] == [0, found.asked[0].at_ms]
    assert [event.policy.spill_ms for _, event in scene.house.rules] == [4, 4]
    engine = Engine(scene.scenario, iter(scene.trace), QUESTIONS, scene.house)
    engine.run()
    assert (engine.grid.revision, engine.policy.retry_ms) == (2, 5)


def test_what_has_no_end_gets_an_answer_of_the_usual_length() -> None:
    """The learned mean of its model, at most what it allows; it is counted as open."""
    run = simulated("load-heavy", "steady", 40)
    events = [event_codec.decode(raw) for _, raw in run.rows]
    last = next(each for each in reversed(events) if isinstance(each, ev.RequestCompleted))
    found = RecordedWorkload(nothing())
    for n, each in enumerate(events):
        if isinstance(each, ev.RequestAccepted) and each.request == last.request:
            found.take([(n, event_codec.encode(replace(each, num_predict=3)))])
        elif each is not last:
            found.take([(n, event_codec.encode(each))])
    [asked] = [each for each in found.asked if each.tokens is None]
    lengths = {each.tokens for each in scene_of(found, AS_IT_WAS, {}).trace if each.at_ms == asked.at_ms}
    assert (asked.event.request, lengths) == (last.request, {3})
    assert rerun(found, AS_IT_WAS).open == 1


def test_speeds_that_were_never_measured_are_said() -> None:
    """Of models that were asked for, on nodes that take requests; of a node that did it all nothing."""
    found = gathered(simulated("load-heavy", "steady", 60).rows)
    missing = {(each.node, each.model, each.what) for each in unmeasured(found)}
    for name in (WORKER, MASTER):
        for model in {each.event.model for each in found.asked}:
            known = found.grid.speeds.get((name, model))
            assert ((name, model, "decode") in missing) == (known is None)
    assert missing and not {node for node, _, _ in missing} - {WORKER, MASTER}


def test_another_context_length_takes_another_place() -> None:
    """A pin changes what the model's runner takes, and what requests ask for; others stay."""
    found = gathered(simulated("load-heavy", "steady", 20).rows)
    model, other = "llama3.2:3b", "gemma3:4b"
    scenes = [
        scene_of(found, change_of(settings), {})
        for settings in ([], [f'models."{model}".num_ctx=16384'], ["policy.num_ctx=8192"])
    ]
    sizes = [
        {each.name: each.resident_mb for each in s.house.nodes[MASTER].models.values()} for s in scenes
    ]
    assert sizes[0][model] < sizes[2][model] < sizes[1][model]
    assert sizes[0][other] == sizes[1][other] < sizes[2][other]
    asked = [{each.num_ctx for each in s.trace if each.model == model} for s in scenes]
    assert asked == [{NUM_CTX}, {16_384}, {8_192}]
