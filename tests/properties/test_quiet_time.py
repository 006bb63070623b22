"""Quiet hours take no time from a request that only they hold up: however wrong the clock is, it is delayed
and never expires of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.cli.request_story import look_at
from orion_streams.decider.decide import decide
from orion_streams.decider.queue import Queue
from orion_streams.decider.standings import standings
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.model.verdict import Verdict
from orion_streams.projections import fold, requests
from tests.grids import AT_MS, MEMORY, MODEL, POLICY, fails, grid, holding, node, request
from tests.properties import strategies as make
from tests.properties.world import World

NIGHT, DAY_MS, HOUR_MS, STEP_MS = "22:00-07:00", 86_400_000, 3_600_000, 2_000
TIME_MS = 20_000
"""What the request is given; with the longest step between commits ten of them use it up."""

Stretch = tuple[int, bool, int]
"""The time of day in hours to which the clock jumps, whether the node is drained, and how many commits."""
STRETCHES = st.lists(
    st.tuples(st.sampled_from((0, 3, 6, 12, 21, 22, 23)), st.booleans(), st.integers(1, 14)), max_size=6
)


def put_off_by_quiet_hours_only(stretches: list[Stretch], fields: dict[str, Any]) -> None:
    """Law: each step between commits counts, unless the node was in its quiet hours before it, and nothing
    else was in the way, or the clock had just jumped; past its time the request expires, and not before."""
    world = World((NodeRules("n", quiet=NIGHT),), Policy(default_deadline_ms=TIME_MS))
    world.now_ms += 23 * HOUR_MS - world.now_ms % DAY_MS
    world.beat()
    world.settle()
    key = world.ask("q", MODEL, **fields)
    world.commit()
    counted_ms, stands = 10, True
    for hour, is_drained, commits in stretches:
        world.now_ms += (hour * HOUR_MS - world.now_ms) % DAY_MS - STEP_MS
        (world.rest if is_drained else world.resume)("n")
        for _ in range(commits):
            world.beat()
            before_ms = world.grid.at_ms
            world.commit(STEP_MS)
            counted_ms += 0 if stands else world.grid.at_ms - before_ms
            if counted_ms > TIME_MS:
                assert world.replies[key] == ["expired"]
                return
            if world.grid.jumped:
                stands = True
                continue
            is_night = not 7 <= world.now_ms // HOUR_MS % 24 < 22
            if not is_night and not is_drained:
                world.work_all()
                assert world.replies[key] == ["done"]
                return
            assert world.request(key).deadline_ms - world.grid.at_ms == TIME_MS - counted_ms
            stands = is_night and not is_drained


@make.FEW
@given(STRETCHES, st.sampled_from(({}, {"deadline_ms": TIME_MS})))
def test_a_wrong_clock_delays_and_never_expires(stretches: list[Stretch], fields: dict[str, Any]) -> None:
    """Whether its time is the usual one or one that its client set, and whatever the clock says; a drain
    takes time."""
    put_off_by_quiet_hours_only(stretches, fields)


@pytest.mark.parametrize(
    ("stretches", "breaks"), [([(23, False, 14)], True), ([(23, False, 2), (23, True, 14)], False)]
)
def test_who_lets_the_time_run_breaks_the_law(
    stretches: list[Stretch], breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative controls: the same fold without the step that puts deadlines off; and one that puts them off
    for drained nodes, too."""
    put_off_by_quiet_hours_only(stretches, {})
    if breaks:
        monkeypatch.setattr(requests, "rest", lambda *_: None)
    else:
        monkeypatch.setattr(requests, "WaitKind", type("Any", (), {"QUIET": "drained"}))
    assert fails(put_off_by_quiet_hours_only, stretches, {})


@pytest.mark.parametrize("jumps", [False, True])
def test_what_is_put_off_has_a_limit(jumps: bool) -> None:
    """Of one request, in all: quiet hours without end, and a clock that jumps with each commit."""
    limits = Policy(default_deadline_ms=TIME_MS, max_rest_ms=15_000)  # 35 s in all
    world = World((NodeRules("n", quiet="" if jumps else NIGHT),), limits)
    world.now_ms += 23 * HOUR_MS - world.now_ms % DAY_MS
    key = world.ask("q", MODEL)
    world.commit()
    began_ms, step_ms = world.grid.at_ms, limits.stale_ms + 1 if jumps else STEP_MS
    for _ in range(40):
        if not jumps:
            world.beat()
        world.commit(step_ms)
        if key in world.replies:
            break
    assert world.replies[key] == ["expired"]
    assert 35_000 < world.grid.at_ms - began_ms <= 35_000 + 2 * STEP_MS


def test_a_whole_night_in_a_step_of_the_router_each() -> None:
    """Longer than the usual deadline by far; in the morning it still has all of it, and is answered."""
    world = World((NodeRules("n", quiet=NIGHT),))
    world.now_ms += 23 * HOUR_MS - world.now_ms % DAY_MS
    world.beat()
    world.settle()
    key = world.ask("q", MODEL)
    world.commit()
    limit_ms = world.grid.policy.default_deadline_ms
    for _ in range(2 * limit_ms // STEP_MS):
        world.beat()
        world.commit(STEP_MS)
    left_ms = world.request(key).deadline_ms - world.grid.at_ms
    assert (left_ms, world.request(key).rested_ms) == (limit_ms - 10, 2 * limit_ms)
    world.now_ms += 8 * HOUR_MS
    for _ in range(2):  # what is heard in the commit of the jump may be older
        world.beat()
        world.settle()
    world.work_all()
    assert world.replies[key] == ["done"]


def house_at(hour: int, **others: Any) -> Grid:
    """A grid at a time of day: `n` has quiet hours, `other` has none, with these values."""
    quiet = node("n", resident=MEMORY)
    rows = [replace(quiet, rules=replace(quiet.rules, quiet=NIGHT))]
    if others:
        rows.append(node("other", resident=MEMORY, **others))
    return replace(grid(*rows), server_ms=20_000 * DAY_MS + hour * HOUR_MS)


BUSY = {"assignments": {"5-0": holding(request="brain/x", started=True)}}
HELD_UP = [
    ({}, "quiet"),
    ({"installed": {}}, "quiet"),
    ({"temp_mc": 80_000}, "quiet"),
    ({"heard_ms": None}, "quiet"),
    (BUSY, "busy"),
]


@pytest.mark.parametrize(("other", "kind"), HELD_UP)
def test_what_is_in_the_way(other: dict[str, Any], kind: str) -> None:
    """Quiet hours, if without them a node would take it, whatever keeps the others from it; where one of
    those would take it when its turn comes, they are not what it waits for."""
    some = replace(house_at(23, **other), open={"brain/q": request()})
    assert [each.kind for each in decide(some) if isinstance(each, ev.RequestDeferred)] == [kind]


def test_a_quiet_node_that_is_hot_too_is_not_waited_for_as_quiet() -> None:
    """Without quiet hours it would take nothing either: its time counts, as at noon."""
    some = house_at(23)
    hot = replace(some, nodes={"n": replace(some.nodes["n"], temp_mc=80_000)}, open={"brain/q": request()})
    found = [each for each in decide(hot) if isinstance(each, ev.RequestDeferred)]
    assert [each.kind for each in found] == ["no_node"]


def test_what_runs_when_quiet_hours_begin_runs_on() -> None:
    """Its deadline goes on, too: it does not wait."""
    some = house_at(23)
    row = replace(some.nodes["n"], assignments={"5-0": holding(request="brain/q", started=True)})
    asked = request(work_id="5-0", node="n", started=True)
    after = fold(
        replace(some, nodes={"n": row}, open={"brain/q": asked}, number=1),
        [ev.Committed(2, some.server_ms + 1_000, 0, True, "")],
    )
    assert (after.at_ms, after.open["brain/q"]) == (AT_MS + 1_000, asked)


@pytest.mark.parametrize(("hour", "before", "now"), [(23, "busy", "quiet"), (12, "quiet", "busy")])
def test_each_of_many_is_told_apart(hour: int, before: str, now: str) -> None:
    """Also those beyond `max_scan`, which are else not looked at again: no time of theirs runs in quiet
    hours, and none stands still after them."""
    some = house_at(hour)
    rows = {f"brain/q{n}": request(accepted=n, deferred=before) for n in range(6)}
    many = replace(some, open=rows, policy=replace(POLICY, max_scan=2))
    after = fold(many, decide(many))
    assert {row.deferred for row in after.open.values() if not row.work_id} == {now}
    assert [each for each in decide(after) if isinstance(each, ev.RequestDeferred)] == []


def test_who_scans_only_some_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the same queue, with the limit for all."""

    def is_settled(self: Queue, row: Any) -> bool:
        self._scanned[row.model, 0, 0, ()] += 1
        return bool(row.deferred) and self._scanned[row.model, 0, 0, ()] > self.policy.max_scan

    monkeypatch.setattr(Queue, "is_settled", is_settled)
    assert fails(test_each_of_many_is_told_apart, 23, "busy", "quiet")


def test_client_and_explain_are_told_the_same() -> None:
    """Until when the quiet hours go on of the node that is kept by nothing else; of another that is away,
    their end does not count."""
    some = replace(house_at(23), open={"brain/q": request(notify=True)})
    away = replace(node("away", heard_ms=None), rules=NodeRules("away", quiet="22:00-23:30"))
    some = replace(some, nodes={**some.nodes, "away": away})
    told = standings(some, {"brain/q"})["brain/q"]
    assert (told.waits_for, told.eta_ms) == ("quiet", 8 * HOUR_MS)
    look = look_at(some, "brain/q", "now")
    assert look is not None
    assert (look.waits_for, look.eta_ms) == (told.waits_for, told.eta_ms)


def test_the_morning_after_nobody_is_impatient() -> None:
    """A night is no time for which a request let others go first: what groups runs by model works on."""
    some = house_at(12)
    asked = request(accepted_ms=AT_MS - 9 * HOUR_MS, rested_ms=9 * HOUR_MS, deadline_ms=AT_MS + 600_000)
    queue = Queue(some)
    cold = Verdict(node="n", load_ms=20_000)
    assert not queue.is_impatient(asked, cold)
    assert queue.is_impatient(replace(asked, rested_ms=0), cold)
