"""What ended, in a bounded memory: rows to show, and figures about all of them. Pure."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter, deque
from collections.abc import Iterable

from msgspec import Struct

from orion_streams.model.percentiles import percentile
from orion_streams.model.state import client_of
from orion_streams.model.vocabulary import RequestState
from orion_streams.projections.ended_requests import EndedRequest

FAILED = (RequestState.ERROR, RequestState.EXPIRED)
PERMILLES = {"p50": 500, "p90": 900, "p99": 990}
REMEMBERED = 1_000_000
"""The percentiles are those of so many requests, the newest ones."""


class Asked(Struct, frozen=True):
    """Which requests are asked for: all of these clients and models (none named: of any), the failed ones
    only or all, and `limit` rows of them, the slowest or the newest."""

    clients: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    failed: bool = False
    slowest: bool = False
    limit: int = 20

    def has(self, row: EndedRequest) -> bool:
        """Whether this request is asked for."""
        return (
            (not self.clients or client_of(row.request) in self.clients)
            and (not self.models or row.model in self.models)
            and (not self.failed or row.outcome in FAILED)
        )


class RequestRow(Struct, frozen=True, kw_only=True):
    """A request that ended, `ended_ms` after 1970, at `position`. `waited_ms`: until its last run began;
    `loaded_ms`, `first_token_ms`, `ran_ms`: as its node measured them, the last two from the begin of the
    run; `total_ms`: from its acceptance to its end. `kept_promise`: whether the answer came in the time
    that routing expected when it was last sent; None without an answer."""

    id: str
    client: str
    kind: str
    model: str
    node: str
    attempts: int
    outcome: str
    code: str
    cold: bool
    position: int
    ended_ms: int
    waited_ms: int
    loaded_ms: int
    first_token_ms: int
    ran_ms: int
    total_ms: int
    tokens: int
    prompt_tokens: int
    promised_ms: int
    took_ms: int
    kept_promise: bool | None


class Percentiles(Struct, frozen=True):
    """Of so many durations, in ms; None of none."""

    count: int
    p50: int | None
    p90: int | None
    p99: int | None


class Ended(Struct, frozen=True):
    """`orion requests`: what ended behind position `after`, by `outcomes`; the percentiles of all, and rows
    of some. `first_token_ms`: of those that have one. `promises_kept`, of so many `promises`."""

    after: int
    until: int
    since_ms: int
    until_ms: int
    outcomes: dict[str, int]
    percentiles: dict[str, Percentiles]
    promises: int
    promises_kept: int
    requests: list[RequestRow]


class Summary:
    """Collects the requests that are asked for, in the order in which they end."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._newest: deque[EndedRequest] = deque(maxlen=asked.limit)
        self._slowest: list[tuple[int, int, EndedRequest]] = []
        self._outcomes: Counter[str] = Counter()
        self._times = {"waited_ms": Times(), "first_token_ms": Times(), "total_ms": Times()}
        self._promises: Counter[bool] = Counter()

    def take(self, row: EndedRequest) -> None:
        """Count a request, and keep it if it is one to show."""
        if not self._asked.has(row):
            return
        self._outcomes[row.outcome] += 1
        self._times["waited_ms"].add(row.waited_ms)
        self._times["total_ms"].add(row.age_ms)
        if row.first_token_ms:
            self._times["first_token_ms"].add(row.first_token_ms)
        if row.kept_promise is not None:
            self._promises[row.kept_promise] += 1
        if not self._asked.slowest:
            self._newest.append(row)
            return
        heapq.heappush(self._slowest, (row.age_ms, row.position, row))
        if len(self._slowest) > self._asked.limit:
            heapq.heappop(self._slowest)

    def ended(self, after: int, since_ms: int, until: int, until_ms: int) -> Ended:
        """Return what was collected between two positions and times."""
        found: Iterable[EndedRequest] = reversed(self._newest)
        if self._asked.slowest:
            found = (row for _, _, row in sorted(self._slowest, reverse=True))
        return Ended(
            after=after,
            until=until,
            since_ms=since_ms,
            until_ms=until_ms,
            outcomes={str(state): self._outcomes[state] for state in RequestState if self._outcomes[state]},
            percentiles={name: times.percentiles() for name, times in self._times.items()},
            promises=self._promises.total(),
            promises_kept=self._promises[True],
            requests=[row_of(each) for each in found],
        )


class Times:
    """The last REMEMBERED of many durations."""

    def __init__(self) -> None:
        self._values = array("q")
        self._count = 0

    def add(self, ms: int) -> None:
        """Remember a duration, if need be instead of the oldest."""
        if len(self._values) < REMEMBERED:
            self._values.append(ms)
        else:
            self._values[self._count % REMEMBERED] = ms
        self._count += 1

    def percentiles(self) -> Percentiles:
        """Return the percentiles of what is remembered, and how many there were."""
        ordered = sorted(self._values)
        found = {name: percentile(ordered, each) for name, each in PERMILLES.items()}
        return Percentiles(self._count, **found) if ordered else Percentiles(0, None, None, None)


def row_of(row: EndedRequest) -> RequestRow:
    """Return the row of a request as it is shown."""
    client, _, request_id = row.request.partition("/")
    return RequestRow(
        id=request_id,
        client=client,
        kind=row.kind,
        model=row.model,
        node=row.node,
        attempts=row.attempts,
        outcome=row.outcome,
        code=row.code,
        cold=row.cold,
        position=row.position,
        ended_ms=row.ended_ms,
        waited_ms=row.waited_ms,
        loaded_ms=row.load_ms,
        first_token_ms=row.first_token_ms,
        ran_ms=row.run_ms,
        total_ms=row.age_ms,
        tokens=row.tokens,
        prompt_tokens=row.prompt_tokens,
        promised_ms=row.promised_ms,
        took_ms=row.took_ms,
        kept_promise=row.kept_promise,
    )
