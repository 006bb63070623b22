"""The story of a request and its screen, made from events in memory."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orion_streams.cli.explain_command import Search
from orion_streams.cli.find_request import missing
from orion_streams.cli.log_lines import Line
from orion_streams.cli.request_story import Story, story_of
from orion_streams.cli.story_view import page, verdict
from orion_streams.decider.route import route
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.state import Closed, Grid
from orion_streams.model.text import held_back
from orion_streams.model.verdict import TERMS, Verdict
from orion_streams.model.vocabulary import Blame, Filter, RequestKind, RequestState
from tests.cli.run_cli import MODEL
from tests.grids import AT_MS, grid, node, request

KEY = "brain/x"


ACCEPTED = ev.RequestAccepted(KEY, "1-0", RequestKind.GENERATE, MODEL, 60_000, 100, 20)


def told(*happened: ev.AnyEvent, state: Grid | None = None) -> Story:
    """The story of these events, each a second after the one before."""
    lines = [Line(at, 1_700_000_000_000 + 1000 * at, event) for at, event in enumerate(happened, start=1)]
    return story_of(KEY, lines, state or Grid())


def text_of(story: Story, width: int = 80) -> str:
    """Its screen."""
    return "\n".join(row.text for row in page(story, width))


def routed(attempt: int, node: str = "one") -> ev.RequestRouted:
    """A decision with a bit of everything in it."""
    verdicts = (
        Verdict(node="one", cost_ms=1_500, decode_ms=1_500),
        Verdict(node="two", filter=Filter.HOT, value=76_100, limit=75_000),
    )
    return ev.RequestRouted(KEY, attempt, node, "p", 1, verdicts, f"{attempt}-0")


def test_of_many_attempts_the_first_and_the_last_are_shown() -> None:
    """More than six decisions: so many are left out, and the screen says how many."""
    tries: list[ev.AnyEvent] = []
    for attempt in range(1, 21):
        tries += [
            routed(attempt),
            ev.AttemptFailed(KEY, attempt, "one", f"{attempt}-0", "broken", Blame.NODE),
        ]
    story = told(ACCEPTED, *tries, ev.RequestFailed(KEY, "attempts_exhausted"))
    out = text_of(story)
    assert "… 14 decisions are left out; --json has them all" in out
    shown = [attempt for attempt in range(1, 21) if f"attempt {attempt} goes to" in out]
    assert shown == [1, 2, 17, 18, 19, 20]
    assert "ended as an error after 41 s: attempts_exhausted." in " ".join(out.split())
    assert "left out" not in text_of(told(ACCEPTED, *tries[:12]))


def test_of_many_nodes_the_cheapest_are_shown() -> None:
    """A decision among a thousand nodes is a dozen lines, the chosen one first."""
    verdicts = tuple(
        Verdict(node=f"n{at:03}", cost_ms=2_000 - at, decode_ms=2_000 - at) for at in range(1_000)
    )
    out = text_of(told(ACCEPTED, ev.RequestRouted(KEY, 1, "n999", "p", 1, verdicts)))
    assert "… and 988 more nodes" in out
    assert out.index("→ n999") < out.index("n998") < out.index("n988")
    assert "n987" not in out


def test_resends_in_a_row_are_counted() -> None:
    """However often a client sends it again, it is one line."""
    out = text_of(told(ACCEPTED, *[ev.RequestResent(KEY)] * 40, routed(1), ev.RequestResent(KEY)))
    assert out.count("sent again") == 2
    assert "sent again 40 times" in out


def test_a_story_without_its_beginning_is_told_from_what_is_left() -> None:
    """Where the log is trimmed above its acceptance, the rest of it is shown, and that it is the rest."""
    out = text_of(told(routed(1), ev.RequestStarted(KEY, 1, "1-0")))
    assert "which is trimmed from the log" in out
    assert "attempt 1 started" in out


def test_a_request_that_is_open_and_trimmed_is_told_from_the_grid() -> None:
    """Nothing of it is left in the log, but the grid knows where it is."""
    state = grid(
        node("one"), open_requests={KEY: request(node="one", work_id="1-0", attempt=1, started=True)}
    )
    out = text_of(told(state=state))
    assert out.startswith(f"{KEY} runs on one, ")
    assert "accepted at position 1, which is trimmed" in out


def test_what_is_remembered_and_trimmed_is_named() -> None:
    """The log is trimmed above all of it: how it ended is still known."""
    state = Grid(position=90, closed={"brain": {KEY: Closed(RequestState.DONE, "1-0", 1)}})
    assert missing(KEY, state, 50) == (
        f"{KEY} ended as done before position 50, where what is left of the log begins"
    )
    assert missing("brain/y", state, 50).endswith("; what was before position 50 is trimmed")


def search(key: str, *events: ev.AnyEvent) -> list[Line]:
    """What is found in a log of these events, one commit each."""
    looking = Search(key)
    rows: list[tuple[int, bytes]] = []
    for number, event in enumerate(events):
        head = ev.Committed(number, 5_000 + number, 1, True, "")
        rows += [(2 * number + 1, event_codec.encode(head)), (2 * number + 2, event_codec.encode(event))]
    looking.take(rows)
    return looking.found()


def test_of_an_id_that_was_used_again_the_last_life_is_told() -> None:
    """A rejected request that was sent again and accepted; an id that was forgotten and used anew."""
    rejected, closed = ev.RequestRejected(KEY, "queue_full"), ev.RequestCancelled(KEY)
    found = search(KEY, rejected, ACCEPTED, closed, ACCEPTED, routed(1))
    assert [(line.position, line.server_ms) for line in found] == [(8, 5_003), (10, 5_004)]
    assert [line.position for line in search(KEY, ACCEPTED, closed, rejected)] == [6]


def test_a_request_is_found_by_its_whole_key() -> None:
    """Neither a part of an id nor another client's is taken for it; quotes and slashes do no harm."""
    odd = 'brain/a "b"/c'
    accepted = msgspec.structs.replace(ACCEPTED, request=odd)
    assert [line.position for line in search(odd, accepted, ACCEPTED)] == [2]
    assert search("brain/c", accepted) == []
    assert search("gateway/x", ACCEPTED) == []


def test_an_entry_that_could_not_be_read_is_called_by_its_id() -> None:
    """A malformed request has no name in the log but its entry's."""
    broken = ev.InputRejected("requests:brain", "17-0", "bad_json")
    lines = search("brain/17-0", broken)
    out = text_of(story_of("brain/17-0", lines, Grid()))
    assert out.startswith("brain/17-0 was rejected: bad_json. A JSON field cannot be read")
    assert search("one/17-0", ev.InputRejected("health:one", "17-0", "unreadable")) == []


FILTERS = {
    "role": (0, 0, "not a node that answers requests"),
    "silent": (0, 0, "never heard from"),
    "left": (0, 0, "its agent has left"),
    "leaving": (0, 0, "its agent is about to leave"),
    "drained": (7_200, 5_400_000, "drained 7.2 s ago, for 90 min"),
    "quiet": (1_385, 420, "quiet hours: it is 23:05, until 07:00"),
    "stale": (7_200, 5_000, "not heard from for 7.2 s, limit 5.0 s"),
    "inventory_unknown": (0, 0, "not known which models it has"),
    "incapable": (0, 0, "its model cannot do what is asked"),
    "not_installed": (0, 0, "does not have the model on disk"),
    "tier": (2, 0, "may not take requests of tier 2"),
    "too_large": (9_000, 6_708, "too small for the model: it takes 9000 MB, limit 6708 MB"),
    "two_agents": (0, 0, "two agents claim to be this node"),
    "no_temperature": (0, 0, "no temperature reading"),
    "stuck_sensor": (601_000, 600_000, "its temperature has not moved for 10 min of work, limit 10 min"),
    "hot": (76_100, 75_000, "too hot: 76.1 °C, limit 75.0 °C"),
    "ram": (912, 900, "memory too full: 91.2 % RAM, limit 90.0 % RAM"),
    "breaker": (5_000, 15_000, "breaker open after failures: 5.0 s of 15 s over"),
    "paused": (400, 1_000, "paused for this request, which failed here 0.4 s ago: for 1.0 s"),
    "places": (4, 3, "no place for the model now: it would be the 4th in memory, limit 3"),
    "memory": (2_400, 1_100, "no room to load the model now: it takes 2400 MB, limit 1100 MB"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_is_said_in_plain_words(name: str) -> None:
    """With the value that tripped it, its limit and the unit."""
    value, limit, words = FILTERS[name]
    assert held_back(Verdict(node="one", filter=Filter(name), value=value, limit=limit)).startswith(words)


def test_a_node_that_cools_down_is_not_called_too_hot_by_its_value() -> None:
    """Backed off, below the lower mark, and not yet calm for long enough."""
    assert held_back(Verdict(node="one", filter=Filter.HOT, value=69_000, limit=70_000)).startswith(
        "too hot of late, not calm yet: 69"
    )


def test_a_cost_is_the_sum_of_its_terms() -> None:
    """Every term of a cost is named, the cached part is subtracted, and what goes for it is told."""
    terms: dict[str, Any] = {
        f"{name}_ms": 1 for name in ("drain", "load", "evict", "prefill", "cached", "decode")
    }
    terms |= {f"{name}_ms": 2 for name in ("heat", "spill", "retry", "late")}
    words = verdict(Verdict(node="one", cost_ms=12, evicts=("a", "b"), **terms)).replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert words == (
        "= drain 1 ms + load 1 ms + others 1 ms + prefill 1 ms - cached 1 ms + decode 1 ms + heat 2 ms"
        " + spill 2 ms + retry 2 ms + late 2 ms (unloads a, b)"
    )
    assert verdict(Verdict(node="one")) == "= nothing to do"


def test_every_term_of_a_real_verdict_is_in_the_sum() -> None:
    """The terms that the screen knows add up to the cost that routing gave."""
    state = grid(node("one", temp_mc=72_000, forecast_mc=73_000, heard_ms=AT_MS - 3_000))
    asked = request(session="s", tier=2, num_ctx=4_096)
    [found] = route(state, asked).verdicts
    total = sum(getattr(found, f"{name}_ms") * (-1 if name == "cached" else 1) for name in TERMS)
    assert total == found.cost_ms > 0
