"""Requests that have ended: the slowest of them, and percentiles by client and by model. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from orion_streams.model.percentiles import percentile
from orion_streams.model.state import client_of
from orion_streams.model.vocabulary import RequestState
from orion_streams.projections.ended_requests import EndedRequest
from orion_streams.replay.incident_facts import Kept, SlowRequest

MAX_SLOW = 200
"""Requests kept of each order: the slowest by total time, by wait and by load."""
MAX_MEASURED = 50_000
"""Answered requests that percentiles are computed of; of more an even spread over time."""
MAX_GROUPS = 12
"""Clients, and models, that have figures of their own: those with the most requests."""
PERMILLES = (500, 900, 990)


class Percentiles(Struct, frozen=True):
    """p50, p90 and p99 of `count` values, in ms."""

    count: int
    ms: tuple[int, ...]


class Group(Struct, frozen=True, kw_only=True):
    """Figures of all requests, of a client's or of a model's (`kind` all, client or model): how many were
    `answered` and how many ended `otherwise`; of the answered ones the percentiles of the time to the
    answer, of the wait for a node, of loads (where the model was not in memory) and of the time to the
    first token (where the node told it)."""

    kind: str
    name: str
    answered: int
    otherwise: int
    total: Percentiles
    waited: Percentiles
    load: Percentiles
    first_token: Percentiles


class RequestTable:
    """Collects requests as they end. `spent`: the ms that answered requests spent, by what on: the kinds of
    `Delay`, then load and answer."""

    def __init__(self) -> None:
        self._slow = tuple(Kept[SlowRequest](MAX_SLOW) for _ in ORDERS)
        self._measured = Kept[EndedRequest](MAX_MEASURED)
        self._ends: Counter[tuple[str, str, bool]] = Counter()
        self.spent: Counter[str] = Counter()

    def add(self, row: SlowRequest) -> None:
        """Add a request that has ended."""
        ended = row.ended
        is_answered = ended.outcome is RequestState.DONE
        for kept, measure in zip(self._slow, ORDERS, strict=True):
            if measure(ended) > 0:
                kept.add(row, measure(ended))
        for group in groups_with(ended):
            self._ends[*group, is_answered] += 1
        if is_answered:
            self._measured.add(ended)
            self._spend(row)

    def _spend(self, row: SlowRequest) -> None:
        for delay in row.delays:
            self.spent[delay.kind] += delay.length_ms(delay.begin)
        load_ms = min(row.ended.load_ms, row.ended.run_ms)
        self.spent["load"] += load_ms
        self.spent["answer"] += row.ended.run_ms - load_ms

    @property
    def count(self) -> int:
        """Return how many requests have ended."""
        return self._ends["all", "", True] + self._ends["all", "", False]

    def slowest(self) -> tuple[SlowRequest, ...]:
        """Return those that are among the slowest in any order, the longest total time first."""
        rows = {row.ended.position: row for kept in self._slow for row in kept.all()}
        return tuple(sorted(rows.values(), key=lambda row: (-row.ended.age_ms, row.ended.position)))

    def groups(self) -> tuple[Group, ...]:
        """Return the figures of all requests, then by client and by model where there are several."""
        rows = self._measured.all()
        return tuple(self._group(*name, rows) for name in self._shown())

    def _shown(self) -> Iterator[tuple[str, str]]:
        counted = Counter[tuple[str, str]]()
        for (kind, name, _), count in self._ends.items():
            counted[kind, name] += count
        for wanted in ("all", "client", "model"):
            found = [(count, name) for (kind, name), count in counted.items() if kind == wanted]
            if len(found) > 1 or (found and wanted == "all"):
                most = sorted(found, key=lambda each: (-each[0], each[1]))[:MAX_GROUPS]
                yield from ((wanted, name) for _, name in most)

    def _group(self, kind: str, name: str, rows: Iterable[EndedRequest]) -> Group:
        of_it = [row for row in rows if (kind, name) in groups_with(row)]
        return Group(
            kind=kind,
            name=name,
            answered=self._ends[kind, name, True],
            otherwise=self._ends[kind, name, False],
            total=percentiles(row.age_ms for row in of_it),
            waited=percentiles(row.waited_ms for row in of_it),
            load=percentiles(row.load_ms for row in of_it if row.cold),
            first_token=percentiles(row.first_token_ms for row in of_it if row.first_token_ms),
        )


ORDERS: tuple[Callable[[EndedRequest], int], ...] = (
    lambda row: row.age_ms,
    lambda row: row.waited_ms,
    lambda row: row.load_ms,
)


def groups_with(row: EndedRequest) -> tuple[tuple[str, str], ...]:
    """Return the groups that a request counts in."""
    return ("all", ""), ("client", client_of(row.request)), ("model", row.model)


def percentiles(values: Iterable[int]) -> Percentiles:
    """Return the percentiles of values in ms."""
    ordered = sorted(values)
    return Percentiles(len(ordered), tuple(percentile(ordered, permille) for permille in PERMILLES))
