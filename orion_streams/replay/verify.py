"""Re-decide everything: each recorded decision must equal the recomputed one, byte for byte.

A commit is its head, the inputs that were taken, and what `decide` answered to the state after them. So
every boundary is re-decided, also where the answer was nothing. What the shell stamped on (the ids of the
entries that went out) is left aside.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, structs

from orion_streams import events as ev
from orion_streams.config import DECIDER
from orion_streams.draft import LoggedGrid
from orion_streams.history import CHUNK, fold_raw
from orion_streams.log import Log
from orion_streams.reconcile import decide
from orion_streams.state import Grid, decode_grid

Row = tuple[int, bytes]
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
    """Where a recorded answer is not the recomputed one; None: one of them has nothing there."""

    position: int
    recorded: str | None
    recomputed: str | None


class Report(Struct):
    """What a verification found. `older`: decisions of another version of the code, which are folded and
    not judged."""

    events: int = 0
    decisions: int = 0
    diverged: int = 0
    first_divergence: Divergence | None = None
    older: int = 0


async def verify(store: Log) -> Report:
    """Verify the log from its first entry, or from the snapshot that reaches it. Raises LogError for a
    gap or a broken hash."""
    state = LoggedGrid(Grid())
    first, last = await store.first_position(), await store.last_position()
    if first > 1:
        for snapshot in reversed(await store.snapshots()):
            if snapshot.position >= first - 1:
                state = LoggedGrid(decode_grid(snapshot.grid), bytes.fromhex(snapshot.digest))
                break
    report = Report()
    commit: list[Row] = []
    position = state.grid.position
    while position < last:
        for row in await store.events(position, CHUNK):
            position = row[0]
            if commit and row[1].startswith(b'{"event":"committed"'):
                check_commit(state, commit, report)
                commit = []
            commit.append(row)
    if commit:
        check_commit(state, commit, report)
    return report


def check_commit(state: LoggedGrid, commit: list[Row], report: Report) -> None:
    """Fold one commit and re-decide at its boundary."""
    head = ev.decode(commit[0][1])
    if not isinstance(head, ev.Committed):
        raise TypeError(f"position {commit[0][0]}: a commit begins with its head")
    inputs, recorded = commit[: 1 + head.inputs], commit[1 + head.inputs :]
    fold_raw(state, inputs)
    if head.decided and state.grid.decider != DECIDER:
        report.older += sum(isinstance(ev.decode(raw), DECISIONS) for _, raw in recorded)
        report.events += len(commit)
        fold_raw(state, recorded)
        return
    recomputed = decide(state.grid, state.grid.policy) if head.decided else ()
    report.events += len(commit)
    report.decisions += sum(isinstance(answer, DECISIONS) for answer in recomputed)
    for divergence in differences(recorded, recomputed, commit[-1][0]):
        report.diverged += 1
        report.first_divergence = report.first_divergence or divergence
    fold_raw(state, recorded)


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
