"""What the page shows of the last minutes: tracks, decisions, ticks; bounded, from any part of a log."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given

from orion_streams.gateway import page_recent
from orion_streams.gateway.page_day import Day, with_ticks
from orion_streams.gateway.page_recent import POINTS, STEP_MS, TRACK_MS, Recent, RecentRows
from orion_streams.gateway.page_rows import Tick
from orion_streams.gateway.page_ticks import MOST_TICKS, Ticks, thinned
from orion_streams.model import events as ev
from orion_streams.model.metric_specs import ATTEMPT_CODES, ERROR_CODES
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid
from orion_streams.model.text import WHY_FAILED, why_failed
from orion_streams.model.vocabulary import AbandonReason, Blame, Mark, RequestKind, WaitKind
from orion_streams.projections import apply, fold
from tests.grids import MODEL, node, sample
from tests.properties import histories
from tests.properties import strategies as make

START_MS = 1_800_000_000_000
RULES = ev.PolicyChanged(1, "p", Policy(), (node("one").rules, node("two").rules))


def head(at_ms: int) -> ev.Committed:
    """A commit's head, so long after the beginning."""
    return ev.Committed(1, START_MS + at_ms, 1, True, "")


def accepted(key: str) -> ev.RequestAccepted:
    """A request of ordinary size."""
    return ev.RequestAccepted(key, "1-0", RequestKind.GENERATE, MODEL, 60_000, 10, 5)


class Told:
    """A grid and what it brought, event by event."""

    def __init__(self, grid: Grid | None = None) -> None:
        self.grid, self.recent = grid or Grid(), Recent()
        self.recent.begin(self.grid)

    def tell(self, *events: ev.AnyEvent) -> Told:
        """Fold these events."""
        for event in events:
            apply(self.grid, event)
            self.recent.take(self.grid, event)
        return self

    @property
    def texts(self) -> list[str]:
        """The decisions in words."""
        return [each.text for each in self.recent.decisions]

    @property
    def ticks(self) -> list[tuple[str, str, int]]:
        """Kind and node of each tick, and how long it lasted (0: not, or still)."""
        found = self.recent.ticks.ticks
        return [(each.kind, each.node, each.until_ms and each.until_ms - each.ms) for each in found]


def test_a_track_has_a_point_each_five_seconds_of_ten_minutes() -> None:
    """However often a node says how it is, and however long."""
    told = Told().tell(head(0), RULES)
    for second in range(0, 1_200):
        told.tell(head(second * 1_000), sample("one", temp_mc=40_000 + second))
    points = told.recent.track_after(0, told.grid.server_ms)["one"]
    assert len(points) == TRACK_MS // STEP_MS
    assert {after[0] - before[0] for before, after in pairwise(points)} == {STEP_MS}
    assert points[-1][:2] == (START_MS + 1_195_000, 41_195)
    assert len(told.recent.tracks["one"]) <= POINTS
    last = told.recent.tracks["one"][-1].position
    assert told.recent.track_after(last - 1, told.grid.server_ms)["one"] == points[-1:]


def test_a_node_that_is_no_more_has_no_track() -> None:
    """It goes when another one comes; one that the rules do not name gets none."""
    told = Told().tell(head(0), RULES, sample("one"), sample("nobody"))
    assert set(told.recent.tracks) == {"one"}
    told.tell(ev.PolicyChanged(2, "q", Policy(), (node("two").rules,)), sample("two"))
    assert set(told.recent.tracks) == {"two"}


def test_each_code_has_words() -> None:
    """None that an agent or the router gives as the end of an attempt or a request is shown as it is."""
    codes = {*ATTEMPT_CODES, *ERROR_CODES} - {*AbandonReason}
    assert codes - {*WHY_FAILED} == set()
    assert {*WHY_FAILED} - codes <= {AbandonReason.OVERDUE}
    assert why_failed("odd_code") == "odd code"


def test_decisions_are_lines_of_words() -> None:
    """Whose request, which model, which node, and why; the last of them."""
    told = Told().tell(
        head(0),
        RULES,
        accepted("brain/q1"),
        ev.RequestDeferred("brain/q1", WaitKind.BUSY, "one"),
        ev.RequestRouted("brain/q1", 1, "one", "p", 1, (), "5-0"),
        ev.AttemptFailed("brain/q1", 1, "one", "5-0", "ollama_error", Blame.NODE),
        ev.RequestRouted("brain/q1", 2, "two", "p", 1, (), "6-0"),
        ev.AttemptAbandoned("brain/q1", 2, "two", "6-0", AbandonReason.SILENT),
        ev.AttemptAbandoned("", 0, "two", "7-0", AbandonReason.GONE),
        ev.NodeBackedOff("one", Mark.RAM, 950, 900),
        ev.RequestDeferred("brain/q1", WaitKind.NO_NODE),
        ev.RequestExpired("brain/q1"),
        ev.NodeReturned("one"),
    )
    assert told.texts == [
        "the rules of revision 1 are in force",
        f"{MODEL} for brain waits for one",
        f"one takes {MODEL} for brain: warm, about 1 s",
        f"one failed at {MODEL} for brain: its Ollama failed",
        f"two takes {MODEL} for brain, once more: warm, about 1 s",
        f"{MODEL} for brain is taken from two: the node is not heard from",
        "a load is given up on two: the node no longer has it",
        "one takes nothing: 95 % of its memory used, above 90 %",
        f"{MODEL} for brain waits: no node takes it",
        f"{MODEL} for brain has expired",
        "one is back",
    ]
    assert {each.number for each in told.recent.decisions if each.client == "brain"} == {3}
    for _ in range(100):
        told.tell(ev.NodeReturned("one"))
    assert len(told.recent.decisions) == page_recent.MOST_DECISIONS


def test_choices_are_remembered_for_a_while() -> None:
    """By the position at which the request was accepted; the oldest are forgotten."""
    told = Told().tell(head(0), RULES)
    for n in range(page_recent.MOST_ROUTED + 5):
        key = f"brain/{n}"
        told.tell(accepted(key), ev.RequestRouted(key, 1, "one", "p", 1, (), f"{n + 1}-0"))
        told.tell(ev.RequestExpired(key))
    assert len(told.recent.routed) == page_recent.MOST_ROUTED
    newest = list(told.recent.routed.values())[-1]
    assert (newest.request, newest.model) == (f"brain/{page_recent.MOST_ROUTED + 4}", MODEL)
    assert not told.recent._open


def test_ticks_are_where_something_went_wrong() -> None:
    """With how long it lasted; what agents do by themselves is none."""
    told = Told().tell(head(0), RULES, sample("one"), sample("two"))
    told.tell(head(1_000), ev.NodeBackedOff("one", Mark.HOT, 78_000, 75_000))
    told.tell(head(2_000), ev.BreakerOpened("two", 3, 15_000))
    told.tell(head(4_000), sample("one"), ev.NodeReturned("one"))
    told.tell(head(8_000), sample("one"))
    told.tell(head(9_000), sample("two"), sample("one"))
    told.tell(head(12_000), ev.BreakerClosed("two"), sample("one", goodbye=True))
    told.tell(head(13_000), ev.AttemptFailed("b/1", 1, "two", "5-0", "agent_leaving", Blame.OURS))
    told.tell(ev.AttemptFailed("b/1", 1, "two", "5-0", "refused", Blame.REQUEST), sample("two"))
    told.tell(ev.AttemptFailed("b/1", 1, "two", "5-0", "stream_cut", Blame.NODE))
    told.tell(ev.LoadEnded("two", MODEL, "5-0", ok=False), ev.RequestFailed("b/1", "attempts_exhausted"))
    assert told.ticks == [
        ("hot", "one", 3_000),
        ("breaker", "two", 10_000),
        ("silent", "two", 1_000),
        ("left", "one", 0),
        ("failed", "two", 0),
        ("load", "two", 0),
        ("ended", "", 0),
    ]
    assert told.recent.since_ms("one", "left") == START_MS + 12_000
    assert told.recent.since_ms("one", "hot") is None


def test_a_time_without_a_commit_is_one_tick_and_no_nodes_silence() -> None:
    """Nobody was heard then, which says nothing of any node."""
    told = Told().tell(head(0), RULES, sample("one"), sample("two"), head(60_000), sample("one"))
    assert told.ticks == [("gap", "", 0)]
    told.tell(head(63_000), sample("one"), head(66_000))
    assert told.ticks == [("gap", "", 0), ("silent", "two", 0)]


def test_what_comes_again_at_once_is_one_tick() -> None:
    """A failure a second is one each few seconds."""
    told = Told().tell(head(0), RULES)
    for second in range(20):
        failed = ev.AttemptFailed("b/1", 1, "one", "5-0", "stream_cut", Blame.NODE)
        told.tell(head(second * 1_000), sample("one"), sample("two"), failed)
    assert [each.ms - START_MS for each in told.recent.ticks.ticks] == [0, 5_000, 10_000, 15_000]


def tick(n: int, ms: int, kind: str = "hot") -> Tick:
    """A tick of one node."""
    return Tick(n, ms, kind, "one", "")


def test_of_too_many_ticks_those_go_that_came_again_soonest() -> None:
    """Rare ones stay, whatever their age; the order is that of the log."""
    rare = tick(1, 0, "gap")
    often = [tick(n, n * 10) for n in range(2, 50)]
    late = tick(60, 90_000)
    kept = thinned([late, *often, rare], 10)
    assert len(kept) == 10
    assert (kept[0], kept[-1]) == (rare, late)
    assert thinned([late, rare], 10) == [rare, late]
    some = Ticks(most=10)
    some.add(Grid(), often)
    assert len(some.ticks) == 10
    assert MOST_TICKS == 500


def test_ticks_from_elsewhere_go_on_here() -> None:
    """What was found to last, and does so still, ends when it ends."""
    told = Told().tell(head(0), RULES)
    told.grid.nodes["one"] = node("one", backed_off=(Mark.HOT,))
    told.recent.add_ticks(told.grid, [Tick(1, START_MS - 5_000, "hot", "one", "")])
    assert told.recent.since_ms("one", "hot") is None, "it knows of after its begin by itself"
    told.recent.since = 2
    told.recent.add_ticks(told.grid, [Tick(1, START_MS - 5_000, "hot", "one", "")])
    told.recent.add_ticks(told.grid, [Tick(2, START_MS - 4_000, "hot", "two", "")])
    assert told.recent.since_ms("one", "hot") == START_MS - 5_000
    assert told.recent.since_ms("two", "hot") is None, "it is over"
    told.tell(ev.NodeReturned("one"))
    assert told.ticks == [("hot", "one", 5_000), ("hot", "two", 0)]


# continuity


def rows_of(recent: Recent) -> Any:
    """All that it knows, for comparison: without since when."""
    return msgspec.structs.replace(recent.rows(), since=0)


@make.MANY
@given(histories.HISTORIES, histories.TAILS)
def test_what_was_before_can_be_added(before: list[ev.AnyEvent], after: list[ev.AnyEvent]) -> None:
    """Told from the middle of a log, and given what another one knows of its beginning: tracks and
    decisions are as if it had been told all; and a value of it travels."""
    whole = Told().tell(*before, *after).recent
    late = Told(fold(Grid(), before)).tell(*after)
    raw = msgspec.msgpack.encode(Told().tell(*before, *after).recent.rows())
    late.recent.add_before(late.grid, msgspec.msgpack.decode(raw, type=RecentRows))
    assert late.recent.since == 0
    assert list(late.recent.decisions) == list(whole.decisions)
    bounds = {len(each) for each in late.recent.tracks.values()}
    assert all(count <= POINTS for count in bounds)
    assert set(late.recent.tracks) <= set(whole.tracks) | set(late.grid.nodes)


def test_what_belongs_to_another_part_is_not_added() -> None:
    """Rows that end before it began, or begin after."""
    told = Told().tell(head(0), RULES, ev.NodeReturned("one"))
    rows = told.recent.rows()
    late = Told(msgspec.structs.replace(told.grid, position=50))
    late.recent.add_before(late.grid, rows)
    assert (late.recent.since, late.texts) == (50, [])


def test_a_follower_that_goes_on_forgets_nothing() -> None:
    """At the same position all stays; at an earlier one what comes again is not told twice; beyond a gap it
    says that it does not know."""
    told = Told().tell(head(0), RULES, ev.NodeBackedOff("one", Mark.HOT, 78_000, 75_000))
    told.recent.begin(told.grid)
    assert told.recent.since_ms("one", "hot") == START_MS
    earlier = fold(Grid(), (head(0), RULES))
    told.recent.begin(earlier)
    assert (told.texts, told.ticks) == (["the rules of revision 1 are in force"], [])
    told.grid = earlier
    told.tell(ev.NodeBackedOff("one", Mark.HOT, 78_000, 75_000))
    assert len(told.texts) == 2
    assert (told.recent.since, told.recent.knows_after(1)) == (0, True)
    told.recent.begin(msgspec.structs.replace(told.grid, position=90))
    assert (told.recent.since, told.recent.knows_after(89), told.recent.knows_after(90)) == (
        90,
        False,
        True,
    )
    assert not told.recent.knows_after(91)


def test_a_day_has_the_bands_of_what_lasted() -> None:
    """Cut to the day; what lasts reaches its end; another node's are not its own."""
    day = Day("one", 1_000, 9_000, [])
    found = with_ticks(
        day,
        [
            Tick(1, 0, "hot", "one", "hot", 2_000),
            Tick(2, 5_000, "silent", "one", "silent"),
            Tick(3, 6_000, "failed", "one", "failed"),
            Tick(4, 100, "hot", "one", "over", 200),
            Tick(5, 6_000, "hot", "two", "another"),
            Tick(6, 9_500, "hot", "one", "later"),
        ],
    )
    assert [(each.from_ms, each.to_ms, each.what) for each in found.bands] == [
        (1_000, 2_000, "hot"), (5_000, 9_000, "silent"),
    ]  # fmt: skip
    assert [each.position for each in found.ticks] == [2, 3]
