"""Recompute every decision of a log: each recorded one must equal the recomputed one, byte for byte.

A commit is its head, its inputs, and what `decide` returned for the state after them. Each decided commit
is recomputed, also one without a decision. The ids of outgoing entries, which the router adds, are ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from msgspec import Struct, structs, to_builtins

from orion_streams.decider.decide import decide
from orion_streams.errors import LogError
from orion_streams.eventlog.jsonl import Header, Row, Stretch, is_head
from orion_streams.eventlog.loader import SENSELESS, decoded, fold_raw
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import DECIDER
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.source import Source, placed

Answer = tuple[int, ev.AnyEvent]
"""A position, and the decision recorded there."""
COMMIT_MAX_BYTES = 64_000_000
STAMPS = ("work_id", "reply_id")
DECISIONS = (
    ev.RequestRouted,
    ev.RequestDeferred,
    ev.AttemptAbandoned,
    ev.NodeBackedOff,
    ev.NodeReturned,
    ev.NodeResumed,
    ev.UnloadOrdered,
    ev.LoadOrdered,
    ev.BreakerOpened,
    ev.BreakerClosed,
    ev.RequestExpired,
    ev.RequestFailed,
)


class Divergence(Struct, frozen=True):
    """A position where recorded and recomputed decision differ; None: one of them has nothing there.
    `state`: the grid before it, without closed requests. A snapshot that differs from the folded state is
    named by its hash."""

    position: int
    recorded: str | None
    recomputed: str | None
    state: dict[str, Any] = {}


class Report(Struct):
    """What a verification found. `older`: decisions made by other versions of the decider
    (`older_deciders`), folded and not judged; `snapshots`: how many were compared."""

    events: int = 0
    decisions: int = 0
    diverged: int = 0
    first_divergence: Divergence | None = None
    older: int = 0
    older_deciders: list[int] = []
    snapshots: int = 0


async def verify(source: Source, see: Callable[[Stretch], None] = lambda _: None) -> Report:
    """Verify a log from its first entry, or from the state that it begins with. `see` gets each verified
    stretch. Raises LogError for a gap, a broken hash, or an entry that is no event."""
    verifier: Verifier | None = None
    async for stretch in source.stretches():
        if verifier is None:
            verifier = Verifier(stretch.state() or LoggedGrid(Grid()))
        verifier.take(stretch)
        see(stretch)
    if verifier is None:
        raise LogError(f"{source.name} is empty: there is nothing to verify")
    return verifier.finish()


class Verifier:
    """Folds a log into a state that it owns, and recomputes the decisions of each commit."""

    def __init__(self, state: LoggedGrid) -> None:
        self.state, self.report = state, Report()
        self._commit: list[Row] = []
        self._stretch = Stretch([])

    def take(self, stretch: Stretch) -> None:
        """Take the next rows. Raises LogError, with file and line if there are any."""
        if stretch.header is not None:
            self.finish()
            self._compare(stretch, stretch.header)
        self._stretch = stretch
        for row in stretch.rows:
            if self._commit and is_head(row[1]):
                self._check_begun()
            self._commit.append(row)
        if sum(len(raw) for _, raw in self._commit) > COMMIT_MAX_BYTES:
            raise LogError(
                f"{stretch.place(self._commit[0][0])}a commit of more than {COMMIT_MAX_BYTES} bytes"
            )
        if stretch.ends is not None:
            self.finish()

    def finish(self) -> Report:
        """Check the last commit, and return the report."""
        if self._commit:
            self._check_begun()
        return self.report

    def _check_begun(self) -> None:
        commit, self._commit = self._commit, []
        with placed(self._stretch, self.state):
            self.check(commit)

    def check(self, commit: list[Row]) -> None:
        """Fold one whole commit and recompute its decisions. Raises LogError."""
        state, report = self.state, self.report
        head = shape(commit)
        inputs, decided = head.inputs, head.decided
        fold_raw(state, commit[: 1 + inputs])
        recorded = [(position, decoded(position, raw)) for position, raw in commit[1 + inputs :]]
        report.events += len(commit)
        if decided and not is_judged(state.grid):
            self._pass_over(recorded)
        else:
            recomputed = self._decide() if decided else ()
            report.decisions += sum(isinstance(answer, DECISIONS) for answer in recomputed)
            for divergence in differences(recorded, recomputed, commit[-1][0]):
                self._diverged(divergence)
        fold_raw(state, commit[1 + inputs :])

    def _decide(self) -> tuple[ev.AnyEvent, ...]:
        grid = self.state.grid
        try:
            return decide(grid)
        except SENSELESS as error:
            raise LogError(f"position {grid.position} of the log cannot be judged: {error!r}") from error

    def _pass_over(self, recorded: list[Answer]) -> None:
        """Count decisions of another version, and name the version."""
        report, decider = self.report, self.state.grid.decider
        report.older += sum(isinstance(event, DECISIONS) for _, event in recorded)
        if decider not in report.older_deciders:
            report.older_deciders.append(decider)

    def _compare(self, stretch: Stretch, header: Header) -> None:
        """Compare a snapshot with the folded state."""
        if self.state.grid.position != header.first - 1 or not self.report.events:
            return
        known = stretch.state() if header.snapshot else None
        if known is None or not is_judged(known.grid):
            return
        self.report.snapshots += 1
        try:
            recorded, recomputed = encode_grid(known.grid), encode_grid(self.state.grid)
        except OverflowError as error:
            raise LogError(f"{stretch.place(header.first - 1)}no snapshot: {error}") from error
        if recorded != recomputed or known.digest != self.state.digest:
            was, now = (f"a snapshot with hash {short_hash(each)}" for each in (recorded, recomputed))
            self._diverged(Divergence(header.first - 1, was, now))

    def _diverged(self, divergence: Divergence) -> None:
        self.report.diverged += 1
        if self.report.first_divergence is None:
            led_there: dict[str, Any] = to_builtins(structs.replace(self.state.grid, closed={}))
            self.report.first_divergence = structs.replace(divergence, state=led_there)


def is_judged(grid: Grid) -> bool:
    """Tell whether this program can judge the next decisions: the log names its own version."""
    return grid.decider == DECIDER


def shape(commit: Sequence[Row]) -> ev.Committed:
    """Return the head of a commit. Raises LogError when there is none, or when inputs are missing."""
    head = decoded(*commit[0])
    if not isinstance(head, ev.Committed):
        raise LogError(f"position {commit[0][0]}: a commit begins with its head")
    if not 0 <= head.inputs < len(commit):
        raise LogError(
            f"position {commit[0][0]}: a commit of {head.inputs} inputs has {len(commit) - 1}: "
            "something was dropped or moved"
        )
    return head


def short_hash(raw: bytes) -> str:
    """Return a short hash that names some bytes."""
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


def differences(
    recorded: list[Answer], recomputed: tuple[ev.AnyEvent, ...], last: int
) -> Iterator[Divergence]:
    """Yield each difference of the two lists of decisions."""
    for answer, now in zip_longest(recorded, recomputed):
        position, event = answer or (last, None)
        was = bare(event) if event is not None else None
        if was != now:
            yield Divergence(position, in_text(was), in_text(now))


def in_text(event: ev.AnyEvent | None) -> str | None:
    """Return a decision as the log holds it."""
    return event_codec.encode(event).decode() if event is not None else None


def bare(event: ev.AnyEvent) -> ev.AnyEvent:
    """Return a recorded decision without the ids that the router added."""
    stamped = {name: "" for name in STAMPS if name in event.__struct_fields__}
    if isinstance(event, ev.AttemptAbandoned):
        stamped.pop("work_id")  # here it names an attempt, and is part of the decision
    return structs.replace(event, **stamped)
