"""The facts of an incident report: spans with their times and log positions.

Times are those of the commits, in ms of the server's clock, clamped so that they never go back. `end` is
None where the log ends first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct

from orion_streams.model.policy import Policy
from orion_streams.model.verdict import Verdict
from orion_streams.projections.ended_requests import EndedRequest

T = TypeVar("T")
SPREADING = 2_654_435_761
"""2^32 over the golden ratio: its multiples modulo 2^32 are spread evenly (Knuth, TAOCP 6.4)."""


class Moment(NamedTuple):
    """A time and its position in the log."""

    ms: int
    position: int


class Span(Struct, kw_only=True):
    """Something with a begin and an end."""

    begin: Moment
    end: Moment | None = None

    def length_ms(self, now: Moment) -> int:
        """Return how long it lasted, or has lasted until `now`."""
        return (self.end or now).ms - self.begin.ms


class Rules(Struct, frozen=True):
    """The policy in force from a moment on."""

    since: Moment
    revision: int
    policy_id: str
    policy: Policy


class Passed(Struct, frozen=True):
    """A safety mark that was exceeded: `reason` hot (milli-°C) or ram (thousandths)."""

    reason: str
    value: int
    mark: int


class Backoff(Span, kw_only=True):
    """From the first mark that a node exceeded to its return. No `passed`: it began before the log."""

    node: str
    passed: list[Passed]


class Stay(Span, kw_only=True):
    """A model in a node's memory."""

    node: str
    model: str


class Trip(Span, kw_only=True):
    """An open breaker. `failures` 0: it opened before the log begins."""

    node: str
    failures: int
    open_ms: int


class Silence(Span, kw_only=True):
    """From one sample of a node to the next, if that is more than `limit_ms` of grid time; with an empty
    `node`: from one commit to the next. `first`: this log has no sample before."""

    node: str
    limit_ms: int
    first: bool = False


class Boot(Span, kw_only=True):
    """From the last sample of one boot of a node's agent to the first of the next. `kind`: killed (no
    goodbye), restarted (with one), stopped (with one, and no boot after it), or twins, two boots that
    sample in turn. `held`: runs that it had in hand."""

    node: str
    kind: str
    held: int = 0


class Attempt(Span, kw_only=True):
    """From the routing to a node to the result, or until it was abandoned. `outcome`: done, failed,
    abandoned, or the end of its request; empty while it runs. `code`: of a failure, or why it was
    abandoned."""

    request: str
    number: int
    node: str
    model: str
    work_id: str
    verdicts: tuple[Verdict, ...] = ()
    started: Moment | None = None
    outcome: str = ""
    code: str = ""
    tokens: int = 0
    cold: bool = False


class Deferral(Struct, frozen=True):
    """The decision that a request waits: `kind` busy (for `node`), quiet, drained or no_node."""

    at: Moment
    request: str
    kind: str
    node: str
    verdicts: tuple[Verdict, ...]


class Wait(Span, kw_only=True):
    """A request that no node runs: from its entry or the end of the last run to the next start, or the end
    of the request."""

    request: str
    model: str


class Delay(Span, kw_only=True):
    """A stretch in which a request does not get on, by `kind`: before (this log begins), unplaced (nothing
    was decided yet), busy (`node` is its best, and has other work), quiet, drained or no_node (nobody takes
    it), sent (to `node`, not begun there) or failed (`code`: why an attempt on `node` gave no answer).
    `held`: verdicts that filter a node which could take it later; `ahead`: runs by client and model that
    `node` had meanwhile. Moments hold grid time."""

    kind: str
    node: str = ""
    code: str = ""
    held: tuple[Verdict, ...] = ()
    ahead: tuple[tuple[str, str, int], ...] = ()


class SlowRequest(Span, kw_only=True):
    """A request that has ended, and what delayed it; `heat_ms`: what routing added for the heat of its
    node."""

    ended: EndedRequest
    delays: tuple[Delay, ...] = ()
    heat_ms: int = 0


class RequestSpan(Span, kw_only=True):
    """A request from its entry to its terminal state. `failures`: node and code of each failed attempt;
    `code`: of an error."""

    request: str
    model: str
    attempts: int
    failures: tuple[tuple[str, str], ...]
    outcome: str = ""
    code: str = ""


class Kept(Generic[T]):
    """Keeps the `most` heaviest of many things; `count`: how many were added."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self._rows: list[tuple[Sequence[int], int, T]] = []

    def add(self, thing: T, *weight: int) -> None:
        """Add a thing; of things of equal weight keep an even spread over time."""
        self.count += 1
        self._rows.append((weight, self.count, thing))
        if len(self._rows) > 2 * self.most:
            self._drop()

    def _drop(self) -> None:
        self._rows.sort(key=lambda row: (row[0], row[1] * SPREADING % 2**32), reverse=True)
        del self._rows[self.most :]

    def all(self) -> list[T]:
        """Return what is kept, in the order of its addition."""
        self._drop()
        return [thing for _, _, thing in sorted(self._rows, key=lambda row: row[1])]
