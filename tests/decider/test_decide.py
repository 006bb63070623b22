"""decide(): safety, lost attempts, ends and placements, one state at a time."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams.decider.decide import decide
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules
from orion_streams.model.state import MAX_FAILURES, Failure, Grid
from orion_streams.model.vocabulary import Blame, Code, Mark
from orion_streams.projections import evolve, fold
from tests.grids import (
    AT_MS,
    DISK,
    FENCE,
    HEAVY,
    MEMORY,
    MODEL,
    POLICY,
    edge,
    grid,
    holding,
    kinds,
    node,
    request,
    sample,
    under,
)


def assigned(started: bool = False, **values: Any) -> Grid:
    """orion-worker holds brain/q1, orion-master is idle; `values` replace what is said of orion-worker."""
    row = request(node="orion-worker", work_id=FENCE, attempt=1, started=started)
    held = holding(request="brain/q1", started=started)
    worker = node("orion-worker", **{"assignments": {FENCE: held}, **values})
    return grid(worker, node("orion-master"), edge(), open_requests={"brain/q1": row})


def test_return_needs_calm_samples_in_a_row() -> None:
    """A hot node returns after `return_samples` in a row at or below the lower marks; one above starts
    the count again."""
    hot = fold(grid(node("n", temp_mc=75_001)), decide(grid(node("n", temp_mc=75_001))))
    temperatures = [70_000, 70_000, 70_001, 70_000, 70_000, 70_000]
    answers = []
    for temp_mc in temperatures:
        hot = evolve(hot, sample("n", temp_mc=temp_mc))
        answers.append(kinds(decide(hot)))
    assert answers == [[], [], [], [], [], ["node.returned"]]


@pytest.mark.parametrize(
    ("passed", "used_mb", "expected"),
    [
        ("hot", 7_200, ["node.returned"]),
        ("hot", 7_201, ["node.backed_off"]),
        ("hot ram", 6_800, ["node.returned"]),
        ("hot ram", 6_801, []),
        ("ram", 6_800, ["node.returned"]),
        ("ram", 6_801, []),
    ],
)
def test_what_was_passed_must_be_calm_to_return(passed: str, used_mb: int, expected: list[str]) -> None:
    """The lower mark counts for what was passed, the upper one for the rest."""
    row = grid(node("n", temp_mc=60_000, backed_off=passed))
    for _ in range(POLICY.return_samples):
        row = evolve(row, sample("n", ram_used_mb=used_mb, temp_mc=60_000))
    assert kinds(decide(row)) == expected


def test_waiting_work_on_a_hot_node_flows_elsewhere() -> None:
    """What a node has not started when it backs off is withdrawn and goes to another node."""
    answers = decide(assigned(temp_mc=80_000))
    assert kinds(answers) == ["node.backed_off", "attempt.abandoned", "request.routed"]
    routed = answers[-1]
    assert isinstance(routed, ev.RequestRouted)
    assert (routed.node, routed.attempt) == ("orion-master", 2)


def test_running_work_on_a_hot_node_goes_on() -> None:
    """What has started is left to end."""
    assert kinds(decide(assigned(started=True, temp_mc=80_000))) == ["node.backed_off"]


def test_work_of_a_silent_node_flows_elsewhere() -> None:
    """A node not heard from for longer than `stale_ms` loses what it runs; its slot stays taken."""
    silent = assigned(started=True, heard_ms=AT_MS - POLICY.stale_ms - 1)
    answers = decide(silent)
    assert kinds(answers) == ["attempt.abandoned", "request.routed"]
    assert FENCE in fold(silent, answers).nodes["orion-worker"].assignments


def test_an_attempt_is_gone_only_after_samples_in_a_row() -> None:
    """An attempt that health does not list is given up at the third entry in a row, and only if the node
    has read past it and its results were taken."""
    lost = assigned(started=True)
    for doubtful in (sample("orion-worker", work_read="8-0"), sample("orion-worker", settled=False)):
        for _ in range(POLICY.gone_samples):
            assert decide(evolve(lost, doubtful)) == ()
    seen = evolve(evolve(lost, sample("orion-worker")), sample("orion-worker"))
    assert decide(seen) == ()
    listed = evolve(seen, sample("orion-worker", in_hand=(FENCE,)))
    assert decide(evolve(listed, sample("orion-worker"))) == ()
    answers = decide(evolve(seen, sample("orion-worker")))
    assert kinds(answers) == ["attempt.abandoned", "request.routed"]
    assert FENCE not in fold(seen, answers).nodes["orion-worker"].assignments


def test_a_hung_worker_cannot_keep_a_request() -> None:
    """An attempt older than `attempt_deadline_ms` is withdrawn, though its node is healthy."""
    held = holding(request="brain/q1", started=True, since_ms=AT_MS - POLICY.attempt_deadline_ms - 1)
    answers = decide(assigned(started=True, assignments={FENCE: held}))
    assert kinds(answers)[0] == "attempt.abandoned"


def test_a_deadline_expires_once_it_has_passed() -> None:
    """At its deadline a request still lives, one millisecond later it expires."""
    for deadline_ms, expected in ((AT_MS, ["request.routed"]), (AT_MS - 1, ["request.expired"])):
        row = request(deadline_ms=deadline_ms)
        assert kinds(decide(grid(node("n"), open_requests={"brain/q1": row}))) == expected


@pytest.mark.parametrize(
    ("blames", "code"),
    [
        (("request",), None),
        (("request", "request"), "refused"),
        (("node", "node", "node"), None),
        (("node", "node", "node", "node"), "attempts_exhausted"),
        (("node", "request", "node", "request"), "refused"),
    ],
)
def test_retries_are_bounded_by_blame(blames: tuple[str, ...], code: str | None) -> None:
    """Two refusals of the request itself, or four failures in all, end it with the right code."""
    failures = tuple(Failure("n", "x", Blame(blame)) for blame in blames)
    answers = decide(grid(node("n"), open_requests={"brain/q1": request(failures=failures)}))
    ended = [answer.code for answer in answers if isinstance(answer, ev.RequestFailed)]
    assert ended == ([code] if code else [])


def test_a_lost_body_ends_its_request() -> None:
    """Without its body a request gets no attempt."""
    row = request(body_lost=True)
    answers = decide(grid(node("n"), open_requests={"brain/q1": row}))
    assert [answer.code for answer in answers if isinstance(answer, ev.RequestFailed)] == ["body_gone"]


def test_the_order_of_service_is_priority_deadline_age() -> None:
    """With one slot the highest priority goes first, then the earliest deadline, then the oldest."""
    rows = {
        "brain/old": request(accepted=1),
        "brain/early": request(accepted=2, deadline_ms=AT_MS + 10_000),
        "brain/high": request(accepted=3, priority=1),
    }
    order = []
    while rows:
        answers = decide(grid(node("n"), open_requests=rows))
        first = next(answer for answer in answers if isinstance(answer, ev.RequestRouted))
        order.append(first.request)
        del rows[first.request]
    assert order == ["brain/high", "brain/early", "brain/old"]


def test_a_queue_spills_over_when_that_is_faster() -> None:
    """The warm node gets the first ones, and a cold one a later one, as soon as waiting costs more."""
    rows = {f"brain/q{n}": request(accepted=n) for n in range(6)}
    answers = decide(grid(node("warm", resident=MEMORY), node("cold"), open_requests=rows))
    routed = {answer.node for answer in answers if isinstance(answer, ev.RequestRouted)}
    assert routed == {"warm", "cold"}


def test_a_deferral_is_written_once_per_kind() -> None:
    """A request that waits on is not written down again; another kind of wait is."""
    row = request()
    stuck = grid(node("n", assignments={"5-0": holding()}), open_requests={"brain/q1": row})
    answers = decide(stuck)
    assert kinds(answers) == ["request.deferred"]
    after = fold(stuck, answers)
    assert decide(after) == ()
    after.nodes["n"] = replace(after.nodes["n"], assignments={}, heard_ms=AT_MS - 9_000)
    assert [answer.kind for answer in decide(after) if isinstance(answer, ev.RequestDeferred)] == [
        "no_node"
    ]


def test_bodies_beyond_the_limit_wait_for_the_next_commit() -> None:
    """A commit copies at most `max_bytes`, but always at least one body."""
    rows = {f"brain/q{n}": request(accepted=n, body_bytes=700_000) for n in range(3)}
    three = grid(node("n", slots=3), open_requests=rows)
    assert kinds(decide(three)) == ["request.routed"]
    huge = grid(node("n"), open_requests={"brain/q": request(body_bytes=5_000_000)})
    assert kinds(decide(huge)) == ["request.routed"]


def test_answers_are_bounded() -> None:
    """`decide` answers at most `max_events`, and the rest next time."""
    rows = {f"brain/q{n}": request(accepted=n) for n in range(10)}
    policy = replace(POLICY, max_events=4)
    many = grid(node("n", slots=20), open_requests=rows)
    first = decide(under(many, policy))
    assert len(first) == 4
    assert len(decide(under(fold(many, first), policy))) == 4


def test_requests_without_a_node_do_not_starve_others() -> None:
    """However many wait for a model that has no node, one behind them that has a node goes."""
    stuck = {"model": "absent:1b", "deferred": "no_node"}
    nowhere = {f"brain/q{n}": request(accepted=n, **stuck) for n in range(400)}
    rows = {**nowhere, "brain/last": request(accepted=999, deferred="busy")}
    silent = node("silent", heard_ms=None)
    answers = decide(grid(node("n"), silent, open_requests=rows))
    assert [answer.request for answer in answers if isinstance(answer, ev.RequestRouted)] == ["brain/last"]


def test_a_removed_node_loses_its_attempts() -> None:
    """An attempt on a node that new rules no longer name is given up and goes elsewhere."""
    before = assigned(started=True)
    del before.nodes["orion-worker"]
    assert kinds(decide(before)) == ["attempt.abandoned", "request.routed"]


def test_an_unreachable_ollama_costs_no_attempts() -> None:
    """A node whose Ollama is away gets nothing until health knows its models again, and what failed
    there fails no request, however often."""
    unreachable = Failure("n", Code.OLLAMA_UNREACHABLE, Blame.NODE)
    waiting = request(failures=(unreachable,) * 10)
    away = evolve(
        grid(node("n"), open_requests={"brain/q1": replace(waiting, work_id=FENCE, node="n")}),
        ev.AttemptFailed("brain/q1", 1, "n", FENCE, Code.OLLAMA_UNREACHABLE, Blame.NODE),
    )
    assert kinds(decide(away)) == ["request.deferred"]
    assert len(away.open["brain/q1"].failures) == 11
    back = evolve(away, sample("n"))
    assert kinds(decide(back)) == ["request.routed"]


def test_remembered_failures_are_bounded() -> None:
    """However often a request fails, only the last failures are kept."""
    failure = Failure("n", Code.OLLAMA_UNREACHABLE, Blame.NODE)
    row = request(failures=(failure,) * MAX_FAILURES, work_id=FENCE, node="n")
    after = evolve(
        grid(node("n"), open_requests={"brain/q1": row}),
        ev.AttemptFailed("brain/q1", 1, "n", FENCE, "stream_cut", Blame.NODE),
    )
    assert len(after.open["brain/q1"].failures) == MAX_FAILURES
    assert after.open["brain/q1"].failures[-1].code == "stream_cut"


def test_a_sensor_that_dies_does_not_end_a_backoff() -> None:
    """Samples without a temperature are not calm, unless the node is known to have no sensor."""
    for has_sensor, expected in ((True, []), (False, ["node.returned"])):
        hot = grid(node("n", temp_mc=80_000, backed_off=(Mark.HOT,)))
        hot.nodes["n"] = replace(hot.nodes["n"], rules=NodeRules("n", temperature_sensor=has_sensor))
        for _ in range(POLICY.return_samples):
            hot = evolve(hot, sample("n", temp_mc=None))
        assert kinds(decide(hot)) == expected


def test_a_long_queue_for_one_model_does_not_starve_another() -> None:
    """Beyond `max_scan` waiting requests of one model, another model's request still finds its node."""
    queue = {f"brain/q{n}": request(accepted=n, model=HEAVY, deferred="busy") for n in range(400)}
    rows = {**queue, "brain/last": request(accepted=999, deferred="busy")}
    worker = node("worker", assignments={"5-0": holding(HEAVY)}, installed={HEAVY: DISK[HEAVY]})
    master = node("master", installed={MODEL: DISK[MODEL]})
    answers = decide(grid(worker, master, open_requests=rows))
    assert [answer.request for answer in answers if isinstance(answer, ev.RequestRouted)] == ["brain/last"]


def test_a_busy_client_makes_no_other_forgotten() -> None:
    """Each client has `dedupe_keep` remembered ids of its own, the oldest go first."""
    after = grid(node("n"))
    after.policy = replace(POLICY, dedupe_keep=3)
    keys = ["brain/q", *(f"cli/q{n}" for n in range(5))]
    after.open = {key: request() for key in keys}
    after = fold(after, (ev.RequestCancelled(key, reply_id="1-0") for key in keys))
    after = evolve(after, ev.Committed(2, AT_MS, 0, True, ""))
    assert list(after.closed["brain"]) == ["brain/q"]
    assert list(after.closed["cli"]) == ["cli/q2", "cli/q3", "cli/q4"]


def test_remembered_ids_grow_old() -> None:
    """An id is forgotten once it was closed longer than `dedupe_keep_ms` ago, not a moment sooner."""
    closed = evolve(grid(open_requests={"brain/q": request()}), ev.RequestCancelled("brain/q", "1-0"))
    for age_ms, remembered in ((POLICY.dedupe_keep_ms, True), (POLICY.dedupe_keep_ms + 1, False)):
        later = evolve(
            replace(closed, at_ms=AT_MS + age_ms), ev.Committed(2, closed.server_ms, 0, True, "")
        )
        assert (later.find_closed("brain/q") is not None) == remembered
