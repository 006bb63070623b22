"""Pack an incident as compact JSON for the page.

Texts are replaced by their index in a table of words, times are relative to the log's beginning, series are
stored as differences; `null` is an end that the log does not have. Of too many spans the longest are kept,
and the page says how many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from orion_streams.model.text import WORD_FOR, held_back, why_abandoned
from orion_streams.model.verdict import TERMS, Verdict
from orion_streams.replay.anomalies import KINDS, Anomaly
from orion_streams.replay.buckets import Buckets
from orion_streams.replay.incident import Incident
from orion_streams.replay.incident_facts import (
    Attempt,
    Backoff,
    Deferral,
    Moment,
    Rules,
    Silence,
    SlowRequest,
    Span,
    Stay,
    Trip,
)
from orion_streams.replay.node_timeline import NodeRow
from orion_streams.replay.request_table import Group
from orion_streams.replay.request_words import said, spent_on

MAX_NODES = 24
MAX_SPANS = 4_000
"""Limit for each of backoffs, models in memory, silences and open breakers."""
NodeSpan = Backoff | Silence | Stay | Trip
S = TypeVar("S", bound=NodeSpan)


class Packer:
    """Packs values with a common table of words and a common beginning."""

    def __init__(self, begin: Moment) -> None:
        self.words: list[str] = []
        self._known: dict[str, int] = {}
        self._begin_ms = begin.ms

    def word(self, text: str) -> int:
        """Return the index of a text in the table of words."""
        number = self._known.setdefault(text, len(self.words))
        if number == len(self.words):
            self.words.append(text)
        return number

    def moment(self, moment: Moment | None) -> list[int | None]:
        """Pack time and position."""
        return [None, None] if moment is None else [moment.ms - self._begin_ms, moment.position]

    def span(self, span: Span) -> list[int | None]:
        """Pack begin and end."""
        return [*self.moment(span.begin), *self.moment(span.end)]

    def band(self, each: NodeSpan) -> list[Any]:
        """Pack a span of a node: node, begin and end, and the model in memory."""
        row = [self.word(each.node), *self.span(each)]
        return [*row, self.word(each.model)] if isinstance(each, Stay) else row

    def series(self, buckets: Buckets) -> dict[str, Any]:
        """Pack the keys as differences; for each channel the lowest values as differences, and the
        distances from them to the highest."""
        return {
            "width": buckets.width_ms,
            "keys": differences(key * buckets.width_ms - self._begin_ms for key in buckets.rows),
            "values": [
                [
                    differences(lows),
                    [
                        None if low is None or high is None else high - low
                        for low, high in zip(lows, highs, strict=True)
                    ],
                ]
                for lows, highs in buckets.columns()
            ],
        }

    def verdict(self, found: Verdict) -> list[Any]:
        """Pack node and filter (as -1 - word), or node, cost, index and ms of each term that is not 0, and
        the evicted models."""
        row: list[Any] = [self.word(found.node)]
        if found.filter:
            return [*row, -1 - self.word(held_back(found))]
        row.append(found.cost_ms)
        for n, name in enumerate(TERMS):
            ms = int(getattr(found, f"{name}_ms"))
            row += [n, ms] if ms else []
        if found.evicts:
            row.append([self.word(model) for model in found.evicts])
        return row

    def attempt(self, each: Attempt) -> list[Any]:
        """Pack an attempt with its verdicts."""
        code = why_abandoned(each.code) if each.outcome == "abandoned" else each.code
        return [
            self.word(each.node),
            *self.span(each),
            *self.moment(each.started),
            self.word(each.request),
            each.number,
            self.word(each.model),
            self.word(each.outcome or "open"),
            self.word(code),
            each.tokens,
            int(each.cold),
            [self.verdict(verdict) for verdict in each.verdicts],
        ]

    def deferral(self, each: Deferral) -> list[Any]:
        """Pack a decision to wait."""
        return [
            *self.moment(each.at),
            self.word(each.request),
            self.word(each.node),
            [self.verdict(verdict) for verdict in each.verdicts],
        ]

    def node(self, each: NodeRow) -> dict[str, Any]:
        """Pack a node and its health."""
        return {
            "name": self.word(each.name),
            "inference": each.inference,
            "sensor": each.sensor,
            "gone": each.gone,
            "samples": each.samples,
            "health": self.series(each.health),
        }

    def rules(self, each: Rules) -> list[Any]:
        """Pack what the page draws of a policy."""
        policy = each.policy
        return [
            *self.moment(each.since),
            each.revision,
            self.word(each.policy_id),
            policy.temp_max_mc,
            policy.ram_max_permille,
            policy.stale_ms,
        ]

    def slow(self, row: SlowRequest) -> list[Any]:
        """Pack a request that has ended, and what took it so long."""
        end = row.ended
        return [
            *self.span(row),
            self.word(end.request),
            self.word(end.model),
            self.word(end.node),
            self.word(end.outcome),
            self.word(end.code),
            end.attempts,
            end.age_ms,
            end.waited_ms,
            end.load_ms,
            end.first_token_ms,
            end.run_ms,
            end.tokens,
            said(row),
        ]

    def group(self, each: Group) -> list[Any]:
        """Pack the percentiles of a group: for each measure the number of values, then the percentiles."""
        measures = (each.total, each.waited, each.load, each.first_token)
        figures = [[found.count, *found.ms] for found in measures]
        return [each.kind, self.word(each.name), each.answered, each.otherwise, *figures]

    def anomaly(self, each: Anomaly) -> list[Any]:
        """Pack an anomaly."""
        return [
            list(KINDS).index(each.kind),
            *self.moment(each.begin),
            *self.moment(each.end),
            int(each.ongoing),
            self.word(each.node),
            self.word(each.request),
            each.sentence,
        ]


def pack(incident: Incident) -> dict[str, Any]:
    """Pack all that the page shows."""
    packer = Packer(incident.begin)
    return {
        **head(packer, incident),
        **timeline(packer, incident),
        "slowest": [packer.slow(each) for each in incident.slowest],
        "groups": [packer.group(each) for each in incident.groups],
        "spent": list(spent_on(incident.spent)),
        "kinds": [[key, *KINDS[key], incident.found[key]] for key in KINDS],
        "anomalies": [packer.anomaly(each) for each in incident.anomalies],
        "words": packer.words,
    }


def head(packer: Packer, incident: Incident) -> dict[str, Any]:
    """Pack the name of the log and its totals."""
    longest = incident.longest
    return {
        "source": incident.source,
        "from": incident.begin.ms,
        "to": incident.end.ms,
        "first": incident.begin.position,
        "last": incident.end.position,
        "events": incident.events,
        "counts": incident.counts,
        "back": incident.back_ms,
        "simulated": incident.simulated,
        "longest": longest and [*packer.span(longest), packer.word(longest.request)],
    }


def timeline(packer: Packer, incident: Incident) -> dict[str, Any]:
    """Pack everything over time, for the nodes that get charts. `more`: how much is left out."""
    nodes, now = shown(incident), incident.end
    names = {"", *(each.name for each in nodes)}
    attempts = [each for each in incident.attempts if each.node in names]
    return {
        "rules": [packer.rules(each) for each in incident.rules],
        "terms": [WORD_FOR.get(name, name) for name in TERMS],
        "subtracted": TERMS.index("cached"),
        "machines": [packer.node(each) for each in nodes],
        "backoffs": bands(packer, incident.backoffs, names, now),
        "silences": bands(packer, incident.silences, names, now),
        "trips": bands(packer, incident.trips, names, now),
        "stays": (stays := bands(packer, incident.stays, names, now)),
        "attempts": [packer.attempt(each) for each in attempts],
        "deferrals": [packer.deferral(each) for each in incident.deferrals],
        "queue": packer.series(incident.queue),
        "more": {
            "machines": len(incident.nodes) - len(nodes),
            "attempts": incident.found["attempts"] - len(attempts),
            "deferrals": incident.found["deferrals"] - len(incident.deferrals),
            "stays": len(incident.stays) - len(stays),
        },
    }


def bands(packer: Packer, spans: Sequence[NodeSpan], names: set[str], now: Moment) -> list[list[Any]]:
    """Pack the longest spans of the named nodes."""
    return [packer.band(each) for each in kept([each for each in spans if each.node in names], now)]


def shown(incident: Incident) -> list[NodeRow]:
    """Choose the nodes that get charts: first those that take requests, then by what they have to tell."""
    told = Counter([each.node for each in incident.anomalies])
    told.update(each.node for each in incident.attempts)
    ranked = sorted(incident.nodes, key=lambda each: -told[each.name])
    return sorted(ranked[:MAX_NODES], key=lambda each: (not each.inference, each.name))


def kept(spans: Sequence[S], now: Moment) -> list[S]:
    """Return the MAX_SPANS longest, in the order of time."""
    longest = sorted(spans, key=lambda each: -each.length_ms(now))[:MAX_SPANS]
    return sorted(longest, key=lambda each: each.begin)


def differences(values: Iterable[int | None]) -> list[int | None]:
    """Return each value minus the last one before it that is not None."""
    last, found = 0, list[int | None]()
    for value in values:
        found.append(None if value is None else value - last)
        last = last if value is None else value
    return found
