"""`orion log`: what happened, one event per line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import datetime

import msgspec
from msgspec import Struct

from orion_streams import events as ev
from orion_streams.cli import where
from orion_streams.cli.outcome import tell
from orion_streams.cli.where import opened
from orion_streams.errors import LogError
from orion_streams.log import RedisLog
from orion_streams.words import degrees, duration, ram, seconds

CHUNK = 500
LAST = 20
BLOCK_MS = 1000


class Line(Struct, frozen=True):
    """An event, where it stands and the server's time of its commit (0: not known)."""

    position: int
    server_ms: int
    event: ev.AnyEvent


async def run(
    follow: bool,
    start: int | None,
    count: int | None,
    as_json: bool,
    redis_url: str | None,
    config_path: str | None,
) -> int:
    """Show events; with --json a list in one line, or, following, one object per line."""
    config = where.find(redis_url, config_path)
    async with opened(config) as store:
        first, end = await bounds(store, start, count, follow)
        wanted = lines(store, first, end)
        if as_json and not follow:
            sys.stdout.write(f"[{','.join([as_data(line) async for line in wanted])}]\n")
            return 0
        async for line in wanted:
            sys.stdout.write((as_data(line) if as_json else as_text(line, sys.stdout.isatty())) + "\n")
            sys.stdout.flush()
    return 0


async def bounds(
    store: RedisLog, start: int | None, count: int | None, follow: bool
) -> tuple[int, int | None]:
    """The first position and the last one, which is None to go on for ever."""
    last, oldest = await store.last_position(), await store.first_position()
    if start is None:
        start = last + 1 - (LAST if count is None else count)
        count = None
    if start < oldest and oldest > 1:
        tell(f"orion: the log begins at position {oldest}; what was before is trimmed")
    first = max(start, oldest, 1)
    if follow:
        return first, None
    return first, last if count is None else min(last, first + count - 1)


async def lines(store: RedisLog, first: int, end: int | None) -> AsyncIterator[Line]:
    """Events from a position on; without an `end` it waits for more. Raises LogError."""
    server_ms = await commit_time(store, first)
    position = first - 1
    while end is None or position < end:
        count = CHUNK if end is None else min(CHUNK, end - position)
        found = await store.events(position, count)
        if not found:
            if end is not None:
                return
            await store.read({"log": f"{position}-0"}, 1, BLOCK_MS)
            heed_cancellation()
        for position, raw in found:
            event = decoded(position, raw)
            server_ms = event.server_ms if isinstance(event, ev.Committed) else server_ms
            yield Line(position, server_ms, event)


def heed_cancellation() -> None:
    """Raise the CancelledError that redis-py may have taken for the timeout of its own zero-second look
    at the socket."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def commit_time(store: RedisLog, position: int) -> int:
    """The server's time of the commit that a position belongs to; 0 if its head is far or trimmed."""
    after = max(position - CHUNK, await store.first_position(), 1) - 1
    heads = [decoded(at, raw) for at, raw in await store.events(after, position - after)]
    return next((head.server_ms for head in reversed(heads) if isinstance(head, ev.Committed)), 0)


def decoded(position: int, raw: bytes) -> ev.AnyEvent:
    """The event of an entry. LogError names the position of one that is none."""
    try:
        return ev.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogError(f"position {position} of the log is not an event: {error}") from error


def as_data(line: Line) -> str:
    """The event's own fields, with position and time before them (a commit's head has its own time)."""
    rest = ev.encode(line.event).decode()[1:]
    time = "" if isinstance(line.event, ev.Committed) else f'"server_ms":{line.server_ms},'
    return f'{{"position":{line.position},{time}{rest}'


def as_text(line: Line, coloured: bool) -> str:
    """Position, local time, kind, and what it says."""
    kind = tag(line.event)
    when = datetime.fromtimestamp(line.server_ms / 1000).isoformat(" ", "milliseconds")
    start, stop = (COLOURS.get(kind, COLOURS.get(kind.partition(".")[0], "")), "\x1b[0m")
    if not coloured or not start:
        start = stop = ""
    return f"{line.position:>7}  {when}  {start}{kind:<20}{stop} {describe(line.event)}"


def tag(event: ev.AnyEvent) -> str:
    """The event's name in the log."""
    return str(event.__struct_config__.tag)


COLOURS = {
    "committed": "\x1b[2m",
    "node.sampled": "\x1b[2m",
    "node.backed_off": "\x1b[31m",
    "node.breaker_opened": "\x1b[31m",
    "node": "\x1b[32m",
    "model": "\x1b[36m",
    "attempt": "\x1b[33m",
    "request.routed": "\x1b[35m",
    "request.completed": "\x1b[32m",
    "request.failed": "\x1b[31m",
    "request.rejected": "\x1b[31m",
    "request.expired": "\x1b[31m",
    "input": "\x1b[31m",
    "request": "\x1b[34m",
    "policy": "\x1b[1m",
}
"""By the event's name, else by the word before its dot."""


def describe(event: ev.AnyEvent) -> str:
    """What an event says, in a line. Whatever has no words of its own is shown field by field."""
    match event:
        case ev.Committed():
            return f"number {event.number}, {event.inputs} inputs" + (
                "" if event.decided else ", undecided"
            )
        case ev.PolicyChanged():
            return f"revision {event.revision}, policy {event.policy_id}, {len(event.nodes)} nodes"
        case ev.RequestRouted():
            verdicts = ", ".join(verdict(each) for each in event.verdicts)
            return f"{event.request} attempt {event.attempt} to {event.node} ({verdicts})"
        case ev.RequestDeferred():
            waits = f"waits for {event.node}" if event.node else "no node takes it"
            return f"{event.request} {waits} ({', '.join(verdict(each) for each in event.verdicts)})"
        case ev.RequestCompleted():
            return (
                f"{event.request} on {event.node}: {event.tokens} tokens in {event.total_ms} ms"
                f" ({'cold' if event.cold else 'warm'})"
            )
        case _:
            return of_node(event)


def of_node(event: ev.AnyEvent) -> str:
    """The same for what happens to a node and its models."""
    match event:
        case ev.NodeSampled():
            return sample(event)
        case ev.NodeBackedOff(node, reason, value, mark):
            unit = degrees if reason == "hot" else ram
            return f"{node} {reason}: {unit(value)} > {unit(mark)}"
        case ev.BreakerOpened(node, failures, open_ms):
            return f"{node} for {seconds(open_ms)}, after {failures} failed requests"
        case ev.UnloadOrdered(node, model, reason):
            return f"{node} {model}, for {reason}"
        case ev.LoadOrdered():
            return (
                f"{event.node} {event.model}, num_ctx {event.num_ctx}, {event.reserve_mb} MB,"
                f" expected in {duration(event.load_ms)}"
            )
        case ev.LoadEnded():
            took = f"loaded in {duration(event.load_ms)}" if event.ok else "failed to load"
            return f"{event.node} {event.model} {took}{', alone' if event.alone else ''}"
        case _:
            return fields(event)


def sample(event: ev.NodeSampled) -> str:
    """A health entry in a line."""
    heat = "no sensor" if event.temp_mc is None else f"{event.temp_mc / 1000:.1f} °C"
    return (
        f"{event.node} {heat}, {event.ram_used_mb} of {event.ram_total_mb} MB, "
        f"CPU {event.cpu_permille / 10:.0f} %, {len(event.in_hand)} in hand"
    )


def verdict(found: ev.Verdict) -> str:
    """A verdict in a few words."""
    return f"{found.node}: {found.filter or f'{found.cost_ms} ms'}"


def fields(event: ev.AnyEvent) -> str:
    """All fields that say something."""
    held = msgspec.to_builtins(event)
    return " ".join(f"{name}={value}" for name, value in held.items() if name != "event" and value != "")
