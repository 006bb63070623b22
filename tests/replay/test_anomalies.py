"""Every kind of anomaly is found in a log that has it, and not in one that only resembles it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orion_streams.eventlog.loader import fold_raw
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import Mark
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay import anomalies
from orion_streams.replay.anomalies import KINDS, MOST_SHOWN, Anomaly
from orion_streams.replay.incident import collect
from orion_streams.replay.request_timeline import MAX_REQUESTS
from tests.grids import sample
from tests.replay.anomaly_logs import (
    FIRST,
    GOODBYE,
    NEXT,
    backs_off,
    boots,
    both_marks,
    ends,
    quiet,
    restart,
    retried,
    router_away,
    runs_long,
    silent,
    slow_loads,
    stale_result,
    still_waits,
    thrash,
    trips,
    waits,
)
from tests.replay.logs import (
    MASTER,
    START_MS,
    WORKER,
    Log,
    accepted,
    beats,
)

OTHER = "gemma3:4b"
MINUTE = 60_000


CASES: dict[str, tuple[Callable[[], Log], str, tuple[int, int]]] = {
    "thrash": (
        thrash,
        "orion-worker loaded again what it had unloaded, within 360 s: "
        "gemma3:4b 3 times, llama3.2:3b 3 times.",
        (60_000, 420_000),
    ),
    "flapping": (
        lambda: backs_off(3, 100_000),
        "orion-worker backed off 3 times within 220 s, returning in between.",
        (0, 220_000),
    ),
    "backoff": (
        lambda: backs_off(1, 0),
        "orion-worker was too hot (75.004 °C, mark 75.0 °C); it took nothing for 20 s.",
        (0, 20_000),
    ),
    "breaker": (
        trips,
        "orion-worker gets nothing for 15 s: 3 requests failed there; answering again after 20 s.",
        (1_000, 21_000),
    ),
    "killed": (
        lambda: boots(FIRST, NEXT),
        "orion-worker's agent was killed with 2 requests in hand, or crashed, or lost its power: it said "
        "no goodbye, and a new one was there after 2.0 s.",
        (1_000, 3_000),
    ),
    "restart": (
        lambda: boots(FIRST, GOODBYE, NEXT, NEXT),
        "orion-worker's agent was restarted: it said goodbye, and a new one was there after 2.0 s.",
        (3_000, 5_000),
    ),
    "twins": (
        lambda: boots(FIRST, NEXT, FIRST, NEXT),
        "orion-worker has two agents: their health came in turn.",
        (1_000, 7_000),
    ),
    "stale": (
        lambda: silent(6),
        "orion-worker was not heard from for 7.0 s, limit 5.0 s.",
        (9_000, 16_000),
    ),
    "gap": (
        lambda: router_away(True),
        "Nothing was written for 591 s: no router ran, the server was away, or its clock was moved on.",
        (9_000, 600_000),
    ),
    "wait": (lambda: waits(61_000), "brain/q1 waited 61 s for llama3.2:3b.", (1_000, 62_000)),
    "retry": (
        retried,
        "brain/q1 took 3 attempts (stream_cut on orion-worker 2 times); then it was answered.",
        (1_000, 9_500),
    ),
    "unanswered": (
        lambda: ends(ev.RequestFailed("brain/q1", "attempts_exhausted")),
        "brain/q1 ended as an error (attempts_exhausted) after 3.0 s.",
        (1_000, 4_000),
    ),
}
CONTROLS: list[tuple[str, Callable[[], Log]]] = [
    ("thrash", slow_loads),
    ("thrash", restart),
    ("flapping", lambda: backs_off(2, 100_000)),
    ("flapping", lambda: backs_off(3, 15 * MINUTE)),
    ("flapping", both_marks),
    ("backoff", thrash),
    ("breaker", retried),
    ("killed", lambda: boots(FIRST, GOODBYE, NEXT)),
    ("killed", lambda: boots(FIRST, FIRST)),
    ("killed", lambda: boots(FIRST, NEXT, FIRST)),
    ("restart", lambda: boots(FIRST, NEXT)),
    ("twins", lambda: boots(FIRST, NEXT, NEXT)),
    ("twins", lambda: boots(FIRST, NEXT, sample(WORKER, boot="b3"))),
    ("stale", lambda: silent(4)),
    ("stale", lambda: router_away(True)),
    ("gap", lambda: silent(6)),
    ("gap", quiet),
    ("wait", lambda: waits(60_000)),
    ("wait", runs_long),
    ("retry", stale_result),
    ("unanswered", lambda: ends(ev.RequestCancelled("brain/q1"))),
    ("unanswered", lambda: ends(ev.RequestRejected("brain/q2", "queue_full"))),
]


def found(log: Log, kind: str) -> list[Anomaly]:
    """The findings of one kind."""
    return [each for each in log.incident().anomalies if each.kind == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_found(kind: str) -> None:
    """Once, with its time and a sentence, and with positions at which the log says what is claimed."""
    make, sentence, (begin_ms, end_ms) = CASES[kind]
    log = make()
    [one] = found(log, kind)
    assert one.sentence == sentence
    assert (one.begin.ms - START_MS, one.end.ms - START_MS) == (begin_ms, end_ms)
    assert one.node == (WORKER if sentence.startswith(WORKER) else "")
    assert one.request == ("brain/q1" if "brain/q1" in sentence else "")
    assert not one.ongoing
    assert 1 <= one.begin.position <= one.end.position <= len(log.rows)


@pytest.mark.parametrize(("kind", "make"), CONTROLS)
def test_what_resembles_it_is_not_reported(kind: str, make: Callable[[], Log]) -> None:
    """Negative control: a log that has all of it but the point."""
    assert found(make(), kind) == []


@pytest.mark.parametrize(
    ("guard", "value", "kind", "make"),
    [
        ("ROW_MS", 3_600_000, "thrash", slow_loads),
        ("ROW_MS", 3_600_000, "flapping", lambda: backs_off(3, 15 * MINUTE)),
        ("LEAST_TIMES", 2, "flapping", lambda: backs_off(2, 100_000)),
        ("LEAST_TIMES", 1, "thrash", restart),
    ],
)
def test_the_controls_depend_on_their_guard(
    monkeypatch: pytest.MonkeyPatch, guard: str, value: int, kind: str, make: Callable[[], Log]
) -> None:
    """With the guard moved the same log is reported: the control resembles an anomaly indeed."""
    monkeypatch.setattr(anomalies, guard, value)
    assert found(make(), kind)


def test_an_agent_that_has_not_come_back_is_said() -> None:
    """A goodbye at the log's end; one that is no longer configured is not waited for."""
    [one] = found(boots(FIRST, GOODBYE), "restart")
    assert one.sentence == (
        "orion-worker's agent stopped: it said goodbye, and none has come by the log's end."
    )
    assert one.ongoing and one.begin.ms == START_MS + 3_000
    log = boots(FIRST, GOODBYE)
    log.commit(9_000, ev.PolicyChanged(2, "without", Policy(), (NodeRules(MASTER),)))
    assert found(log, "restart") == []


def test_a_boot_before_the_log_s_part_counts() -> None:
    """Read from the middle on, a new boot is compared with the one that the state holds."""
    log = boots(FIRST, GOODBYE, NEXT)
    base = LoggedGrid(Grid())
    middle = next(position for position, raw in log.rows if b"goodbye" in raw)
    fold_raw(base, log.rows[:middle])
    incident = collect(base, [log.rows[middle:]], "the rest")
    assert [(each.kind, each.node) for each in incident.boots] == [("restarted", WORKER)]


def test_positions_are_where_the_log_says_it() -> None:
    """The positions of a finding hold the events that it speaks of."""
    log = trips()
    [one] = found(log, "breaker")
    rows = dict(log.rows)
    assert isinstance(event_codec.decode(rows[one.begin.position]), ev.BreakerOpened)
    assert isinstance(event_codec.decode(rows[one.end.position]), ev.BreakerClosed)


def test_what_goes_on_at_the_end_is_said_to() -> None:
    """A backoff, a silence, an open breaker and a wait that the log does not see the end of."""
    log = Log()
    beats(log, WORKER, 1, 3)
    log.commit(3_000, ev.NodeBackedOff(WORKER, Mark.RAM, 913, 900), ev.BreakerOpened(MASTER, 1, 15_000))
    log.commit(3_500, accepted("brain/q1", age_ms=500))
    beats(log, MASTER, 4, 70)
    rows = {each.kind: each for each in log.incident().anomalies}
    assert {kind for kind, each in rows.items() if each.ongoing} == {"backoff", "stale", "breaker", "wait"}
    assert rows["backoff"].sentence == (
        "orion-worker had its memory too full (91.3 % RAM, mark 90.0 % RAM); "
        "it has not returned by the log's end."
    )
    assert rows["stale"].sentence == (
        "orion-worker was last heard from 67 s before the log's end, limit 5.0 s."
    )
    assert rows["breaker"].sentence == "orion-master gets nothing for 15 s: 1 request failed there."
    assert rows["wait"].sentence == "brain/q1 has been waiting 66 s for llama3.2:3b."


def test_a_wait_goes_on_over_attempts_that_never_began() -> None:
    """Attempts whose Ollama was away do not end the wait."""
    [one] = found(waits(90_000, attempts=3), "wait")
    assert one.end.ms - one.begin.ms == 90_000


def test_a_wait_counts_from_when_the_request_was_written() -> None:
    """What a request waited before it was read is part of it."""
    [one] = found(still_waits(), "wait")
    assert one.end.ms - one.begin.ms == 69_000


def test_a_node_that_never_was_heard_is_stale() -> None:
    """A configured node of which there is no health entry at all."""
    log = Log()
    beats(log, MASTER, 1, 10)
    assert [each.sentence for each in found(log, "stale")] == [
        "orion-worker was never heard from, in 9.0 s, limit 5.0 s."
    ]


def test_a_node_that_left_the_configuration_is_not_stale() -> None:
    """Nobody waits for the health of a node that is no longer configured."""
    log = Log()
    beats(log, WORKER, 1, 3)
    log.commit(3_000, ev.PolicyChanged(2, "without", Policy(), (NodeRules(MASTER),)))
    beats(log, MASTER, 3, 20)
    assert found(log, "stale") == []


def test_of_too_many_the_longest_are_shown_and_all_are_counted() -> None:
    """A page does not grow without bound, and says how many there are."""
    log = Log()
    many = MAX_REQUESTS * 2 + 10
    log.commit(0, *(accepted(f"brain/{n}", age_ms=n) for n in range(many)))
    log.commit(100_000, *(ev.RequestExpired(f"brain/{n}") for n in range(many)))
    incident = log.incident()
    shown = [each for each in incident.anomalies if each.kind == "unanswered"]
    assert incident.found["unanswered"] == many
    assert {each.request for each in shown} == {f"brain/{n}" for n in range(many - MOST_SHOWN, many)}
