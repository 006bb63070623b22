"""Re-decide everything: each recorded decision must equal the recomputed one, byte for byte.

A commit is its head, the inputs that were taken, and what `decide` answered to the state after them. So
every boundary is re-decided, also where the answer was nothing. What the shell stamped on (the ids of the
entries that went out) is left aside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct, structs, to_builtins

from orion_streams import events as ev
from orion_streams.draft import LoggedGrid
from orion_streams.errors import LogError
from orion_streams.history import fold_raw
from orion_streams.reconcile import DECIDERS, decide
from orion_streams.recording import Header, Row, Stretch, check_end, is_head
from orion_streams.replay.source import Source, placed
from orion_streams.state import Grid, encode_grid

STAMPS = ("work_id", "reply_id")
DECISIONS = (
    ev.RequestRouted,
    ev.RequestDeferred,
    ev.AttemptAbandoned,
    ev.NodeBackedOff,
    ev.NodeReturned,
    ev.UnloadOrdered,
    ev.LoadOrdered,
    ev.BreakerOpened,
    ev.BreakerClosed,
    ev.RequestExpired,
    ev.RequestFailed,
)


class Divergence(Struct, frozen=True):
    """Where what was recorded is not what is recomputed; None: one of them has nothing there. `state`: the
    grid that led there, without the ends that it remembers. A snapshot that is not what the log before it
    gives stands there by its hash."""

    position: int
    recorded: str | None
    recomputed: str | None
    state: dict[str, Any] = {}


class Report(Struct):
    """What a verification found. `older`: decisions of a version of the code that this program does not
    have, which are folded and not judged; `snapshots`: so many were compared."""

    events: int = 0
    decisions: int = 0
    diverged: int = 0
    first_divergence: Divergence | None = None
    older: int = 0
    snapshots: int = 0


async def verify(source: Source, see: Callable[[Stretch], None] = lambda _: None) -> Report:
    """Verify a log from its first entry, or from the state that it begins with. `see` is shown what was
    done. Raises LogError for a gap, a broken hash, or an entry that is none."""
    verifier: Verifier | None = None
    async for stretch in source.stretches():
        if verifier is None:
            state = stretch.header.state() if stretch.header is not None else None
            verifier = Verifier(state or LoggedGrid(Grid()))
        verifier.take(stretch)
        see(stretch)
    if verifier is None:
        raise LogError(f"{source.name} is empty: there is nothing to verify")
    return verifier.finish()


class Verifier:
    """Folds a log into a state that it owns, and re-decides at the end of each commit."""

    def __init__(self, state: LoggedGrid) -> None:
        self.state, self.report = state, Report()
        self._commit: list[Row] = []
        self._stretch = Stretch([])

    def take(self, stretch: Stretch) -> None:
        """The next rows. Raises LogError, with file and line where there are any."""
        if stretch.header is not None:
            self.finish()
            self._compare(stretch.header)
        self._stretch = stretch
        for row in stretch.rows:
            if self._commit and is_head(row[1]):
                self._check_begun()
            self._commit.append(row)
        if stretch.ends is not None:
            self.finish()
            check_end(stretch.ends, self.state.digest, stretch.place(stretch.ends.last))

    def finish(self) -> Report:
        """Nothing more comes of what was begun."""
        if self._commit:
            self._check_begun()
        return self.report

    def _check_begun(self) -> None:
        commit, self._commit = self._commit, []
        with placed(self._stretch, self.state):
            self.check(commit)

    def check(self, commit: list[Row]) -> None:
        """Fold one whole commit and re-decide at its boundary. Raises LogError."""
        state, report = self.state, self.report
        fold_raw(state, commit[:1])
        inputs, decided = shape(commit)
        recorded = commit[1 + inputs :]
        fold_raw(state, commit[1 : 1 + inputs])
        report.events += len(commit)
        if decided and state.grid.decider not in DECIDERS:
            report.older += sum(isinstance(ev.decode(raw), DECISIONS) for _, raw in recorded)
            fold_raw(state, recorded)
            return
        recomputed = decide(state.grid, state.grid.policy) if decided else ()
        report.decisions += sum(isinstance(answer, DECISIONS) for answer in recomputed)
        for divergence in differences(recorded, recomputed, commit[-1][0]):
            self._diverged(divergence)
        fold_raw(state, recorded)

    def _compare(self, header: Header) -> None:
        """A snapshot is what the one before it and the log between give, or a divergence."""
        known = header.state() if header.snapshot else None
        if known is None or self.state.grid.position != header.first - 1 or not self.report.events:
            return
        self.report.snapshots += 1
        recorded, recomputed = encode_grid(known.grid), encode_grid(self.state.grid)
        if recorded != recomputed or known.digest != self.state.digest:
            was, now = (f"a snapshot with hash {short_hash(each)}" for each in (recorded, recomputed))
            self._diverged(Divergence(header.first - 1, was, now))

    def _diverged(self, divergence: Divergence) -> None:
        self.report.diverged += 1
        if self.report.first_divergence is None:
            led_there: dict[str, Any] = to_builtins(structs.replace(self.state.grid, closed={}))
            self.report.first_divergence = structs.replace(divergence, state=led_there)


def shape(commit: list[Row]) -> tuple[int, bool]:
    """How many inputs a commit says it took, and whether it decided. LogError for one without its head, or
    that is shorter."""
    head = ev.decode(commit[0][1])
    if not isinstance(head, ev.Committed):
        raise LogError(f"position {commit[0][0]}: a commit begins with its head")
    if head.inputs >= len(commit):
        raise LogError(f"position {commit[0][0]}: a commit of {head.inputs} inputs has {len(commit) - 1}")
    return head.inputs, head.decided


def short_hash(raw: bytes) -> str:
    """Names bytes that nobody wants to read."""
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


def differences(
    recorded: list[Row], recomputed: tuple[ev.AnyEvent, ...], last: int
) -> Iterator[Divergence]:
    """Each place where the two lists of answers are not the same."""
    for index in range(max(len(recorded), len(recomputed))):
        position = recorded[index][0] if index < len(recorded) else last
        was = bare(recorded[index][1]) if index < len(recorded) else None
        now = ev.encode(recomputed[index]).decode() if index < len(recomputed) else None
        if was != now:
            yield Divergence(position, was, now)


def bare(raw: bytes) -> str:
    """A recorded answer without what the shell stamped on."""
    event = ev.decode(raw)
    stamped = {name: "" for name in STAMPS if name in event.__struct_fields__}
    if isinstance(event, ev.AttemptAbandoned):
        stamped.pop("work_id")  # here it names an attempt, and is part of the decision
    return ev.encode(structs.replace(event, **stamped)).decode()
