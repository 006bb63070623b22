"""Each kind of alert has words of its own, with the figures that show it."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from orion_streams.model.alert_rules import SEEN_LIVE, Kind
from orion_streams.projections.alerts import LEFT, NEVER, STUCK, Alert, AlertChange
from orion_streams.protocol.alert_messages import MOST_LISTED, message_of, row_of, says

WORDS: list[tuple[str, dict[str, Any], str]] = [
    ("hot", {"value": 81_200, "limit": 70_000}, "n is hot: 81.2 °C, back at 70.0 °C"),
    ("full", {"value": 912, "limit": 850}, "n is full: 91.2 % of its memory, back at 85.0 %"),
    ("silent", {"value": 65_000}, "n has not been heard from for 65 s"),
    ("silent", {"value": 65_000, "detail": LEFT}, "n has not been heard from for 65 s: its agent has left"),
    ("silent", {"detail": NEVER}, "n has never been heard from"),
    ("no_sensor", {}, "n gives no temperature"),
    (
        "no_sensor",
        {"value": 600_000, "detail": STUCK},
        "n shows the same temperature for 10 min of work",
    ),
    ("breaker", {}, "n rests: requests failed there one after the other"),
    (
        "wait",
        {"value": 312_000, "limit": 300_000, "detail": "brain/q"},
        "brain/q waits for more than 300 s",
    ),
    ("queue", {"value": 21, "limit": 20}, "21 requests wait, more than 20"),
    (
        "errors",
        {"value": 300, "limit": 200, "detail": "12 of 40"},
        "12 of 40 requests failed (30.0 %, more than 20.0 %)",
    ),
    ("no_router", {"value": 61_000}, "no router has looked at its inputs for 61 s (seen live)"),
    ("archive_behind", {"detail": "it ends"}, "the archive is behind: it ends (seen live)"),
    (
        "unread_client",
        {"value": 3, "about": "x"},
        "nobody reads requests of x (3 wait): add [clients.x] (seen live)",
    ),
]


@pytest.mark.parametrize(("kind", "values", "words"), WORDS)
def test_each_kind_has_words(kind: str, values: dict[str, Any], words: str) -> None:
    """One sentence, labelled if it was seen live."""
    alert = Alert("rule", kind, "warning", 0, 0, **{"about": "n", **values})
    assert says(alert) == words
    assert row_of(AlertChange(alert, 0, 0)).live is (kind in SEEN_LIVE)


def test_no_kind_is_without_words() -> None:
    """Whoever adds one adds its words here."""
    assert {kind for kind, *_ in WORDS} == set(get_args(get_args(Kind)[0]))


@pytest.mark.parametrize(
    ("begun", "ended", "title", "status", "severity"),
    [
        (["silent"], [], "orion: n silent", "begun", "critical"),
        ([], ["silent"], "over: n silent", "ended", "info"),
        (["hot", "silent"], ["full"], "orion: 2 begun, 1 over", "begun", "critical"),
        (["hot"], ["silent"], "orion: 1 begun, 1 over", "begun", "warning"),
        ([], ["hot", "full"], "orion: 2 over", "ended", "info"),
    ],
)
def test_a_message_says_in_its_title_what_it_is_about(
    begun: list[str], ended: list[str], title: str, status: str, severity: str
) -> None:
    """The worst that begins makes it loud; what only ends is quiet."""
    grades = {"silent": "critical"}
    changes = [
        AlertChange(Alert(kind, kind, grades.get(kind, "warning"), 0, 0, "n"), 90_000, 1, over)
        for kinds, over in ((begun, False), (ended, True))
        for kind in kinds
    ]
    message = message_of(1, "orion:", changes)
    assert (message.title, message.status, message.severity) == (title, status, severity)
    assert len(message.text.splitlines()) == len(changes) <= MOST_LISTED
    assert message.text.count("over 90 s later: ") == len(ended)
