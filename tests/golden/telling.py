"""A recorded log, told: what verifying it says, each decision in a line, how it all ended.

    python -m tests.golden.telling FILE…

Nothing is needed but the pure core and msgspec: any Python tells the same, byte for byte.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from orion_streams.eventlog.jsonl import Row, Stretch
from orion_streams.eventlog.loader import fold_each
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.events import tag_of
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.text import describe, held_back, why_abandoned
from orion_streams.model.verdict import TERMS, Verdict
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.source import FileSource
from orion_streams.replay.verify import DECISIONS, Report, verify

WIDTH = 108
ALSO_TOLD = (
    ev.PolicyChanged,
    ev.ZoneChanged,
    ev.NodeDrained,
    ev.InputRejected,
    ev.RequestRejected,
    ev.RequestResent,
    ev.RequestCancelled,
    ev.AttemptFailed,
    ev.AttemptEnded,
    ev.BodyLost,
    ev.ModelLoaded,
    ev.ModelUnloaded,
    ev.ModelRemoved,
    ev.LoadEnded,
)
"""What a story needs beside the decisions: their causes, and what came of them."""


class Told(Struct):
    """A recording, judged and folded. `rows` are all that it holds, in order."""

    name: str
    headers: int
    rows: list[Row]
    report: Report
    begin: LoggedGrid
    end: LoggedGrid


async def judged(path: Path) -> Told:
    """Verify a recording. Raises LogError."""
    stretches: list[Stretch] = []
    log = FileSource(path)
    report = await verify(log, stretches.append)
    rows = [row for stretch in stretches for row in stretch.rows]
    headers = sum(stretch.header is not None for stretch in stretches)
    first, last = rows[0][0], rows[-1][0]
    return Told(path.name, headers, rows, report, await log.state_at(first - 1), await log.state_at(last))


def telling(path: Path) -> str:
    """The whole text. Raises LogError."""
    told = asyncio.run(judged(path))
    lines = [*opening(told), "", *story(told.begin, told.rows), "", *endings(told.rows), "", *closing(told)]
    return "".join(f"{line}\n" for line in lines)


def opening(told: Told) -> Iterator[str]:
    """What was verified."""
    report = told.report
    parts = "1 segment" if told.headers == 1 else f"{told.headers} segments"
    yield f"{told.name}: positions {told.rows[0][0]} to {told.rows[-1][0]} in {parts}"
    yield f"{report.events} events, {report.decisions} decisions recomputed: {report.diverged} differ"
    yield f"{report.snapshots} snapshots compared, {report.older} decisions by other versions"


def story(state: LoggedGrid, rows: Sequence[Row]) -> Iterator[str]:
    """A line for each decision, its causes and what came of it: where it stands in the log, seconds of the
    server's clock and of the grid's since the first commit, what it is and why. Folds into `state`."""
    yield "  log    server      grid   (seconds since the first commit; * a decision)"
    began: tuple[int, int] | None = None
    for position, event in fold_each(state, rows):
        now = state.grid.server_ms, state.grid.at_ms
        began = began or now
        undecided = isinstance(event, ev.Committed) and not event.decided
        if undecided or isinstance(event, DECISIONS + ALSO_TOLD):
            server_s, grid_s = (f"{(now[n] - began[n]) / 1000:.3f}" for n in range(2))
            mark = "*" if isinstance(event, DECISIONS) else " "
            line = f"{position:>5} {server_s:>9} {grid_s:>9} {mark} {tag_of(event):<20} {said(event)}"
            yield line.rstrip()


def said(event: ev.AnyEvent) -> str:
    """What an event says; of a decision, by which terms."""
    match event:
        case ev.RequestRouted():
            reason = why(event.verdicts, event.node)
            return f"{event.request} #{event.attempt} to {short(event.node)}: {reason}"
        case ev.RequestDeferred():
            waits = f"waits for {short(event.node)}" if event.node else "waits"
            return f"{event.request} {waits}: {why(event.verdicts, event.node)}"
        case ev.AttemptAbandoned():
            reason = why_abandoned(event.reason)
            return f"{event.request} #{event.attempt} on {short(event.node)}: {event.reason}, {reason}"
        case ev.AttemptFailed():
            return f"{event.request} #{event.attempt} on {short(event.node)}: {event.code} ({event.blame})"
        case ev.AttemptEnded():
            return f"{event.request} #{event.attempt} on {short(event.node)}: {event.outcome}, too late"
        case ev.InputRejected():
            return f"{event.stream} {event.entry_id}: {event.code}"
        case ev.RequestRejected() | ev.RequestFailed():
            return f"{event.request}: {event.code}"
        case ev.RequestResent() | ev.RequestExpired() | ev.RequestCancelled() | ev.BodyLost():
            return event.request
        case ev.ModelLoaded() | ev.ModelUnloaded() | ev.ModelRemoved():
            return f"{short(event.node)} {event.model}"
        case ev.NodeReturned() | ev.BreakerClosed():
            return event.node
        case _:
            return describe(event)


def why(verdicts: Sequence[Verdict], chosen: str) -> str:
    """The chosen node's cost by its terms, what the others would have cost more, or why they could not."""
    best = next((each for each in verdicts if each.node == chosen), None)
    parts = [f"{best.cost_ms} ms ({terms(best)})"] if best is not None and not best.filter else []
    for each in verdicts:
        if each.filter and each.filter != "role":
            parts.append(f"{short(each.node)} {held_back(each)}")
        elif not each.filter and each is not best:
            parts.append(f"{short(each.node)} {each.cost_ms} ms{instead(best, each)}")
    return "; ".join(parts)


def terms(found: Verdict) -> str:
    """The terms of a cost that are not nothing."""
    return " ".join(f"{name} {value}" for name, value in costs(found).items() if value) or "nothing"


def costs(found: Verdict) -> dict[str, int]:
    """The terms by name; what is cached is saved."""
    held: dict[str, int] = {name: getattr(found, f"{name}_ms") for name in TERMS}
    return held | {"cached": -found.cached_ms}


def instead(best: Verdict | None, other: Verdict) -> str:
    """What another node would have cost more, and the term that sets the two apart most."""
    if best is None or best.cost_ms == other.cost_ms:
        return ", as much" if best is not None else ""
    ours, theirs = costs(best), costs(other)
    term = max(TERMS, key=lambda name: abs(theirs[name] - ours[name]))
    return f", {other.cost_ms - best.cost_ms:+} ms by {term}"


def short(node: str) -> str:
    """A node without what all have in common."""
    return node.removeprefix("orion-")


def endings(rows: Sequence[Row]) -> Iterator[str]:
    """How requests ended, and which have not."""
    ended: dict[str, list[str]] = {}
    open_ones: dict[str, None] = {}
    for _, raw in rows:
        match event_codec.decode(raw):
            case ev.RequestAccepted(request):
                open_ones[request] = None
                continue
            case ev.RequestCompleted() as event:
                how = f"answered by {short(event.node)}, attempt {event.attempt}"
            case ev.RequestFailed() as event:
                how = f"error {event.code}"
            case ev.RequestExpired() as event:
                how = "expired"
            case ev.RequestCancelled() as event:
                how = "cancelled"
            case _:
                continue
        ended.setdefault(how, []).append(event.request)
        open_ones.pop(event.request, None)
    for how, requests in [*ended.items(), ("open", list(open_ones))]:
        words = f"{how} ({len(requests)}): {' '.join(requests)}".rstrip(": ")
        yield from textwrap.wrap(words, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def closing(told: Told) -> Iterator[str]:
    """The state and the log, each by a hash."""
    grid = told.end.grid
    state = hashlib.blake2b(encode_grid(grid), digest_size=16).hexdigest()
    yield f"at position {grid.position}: grid time {grid.at_ms} ms, commit {grid.number}"
    yield f"state {state}"
    yield f"log   {told.end.digest.hex()}"


def everything(path: Path) -> str:
    """The text, what verifying found, and the state's bytes."""
    told = asyncio.run(judged(path))
    report = msgspec.json.encode(told.report).decode()
    return f"{telling(path)}{report}\n{encode_grid(told.end.grid).hex()}\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        sys.stdout.write(everything(Path(name)))
