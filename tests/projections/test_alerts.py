"""Alerts are a fold: each kind begins and ends where it should, and nowhere else; the same log, the same
alerts, wherever its reading was cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.eventlog import jsonl
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.alert_rules import AlertRule, Kind
from orion_streams.model.snapshot import decode_grid, encode_grid
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import Mark, RequestKind, WaitKind
from orion_streams.projections import apply
from orion_streams.projections.alerts import NEVER, STUCK, AlertChange, AlertFold, AlertState
from tests.grids import MODEL, POLICY, grid, node
from tests.properties import histories
from tests.properties import strategies as make

S = 1_000


def rule(kind: Kind, **values: Any) -> AlertRule:
    """A rule of this kind that holds at once."""
    return AlertRule(kind, kind, **{"for_ms": 0, **values})


def commit(some: Grid, ms: int) -> ev.Committed:
    """The head of the next commit, so much later."""
    return ev.Committed(some.number + 1, some.server_ms + ms, 0, True, "")


def told(some: Grid, rules: Sequence[AlertRule], events: Iterable[ev.AnyEvent | int]) -> list[AlertChange]:
    """What begins and ends while events are folded into a grid; a number: a commit so many ms later."""
    fold, found = AlertFold(rules, some), list[AlertChange]()
    for each in events:
        event = commit(some, each) if isinstance(each, int) else each
        apply(some, event)
        found += fold.take(some, event)
    return found


def sample(name: str = "n", **values: Any) -> ev.NodeSampled:
    """A health entry of a node that is well; `values` replace what it says."""
    usual: dict[str, Any] = {
        "boot": "b",
        "sampled_ms": 0,
        "temp_mc": 50_000,
        "ram_used_mb": 2_000,
        "ram_total_mb": 8_000,
        "cpu_permille": 100,
    }
    return ev.NodeSampled(node=name, **{**usual, **values})


def accepted(key: str = "brain/q", model: str = MODEL, **values: Any) -> ev.RequestAccepted:
    """A request that waits."""
    return ev.RequestAccepted(key, "1-0", RequestKind.CHAT, model, 600_000, 10, 4, **values)


def shape(changes: Iterable[AlertChange]) -> list[tuple[str, str, bool]]:
    """Rule, about and whether it ends."""
    return [(each.alert.rule, each.alert.about, each.ended) for each in changes]


HOT, COOL = sample(temp_mc=75_001), sample(temp_mc=75_000)
FULL, EMPTY = sample(ram_used_mb=7_201), sample(ram_used_mb=7_200)
BLIND = sample(temp_mc=None)
BACKED_OFF, RETURNED = ev.NodeBackedOff("n", Mark.HOT, 75_001, 75_000), ev.NodeReturned("n")
OPENED, CLOSED = ev.BreakerOpened("n", 3, 15_000), ev.BreakerClosed("n")
FAILED = [each for n in range(4) for each in (accepted(f"brain/{n}"), ev.RequestFailed(f"brain/{n}", "x"))]
EXPIRED = [each for n in range(3) for each in (accepted(f"brain/e{n}"), ev.RequestExpired(f"brain/e{n}"))]
GIVEN_UP = [
    each for n in range(9) for each in (accepted(f"brain/c{n}"), ev.RequestCancelled(f"brain/c{n}"))
]


@pytest.mark.parametrize(
    ("kind", "begins", "ends", "not_yet"),
    [
        ("hot", [HOT], [COOL], [COOL]),
        ("hot", [HOT, BACKED_OFF, 1 * S, COOL], [RETURNED], [BACKED_OFF, RETURNED]),
        ("full", [FULL], [EMPTY], [EMPTY]),
        ("no_sensor", [BLIND], [COOL], [HOT]),
        ("silent", [2 * S, 2 * S, 2 * S], [sample()], [2 * S]),
        ("silent", [sample(goodbye=True)], [sample(boot="c")], [sample(leaving=True)]),
        ("breaker", [OPENED], [CLOSED], [CLOSED]),
    ],
)  # fmt: skip
def test_each_kind_of_nodes_begins_and_ends(
    kind: Kind, begins: list[Any], ends: list[Any], not_yet: list[Any]
) -> None:
    """Once each; and what is not so does not begin it."""
    assert shape(told(grid(node("n")), [rule(kind)], [*begins, 1 * S])) == [(kind, "n", False)]
    found = told(grid(node("n")), [rule(kind)], [*begins, 1 * S, 1, *ends, 1 * S, 1])
    assert shape(found) == [(kind, "n", False), (kind, "n", True)]
    assert told(grid(node("n")), [rule(kind)], [*not_yet, 1 * S]) == []


def test_a_sensor_that_stands_still_is_none() -> None:
    """While the processor works; once it moves it is one again. A node without a sensor lacks none."""

    def stuck(ms: int, temp_mc: int = 50_100) -> ev.NodeSampled:
        return sample(temp_mc=temp_mc, cpu_permille=900, sampled_ms=ms)

    strict = replace(POLICY, stuck_ms=2 * S)
    events: list[Any] = [stuck(1 * S), 1 * S, stuck(2 * S), 1 * S, stuck(3 * S), 1 * S]
    found = told(
        grid(node("n"), policy=strict), [rule("no_sensor")], [*events, stuck(4 * S, 50_200), 1 * S]
    )
    assert shape(found) == [("no_sensor", "n", False), ("no_sensor", "n", True)]
    assert (found[0].alert.value, found[0].alert.detail) == (2 * S, STUCK)
    assert told(grid(node("n")), [rule("no_sensor")], events) == []
    bare = node("n", temp_mc=None)
    bare = replace(bare, rules=replace(bare.rules, temperature_sensor=False))
    assert told(grid(bare), [rule("no_sensor")], [BLIND, 1 * S]) == []


def test_a_planned_absence_is_no_alert() -> None:
    """Drained, a node may be silent, leave, and be off, for as long as it takes; resumed, it is missed."""
    drained, resumed = ev.NodeDrained("n", "cli", 0, 0), ev.NodeResumed("n", "cli")
    for away in ([2 * S, 2 * S, 2 * S], [sample(goodbye=True), 1 * S, 1 * S]):
        assert told(grid(node("n")), [rule("silent")], [drained, *away, 1 * S]) == []
        found = told(grid(node("n")), [rule("silent")], [drained, *away, resumed, 1 * S, 1 * S])
        assert shape(found) == [("silent", "n", False)]


def test_a_node_that_was_never_heard_is_silent() -> None:
    """From the first moment that is judged."""
    [change] = told(grid(node("n", heard_ms=None)), [rule("silent")], [1 * S])
    assert change.alert.detail == NEVER


def test_a_wait_over_its_limit_begins_and_ends() -> None:
    """The longest of the requests that the rule is about; one that is sent waits no more."""
    wait = rule("wait", over_ms=3 * S, clients=("brain",))
    found = told(grid(node("n")), [wait], [accepted(), accepted("cli/q"), 2 * S, 1 * S, 1 * S])
    assert shape(found) == [("wait", "", False)]
    assert (found[0].alert.value, found[0].alert.limit, found[0].alert.detail) == (4 * S, 3 * S, "brain/q")
    routed = ev.RequestRouted("brain/q", 1, "n", "p", 1, (), work_id="9-0")
    found = told(grid(node("n")), [wait], [accepted(), 2 * S, 2 * S, routed, 1 * S])
    assert shape(found) == [("wait", "", False), ("wait", "", True)]
    assert told(grid(node("n")), [wait], [accepted("cli/q"), 2 * S, 2 * S]) == []
    assert (
        told(grid(node("n")), [rule("wait", over_ms=3 * S, models=("x",))], [accepted(), 2 * S, 2 * S])
        == []
    )


def test_a_queue_over_its_limit_begins_and_ends() -> None:
    """As many as the limit are none too many; a model's name may lack its tag."""
    many = [accepted(f"brain/{n}") for n in range(3)]
    queue = rule("queue", over=2, models=("gemma3:270m",))
    assert shape(told(grid(node("n")), [queue], [*many, 1 * S])) == [("queue", "", False)]
    done = ev.RequestCancelled("brain/1")
    assert shape(told(grid(node("n")), [queue], [*many, 1 * S, done, 1 * S]))[1:] == [("queue", "", True)]
    assert told(grid(node("n")), [queue], [*many[:2], 1 * S]) == []
    latest = rule("queue", over=0, models=("m",))
    assert told(grid(node("n")), [latest], [accepted(model="m:latest"), 1 * S])


def test_an_error_rate_over_its_limit_begins_and_ends() -> None:
    """Of at least so many that ended in the window; a cancelled request does not count; an expired one
    failed. It is over when they are out of the window."""
    errors = rule("errors", over_permille=500, least=4, window_ms=60 * S)
    assert shape(told(grid(node("n")), [errors], [*FAILED, 1 * S])) == [("errors", "", False)]
    found = told(grid(node("n")), [errors], [*FAILED, *[2 * S] * 31])
    assert shape(found) == [("errors", "", False), ("errors", "", True)]
    assert found[1].lasted_ms == 58 * S
    assert told(grid(node("n")), [errors], [*FAILED[:-2], 1 * S]) == []
    assert told(grid(node("n")), [rule("errors", least=4, clients=("cli",))], [*FAILED, 1 * S]) == []
    assert told(grid(node("n")), [rule("errors", least=4, models=("x",))], [*FAILED, 1 * S]) == []
    assert told(grid(node("n")), [rule("errors", least=4, nodes=("n",))], [*FAILED, 1 * S]) == []
    assert told(grid(node("n")), [rule("errors", least=4, over_permille=1000)], [*FAILED, 1 * S]) == []
    [alert] = told(grid(node("n")), [rule("errors", least=3)], [*EXPIRED, *GIVEN_UP, 1 * S])
    assert (alert.alert.value, alert.alert.detail) == (1000, "3 of 3")


def test_it_must_hold_for_so_long_in_grid_time() -> None:
    """One sample below the mark begins the time anew."""
    slow = rule("hot", for_ms=5 * S)
    assert told(grid(node("n")), [slow], [HOT, 1 * S, HOT, 2 * S, HOT, 2 * S]) == []
    [change] = told(grid(node("n")), [slow], [HOT, 1 * S, HOT, 2 * S, HOT, 2 * S, HOT, 1 * S])
    assert change.at_ms - change.alert.began_ms == 5 * S
    assert (
        told(grid(node("n")), [slow], [HOT, 1 * S, HOT, 2 * S, COOL, 2 * S, HOT, 2 * S, HOT, 2 * S]) == []
    )


def test_a_clock_that_jumps_alone_begins_nothing() -> None:
    """Grid time advances at most max_step_ms, whatever the server's clock says."""
    assert told(grid(node("n")), [rule("silent")], [sample(), 3_600 * S]) == []


def test_what_nobody_knows_stays_as_it_is() -> None:
    """A hot node that falls silent is hot until it is heard; one that was not hot long enough is not."""
    silence = [2 * S] * 4
    found = told(grid(node("n")), [rule("hot")], [HOT, 1 * S, *silence, COOL, 1 * S])
    assert shape(found) == [("hot", "n", False), ("hot", "n", True)]
    assert told(grid(node("n")), [rule("hot", for_ms=8 * S)], [HOT, 1 * S, *silence]) == []


def test_only_the_nodes_of_a_rule_count() -> None:
    """Each has an alert of its own."""
    two: list[Any] = [sample("a", temp_mc=80_000), sample("b", temp_mc=80_000), 1 * S]
    some = [rule("hot"), AlertRule("mine", "hot", for_ms=0, nodes=("b", "gone"))]
    found = told(grid(node("a"), node("b")), some, two)
    assert shape(found) == [("hot", "a", False), ("hot", "b", False), ("mine", "b", False)]


def test_a_rule_that_is_no_more_ends_its_alerts() -> None:
    """So does a node that is no longer configured."""
    some, state = grid(node("n")), AlertState()
    for rules in ([rule("hot")], [rule("full")]):
        fold = AlertFold(rules, some, state)
        changes = []
        for event in (HOT, commit(some, 1 * S)):
            apply(some, event)
            changes += fold.take(some, event)
        assert shape(changes) == [("hot", "n", rules[0].kind == "full")]


def test_kinds_that_are_seen_live_are_not_judged() -> None:
    """A log says nothing of them."""
    live: list[Kind] = ["no_router", "archive_behind", "unread_client"]
    assert told(grid(node("n")), [rule(kind) for kind in live], [HOT, 1 * S, 2 * S, 2 * S, 2 * S]) == []


RULES = [
    AlertRule("hot", "hot", for_ms=1 * S),
    AlertRule("full", "full", for_ms=0),
    AlertRule("silent", "silent", for_ms=2 * S),
    AlertRule("no-sensor", "no_sensor", for_ms=0),
    AlertRule("breaker", "breaker", for_ms=0),
    AlertRule("wait", "wait", over_ms=1 * S, for_ms=0),
    AlertRule("queue", "queue", over=0, for_ms=1 * S),
    AlertRule("errors", "errors", over_permille=100, least=1, window_ms=10 * S, for_ms=0),
]


TICKS = st.sampled_from([1, 400, 1 * S, 2 * S])


def in_pieces(events: Sequence[ev.AnyEvent | int], cuts: set[int]) -> list[AlertChange]:
    """What is told when grid and state go through bytes before each of these events, as over a restart."""
    some, state, found = Grid(), AlertState(), list[AlertChange]()
    fold = AlertFold(RULES, some, state)
    for index, each in enumerate(events):
        if index in cuts:
            some = decode_grid(encode_grid(some))
            fold = AlertFold(
                RULES, some, msgspec.json.decode(msgspec.json.encode(fold.state), type=AlertState)
            )
        event = commit(some, each) if isinstance(each, int) else each
        apply(some, event)
        found += fold.take(some, event)
    return found


@make.MANY
@given(histories.HISTORIES, st.lists(TICKS, min_size=1, max_size=40), st.sets(st.integers(0, 80)))
def test_cut_anywhere_it_is_the_same(before: list[ev.AnyEvent], ticks: list[int], cuts: set[int]) -> None:
    """Whatever the history, and wherever whoever follows it was restarted; each alert begins before it
    ends, and begins again only after that."""
    events = [
        each for pair in zip(before, [*ticks, *([1 * S] * len(before))], strict=False) for each in pair
    ]
    whole = in_pieces(events, set())
    assert in_pieces(events, cuts) == whole
    open_now = set[str]()
    for each in whole:
        key = f"{each.alert.rule}/{each.alert.about}"
        assert (key in open_now) == each.ended
        open_now ^= {key}


@pytest.mark.parametrize("name", ["thermal-runaway", "ram-squeeze", "node-death-mid-stream", "sick-ollama"])
@make.FEW
@given(st.sets(st.integers(0, 4_000), max_size=5))
def test_recorded_incidents_are_the_same_wherever_they_are_cut(name: str, cuts: set[int]) -> None:
    """Each of them begins something; the cuts change nothing."""
    events = recorded(name)
    whole = in_pieces(events, set())
    assert whole
    assert in_pieces(events, cuts) == whole


@cache
def recorded(name: str) -> list[ev.AnyEvent]:
    """The events of a recorded incident."""
    path = Path(__file__).parents[1] / "golden" / f"{name}.jsonl.gz"
    return [event_codec.decode(raw) for stretch in jsonl.read(path) for _, raw in stretch.rows]


@pytest.mark.parametrize(("kind", "is_planned"), [("quiet", True), ("drained", True), ("no_node", False)])
def test_who_waits_for_nodes_at_rest_is_no_alert(kind: WaitKind, is_planned: bool) -> None:
    """Neither as a long wait nor in the queue, nor in the moment after: what counts then is how long it has
    waited for another reason. The control: one that no node takes."""
    rules = [rule("wait", over_ms=3 * S), rule("queue", over=0)]
    night: list[ev.AnyEvent | int] = [accepted(), ev.RequestDeferred("brain/q", WaitKind(kind))]
    asleep = told(grid(node("n")), rules, [*night, *[2 * S] * 4])
    assert shape(asleep) == ([] if is_planned else [("queue", "", False), ("wait", "", False)])
    busy = ev.RequestDeferred("brain/q", WaitKind.BUSY, "n")
    some = grid(node("n"))
    begin = some.position
    [found] = told(some, rules[:1], [*night, *[2 * S] * 4, busy, 2 * S, 2 * S])
    assert found.position - begin == (9 if is_planned else 4)
