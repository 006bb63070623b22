"""Alerts in words, and as what a webhook or a command gets. Pure.

A message lists what began and what ended. `request_of` makes a request of it in the form of ntfy (publish
as JSON: https://docs.ntfy.sh/publish/#publish-as-json), Gotify (POST /message with X-Gotify-Key), Home
Assistant (a webhook trigger, `trigger.json` in its automation), or as it is. Texts stand in JSON bodies
only, never in headers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from orion_streams.model.alert_rules import SEEN_LIVE, Form, ntfy_topic
from orion_streams.model.text import degrees, percent, seconds
from orion_streams.projections.alerts import AWAY, LEFT, NEVER, STUCK, Alert, AlertChange

MOST_LISTED = 20
"""So many lines has a message; older ones are left out, and counted."""
LINE_CHARS = 160
PRIORITIES = {"info": (3, 4), "warning": (4, 6), "critical": (5, 8)}
"""Of ntfy (1 to 5) and Gotify (0 to 10); what only ended counts as info."""
TAGS = {"info": "information_source", "warning": "warning", "critical": "rotating_light"}
ENDED_TAG = "white_check_mark"
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class AlertRow(Struct, frozen=True, omit_defaults=True):
    """An alert as it is told. `ended_ms`: 0 while it holds. `live`: seen by whoever sends, in no log."""

    rule: str
    kind: str
    severity: str
    says: str
    began_ms: int
    about: str = ""
    ended_ms: int = 0
    lasted_ms: int = 0
    live: bool = False


class Message(Struct, frozen=True):
    """What is told at once. `id` comes again only where a crash repeats a message; `left_out`: lines that
    stand nowhere; `status`: begun if anything begins, else ended, or test."""

    id: int
    grid: str
    status: str
    severity: str
    title: str
    text: str
    begun: list[AlertRow] = []
    ended: list[AlertRow] = []
    left_out: int = 0


class Outgoing(Struct, frozen=True):
    """A request to be sent with POST."""

    url: str
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        return "Outgoing(…)"  # its URL and headers may hold secrets


def says(alert: Alert) -> str:
    """Return an alert in a sentence without a full stop."""
    about = alert.about
    match alert.kind:
        case "hot":
            text = f"{about} is hot: {degrees(alert.value)}, back at {degrees(alert.limit)}"
        case "full":
            text = f"{about} is full: {percent(alert.value)} of its memory, back at {percent(alert.limit)}"
        case "silent" if alert.detail == NEVER:
            text = f"{about} has never been heard from"
        case "silent":
            how = ": its agent has left" if alert.detail == LEFT else ""
            text = f"{about} has not been heard from for {seconds(alert.value)}{how}"
        case "no_sensor" if alert.detail == STUCK:
            text = f"{about} shows the same temperature for {seconds(alert.value)} of work"
        case "no_sensor":
            text = f"{about} gives no temperature"
        case "breaker":
            text = f"{about} rests: requests failed there one after the other"
        case "wait":
            text = f"{alert.detail} waits for more than {seconds(alert.limit)}"
        case "queue":
            text = f"{alert.value} requests wait, more than {alert.limit}"
        case "errors":
            share = f"{percent(alert.value)}, more than {percent(alert.limit)}"
            text = f"{alert.detail} requests failed ({share})"
        case _:
            text = f"{seen_live(alert)} (seen live)"
    return plain(text)


def seen_live(alert: Alert) -> str:
    """Return in words what only the process that sends can see."""
    match alert.kind:
        case "no_router" if alert.detail == AWAY:
            return f"the grid's server has not answered for {seconds(alert.value)}"
        case "no_router":
            return f"no router has looked at its inputs for {seconds(alert.value)}"
        case "archive_behind":
            return f"the archive is behind: {alert.detail}"
        case "unread_client":
            return (
                f"nobody reads requests of {alert.about} ({alert.value} wait): add [clients.{alert.about}]"
            )
        case other:
            return f"{alert.rule} ({other}) {alert.about}"


def plain(text: str) -> str:
    """Return a text in one line of bounded length, without what a screen would obey."""
    text = UNPRINTABLE.sub("?", text)
    return text if len(text) <= LINE_CHARS else text[: LINE_CHARS - 1] + "…"


def row_of(change: AlertChange) -> AlertRow:
    """Return an alert that begins or ends as it is told."""
    alert = change.alert
    return AlertRow(
        rule=alert.rule,
        kind=alert.kind,
        severity=alert.severity,
        says=says(alert),
        began_ms=alert.began_ms,
        about=plain(alert.about),
        ended_ms=change.at_ms if change.ended else 0,
        lasted_ms=change.lasted_ms if change.ended else 0,
        live=alert.kind in SEEN_LIVE,
    )


def message_of(number: int, grid: str, changes: Sequence[AlertChange], left_out: int = 0) -> Message:
    """Return one message about at most MOST_LISTED changes, oldest first."""
    begun = [row_of(each) for each in changes if not each.ended]
    ended = [row_of(each) for each in changes if each.ended]
    worst = max((row.severity for row in begun), key=list(PRIORITIES).index, default="info")
    lines = [row.says for row in begun]
    lines += [f"over {seconds(row.lasted_ms)} later: {row.says}" for row in ended]
    more = [f"{left_out} more {'was' if left_out == 1 else 'were'} left out"] if left_out else []
    return Message(
        id=number,
        grid=grid,
        status="begun" if begun else "ended",
        severity=worst,
        title=title_of(begun, ended),
        text="\n".join([*lines, *more]),
        begun=begun,
        ended=ended,
        left_out=left_out,
    )


def title_of(begun: Sequence[AlertRow], ended: Sequence[AlertRow]) -> str:
    """Return a few words: what it is about, or how many."""
    if len(begun) + len(ended) == 1:
        [row] = [*begun, *ended]
        return f"{'orion' if begun else 'over'}: {' '.join(part for part in (row.about, row.rule) if part)}"
    parts = [f"{len(rows)} {what}" for rows, what in ((begun, "begun"), (ended, "over")) if rows]
    return f"orion: {', '.join(parts)}"


def trial(grid: str, name: str) -> Message:
    """Return the message of `orion alerts test`."""
    text = f"{name} can be told what is wrong with {grid.rstrip(':')}"
    return Message(0, grid, "test", "info", "orion: a test", text)


def encoded(message: Message) -> bytes:
    """Return a message as the JSON that a command, or a webhook of no other form, gets."""
    return msgspec.json.encode(message)


def request_of(form: Form, url: str, token: str, message: Message) -> Outgoing:
    """Return the request that tells a message. `token` goes where its API wants it; "" is none."""
    headers = {"Content-Type": "application/json"}
    ntfy, gotify = PRIORITIES[message.severity]
    body: Any = message
    match form:
        case "ntfy":
            parts = urlsplit(url)
            body = {
                "topic": ntfy_topic(url),
                "title": message.title,
                "message": message.text,
                "priority": ntfy,
                "tags": [ENDED_TAG if message.status == "ended" else TAGS[message.severity]],
            }
            url = urlunsplit((parts.scheme, parts.netloc, "/", "", ""))
        case "gotify":
            body = {"title": message.title, "message": message.text, "priority": gotify}
            headers |= {"X-Gotify-Key": token} if token else {}
            url = url if url.endswith("/message") else f"{url.rstrip('/')}/message"
        case "home_assistant":
            about = sorted({row.about for row in (*message.begun, *message.ended)} - {""})
            body = {
                "title": message.title,
                "message": message.text,
                "status": message.status,
                "severity": message.severity,
                "about": about,
            }
    if token and form != "gotify":
        headers["Authorization"] = f"Bearer {token}"
    return Outgoing(url, headers, msgspec.json.encode(body))
