"""What `orion replay report` says in the terminal."""

from __future__ import annotations

from orion_streams.cli.report_command import MOST_SENTENCES, MOST_SLOW, summary
from orion_streams.model import events as ev
from orion_streams.model.vocabulary import Mark
from tests.grids import sample
from tests.replay.logs import MASTER, WORKER, Log, accepted, beats, completed, failed, routed, started


def test_the_summary_is_in_the_words_of_the_page() -> None:
    """How long answers took, the slowest with what they waited for, what happened to nodes."""
    log = Log()
    for n in range(5):
        log.commit(1_000 + n * 1_500, accepted(f"brain/q{n}"), routed(f"brain/q{n}", WORKER))
        log.commit(1_100 + n * 1_500, started(f"brain/q{n}"))
        log.commit(1_200 + n * 1_500, failed(f"brain/q{n}", WORKER), routed(f"brain/q{n}", MASTER, 2))
        log.commit(2_000 + n * 1_500, started(f"brain/q{n}", 2), completed(f"brain/q{n}", MASTER, 2))
    log.commit(9_000, accepted("brain/lost"), ev.RequestFailed("brain/lost", "refused"))
    log.commit(10_000, sample(WORKER, boot="b1"))
    log.commit(11_000, sample(WORKER, boot="b2"))
    said = list(summary(log.incident()))
    assert said[0] == (
        "5 requests were answered, 1 ended without an answer: "
        "half within 1.0 s, 9 of 10 within 1.0 s, 99 of 100 within 1.0 s"
    )
    assert said[1] == "the slowest:"
    assert said[2].startswith("  brain/q0, 1.0 s: 200 ms on orion-worker in vain (stream cut); 800 ms on")
    assert [line.startswith("  brain/") for line in said[2:]].count(True) == MOST_SLOW
    assert said[-1].startswith("orion-worker's agent was killed, or crashed")


def test_many_findings_are_bounded() -> None:
    """The first ones, and how many more the page has."""
    log = Log()
    for n in range(MOST_SENTENCES + 4):
        log.commit(n * 2_000_000, ev.NodeBackedOff(WORKER, Mark.HOT, 75_004, 75_000))
        log.commit(n * 2_000_000 + 20_000, ev.NodeReturned(WORKER))
    incident = log.incident()
    said = list(summary(incident))
    assert said[:-1] == [each.sentence for each in incident.anomalies[:MOST_SENTENCES]]
    assert said[-1] == f"… and {len(incident.anomalies) - MOST_SENTENCES} more of nodes, in the page"


def test_a_quiet_log_has_nothing_to_say() -> None:
    """No request, no finding: no line."""
    log = Log()
    beats(log, WORKER, 1, 5)
    assert list(summary(log.incident())) == []
