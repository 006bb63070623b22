"""An incident as compact JSON for the page: names once, times from the log's begin, values as differences.

Words stand by their number; `null` is an end that the log does not have. Of what is too much for a page the
longest is kept, and the page says how much there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from orion_streams.model.events import TERMS, Verdict
from orion_streams.model.text import WORD_FOR, held_back, why_abandoned
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
    Span,
    Stay,
    Trip,
)
from orion_streams.replay.node_timeline import NodeRow

MAX_NODES = 24
MAX_SPANS = 4_000
"""Of one sort: backoffs, models in memory, silences, open breakers."""
S = TypeVar("S", bound=Backoff | Silence | Stay | Trip)


class Packer:
    """What the parts have in common: the table of words, and when the log begins."""

    def __init__(self, begin: Moment) -> None:
        self.words: list[str] = []
        self._known: dict[str, int] = {}
        self._begin_ms = begin.ms

    def word(self, text: str) -> int:
        """A text's number."""
        number = self._known.setdefault(text, len(self.words))
        if number == len(self.words):
            self.words.append(text)
        return number

    def moment(self, moment: Moment | None) -> list[int | None]:
        """Time and position."""
        return [None, None] if moment is None else [moment.ms - self._begin_ms, moment.position]

    def span(self, span: Span) -> list[int | None]:
        """Begin and end."""
        return [*self.moment(span.begin), *self.moment(span.end)]

    def series(self, buckets: Buckets) -> dict[str, Any]:
        """The first key and the steps to the next ones; of each channel the lowest values as differences,
        and how far above them the highest are."""
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
        """Node and filter, as -1 - its words; or node, cost, and number and ms of each term that is not 0;
        at the end the models that must go."""
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
        """An attempt with its decision."""
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
        """A decision to wait."""
        return [
            *self.moment(each.at),
            self.word(each.request),
            self.word(each.node),
            [self.verdict(verdict) for verdict in each.verdicts],
        ]

    def machine(self, each: NodeRow) -> dict[str, Any]:
        """A node and its health."""
        return {
            "name": self.word(each.name),
            "inference": each.inference,
            "sensor": each.sensor,
            "gone": each.gone,
            "samples": each.samples,
            "health": self.series(each.health),
        }

    def rules(self, each: Rules) -> list[Any]:
        """What the page draws of a policy."""
        policy = each.policy
        return [
            *self.moment(each.since),
            each.revision,
            self.word(each.policy_id),
            policy.temp_max_mc,
            policy.ram_max_permille,
            policy.stale_ms,
        ]

    def anomaly(self, each: Anomaly) -> list[Any]:
        """A finding."""
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
    """All that the page shows."""
    packer = Packer(incident.begin)
    return {
        **head(packer, incident),
        **timeline(packer, incident),
        "kinds": [[key, *KINDS[key], incident.found[key]] for key in KINDS],
        "anomalies": [packer.anomaly(each) for each in incident.anomalies],
        "words": packer.words,
    }


def head(packer: Packer, incident: Incident) -> dict[str, Any]:
    """What log it is, and what it came to."""
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
    """Everything over time, of the nodes that get charts. `more`: how much is left out."""
    machines, now, word = shown(incident), incident.end, packer.word
    names = {"", *(each.name for each in machines)}
    stays = [each for each in incident.stays if each.node in names]
    attempts = [each for each in incident.attempts if each.node in names]
    bands: dict[str, Sequence[Backoff | Silence | Trip]] = {
        "backoffs": incident.backoffs,
        "silences": incident.silences,
        "trips": incident.trips,
    }
    return {
        "rules": [packer.rules(each) for each in incident.rules],
        "terms": [WORD_FOR.get(name, name) for name in TERMS],
        "subtracted": TERMS.index("cached"),
        "machines": [packer.machine(each) for each in machines],
        **{
            key: [[word(each.node), *packer.span(each)] for each in kept(spans, now) if each.node in names]
            for key, spans in bands.items()
        },
        "stays": [[word(each.node), *packer.span(each), word(each.model)] for each in kept(stays, now)],
        "attempts": [packer.attempt(each) for each in attempts],
        "deferrals": [packer.deferral(each) for each in incident.deferrals],
        "queue": packer.series(incident.queue),
        "more": {
            "machines": len(incident.nodes) - len(machines),
            "attempts": incident.found["attempts"] - len(attempts),
            "deferrals": incident.found["deferrals"] - len(incident.deferrals),
            "stays": len(incident.stays) - min(len(stays), MAX_SPANS),
        },
    }


def shown(incident: Incident) -> list[NodeRow]:
    """The nodes that get charts, those that take requests first: of many those with most to tell."""
    told = Counter([each.node for each in incident.anomalies])
    told.update(each.node for each in incident.attempts)
    ranked = sorted(incident.nodes, key=lambda each: -told[each.name])
    return sorted(ranked[:MAX_NODES], key=lambda each: (not each.inference, each.name))


def kept(spans: Sequence[S], now: Moment) -> list[S]:
    """The longest of them, in the order of time."""
    longest = sorted(spans, key=lambda each: -each.length_ms(now))[:MAX_SPANS]
    return sorted(longest, key=lambda each: each.begin)


def differences(values: Iterable[int | None]) -> list[int | None]:
    """Each value less the one before it that is not None."""
    last, found = 0, list[int | None]()
    for value in values:
        found.append(None if value is None else value - last)
        last = last if value is None else value
    return found
