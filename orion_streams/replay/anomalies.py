"""Find anomalies in the facts of an incident, with one function for each kind. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct

from orion_streams.model.text import degrees, ram, seconds
from orion_streams.replay.incident_facts import (
    Backoff,
    Boot,
    Moment,
    Passed,
    RequestSpan,
    Silence,
    Span,
    Stay,
    Trip,
    Wait,
)

LEAST_TIMES = 3
"""So many reloads of a model, or backoffs of a node, in a row are an anomaly."""
ROW_MS = 600_000
"""Longest time from one to the next in such a row."""
MOST_SHOWN = 200
"""Anomalies shown of one kind; of more than that the longest."""

KINDS = {
    "thrash": ("Cold-load thrash", f"models loaded again within 10 min, {LEAST_TIMES} times in a row"),
    "flapping": ("Flapping", f"a node that backed off {LEAST_TIMES} times with at most 10 min between"),
    "backoff": ("Backoff", "a safety mark was passed"),
    "breaker": ("Breaker", "too many requests in a row failed on a node"),
    "killed": ("Agent killed", "a new boot of a node's agent, and no goodbye of the one before"),
    "restart": ("Agent stop or restart", "a node's agent said goodbye"),
    "twins": ("Two agents", "two boots of one node's agent sent health in turn"),
    "stale": ("Stale health", "a node silent for longer than policy.stale_ms"),
    "gap": ("Gap in the log", "no commit for longer than policy.stale_ms"),
    "wait": ("Long wait", "no node ran the request for over a minute"),
    "retry": ("Retry", "more than one attempt"),
    "unanswered": ("No answer", "ended as an error, or expired"),
}
"""Title and meaning of each kind, in the order of the page."""


class Anomaly(Struct, frozen=True, kw_only=True):
    """One anomaly: its begin and end (`ongoing`: it lasts at the end of the log), its node or request, and
    a sentence."""

    kind: str
    begin: Moment
    end: Moment
    ongoing: bool
    node: str
    request: str
    sentence: str


class Finding(Struct, frozen=True):
    """What a detector reports: when, in which words, and of which node or request."""

    span: Span
    sentence: str
    node: str = ""
    request: str = ""


class Facts(Struct, frozen=True, kw_only=True):
    """What the detectors examine, up to `now`."""

    now: Moment
    stays: Sequence[Stay] = ()
    backoffs: Sequence[Backoff] = ()
    trips: Sequence[Trip] = ()
    boots: Sequence[Boot] = ()
    silences: Sequence[Silence] = ()
    waits: Sequence[Wait] = ()
    retried: Sequence[RequestSpan] = ()
    unanswered: Sequence[RequestSpan] = ()


def find(facts: Facts) -> tuple[tuple[Anomaly, ...], dict[str, int]]:
    """Return all anomalies by time, at most MOST_SHOWN of each kind, and the number of each kind."""
    shown: list[Anomaly] = []
    found: dict[str, int] = {}
    for kind, detect in DETECTORS.items():
        every = sorted(detect(facts), key=lambda each: -each.span.length_ms(facts.now))
        found[kind] = len(every)
        shown += [anomaly(kind, each, facts.now) for each in every[:MOST_SHOWN]]
    return tuple(sorted(shown, key=lambda each: (each.begin, each.end, each.kind))), found


def anomaly(kind: str, found: Finding, now: Moment) -> Anomaly:
    """Convert a finding; one without an end is ongoing."""
    begin, end = found.span.begin, found.span.end
    return Anomaly(
        kind=kind,
        begin=begin,
        end=end or now,
        ongoing=end is None,
        node=found.node,
        request=found.request,
        sentence=found.sentence,
    )


S = TypeVar("S", bound=Span)
N = TypeVar("N", Stay, Backoff)


def in_rows(spans: Sequence[S]) -> Iterator[list[S]]:
    """Group spans of a node that follow each other within ROW_MS; yield groups of LEAST_TIMES or more."""
    row: list[S] = []
    for span in sorted(spans, key=lambda each: each.begin):
        if row and span.begin.ms - (row[-1].end or row[-1].begin).ms > ROW_MS:
            if len(row) >= LEAST_TIMES:
                yield row
            row = []
        row.append(span)
    if len(row) >= LEAST_TIMES:
        yield row


def thrash(facts: Facts) -> Iterator[Finding]:
    """Find models that were loaded and unloaded repeatedly on a node: at least one of them came back
    LEAST_TIMES times in a row."""
    for node, stays in by_node(facts.stays).items():
        for row in in_rows(absences(stays)):
            times = Counter(each.model for each in row)
            if max(times.values()) < LEAST_TIMES:
                continue
            models = ", ".join(f"{model} {count} times" for model, count in times.most_common())
            whole = Span(begin=row[0].begin, end=row[-1].end)
            within = seconds(whole.length_ms(facts.now))
            said = f"{node} loaded again what it had unloaded, within {within}: {models}."
            yield Finding(whole, said, node=node)


def absences(stays: Sequence[Stay]) -> list[Stay]:
    """Return the times between an unload of a model and a load within ROW_MS."""
    last: dict[str, Stay] = {}
    away = []
    for stay in sorted(stays, key=lambda each: each.begin):
        before = last.get(stay.model)
        if before is not None and before.end is not None and stay.begin.ms - before.end.ms <= ROW_MS:
            away.append(Stay(begin=before.end, end=stay.begin, node=stay.node, model=stay.model))
        last[stay.model] = stay
    return away


def flapping(facts: Facts) -> Iterator[Finding]:
    """Find nodes that back off and return repeatedly."""
    for node, backoffs in by_node(facts.backoffs).items():
        for row in in_rows(backoffs):
            whole = Span(begin=row[0].begin, end=row[-1].end)
            within = seconds(whole.length_ms(facts.now))
            said = f"{node} backed off {len(row)} times within {within}, returning in between."
            yield Finding(whole, said, node=node)


def backoffs(facts: Facts) -> Iterator[Finding]:
    """Report every backoff with the marks that were exceeded."""
    for each in facts.backoffs:
        why = " and ".join(passed(mark) for mark in each.passed) or "had backed off before"
        for_ms = each.length_ms(facts.now)
        end = f"took nothing for {seconds(for_ms)}" if each.end else "has not returned by the log's end"
        said = f"{each.node} {why}; it {end}."
        yield Finding(each, said, node=each.node)


def passed(mark: Passed) -> str:
    """Say what was too high, and the mark."""
    if mark.reason == "hot":
        close = degrees(mark.value) == degrees(mark.mark)  # a few thousandths above it
        value = f"{mark.value / 1000:.3f} °C" if close else degrees(mark.value)
        return f"was too hot ({value}, mark {degrees(mark.mark)})"
    return f"had its memory too full ({ram(mark.value)}, mark {ram(mark.mark)})"


def breakers(facts: Facts) -> Iterator[Finding]:
    """Report every open breaker."""
    for each in facts.trips:
        if each.failures:
            many = "requests" if each.failures > 1 else "request"
            said = (
                f"{each.node} gets nothing for {seconds(each.open_ms)}: {each.failures} {many} failed there"
            )
        else:
            said = f"{each.node} had its breaker open before"
        said += f"; answering again after {seconds(each.length_ms(facts.now))}." if each.end else "."
        yield Finding(each, said, node=each.node)


def killed(facts: Facts) -> Iterator[Finding]:
    """Report agents that ended without a goodbye."""
    for each in facts.boots:
        if each.kind == "killed":
            held = f" with {each.held} request{'s' * (each.held > 1)} in hand" if each.held else ""
            away = seconds(each.length_ms(facts.now))
            said = (
                f"{each.node}'s agent was killed{held}, or crashed, or lost its power: it said no goodbye, "
                f"and a new one was there after {away}."
            )
            yield Finding(each, said, node=each.node)


def twins(facts: Facts) -> Iterator[Finding]:
    """Report two agents of one name."""
    for each in facts.boots:
        if each.kind == "twins":
            said = f"{each.node} has two agents: their health came in turn."
            yield Finding(each, said, node=each.node)


def restarts(facts: Facts) -> Iterator[Finding]:
    """Report agents that said goodbye."""
    for each in facts.boots:
        if each.kind in ("restarted", "stopped"):
            away = seconds(each.length_ms(facts.now))
            back = f"was restarted: it said goodbye, and a new one was there after {away}"
            stop = "stopped: it said goodbye, and none has come by the log's end"
            yield Finding(each, f"{each.node}'s agent {back if each.end else stop}.", node=each.node)


def stale(facts: Facts) -> Iterator[Finding]:
    """Report nodes whose health was stale."""
    for each in facts.silences:
        if each.node:
            how, for_ms = STALE[each.first, each.end is None], each.length_ms(facts.now)
            said = f"{each.node} {how.format(seconds(for_ms))}, limit {seconds(each.limit_ms)}."
            yield Finding(each, said, node=each.node)


STALE = {
    (False, False): "was not heard from for {}",
    (False, True): "was last heard from {} before the log's end",
    (True, False): "was heard from only after {}",
    (True, True): "was never heard from, in {}",
}
"""By whether the log has no sample of the node before, and whether it has none after."""


def gaps(facts: Facts) -> Iterator[Finding]:
    """Report times without any commit."""
    for each in facts.silences:
        if not each.node:
            said = (
                f"Nothing was written for {seconds(each.length_ms(facts.now))}: no router ran, the server "
                "was away, or its clock was moved on."
            )
            yield Finding(each, said)


def waits(facts: Facts) -> Iterator[Finding]:
    """Report requests that waited for too long."""
    for each in facts.waits:
        waited = "waited" if each.end else "has been waiting"
        said = f"{each.request} {waited} {seconds(each.length_ms(facts.now))} for {each.model}."
        yield Finding(each, said, request=each.request)


def retries(facts: Facts) -> Iterator[Finding]:
    """Report requests that took more than one attempt."""
    for each in facts.retried:
        times = Counter(f"{code} on {node}" for node, code in each.failures)
        why = ", ".join(reason + (f" {n} times" if n > 1 else "") for reason, n in times.items())
        end = {"": "it is still open", "done": "then it was answered"}.get(each.outcome, ended(each))
        said = f"{each.request} took {each.attempts} attempts ({why}); {end}."
        yield Finding(each, said, request=each.request)


def unanswered(facts: Facts) -> Iterator[Finding]:
    """Report requests that failed or expired."""
    for each in facts.unanswered:
        said = f"{each.request} {ended(each)} after {seconds(each.length_ms(facts.now))}."
        yield Finding(each, said, request=each.request)


def ended(life: RequestSpan) -> str:
    """Say how a request ended without an answer."""
    return f"ended as an error ({life.code})" if life.outcome == "error" else f"{life.outcome}"


def by_node(spans: Sequence[N]) -> dict[str, list[N]]:
    """Group spans by their node."""
    found: dict[str, list[N]] = {}
    for span in spans:
        found.setdefault(span.node, []).append(span)
    return found


DETECTORS: dict[str, Callable[[Facts], Iterator[Finding]]] = {
    "thrash": thrash,
    "flapping": flapping,
    "backoff": backoffs,
    "breaker": breakers,
    "killed": killed,
    "restart": restarts,
    "twins": twins,
    "stale": stale,
    "gap": gaps,
    "wait": waits,
    "retry": retries,
    "unanswered": unanswered,
}
