"""The invariants, as pure checks of what the observer saw and the clients were told.

Each returns its violations; an empty list means that the invariant holds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from orion_streams.demo.observer import Name, Observer, Reply, Request, Row, Run

EDGE = "orion-edge"
EXAMPLES = 5
DISK_ENDS = ("noted", "error", "cancelled")
EXPIRES_NOT_BEFORE_S = 240.0
"""Requests of the load have 300 s; one that expires much sooner expired by a jump of the server's clock."""


class LogRow(Struct, frozen=True):
    """An entry of the log: position, raw bytes, decoded event."""

    position: int
    raw: bytes
    event: Mapping[str, Any]


def lost(observer: Observer, told: set[Name], unconfirmed: list[str]) -> list[str]:
    """List accepted requests without an end, neither in the stream nor received by the client."""
    return [*named(observer.open() - told), *unconfirmed]


def duplicate_replies(observer: Observer) -> list[str]:
    """List requests with more than one terminal reply."""
    return named(name for name, count in observer.ends.items() for _ in range(count - 1))


def duplicate_dispatches(observer: Observer) -> list[str]:
    """List attempts that were handed out more than once."""
    runs = Counter((run.name, run.attempt) for run in observer.seen(Run))
    return [
        f"{'/'.join(name)} attempt {attempt}"
        for (name, attempt), count in sorted(runs.items())
        for _ in range(count - 1)
    ]


def repeated_generations(observer: Observer) -> int:
    """Count the runs beyond the first of each request: the cost of crashes."""
    runs = Counter(run.name for run in observer.seen(Run))
    return sum(count - 1 for count in runs.values())


def stale_answers(observer: Observer) -> list[str]:
    """List answers of an attempt that was given up for another one."""
    latest: dict[Name, int] = {}
    for run in observer.seen(Run):
        latest[run.name] = max(run.attempt, latest.get(run.name, 0))
    return named(
        reply.name
        for reply in observer.seen(Reply)
        if reply.kind == "done" and reply.attempt != latest.get(reply.name, reply.attempt)
    )


def glued_halves(observer: Observer) -> list[str]:
    """List tokens that are repeated, out of order, of two attempts, or no beginning of the answer."""
    found: list[str] = []
    for stream, rows in observer.rows.items():
        if stream.startswith("replies:"):
            found += glued(rows.values())
    return found


def glued(rows: Iterable[Row]) -> list[str]:
    """List the violations of `glued_halves` in one stream."""
    attempts: dict[Name, int] = {}
    pieces: dict[Name, list[str]] = {}
    found: list[str] = []
    for row in rows:
        if not isinstance(row, Reply):
            continue
        if row.kind == "restarted":
            attempts[row.name], pieces[row.name] = row.attempt, []
        elif row.kind == "token":
            so_far = pieces.setdefault(row.name, [])
            so_far.append(row.text)
            if row.attempt != attempts.setdefault(row.name, row.attempt) or row.seq != len(so_far):
                found.append(f"{'/'.join(row.name)}: token {row.attempt}/{row.seq} in place {len(so_far)}")
        elif row.kind == "done" and not row.text.startswith("".join(pieces.get(row.name, ()))):
            found.append(f"{'/'.join(row.name)}: its tokens are not its answer")
    return found


def half_answers(texts: Mapping[tuple[str, str], Counter[str]]) -> list[str]:
    """List prompts whose answers by the same model differ: one was cut short."""
    return [
        f"{model}: {len(answers)} answers to {prompt!r}"
        for (model, prompt), answers in sorted(texts.items())
        if len(answers) > 1
    ]


def unrefused_poison(observer: Observer, poisoned: int) -> list[str]:
    """List malformed requests that did not get exactly one `rejected` reply for each time they were sent.
    Operators' orders are none: a client that was cut off sends them again as well."""
    sent = Counter(row.name for row in observer.seen(Request))
    refused = {name: count for name, count in observer.rejected.items() if name in sent}
    found = [f"{'/'.join(name)}: {count} replies" for name, count in refused.items() if count > sent[name]]
    if sum(refused.values()) < poisoned:
        found.append(f"{poisoned} were sent, {sum(refused.values())} refused")
    return found


def expired_by_a_jump(observer: Observer) -> list[str]:
    """List requests that expired long before their deadline."""
    asked = {row.name: row.seen_s for row in reversed(list(observer.seen(Request)))}
    return named(
        reply.name
        for reply in observer.seen(Reply)
        if reply.kind == "expired" and reply.seen_s - asked.get(reply.name, 0) < EXPIRES_NOT_BEFORE_S
    )


def robot_worked(observer: Observer) -> list[str]:
    """List runs that were handed to the robot."""
    return named(run.name for run in observer.seen(Run) if run.node == EDGE)


def log_gaps(rows: Iterable[LogRow]) -> list[str]:
    """List missing positions, and heads whose running hash is not that of the log before them."""
    found, digest, expected = [], bytes(16), 1
    for row in rows:
        if row.position != expected:
            found.append(f"after {expected - 1} comes {row.position}")
        expected = row.position + 1
        if row.event.get("event") == "committed" and row.event["hash"] != digest.hex():
            found.append(f"the log before {row.position} is not what its commit says")
        digest = hashlib.blake2b(digest + row.raw, digest_size=16).digest()
    return found


def worked_while_backed_off(rows: Iterable[LogRow]) -> list[str]:
    """List runs given to a node that had backed off, and returns before enough cool samples."""
    good: dict[str, int] = {}
    found, needed, mark = [], 0, 0
    for row in rows:
        event, node = row.event, row.event.get("node", "")
        match event.get("event"):
            case "policy.changed":
                needed = event["policy"].get("return_samples", 3)
                mark = event["policy"].get("temp_return_mc", 70_000)
            case "node.backed_off":  # how a full one returns depends on what its models hold, too
                good[node] = 0 if event["reason"] == "hot" else needed
            case "node.sampled" if good.get(node, needed) < needed:
                cool = event["temp_mc"] is not None and event["temp_mc"] <= mark
                good[node] = good[node] + 1 if cool else 0
            case "node.returned":
                if good.pop(node, needed) < needed:
                    found.append(f"{node} returned at {row.position}")
            case "request.routed" if node in good:
                found.append(f"{event['request']} to {node} at {row.position}")
    return found


def disk_orders(rows: Iterable[LogRow], observer: Observer) -> list[str]:
    """List pulls and removals that began while their node had another, have no end, or whose end was not
    told once."""
    told = Counter(reply.name for reply in observer.seen(Reply) if reply.kind in DISK_ENDS)
    going_on: dict[str, str] = {}
    orders: Counter[str] = Counter()
    found = []
    for row in rows:
        event = row.event
        match event.get("event"):
            case "disk.ordered":
                node, request = event["node"], event["request"]
                if node in going_on:
                    found.append(f"{request} on {node} during {going_on[node]}")
                going_on[node] = request
                orders[request] += 1
            case "disk.ended" if going_on.pop(event["node"], "") != event["request"]:
                found.append(f"{event['request']} ended on {event['node']} without having begun")
    found += [f"{request} on {node} has no end" for node, request in sorted(going_on.items())]
    for request, count in sorted(orders.items()):
        client, _, name = request.partition("/")
        if request not in going_on.values() and told[client, name] != count:
            found.append(f"{request}: {told[client, name]} of {count} ends told")
    return found


def named(names: Iterable[Name]) -> list[str]:
    """Format requests as sorted client/id."""
    return sorted("/".join(name) for name in names)


def in_words(invariant: str, cases: list[str]) -> str:
    """Name a broken invariant with up to EXAMPLES violations."""
    more = f" and {len(cases) - EXAMPLES} more" if len(cases) > EXAMPLES else ""
    return f"{invariant}: {', '.join(cases[:EXAMPLES])}{more}"
