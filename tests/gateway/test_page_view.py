"""The page at one moment: its sentence, its cards, its queue, and what is hidden from whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from msgspec.structs import replace

from orion_streams.gateway import grid_state
from orion_streams.gateway.page_queue import MOST_LOZENGES, why
from orion_streams.gateway.page_recent import Recent
from orion_streams.gateway.page_rows import PageCaller, View, as_seen_by
from orion_streams.gateway.page_sentence import AWAY_MS
from orion_streams.gateway.page_view import news_after, view, whole
from orion_streams.gateway.page_words import FILTER_WORDS
from orion_streams.gateway.view_models import node_rows
from orion_streams.model import events as ev
from orion_streams.model.state import Grid, Resident
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Filter, Mark, RequestKind, WaitKind
from orion_streams.projections import apply
from tests.gateway.test_gateway_state import one_of_all
from tests.grids import AT_MS, FENCE, HEAVY, MODEL, edge, fails, grid, holding, loading, node, request
from tests.properties import histories
from tests.properties import strategies as make

ALL = PageCaller("brain", sees_all=True)
HOT: dict[str, Any] = {"temp_mc": 78_000, "backed_off": (Mark.HOT,)}
RISING: dict[str, Any] = {"temp_mc": 68_000, "forecast_mc": 79_400}
BUSY = {FENCE: holding(run_ms=40_000, started=True)}


def seen(some: Grid, caller: PageCaller = ALL, silent_ms: int = 0, heard_ms_ago: int = 0) -> View:
    """The page of a grid of which nothing is known but this moment."""
    recent = Recent()
    recent.begin(some)
    return view(some, silent_ms, heard_ms_ago, recent, caller)


@pytest.mark.parametrize(
    ("nodes", "tone", "sentence"),
    [
        ((node("one"),), "ok", "All well, nobody asks"),
        ((node("one", assignments=BUSY),), "ok", "All well, 1 answering, next free in about 40 s"),
        ((node("one", assignments=BUSY), node("two")), "ok", "All well, 1 answering, 1 free"),
        ((node("one"), node("orion-worker", **HOT)), "warn", "Worker hot, back below 70 °C"),
        ((node("orion-worker", **HOT),), "bad", "Nobody answers: worker hot, back below 70 °C"),
        ((node("one"), node("two", heard_ms=AT_MS - 65_000)), "bad", "Two silent since 65 s"),
        ((node("one"), node("two", left=True, leaving=True)), "warn", "Two has left"),
        (
            (node("one"), node("two", heard_ms=None), node("x", **HOT)),
            "bad",
            "Two never heard from and x hot, back below 70 °C",
        ),
        (
            tuple(node(name, heard_ms=None) for name in "abc"),
            "bad",
            "Nobody answers: a never heard from, b never heard from, and 1 more",
        ),
        (
            (node("one"), node("two", ram_used_mb=7_800, backed_off=(Mark.RAM,))),
            "warn",
            "Two full, back below 85 % of its memory",
        ),
        (
            (node("one"), node("two", opened_ms=AT_MS - 3_000, open_ms=15_000)),
            "bad",
            "Two fails, is tried again in 12 s",
        ),
        ((node("one"), node("two", installed={})), "bad", "Two has no model"),
        ((node("one"), node("two", **RISING)), "warn", "Two cools down before it passes 75 °C"),
        (
            (node("one", **RISING), node("two", **HOT)),
            "warn",
            "Two hot, back below 70 °C and one cools down before it passes 75 °C",
        ),
        ((node("two", **RISING),), "warn", "Two cools down before it passes 75 °C"),
        ((node("two", temp_mc=74_000, forecast_mc=75_000),), "ok", "All well, nobody asks"),
        ((edge(),), "bad", "No node answers requests: streams.toml names none with inference"),
        ((), "bad", "No node at all: no rules are in force yet"),
    ],
)
def test_one_sentence_says_how_it_goes(nodes: tuple[Any, ...], tone: str, sentence: str) -> None:
    """The first thing that is wrong, else how many answer and when somebody is free."""
    found = seen(grid(*nodes, position=1))
    assert (found.sentence, found.tone) == (sentence, tone)


def test_what_is_worst_is_said_first() -> None:
    """Redis before the router, the router before the nodes; a log that no router has begun."""
    some = grid(node("one", **HOT), position=1)
    assert seen(some, silent_ms=99_000, heard_ms_ago=12_400).sentence == "Cannot hear Redis since 12 s"
    assert seen(some, silent_ms=30_000).sentence == (
        "No router since 30 s: until it is back nothing is decided"
    )
    assert seen(Grid()).sentence == "No router has run on this Redis yet"
    stranded = grid(
        node("one"), position=1, open_requests={"b/1": request(deferred=WaitKind.NO_NODE, model=MODEL)}
    )
    assert seen(stranded).sentence == "No node takes 1 of the waiting requests now"


@pytest.mark.parametrize(
    ("nodes", "silent_ms", "left"),
    [
        ((node("one"), node("two", heard_ms=AT_MS - 65_000)), 0, []),
        ((node("two", heard_ms=AT_MS - 65_000),), 0, []),
        (tuple(node(name, heard_ms=None) for name in "abc"), 0, ["c: never heard from"]),
        ((node("one"),), 30_000, []),
        ((node("two", heard_ms=None),), 30_000, ["two: never heard from"]),
        ((edge(),), 0, []),
    ],
)
def test_what_the_sentence_says_is_no_reason_beside_it(
    nodes: tuple[Any, ...], silent_ms: int, left: list[str]
) -> None:
    """The line below has what else is wrong; the health has all of it."""
    some = grid(*nodes, position=1)
    assert seen(some, silent_ms=silent_ms).reasons == left
    assert len(grid_state.health_of(some, silent_ms, node_rows(some)).reasons) > len(left)


def test_who_waits_for_a_node_that_cools_down_is_not_told_that_it_is_free() -> None:
    """Where a request waits for heat, the card and the sentence say so, too; the control: a cool node."""
    for values, waits_for, tone in ((RISING, "heat", "warn"), ({}, "", "ok")):
        waits = {"b/1": request(deferred=WaitKind.BUSY, model=MODEL)}
        found = seen(grid(node("one", **values), position=1, open_requests=waits))
        assert [each.waits_for for each in found.queue] == [waits_for]
        assert (found.tone, [each.tone for each in found.nodes]) == (tone, [tone])
        assert ("cools down" in found.sentence) == ("cools down" in found.nodes[0].why) == (tone == "warn")


def test_nothing_is_green_that_nobody_has_heard() -> None:
    """While Redis is away the page is what was heard last, and no card is ok; the control: a moment
    before."""
    some = grid(node("one"), edge(), position=1)
    later = grid_state.moved_on(some, AT_MS + 60_000)
    away = seen(later, heard_ms_ago=60_000)
    assert [each.state for each in away.nodes] == ["available", "no_inference"]
    assert {each.tone for each in away.nodes} == {"warn"}
    assert (away.tone, away.at_ms, away.heard_ms_ago) == ("bad", AT_MS, 60_000)
    just = seen(some, heard_ms_ago=AWAY_MS)
    assert ({each.tone for each in just.nodes}, just.tone) == ({"ok"}, "ok")


@pytest.mark.parametrize(
    ("values", "tone", "why_not", "until"),
    [
        ({}, "ok", "", ""),
        (HOT, "warn", "takes nothing: 78 °C, above 75 °C", "goes on below 70 °C"),
        (
            RISING,
            "warn",
            "cools down: 68 °C, about to pass 75 °C",
            "begins again once it stays below 75 °C",
        ),
        (
            {**HOT, "temp_mc": 71_500},
            "warn",
            "takes nothing: was above 75 °C, now at 71.5 °C",
            "goes on below 70 °C",
        ),
        (
            {"ram_used_mb": 7_600, "backed_off": (Mark.RAM,)},
            "warn",
            "takes nothing: 95 % of its memory used, above 90 %",
            "goes on below 85 %",
        ),
        (
            {"heard_ms": AT_MS - 12_000},
            "bad",
            "takes nothing: not heard for 12 s",
            "goes on once it is heard again",
        ),
        ({"heard_ms": None}, "bad", "takes nothing: never heard from", "goes on once its agent starts"),
        (
            {"temp_mc": None},
            "bad",
            "takes nothing: no temperature reading",
            "goes on once its sensor can be read",
        ),
        (
            {"inventory_known": False},
            "warn",
            "takes nothing: not known which models it has",
            "goes on once its Ollama answers",
        ),
    ],
)
def test_a_card_says_why_a_node_takes_nothing(
    values: dict[str, Any], tone: str, why_not: str, until: str
) -> None:
    """And what has to happen; a node that takes requests says neither."""
    [found] = seen(grid(node("one", **values), position=1)).nodes
    assert (found.tone, found.why, found.until) == (tone, why_not, until)


def test_a_card_says_since_when() -> None:
    """From the health that was last heard, from the breaker, from the log; unknown where nobody saw it."""
    silent = seen(grid(node("one", heard_ms=AT_MS - 12_000), position=1)).nodes[0]
    failing = seen(grid(node("one", opened_ms=AT_MS - 3_000, open_ms=9_000), position=1)).nodes[0]
    assert (silent.since_ms, failing.since_ms) == (AT_MS - 12_000, AT_MS - 3_000)
    some, recent = grid(node("one"), position=4), Recent()
    recent.begin(some)
    for event in (ev.Committed(1, AT_MS, 1, True, ""), ev.NodeBackedOff("one", Mark.HOT, 78_000, 75_000)):
        apply(some, event)
        recent.take(some, event)
    some.nodes["one"] = replace(some.nodes["one"], temp_mc=78_000)
    [hot] = view(some, 0, 0, recent, ALL).nodes
    assert hot.since_ms == AT_MS
    assert seen(some).nodes[0].since_ms is None


def test_the_robot_only_moves() -> None:
    """Its card is like the others, and its state is nobody's concern while it is heard."""
    robot = seen(grid(node("one", tiers=(1,)), edge(), position=1)).nodes[1]
    assert (robot.short, robot.role, robot.inference, robot.tone, robot.why) == (
        "edge", "kinematics only", False, "ok", "",
    )  # fmt: skip
    gone = seen(grid(node("one"), edge(heard_ms=AT_MS - 60_000), position=1)).nodes[1]
    assert (gone.tone, gone.why) == ("warn", "not heard for 60 s")


def test_a_card_tells_what_its_node_does() -> None:
    """Runs and loads with progress and expected end, models in memory and those that come."""
    held = {
        FENCE: holding(request="brain/a", since_ms=AT_MS - 10_000, run_ms=40_000, started=True),
        "8-0": loading(HEAVY, run_ms=20_000, since_ms=AT_MS - 5_000),
        "7-0": holding(request="gone/z", since_ms=AT_MS),
    }
    busy = node("one", slots=2, assignments=held, resident={MODEL: Resident("a", 300, 4096)})
    some = grid(
        busy,
        position=9,
        open_requests={"brain/a": request(accepted=5, node="one", work_id=FENCE, attempt=1, started=True)},
    )
    [found] = seen(some).nodes
    run, load, given_up = found.doing
    assert (run.what, run.client, run.id, run.number) == ("run", "brain", "a", 5)
    assert (run.progress_permille, run.ends_in_ms, run.state) == (250, 30_000, "running")
    assert run.tokens_per_s > 1
    assert run.text == f"answers brain with {MODEL}, about 30 s left"
    assert (load.what, load.progress_permille, load.text) == ("load", 250, f"loads {HEAVY}, 15 s left")
    assert (given_up.number, given_up.state) == (0, "given_up")
    assert [(chip.name, chip.state, chip.running) for chip in found.models] == [
        (MODEL, "resident", 2), (HEAVY, "loading", 0),
    ]  # fmt: skip


def test_progress_never_says_that_it_is_done() -> None:
    """A run that is overdue is still not over; one that has not begun has none."""
    late = holding(since_ms=AT_MS - 500_000, run_ms=1_000, started=True)
    sent = holding(since_ms=AT_MS - 500_000, run_ms=1_000)
    some = grid(node("one", slots=2, assignments={"1-0": late, "2-0": sent}), position=1)
    over, waits = seen(some).nodes[0].doing
    assert 0 < over.progress_permille < 1_000
    assert waits.progress_permille == 0


def test_lozenges_stand_in_the_order_of_service() -> None:
    """With their own work and the time until their first token; a bounded number of them."""
    asked = {f"c/{n}": request(accepted=n, priority=int(n == 250)) for n in range(1, 251)}
    found = seen(grid(node("one", assignments=BUSY), open_requests=asked, position=300))
    assert (len(found.queue), found.queue_left_out) == (MOST_LOZENGES, 50)
    etas = [each.eta_ms for each in found.queue]
    assert etas == sorted(etas)
    assert found.queue[0].number == 250
    assert all(each.work_ms > 0 for each in found.queue)
    assert found.queue[0].why == "is next"
    assert found.queue[7].why == "waits behind 7 others"


def test_a_request_that_waits_says_why() -> None:
    """A line for each node, the best first, in the words of the page."""
    some = one_of_all()
    recent = Recent()
    recent.begin(some)
    found = why(some, recent, 2, ALL)
    assert found is not None
    assert (found.number, found.client, found.id, found.node) == (2, "brain", "b", "one")
    assert found.lines == ["one 7 s", "edge: no inference"]
    assert found.text == "would go to one: one 7 s, edge: no inference"
    assert why(some, recent, 77, ALL) is None


def test_a_request_that_was_sent_says_what_was_decided() -> None:
    """From the decision itself, as long as it is remembered."""
    some, recent = grid(node("one"), node("two"), position=1), Recent()
    recent.begin(some)
    verdicts = (Verdict(node="one", cost_ms=74_000), Verdict(node="two", cost_ms=31_000, decode_ms=31_000))
    accepted = ev.RequestAccepted("brain/a", "1-0", RequestKind.GENERATE, MODEL, 60_000, 10, 5)
    for event in (accepted, ev.RequestRouted("brain/a", 1, "two", "p", 1, verdicts, "5-0")):
        apply(some, event)
        recent.take(some, event)
    found = why(some, recent, 2, PageCaller("house"))
    assert found is not None
    assert (found.lines, found.id) == (["two 31 s", "one 74 s"], "")
    assert found.text == "went to two: two 31 s, one 74 s"
    assert [each.text for each in recent.decisions] == [f"two takes {MODEL} for brain: warm, about 31 s"]


# who sees what


def ids(shown: View) -> set[str]:
    """All ids that a page shows."""
    rows: list[Any] = [*shown.queue, *shown.decisions]
    rows += [each for card in shown.nodes for each in card.doing]
    return {f"{row.client}/{row.id}" for row in rows if row.id}


def test_a_key_sees_its_own_requests_by_id_and_others_without() -> None:
    """Whoever may see all does; a caller without a name sees none."""
    some = one_of_all()
    assert ids(seen(some)) == {"brain/a", "brain/b", "home/c"}
    assert ids(seen(some, PageCaller("brain"))) == {"brain/a", "brain/b"}
    assert ids(seen(some, PageCaller("home"))) == {"home/c"}
    assert ids(seen(some, PageCaller(""))) == set()
    assert {each.client for each in seen(some, PageCaller("")).queue} == {"brain", "home"}


def test_the_state_hides_the_same() -> None:
    """`/orion/v1/state`: rows stay, ids go."""
    all_of_it = grid_state.state(one_of_all(), 0)
    told = grid_state.as_told_to(all_of_it, PageCaller("home"))
    assert [(row.client, row.id) for row in told.queue.requests] == [
        ("brain", ""), ("brain", ""), ("home", "c"),
    ]  # fmt: skip
    assert [row.id for row in told.runs] == ["", ""]
    assert grid_state.as_told_to(all_of_it, ALL) == all_of_it


SECRET_IDS = {"x/1": "x/qqone", "x/2": "x/qqtwo", "y/1": "y/qqthree"}
"""Ids that no other word of a page contains."""


def renamed(event: ev.AnyEvent) -> ev.AnyEvent:
    """The event about a request whose id can be told apart."""
    key = getattr(event, "request", "")
    return replace(event, request=SECRET_IDS[key]) if key in SECRET_IDS else event


def told(events: list[ev.AnyEvent], caller: PageCaller) -> tuple[View, Recent, Grid]:
    """The page after a history, as somebody sees it."""
    some, recent = Grid(), Recent()
    recent.begin(some)
    for event in map(renamed, events):
        apply(some, event)
        recent.take(some, event)
    return view(some, 0, 0, recent, caller), recent, some


def leaks_nothing(shown: View) -> None:
    """No id of the client y stands anywhere in what x sees."""
    assert b"qqthree" not in msgspec.json.encode(shown)


@make.MANY
@given(histories.HISTORIES)
def test_a_page_of_any_history_encodes_and_leaks_no_foreign_id(events: list[ev.AnyEvent]) -> None:
    """Whole, as news after any position, and as the reasons of any request; x's own may stand there."""
    mine = PageCaller("x")
    shown, recent, some = told(events, mine)
    leaks_nothing(shown)
    assert msgspec.json.decode(msgspec.json.encode(shown), type=View) == shown
    everything = whole(some, 0, 0, recent)
    for position in (0, 1, some.position // 2, some.position):
        leaks_nothing(as_seen_by(news_after(everything, recent, position), mine))
    for number in range(1, some.position + 1):
        found = why(some, recent, number, mine)
        assert b"qqthree" not in msgspec.json.encode(found)
        assert found is None or found.number == number


def test_the_law_of_leaks_sees_one() -> None:
    """The control: who may see all is told the same request's id."""
    accepted = ev.RequestAccepted("y/1", "1-0", RequestKind.GENERATE, MODEL, 60_000, 10, 5)
    rules = ev.PolicyChanged(1, "p", grid().policy, (node("a").rules,))
    assert not fails(leaks_nothing, told([rules, accepted], PageCaller("x"))[0])
    assert fails(leaks_nothing, told([rules, accepted], PageCaller("y"))[0])
    assert fails(leaks_nothing, told([rules, accepted], PageCaller("x", sees_all=True))[0])


def test_each_filter_has_words() -> None:
    """In two or three of them, for the page's narrow lines."""

    assert set(FILTER_WORDS) == set(Filter) - {Filter.NONE}
