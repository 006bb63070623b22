"""The rows of requests and their one end, after one event."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.policy import Policy
from orion_streams.model.state import MAX_FAILURES, Closed, Failure, Grid, Request
from orion_streams.model.vocabulary import AbandonReason, Blame, RequestKind, RequestState, WaitKind
from orion_streams.projections import evolve, fold
from orion_streams.projections.requests import state_of
from tests.grids import AT_MS, MODEL, grid, node, request

KEY = "brain/a"
RUNNING = request(node="n", work_id="5-1", attempt=2, started=True, deferred="busy")


def after(event: ev.AnyEvent, row: Request | None = RUNNING, **values: Any) -> dict[str, Request]:
    """The open requests after one event, beside one that never changes."""
    rows = {"brain/other": request(tier=1)} | ({KEY: row} if row is not None else {})
    left = evolve(grid(node("n"), open_requests=rows, **values), event).open
    assert left.pop("brain/other") == request(tier=1)
    return left


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (request(), "waiting"),
        (request(work_id="5-1", node="n"), "assigned"),
        (request(work_id="5-1", node="n", started=True), "running"),
    ],
)
def test_the_states_have_names(row: Request, state: str) -> None:
    """Without a fence it waits, with one it is assigned, and then it runs."""
    assert state_of(row) == state


def test_an_accepted_request_becomes_a_row() -> None:
    """Field by field; its times count from when its entry was written."""
    event = ev.RequestAccepted(
        KEY, "7-3", RequestKind.CHAT, MODEL, 60_000, body_bytes=321, prompt_tokens=12, num_predict=34,
        tier=2, priority=5, stream=False, session="s", age_ms=90, num_ctx=8_192, runner="num_thread=2",
        parts=("6-1", "6-2"),
    )  # fmt: skip
    expected = Request(
        entry_id="7-3", kind=RequestKind.CHAT, model=MODEL, tier=2, priority=5, stream=False, session="s",
        accepted=42, accepted_ms=AT_MS - 90, deadline_ms=AT_MS - 90 + 60_000, body_bytes=321,
        prompt_tokens=12, num_predict=34, num_ctx=8_192, runner="num_thread=2",
        parts=("6-1", "6-2"),
    )  # fmt: skip
    assert after(event, None, position=41) == {KEY: expected}


def test_a_routed_request_has_an_attempt_and_no_longer_waits() -> None:
    """What was written of its wait is void."""
    event = ev.RequestRouted(KEY, 3, "n", "p", 7, (), work_id="6-1")
    waiting = request(deferred="busy", attempt=2)
    assert after(event, waiting) == {KEY: request(attempt=3, node="n", work_id="6-1")}
    undecided = after(replace(event, work_id=""), waiting)
    assert undecided == {KEY: request(attempt=3, node="n", work_id=f"undecided {KEY}")}
    assert after(event, None) == {}


def test_only_the_current_attempt_starts() -> None:
    """A fence of old changes nothing, nor does a request that is closed."""
    assigned = replace(RUNNING, started=False)
    [row] = after(ev.RequestStarted(KEY, 2, "5-1"), assigned).values()
    assert row == RUNNING
    assert row.started is True
    assert after(ev.RequestStarted(KEY, 1, "4-0"), assigned) == {KEY: assigned}
    assert after(ev.RequestStarted(KEY, 2, "5-1"), None) == {}


def test_a_deferred_request_notes_the_kind_of_wait() -> None:
    """Nothing else changes."""
    event = ev.RequestDeferred(KEY, WaitKind.NO_NODE)
    assert after(event, request(tier=2)) == {KEY: request(tier=2, deferred="no_node")}
    assert after(event, None) == {}


FAILURE = Failure("n", "stream_cut", Blame.NODE, "8-0", AT_MS)
FAILED = ev.AttemptFailed(KEY, 2, "n", "5-1", "stream_cut", Blame.NODE, "8-0")
GIVEN_UP = ev.AttemptAbandoned(KEY, 2, "n", "5-1", AbandonReason.SILENT)


@pytest.mark.parametrize(
    ("event", "failure"), [(FAILED, FAILURE), (GIVEN_UP, Failure("n", "silent", Blame.NODE, at_ms=AT_MS))]
)
def test_a_failed_attempt_waits_again_and_remembers_why(event: Any, failure: Failure) -> None:
    """The current attempt only, whoever is to blame; the number of attempts stays."""
    waits = request(attempt=2, deferred="busy", failures=(failure,))
    [row] = after(event).values()
    assert row == waits
    assert row.started is False
    assert after(replace(event, work_id="4-0")) == {KEY: RUNNING}
    assert after(event, None) == {}


def test_failures_are_bounded() -> None:
    """The latest are remembered, the oldest forgotten."""
    many = tuple(Failure("n", str(n), Blame.NODE) for n in range(MAX_FAILURES))
    [row] = after(FAILED, replace(RUNNING, failures=many)).values()
    assert row.failures == (*many[1:], FAILURE)


def test_a_lost_body_is_noted() -> None:
    """For an open request only."""
    [row] = after(ev.BodyLost(KEY)).values()
    assert row == replace(RUNNING, body_lost=True)
    assert row.body_lost is True
    assert after(ev.BodyLost(KEY), None) == {}


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (ev.RequestCompleted(KEY, 1, "n", "5-1", 9, 9, 0, 9, 9, 9, reply_id="7-7"), "done"),
        (ev.RequestFailed(KEY, "refused", reply_id="7-7"), "error"),
        (ev.RequestExpired(KEY, reply_id="7-7"), "expired"),
        (ev.RequestCancelled(KEY, reply_id="7-7"), "cancelled"),
    ],
)
def test_each_end_has_a_name(event: ev.AnyEvent, state: str) -> None:
    """It is remembered by client, with its reply and the time; what is not open does not end again."""
    old = {"brain/0": Closed(RequestState.DONE, "1-0", 1)}
    some = grid(node("n"), open_requests={KEY: RUNNING}, closed={"brain": old})
    ended = evolve(some, event)
    assert ended.open == {}
    assert ended.closed == {"brain": {**old, KEY: Closed(RequestState(state), "7-7", AT_MS)}}
    assert evolve(ended, event).closed == ended.closed
    first = evolve(grid(node("n"), open_requests={KEY: RUNNING}), event)
    assert first.closed == {"brain": {KEY: Closed(RequestState(state), "7-7", AT_MS)}}


def rows(*closed_ms: int) -> dict[str, Closed]:
    """Closed requests, oldest first."""
    return {f"brain/{n}": Closed(RequestState.DONE, f"{n}-0", each) for n, each in enumerate(closed_ms)}


def left(policy: Policy, at_ms: int, *closed_ms: int) -> list[str]:
    """Which ids of a client are remembered after a commit at that time."""
    some = Grid(number=1, at_ms=at_ms, server_ms=at_ms, policy=policy, closed={"brain": rows(*closed_ms)})
    return list(evolve(some, ev.Committed(2, at_ms, 0, True, "")).closed["brain"])


def test_ids_are_forgotten_by_age() -> None:
    """Older than the limit goes; just as old stays; before that much time has passed nothing goes."""
    policy = Policy(dedupe_keep_ms=1_000)
    assert left(policy, 5_000, 3_999, 4_000, 4_001) == ["brain/1", "brain/2"]
    assert left(policy, 1_001, 0, 1) == ["brain/1"]
    assert left(policy, 1_000, 0, 0) == ["brain/0", "brain/1"]
    assert left(policy, 900, 0, 0) == ["brain/0", "brain/1"]


def test_ids_are_forgotten_by_number_and_age() -> None:
    """Beyond the number the oldest go, and of the rest those that are too old."""
    policy = Policy(dedupe_keep=3, dedupe_keep_ms=1_000)
    assert left(policy, 5_000, 1, 2, 4_500, 4_600) == ["brain/2", "brain/3"]
    assert left(policy, 5_000, 4_100, 4_200, 4_500, 4_600) == ["brain/1", "brain/2", "brain/3"]
    assert left(policy, 5_000, 4_100, 4_200, 4_500) == ["brain/0", "brain/1", "brain/2"]


def test_ids_of_trimmed_replies_are_forgotten() -> None:
    """Those below the floor, of that client; at the floor stays."""
    others = {"cli/0": Closed(RequestState.DONE, "0-5", 1)}
    some = grid(closed={"brain": rows(1, 2, 3), "cli": others})
    trimmed = evolve(some, ev.RepliesTrimmed("brain", "1-0")).closed
    assert trimmed == {
        "brain": {key: row for key, row in rows(1, 2, 3).items() if key != "brain/0"},
        "cli": others,
    }
    assert evolve(some, ev.RepliesTrimmed("gateway", "9-0")).closed == some.closed


def test_grid_time_takes_what_the_clock_says_up_to_a_limit() -> None:
    """The first commit starts the clock; later ones move it, never back and at most `max_step_ms`."""
    some = Grid(policy=Policy(max_step_ms=2_000))
    seen = []
    for number, server_ms in enumerate((50_000, 51_500, 53_500, 55_501, 55_501, 40_000, 40_001), 1):
        some = fold(some, [ev.Committed(number, server_ms, 0, True, "")])
        seen.append((some.before_ms, some.at_ms))
        assert (some.number, some.server_ms, some.position) == (number, server_ms, number)
    assert seen == [
        (0, 0), (0, 1_500), (1_500, 3_500), (3_500, 5_500), (5_500, 5_500), (5_500, 5_500), (5_500, 5_501),
    ]  # fmt: skip
