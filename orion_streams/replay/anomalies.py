"""What is not as it should be, found in the facts of an incident: a plain function for each kind. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct

from orion_streams.model.text import degrees, ram, seconds
from orion_streams.replay.incident_facts import (
    Backoff,
    Life,
    Moment,
    Passed,
    Silence,
    Span,
    Stay,
    Trip,
    Wait,
)

LEAST_TIMES = 3
"""A model that came back, or a node that backed off, so often in a row is not at rest."""
ROW_MS = 600_000
"""With at most this time from one to the next."""
MOST_SHOWN = 200
"""Anomalies of one kind; of more the longest are shown."""

KINDS = {
    "thrash": ("Cold-load thrash", f"models loaded again within 10 min, {LEAST_TIMES} times in a row"),
    "flapping": ("Flapping", f"a node that backed off {LEAST_TIMES} times with at most 10 min between"),
    "backoff": ("Backoff", "a safety mark was passed"),
    "breaker": ("Breaker", "too many requests in a row failed on a node"),
    "stale": ("Stale health", "a node silent for longer than policy.stale_ms"),
    "gap": ("Gap in the log", "no commit for longer than policy.stale_ms"),
    "wait": ("Long wait", "no node ran the request for over a minute"),
    "retry": ("Retry", "more than one attempt"),
    "unanswered": ("No answer", "ended as an error, or expired"),
}
"""Title and meaning of each kind, in the order of the page."""


class Anomaly(Struct, frozen=True):
    """One finding: from when to when (`ongoing`: at the log's end it still was), about which node and
    request, in a sentence."""

    kind: str
    begin: Moment
    end: Moment
    ongoing: bool
    node: str
    request: str
    sentence: str


class Facts(Struct, frozen=True):
    """What the detectors look at, up to `now`."""

    now: Moment
    stays: Sequence[Stay] = ()
    backoffs: Sequence[Backoff] = ()
    trips: Sequence[Trip] = ()
    silences: Sequence[Silence] = ()
    waits: Sequence[Wait] = ()
    retried: Sequence[Life] = ()
    unanswered: Sequence[Life] = ()


def find(facts: Facts) -> tuple[tuple[Anomaly, ...], dict[str, int]]:
    """All anomalies in the order of time, of each kind at most MOST_SHOWN, and how many of each kind there
    are."""
    shown: list[Anomaly] = []
    found: dict[str, int] = {}
    for kind, detect in DETECTORS.items():
        every = list(detect(facts))
        found[kind] = len(every)
        shown += sorted(every, key=lambda each: each.begin.ms - each.end.ms)[:MOST_SHOWN]
    return tuple(sorted(shown, key=lambda each: (each.begin, each.end, each.kind))), found


S = TypeVar("S", bound=Span)
N = TypeVar("N", Stay, Backoff)


def in_rows(spans: Sequence[S]) -> Iterator[list[S]]:
    """Those of one node that follow each other within ROW_MS, at least LEAST_TIMES."""
    row: list[S] = []
    for span in sorted(spans, key=lambda each: each.begin):
        if row and span.begin.ms - (row[-1].end or row[-1].begin).ms > ROW_MS:
            if len(row) >= LEAST_TIMES:
                yield row
            row = []
        row.append(span)
    if len(row) >= LEAST_TIMES:
        yield row


def thrash(facts: Facts) -> Iterator[Anomaly]:
    """The same models loaded and unloaded over and over on a node: at least one of them came back
    LEAST_TIMES times in a row."""
    for node, stays in by_node(facts.stays).items():
        for row in in_rows(absences(stays)):
            times = Counter(each.model for each in row)
            if max(times.values()) < LEAST_TIMES:
                continue
            models = ", ".join(f"{model} {count} times" for model, count in times.most_common())
            over_ms = (row[-1].end or facts.now).ms - row[0].begin.ms
            said = f"{node} loaded again what it had unloaded, within {seconds(over_ms)}: {models}."
            yield anomaly("thrash", row[0].begin, row[-1].end, facts.now, said, node=node)


def absences(stays: Sequence[Stay]) -> list[Stay]:
    """For each model that came back into a node's memory within ROW_MS, the time that it was away."""
    last: dict[str, Stay] = {}
    away = []
    for stay in sorted(stays, key=lambda each: each.begin):
        before = last.get(stay.model)
        if before is not None and before.end is not None and stay.begin.ms - before.end.ms <= ROW_MS:
            away.append(Stay(begin=before.end, end=stay.begin, node=stay.node, model=stay.model))
        last[stay.model] = stay
    return away


def flapping(facts: Facts) -> Iterator[Anomaly]:
    """A node that backs off and returns repeatedly."""
    for node, backoffs in by_node(facts.backoffs).items():
        for row in in_rows(backoffs):
            last = row[-1]
            over_ms = (last.end or facts.now).ms - row[0].begin.ms
            said = f"{node} backed off {len(row)} times within {seconds(over_ms)}, returning in between."
            yield anomaly("flapping", row[0].begin, last.end, facts.now, said, node=node)


def backoffs(facts: Facts) -> Iterator[Anomaly]:
    """Every backoff, with the marks that were passed."""
    for each in facts.backoffs:
        why = " and ".join(passed(mark) for mark in each.passed) or "had backed off before"
        for_ms = each.length_ms(facts.now)
        end = f"took nothing for {seconds(for_ms)}" if each.end else "has not returned by the log's end"
        said = f"{each.node} {why}; it {end}."
        yield anomaly("backoff", each.begin, each.end, facts.now, said, node=each.node)


def passed(mark: Passed) -> str:
    """What was too high."""
    if mark.reason == "hot":
        close = degrees(mark.value) == degrees(mark.mark)  # a few thousandths above it
        value = f"{mark.value / 1000:.3f} °C" if close else degrees(mark.value)
        return f"was too hot ({value}, mark {degrees(mark.mark)})"
    return f"had its memory too full ({ram(mark.value)}, mark {ram(mark.mark)})"


def breakers(facts: Facts) -> Iterator[Anomaly]:
    """Every opening of a breaker."""
    for each in facts.trips:
        if each.failures:
            many = "requests" if each.failures > 1 else "request"
            said = (
                f"{each.node} gets nothing for {seconds(each.open_ms)}: {each.failures} {many} failed there"
            )
        else:
            said = f"{each.node} had its breaker open before"
        said += f"; answering again after {seconds(each.length_ms(facts.now))}." if each.end else "."
        yield anomaly("breaker", each.begin, each.end, facts.now, said, node=each.node)


def stale(facts: Facts) -> Iterator[Anomaly]:
    """A node that was silent for too long."""
    for each in facts.silences:
        if each.node:
            how, for_ms = STALE[each.first, each.end is None], each.length_ms(facts.now)
            said = f"{each.node} {how.format(seconds(for_ms))}, limit {seconds(each.limit_ms)}."
            yield anomaly("stale", each.begin, each.end, facts.now, said, node=each.node)


STALE = {
    (False, False): "was not heard from for {}",
    (False, True): "was last heard from {} before the log's end",
    (True, False): "was heard from only after {}",
    (True, True): "was never heard from, in {}",
}
"""By whether there was no word of the node before, and whether there is none after."""


def gaps(facts: Facts) -> Iterator[Anomaly]:
    """Times of which the log says nothing at all."""
    for each in facts.silences:
        if not each.node:
            said = (
                f"Nothing was written for {seconds(each.length_ms(facts.now))}: no router ran, the server "
                "was away, or its clock was moved on."
            )
            yield anomaly("gap", each.begin, each.end, facts.now, said)


def waits(facts: Facts) -> Iterator[Anomaly]:
    """Requests that waited for too long."""
    for each in facts.waits:
        waited = "waited" if each.end else "has been waiting"
        said = f"{each.request} {waited} {seconds(each.length_ms(facts.now))} for {each.model}."
        yield anomaly("wait", each.begin, each.end, facts.now, said, request=each.request)


def retries(facts: Facts) -> Iterator[Anomaly]:
    """Requests that took more than one attempt."""
    for each in facts.retried:
        times = Counter(f"{code} on {node}" for node, code in each.failures)
        why = ", ".join(reason + (f" {n} times" if n > 1 else "") for reason, n in times.items())
        end = {"": "it is still open", "done": "then it was answered"}.get(each.outcome, ended(each))
        said = f"{each.request} took {each.attempts} attempts ({why}); {end}."
        yield anomaly("retry", each.begin, each.end, facts.now, said, request=each.request)


def unanswered(facts: Facts) -> Iterator[Anomaly]:
    """Requests that ended without an answer that nobody had cancelled."""
    for each in facts.unanswered:
        said = f"{each.request} {ended(each)} after {seconds(each.length_ms(facts.now))}."
        yield anomaly("unanswered", each.begin, each.end, facts.now, said, request=each.request)


def ended(life: Life) -> str:
    """How a request ended without an answer."""
    return f"ended as an error ({life.code})" if life.outcome == "error" else f"{life.outcome}"


def by_node(spans: Sequence[N]) -> dict[str, list[N]]:
    """The spans of each node."""
    found: dict[str, list[N]] = {}
    for span in spans:
        found.setdefault(span.node, []).append(span)
    return found


def anomaly(
    kind: str, begin: Moment, end: Moment | None, now: Moment, said: str, node: str = "", request: str = ""
) -> Anomaly:
    """A finding; without an `end` it goes on."""
    return Anomaly(kind, begin, end or now, end is None, node, request, said)


DETECTORS: dict[str, Callable[[Facts], Iterator[Anomaly]]] = {
    "thrash": thrash,
    "flapping": flapping,
    "backoff": backoffs,
    "breaker": breakers,
    "stale": stale,
    "gap": gaps,
    "wait": waits,
    "retry": retries,
    "unanswered": unanswered,
}
