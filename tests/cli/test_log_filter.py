"""What `orion log` shows of a log: filters, and what it leaves out where it follows."""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.cli import log_view
from orion_streams.cli.log_filter import TAGS, LogFilter, Wanted, event_names
from orion_streams.cli.log_lines import Line
from orion_streams.errors import ConfigError
from orion_streams.model import events as ev
from orion_streams.model.events import tag_of
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import AbandonReason, Blame, RequestKind
from tests.cli.conftest import Orion
from tests.cli.run_cli import MODEL, OTHER, finish, start
from tests.cli.test_reads import Read
from tests.grids import grid as grid_of
from tests.grids import node, request, sample

ONE, TWO = "brain/one", "brain/two"


def head(inputs: int = 1) -> ev.Committed:
    """The head of a commit."""
    return ev.Committed(1, 1, inputs, True, "")


LIFE: tuple[ev.AnyEvent, ...] = (
    head(),
    ev.RequestAccepted(ONE, "1-0", RequestKind.GENERATE, MODEL, 60_000, 100, 20),
    ev.RequestRouted(ONE, 1, "master", "p", 1, (), "5-0"),
    head(),
    sample("master"),
    head(),
    ev.RequestStarted(ONE, 1, "5-0"),
    head(),
    ev.AttemptFailed(ONE, 1, "master", "5-0", "broken", Blame.NODE),
    ev.RequestRouted(ONE, 2, "worker", "p", 1, (), "6-0"),
    head(0),
    head(),
    ev.RequestAccepted(TWO, "2-0", RequestKind.GENERATE, OTHER, 60_000, 100, 20),
    head(),
    ev.RequestCancelled(ONE),
    ev.InputRejected("health:worker", "1-0", "unreadable"),
    ev.InputRejected("requests:brain", "3-0", "bad_json"),
    ev.ModelRemoved("master", OTHER),
)
"""Of two requests, one of which fails on one node and is cancelled on the other."""


def shown(wanted: Wanted, grid: Grid | None = None, life: tuple[ev.AnyEvent, ...] = LIFE) -> list[int]:
    """The positions that are shown of it."""
    picked = LogFilter(wanted, grid or Grid())
    lines = [Line(at, 1, event) for at, event in enumerate(life)]
    return [line.position for each in lines for line in picked.take(each)]


def only(**names: Any) -> Wanted:
    """A filter of one name each."""
    found: dict[str, Any] = {kind: frozenset({name}) for kind, name in names.items()}
    return Wanted(**found)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), list(range(len(LIFE)))),
        (Wanted(samples=False), [0, 1, 2, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17]),
        (only(events="node.sampled"), [4]),
        (Wanted(frozenset({"node.sampled"}), samples=False), [4]),
        (only(events="committed"), [0, 3, 5, 7, 10, 11, 13]),
        (only(requests=ONE), [1, 2, 6, 8, 9, 14]),
        (only(requests="brain/3-0"), [16]),
        (only(nodes="master"), [2, 4, 6, 8, 17]),
        (only(nodes="worker"), [9, 14, 15]),
        (only(models=MODEL), [1, 2, 6, 8, 9, 14]),
        (only(models=OTHER), [12, 17]),
        (only(nodes="worker", models=MODEL), [9, 14]),
        (only(nodes="master", events="request.routed"), [2]),
        (only(nodes="master", models=OTHER, requests=ONE), []),
        (Wanted(nodes=frozenset({"master"}), samples=False), [2, 6, 8, 17]),
        (Wanted(requests=frozenset({ONE, TWO}), events=frozenset({"request.accepted"})), [1, 12]),
    ],
)
def test_events_are_picked_by_what_they_are_about(wanted: Wanted, expected: list[int]) -> None:
    """Of one kind any, of several kinds all; an event of a request counts for its model, and for the node
    that has it, though it names neither."""
    assert shown(wanted) == expected


def test_a_request_that_was_open_before_the_first_line_is_known() -> None:
    """Its model and node come from the table at that moment."""
    state = grid_of(
        node("master"), open_requests={ONE: request(model=MODEL, node="master", work_id="5-0", attempt=1)}
    )
    rest = LIFE[6:]
    assert shown(only(models=MODEL), state, rest) == [0, 2, 3, 8]
    assert shown(only(nodes="master"), state, rest)[0] == 0
    assert 0 not in shown(only(models=MODEL), None, rest)


def test_an_attempt_that_was_given_up_is_no_longer_on_its_node() -> None:
    """What becomes of the request later is told of no node."""
    abandoned = ev.AttemptAbandoned(ONE, 1, "master", "5-0", AbandonReason.SILENT)
    assert shown(only(nodes="master"), None, (*LIFE[:3], abandoned, ev.RequestExpired(ONE))) == [2, 3]


@given(st.sets(st.sampled_from(TAGS)), st.booleans())
def test_no_event_is_shown_twice_and_samples_only_where_they_are_wanted(
    names: set[str], samples: bool
) -> None:
    """Whatever the filter: in the order of the log, and a sample only by its name or where all are."""
    wanted = Wanted(frozenset(names), samples=samples)
    found = shown(wanted)
    assert found == sorted(set(found))
    assert (4 in found) == ("node.sampled" in names or (samples and not names))
    if names:
        assert {tag_of(LIFE[at]) for at in found} <= names


def test_a_family_of_events_is_named_by_what_stands_before_the_dot() -> None:
    """`attempt` stands for all of them; an unknown word is refused with the known ones."""
    assert event_names(["attempt"]) == {"attempt.failed", "attempt.ended", "attempt.abandoned"}
    assert event_names(["committed", "node.returned"]) == {"committed", "node.returned"}
    assert event_names(["attempt.*"]) == event_names(["attempt"])
    assert event_names(["*.rejected"]) == {"input.rejected", "request.rejected"}
    assert event_names(["*"]) == set(TAGS)
    assert event_names([]) == frozenset()
    for word in ("", "request.", "routed", "Request"):
        with pytest.raises(ConfigError, match="no such event; known are attempt"):
            event_names(["committed", word])


def test_the_last_events_that_are_wanted_come_by_default(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far back they are, in steps of whatever size."""
    whole = read("log", "--from", "1")
    routed = [row for row in whole if row["event"].startswith("request.")]
    wide = read("log", "--event", "request", "-n", "3")
    assert wide == routed[-3:]
    monkeypatch.setattr(log_view, "FIRST_REACH", 1)
    monkeypatch.setattr(log_view, "WIDER", 2)
    for count in (1, 3, 100, 2**70):
        assert read("log", "--event", "request", "-n", str(count)) == routed[-count:]
    assert read("log", "--event", "request", "-n", "0") == []
    assert read("log", "--event", "request", "--from", "1", "-n", "2") == routed[:2]


def test_filters_go_together_on_the_command_line(read: Read) -> None:
    """Repeated ones add up, different ones narrow; a request's id may be shortened."""
    found = read("log", "--request", "ru", "--request", "brain/queued", "--event", "request.accepted")
    assert [row["request"] for row in found] == ["brain/runs", "brain/queued"]
    [begun] = read("log", "--node", "master", "--event", "request.started", "--model", f"library/{MODEL}")
    assert begun["request"] == "brain/runs"
    assert read("log", "--node", "worker", "--event", "request.started") == []
    samples = read("log", "--node", "worker", "--event", "node")
    assert {row["node"] for row in samples} == {"worker"}
    without = [row["event"] for row in read("log", "--node", "worker", "--no-samples", "-n", "1000")]
    assert without
    assert "node.sampled" not in without


def test_where_nothing_is_like_that_it_is_said(orion: Orion, grid_toml: Path) -> None:
    """On stderr, so that data stay data; not where nothing was asked for. Of a node that is known nowhere
    it is said which are; not of one that is only configured."""
    nothing = "orion: no event in the log is like that\n"
    missing = "orion: --node nobody: the grid and its configuration have no such node; known are "
    words = ("log", "--node", "nobody", "--node", "worker", "--event", "input", "--json")
    assert orion(*words) == (0, "[]\n", f"{missing}edge, master, never, worker\n{nothing}")
    assert orion("log", "--node", "never", "--json") == (0, "[]\n", nothing)
    assert orion("log", "-n", "0", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--event", "request.rooted"), 78, "--event request.rooted: there is no such event; known are "),
        (("--request", "nobody"), 1, "the log has no request nobody between positions 1 and "),
        (("--request", "nobody", "--follow"), 1, "the log has no request nobody between "),
    ],
)
def test_what_cannot_be_filtered_by_is_said(
    orion: Orion, grid_toml: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    """One line, and nothing on stdout."""
    found, out, err = orion("log", *words)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert says in err


def following(home: Path, grid_toml: Path, *words: str) -> list[str]:
    """The kinds of events that `orion log --follow WORDS` shows up to the first start of a run."""
    process = start(home, "log", "--follow", "--from", "1", *words, ORION_CONFIG=str(grid_toml))
    assert process.stdout is not None
    kinds: list[Any] = []
    for line in process.stdout:
        kinds.append(line.split()[3])
        if kinds[-1] == "request.started":
            break
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130
    return kinds


def test_a_followed_log_leaves_samples_out_unless_asked(home: Path, grid_toml: Path) -> None:
    """Neither health nor commits in which nothing else happened; both with --samples."""
    quiet, whole = following(home, grid_toml), following(home, grid_toml, "--samples")
    assert "node.sampled" not in quiet
    assert "node.sampled" in whole
    assert "request.routed" in quiet
    assert not any(pair == ("committed", "committed") for pair in pairwise(quiet))
    assert following(home, grid_toml, "--event", "request.started") == ["request.started"]


def test_filters_hold_in_a_file_too(orion: Orion, read: Read, grid_toml: Path) -> None:
    """The tail of an export shows what the live log shows; samples stay, as nothing is followed."""
    assert orion("log", "export", "all.jsonl")[0] == 0
    words = ("--model", MODEL, "--event", "request", "-n", "3")
    code, out, _ = orion("log", "tail", "--file", "all.jsonl", *words)
    assert code == 0
    assert [int(line.split()[0]) for line in out.splitlines()] == [
        row["position"] for row in read("log", *words)
    ]
    assert "node.sampled" in orion("log", "tail", "--file", "all.jsonl", "-n", "100")[1]
