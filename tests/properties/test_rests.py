"""A node that rests: drained by an operator it takes nothing, what it has moves, and afterwards it is as if
it had never been drained."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider.decide import QUESTIONS, decide, is_timed, lost_attempts, rests
from orion_streams.decider.route import Route, route
from orion_streams.decider.standings import standings
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules
from orion_streams.model.state import Failure, Grid, Rest, Run
from orion_streams.model.vocabulary import AbandonReason, Blame, Filter
from orion_streams.projections import evolve, fold
from tests.grids import AT_MS, MEMORY, MODEL, fails, grid, holding, kinds, node, request, verdict
from tests.properties import strategies as make
from tests.properties.world import MASTER, OPERATOR, WORKER, World

NAMES = st.sampled_from(make.NAMES)
TERMS = st.sampled_from((0, 1, 60_000))


def takes_nothing(some: Grid, name: str, is_drained: bool = True) -> None:
    """Law: nothing is routed to a drained node, nothing is loaded there, and nothing waits there."""
    after = evolve(some, ev.NodeDrained(name, OPERATOR, 0, 20_000)) if is_drained else some
    for answer in decide(after):
        assert not (isinstance(answer, ev.RequestRouted | ev.LoadOrdered) and answer.node == name)
    after = fold(after, decide(after))
    for work_id, held in after.nodes[name].assignments.items():
        row = after.open.get(held.request) if isinstance(held, Run) else None
        assert row is None or row.work_id != work_id or (isinstance(held, Run) and held.started)


@make.MANY
@given(make.queues(), NAMES)
def test_a_drained_node_takes_nothing(some: Grid, name: str) -> None:
    """Whatever else is true of it and of the others."""
    if name in some.nodes:
        takes_nothing(some, name)


def test_a_drain_that_nobody_folds_breaks_the_law() -> None:
    """Negative control: the same node, not drained, takes the request."""
    ready = grid(node("n", resident=MEMORY), open_requests={"brain/q": request()})
    takes_nothing(ready, "n")
    assert fails(takes_nothing, ready, "n", False)


@make.MANY
@given(make.grids(), NAMES, TERMS, st.sampled_from(("", OPERATOR)))
def test_drained_and_resumed_is_never_drained(some: Grid, name: str, for_ms: int, by: str) -> None:
    """As far as routing goes: the same table, so the same decisions, costs and all."""
    ready = some
    if name in some.nodes:
        ready = replace(some, nodes={**some.nodes, name: replace(some.nodes[name], rest=None)})
    events: list[ev.AnyEvent] = [ev.NodeDrained(name, OPERATOR, for_ms, 20_000), ev.NodeResumed(name, by)]
    after = fold(ready, events)
    assert replace(after, position=0) == replace(ready, position=0)
    assert route(after, request()) == route(ready, request())


def a_house() -> World:
    """Two nodes that are up."""
    world = World()
    world.beat()
    world.settle()
    return world


def test_what_waits_moves_at_once_and_costs_nothing() -> None:
    """The request goes elsewhere in the same commit: no attempt, no breaker, no penalty there."""
    world = a_house()
    key = world.ask("q", MODEL)
    world.settle()
    name = world.request(key).node
    other = MASTER if name == WORKER else WORKER
    world.rest(name)
    answers = world.commit()
    assert [each.reason for each in answers if isinstance(each, ev.AttemptAbandoned)] == ["drained"]
    assert world.request(key).node == other
    assert not world.node(name).suspects
    world.resume(name)
    world.settle()
    asked = replace(world.request(key), work_id="", node="")
    assert verdict(route(world.grid, asked), name).retry_ms == 0
    world.work_all()
    assert world.replies[key] == ["done"]


def running_on(world: World, key: str) -> str:
    """The request begins where it was sent."""
    name = world.request(key).node
    world.read_work(name)
    [work_id] = world.machines[name].in_hand
    world.begin(name, work_id)
    world.settle()
    return name


def test_what_runs_may_end() -> None:
    """Until its time is over nothing is taken from it; its answer is the one that counts."""
    world = a_house()
    key = world.ask("q", MODEL)
    world.settle()
    name = running_on(world, key)
    world.rest(name)
    for _ in range(9):
        world.beat()
        world.settle(2_000)
    assert world.request(key).node == name
    world.end(name, next(iter(world.machines[name].in_hand)))
    world.settle()
    assert world.replies[key] == ["done"]


def test_what_runs_for_too_long_moves() -> None:
    """After `drain_ms` of grid time it is given up, and answered by the other."""
    world = a_house()
    key = world.ask("q", MODEL)
    world.settle()
    name = running_on(world, key)
    world.rest(name)
    for _ in range(12):
        world.beat()
        world.settle(2_000)
    assert world.request(key).node != name
    assert [each.code for each in world.request(key).failures] == ["drained"]


def test_a_rest_ends_by_itself_in_grid_time() -> None:
    """A clock that jumps by an hour does not shorten it; then the node takes requests again."""
    world = World((NodeRules("n"),))
    world.beat()
    world.settle()
    world.rest("n", 10_000)
    world.settle()
    key = world.ask("q", MODEL)
    world.settle(3_600_000)
    assert world.node("n").rest is not None
    assert is_timed(world.grid)
    for _ in range(6):
        world.beat()
        world.settle(2_000)
    assert world.node("n").rest is None
    assert world.request(key).node == "n"
    assert [each.by for each in world.log if isinstance(each, ev.NodeResumed)] == [""]


@pytest.mark.parametrize(("passed_ms", "is_over"), [(59_999, False), (60_000, True), (60_001, True)])
def test_the_end_of_a_rest(passed_ms: int, is_over: bool) -> None:
    """To the millisecond; one without an end has none, and needs no tick."""
    row = node("n", rest=Rest(OPERATOR, AT_MS - passed_ms, 60_000, 0))
    assert kinds(decide(grid(row), (rests,))) == ["node.resumed"] * is_over
    endless = grid(node("n", rest=Rest(OPERATOR, 0, 0, 0)))
    assert kinds(decide(endless, (rests,))) == []
    assert not is_timed(endless)


def test_an_endless_router_breaks_it() -> None:
    """Negative control: without its question a rest never ends."""
    row = node("n", rest=Rest(OPERATOR, 0, 1, 0))
    without = tuple(each for each in QUESTIONS if each is not rests)
    assert kinds(decide(grid(row))) == ["node.resumed"]
    assert kinds(decide(grid(row), without)) == []


def test_drained_twice_it_begins_anew() -> None:
    """The second term counts, from then on."""
    some = evolve(grid(node("n", rest=Rest("other", 0, 60_000, 9))), ev.NodeDrained("n", OPERATOR, 5, 7))
    assert some.nodes["n"].rest == Rest(OPERATOR, AT_MS, 5, 7)


QUIET_NOW = {"quiet": "00:00-12:00"}
ORDER: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"installed": {}}, {}, "not_installed"),
    ({"inventory_known": False}, {}, "inventory_unknown"),
    ({"leaving": True}, {}, "drained"),
    ({"heard_ms": None}, {}, "drained"),
    ({"left": True, "leaving": True}, {}, "drained"),
    ({"temp_mc": 80_000}, QUIET_NOW, "drained"),
    ({"rest": None, "temp_mc": 80_000}, QUIET_NOW, "quiet"),
    ({"rest": None, "heard_ms": None}, QUIET_NOW, "silent"),
]


@pytest.mark.parametrize(("values", "rules", "name"), ORDER)
def test_what_is_said_of_a_node_that_rests(
    values: dict[str, Any], rules: dict[str, str], name: str
) -> None:
    """That it was drained, whether it is heard or not; but a model that it lacks stays what it is, so that
    nobody waits for what never comes."""
    row = node("n", **{"rest": Rest(OPERATOR, AT_MS), **values})
    row = replace(row, rules=replace(row.rules, **rules))
    assert verdict(route(grid(row), request()), "n").filter == name


MOVED = ("drained", "left", "agent_leaving")


@pytest.mark.parametrize("code", MOVED)
def test_what_was_moved_is_no_attempt_and_no_penalty(code: str) -> None:
    """More often than max_attempts: it is sent to the same node again, at no cost. The control: a failure
    of another kind is one."""
    failures = tuple(Failure("n", code, Blame.NODE, at_ms=0) for _ in range(9))
    some = grid(node("n", resident=MEMORY), open_requests={"brain/q": request(failures=failures)})
    [routed] = [each for each in decide(some) if isinstance(each, ev.RequestRouted)]
    assert routed.verdicts[0].retry_ms == 0
    silent = tuple(replace(each, code="silent") for each in failures)
    other = grid(node("n", resident=MEMORY), open_requests={"brain/q": request(failures=silent)})
    assert kinds(decide(other)) == ["request.failed"]


def test_what_ran_out_of_time_is_counted_to_the_millisecond() -> None:
    """A run that began stays for `drain_ms` less one; one that only waits goes at once."""
    held = {"5-0": holding(request="brain/q", started=True)}
    asked = {"brain/q": request(work_id="5-0", node="n", started=True)}
    for rested_ms, is_lost in ((19_999, False), (20_000, True)):
        row = node("n", assignments=held, rest=Rest(OPERATOR, AT_MS - rested_ms, 0, 20_000))
        answers = decide(grid(row, open_requests=asked), (lost_attempts,))
        assert [each.reason for each in answers if isinstance(each, ev.AttemptAbandoned)] == [
            AbandonReason.DRAINED
        ] * is_lost
    waits = {"5-0": holding(request="brain/q", started=False)}
    row = node("n", assignments=waits, rest=Rest(OPERATOR, AT_MS, 0, 20_000))
    rows = {"brain/q": request(work_id="5-0", node="n")}
    assert kinds(decide(grid(row, open_requests=rows), (lost_attempts,))) == ["attempt.abandoned"]


# --- quiet hours ------------------------------------------------------------------------------------

DAY_MS = 86_400_000


def at_time(text: str, quiet: str, zone_s: int = 0, day: int = 20_000) -> Grid:
    """A grid of one node with quiet hours, at a local time of day."""
    hour, minute = (int(each) for each in text.split(":"))
    server_ms = day * DAY_MS + (hour * 60 + minute) * 60_000 - zone_s * 1_000
    row = node("n", resident=MEMORY)
    row = replace(row, rules=replace(row.rules, quiet=quiet))
    return replace(grid(row, zone_s=zone_s), server_ms=server_ms)


NIGHT, NOON = "22:00-07:00", "12:00-14:00"
TIMES = [
    (NIGHT, "21:59", False), (NIGHT, "22:00", True), (NIGHT, "23:59", True), (NIGHT, "00:00", True),
    (NIGHT, "06:59", True), (NIGHT, "07:00", False), (NIGHT, "12:00", False),
    (NOON, "11:59", False), (NOON, "12:00", True), (NOON, "13:59", True), (NOON, "14:00", False),
    ("", "00:00", False), ("12:00-12:00", "12:00", False), ("nonsense", "12:00", False),
]  # fmt: skip


@pytest.mark.parametrize(("quiet", "now", "is_quiet"), TIMES)
@pytest.mark.parametrize("zone_s", [0, 3_600, -34_200, 45_900])
def test_quiet_hours_by_the_minute(quiet: str, now: str, is_quiet: bool, zone_s: int) -> None:
    """Across midnight too, in any zone; a span that is none, as an odd log may have it, is no time."""
    some = at_time(now, quiet, zone_s)
    assert (verdict(route(some, request()), "n").filter == Filter.QUIET) == is_quiet


def test_a_quiet_node_keeps_what_it_has_and_loads_nothing() -> None:
    """Only what is new stays away."""
    some = at_time("23:00", NIGHT)
    row = replace(some.nodes["n"], assignments={"5-0": holding(request="brain/q", started=False)})
    asked = {"brain/q": request(work_id="5-0", node="n")}
    busy = replace(some, nodes={"n": row}, open=asked)
    assert kinds(decide(busy)) == []


def test_the_hour_that_comes_twice_and_the_one_that_is_missing() -> None:
    """When summer time ends or begins, local time goes back or on by an hour with the event; quiet hours go
    by it at once, and nothing else changes."""
    some = at_time("02:30", "02:00-03:00", zone_s=7_200)
    assert isinstance(route(evolve(some, ev.ZoneChanged(3_600)), request()), Route)
    assert not isinstance(route(some, request()), Route)
    back = evolve(at_time("03:10", "02:00-03:00", zone_s=7_200), ev.ZoneChanged(3_600))
    assert verdict(route(back, request()), "n") == verdict(
        route(at_time("02:10", "02:00-03:00"), request()), "n"
    )


def test_where_all_are_quiet_work_waits_until_they_are_not() -> None:
    """It says why and until when; in the morning it is sent."""
    some = at_time("23:00", NIGHT)
    asleep = replace(some, open={"brain/q": request(notify=True)})
    [deferred] = decide(asleep)
    assert isinstance(deferred, ev.RequestDeferred)
    [found] = deferred.verdicts
    assert (found.filter, found.value, found.limit) == (Filter.QUIET, 23 * 60, 7 * 60)
    told = standings(asleep, {"brain/q"})["brain/q"]
    assert (told.waits_for, told.eta_ms) == ("quiet", 8 * 3_600_000)
    morning = replace(fold(asleep, [deferred]), server_ms=asleep.server_ms + 8 * 3_600_000)
    assert kinds(decide(morning)) == ["request.routed"]
