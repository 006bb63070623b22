"""Findings about the router, its log and its streams. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orion_streams.cli.doctor.findings import Facts, Finding, start_agent, start_router, url_as
from orion_streams.cli.doctor.server_findings import cli
from orion_streams.eventlog.archive import STEPS, shortfall
from orion_streams.model.policy import DECIDER, UNLISTED, ClientRules
from orion_streams.model.state import parse_stream_id
from orion_streams.model.text import seconds

ABOUT = "router"
QUIET_MS = 5_000
"""A running router takes waiting entries at once; older ones mean that none runs."""


def router(facts: Facts) -> Iterator[Finding]:
    """Yield findings about the router and the log."""
    if not {"guard", "log"}.isdisjoint({*facts.failed, *facts.denied}):
        return
    if facts.last == 0 and facts.guard is not None and facts.guard.number:
        prefix = facts.config.prefix
        what = f"{prefix}log is gone, {prefix}guard is at commit {facts.guard.number}"
        yield Finding("problem", ABOUT, what, restore(facts))
        return
    if facts.last == 0:
        yield Finding(
            "problem", ABOUT, f"{facts.config.prefix}log is empty: no router has run", start_router(facts)
        )
        return
    yield from commits(facts)
    yield from lost(facts)
    yield from revision(facts)
    yield from snapshots(facts)
    yield from archive(facts)


def restore(facts: Facts) -> str:
    """Say how to recover from a lost or damaged log; a router that stops for that prints the same line."""
    redis = cli(facts)
    return (
        "stop all roles, then put back a copy of the server's data, or begin anew: "
        f"{redis} --scan --pattern '{facts.config.prefix}*' | xargs {redis} DEL"
    )


def commits(facts: Facts) -> Iterator[Finding]:
    """Yield whether a router commits: it does not if entries wait while the commit number stands still."""
    ages_ms = {
        stream: max(facts.server_ms - parse_stream_id(entry_id)[0], 0)
        for stream, entry_id in facts.waiting.items()
    }
    old = {stream: age_ms for stream, age_ms in ages_ms.items() if age_ms > QUIET_MS}
    moved = facts.numbers is not None and facts.numbers[0] != facts.numbers[1]
    ago = seconds(facts.silence_ms)
    if old and not moved:
        waits = f"{', '.join(sorted(old))} wait, the oldest entry for {seconds(max(old.values()))}"
        yield Finding(
            "problem", ABOUT, f"nobody commits: {waits}; the last commit was {ago} ago", start_router(facts)
        )
    else:
        yield Finding("ok", ABOUT, f"the log is at position {facts.last}, its last commit was {ago} ago")


def lost(facts: Facts) -> Iterator[Finding]:
    """Yield inconsistencies between guard, log and streams."""
    guard, prefix = facts.guard, facts.config.prefix
    if guard is None:
        return
    number = facts.grid.number if facts.grid is not None else 0
    if facts.numbers is not None and facts.numbers[1] < number:  # read after the grid; `guard` before
        what = (
            f"{prefix}guard is at commit {facts.numbers[1]}, {prefix}log at {number}: one of them was lost"
        )
        yield Finding("problem", ABOUT, what, restore(facts))
    for stream, cursor in sorted(guard.cursors.items()):
        found = facts.streams.get(stream)
        if found is not None and parse_stream_id(cursor) > parse_stream_id(found.top):
            what = (
                f"{prefix}{stream} ends at {found.top}, but it was read up to {cursor}: entries were lost"
            )
            mend = f"{cli(facts)} HSET {prefix}guard 'cursor {stream}' {found.top}  # accepts the loss"
            yield Finding("problem", ABOUT, what, mend)


def revision(facts: Facts) -> Iterator[Finding]:
    """Yield how the rules of the file compare with those of the log."""
    config, grid, about = facts.config, facts.grid, "configuration"
    if grid is None:
        return
    ours, theirs, same = config.revision, grid.revision, config.policy_id() == grid.policy_id
    differ = different_nodes(facts)
    if ours > theirs:
        what = f"streams.toml has revision {ours}, the log {theirs}: it is not in force yet"
        yield Finding("warning", about, what, f"restart the router with this file: {start_router(facts)}")
    elif ours < theirs:
        what = f"the log has revision {theirs}, streams.toml {ours}: the log's rules hold{differ}"
        yield Finding("warning", about, what, "copy the router's streams.toml to this machine")
    elif not same and grid.decider == DECIDER:
        what = f"revision {ours} is in the log with other rules{differ}: a router refuses this file"
        yield Finding("problem", about, what, f"set revision = {theirs + 1} in streams.toml")
    elif not same:
        what = f"this program decides by version {DECIDER}, the log by {grid.decider}"
        yield Finding("warning", about, what, "run the same version of orion-streams on all machines")
    else:
        yield Finding("ok", about, f"streams.toml has the log's rules, revision {ours}")


def different_nodes(facts: Facts) -> str:
    """List the nodes that only the file or only the log has."""
    assert facts.grid is not None  # noqa: S101 - called with a grid only
    file, log = set(facts.config.nodes), set(facts.grid.nodes)
    parts = [
        f"only {where} has {', '.join(sorted(names))}"
        for where, names in (("streams.toml", file - log), ("the log", log - file))
        if names
    ]
    return f" ({'; '.join(parts)})" if parts else ""


def snapshots(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if snapshots are overdue: then loading is slow and nothing is trimmed."""
    if facts.snapshots is None:
        return
    newest = max(facts.snapshots, default=facts.first - 1)
    tail, step = facts.last - newest, facts.config.retention.snapshot_events
    if tail > STEPS * step:
        what = f"the last {tail} events have no snapshot (one is due every {step}): the log is not trimmed"
        yield Finding("warning", ABOUT, what, "look into the router's log for what is wrong with snapshots")


def archive(facts: Facts) -> Iterator[Finding]:
    """Yield findings about the archive: it must be ahead of trimming."""
    kept, folder = facts.archive, facts.config.retention.archive_dir
    if kept is None:
        return
    line = f"orion log archive {folder} --redis {url_as(facts, 'owner')}"
    mend = f"df -h {folder}; ls -ld {folder}; then `{line}`"
    floor = min(facts.snapshots or (0,)) if len(facts.snapshots or ()) > 1 else 0
    if kept.error:
        yield Finding("problem", "archive", kept.error, mend)
    elif not kept.there:
        yield Finding("ok", "archive", f"{folder} is not on this machine; it is the router's")
    elif what := shortfall(kept.last, facts.first, floor, facts.config.retention.snapshot_events):
        is_lost = kept.last and kept.last + 1 < facts.first
        yield Finding("problem" if is_lost else "warning", "archive", f"{folder}: {what}", mend)
    else:
        yield Finding("ok", "archive", f"{folder} reaches position {kept.last}")


def streams(facts: Facts) -> Iterator[Finding]:
    """Yield keys of the wrong type, streams above their limits, and missing groups."""
    config, prefix = facts.config, facts.config.prefix
    for name, stream in sorted(facts.streams.items()):
        wanted = "hash" if name == "guard" else "stream"
        if stream.kind not in (wanted, "none"):
            what = f"{prefix}{name} is a {stream.kind}, expected a {wanted}"
            mend = f"{cli(facts)} RENAME {prefix}{name} {prefix}{name}.foreign"
            yield Finding("problem", "streams", what, mend)
    for name, limit, why in limits(facts):
        entries = facts.streams[name].entries
        if entries > limit:
            yield Finding(
                "warning", "streams", f"{prefix}{name} has {entries} entries, kept are {limit}", why
            )
    size = facts.streams["log"].size if "log" in facts.streams else 0
    if size > config.retention.log_keep_mb * 1_200_000:
        what = f"{prefix}log takes {size // 1_000_000} MB, kept are {config.retention.log_keep_mb}"
        mend = "look into the router's log: it trims below snapshots, and below the archive if there is one"
        yield Finding("warning", "streams", what, mend)
    for name, stream in sorted(facts.streams.items()):
        kind, _, client = name.partition(":")
        if kind == "parts" and stream.size > 3 * rules_of(facts, client).max_open_bytes:
            what = f"{prefix}{name} takes {stream.size // 1_000_000} MB: nobody trims it"
            mend = f"{start_router(facts)}; where the server has users: {apply_acl(facts)}"
            yield Finding("warning", "streams", what, mend)
    for name, entries in sorted((facts.unread or {}).items()):
        kind, _, owner = name.partition(":")
        what = f"{prefix}{name} has {entries} entries, and nobody reads it"
        mend = f"if it is left over: {cli(facts)} DEL {prefix}{name}"
        if kind == "requests":
            mend = f"add [clients.{owner}] to the router's streams.toml and raise revision; {mend}"
        yield Finding("warning", "streams", what, mend)
    for name, group in sorted(facts.groups.items()):
        if group is None and facts.last:
            what = f"{prefix}{name} has no group: its agent reads nothing until a router makes it"
            # not by hand: the router also sends the work again that no agent had read
            yield Finding("problem", "streams", what, start_router(facts))


def apply_acl(facts: Facts) -> str:
    """Return the line that brings the server's users up to date."""
    return f"orion acl --apply --passwords DIR --redis {url_as(facts, 'ADMIN')}"


def rules_of(facts: Facts, client: str) -> ClientRules:
    """Return what a client may have open, as the log says, else streams.toml."""
    if facts.grid is not None:
        return facts.grid.rules_of(client)
    return facts.config.clients.get(client, UNLISTED)


def limits(facts: Facts) -> Iterator[tuple[str, int, str]]:
    """Yield the length from which a stream deserves a warning, and what helps. Trimming is approximate."""
    retention, policy = facts.config.retention, facts.config.policy
    reading = "the agents trim it as they write: is an old one running?"
    for name in facts.streams:
        kind = name.partition(":")[0]
        if kind == "health":
            yield name, 2 * retention.health_entries + 200, reading
        elif kind == "results":
            yield name, 2 * retention.results_entries + 200, reading
        elif kind == "replies":
            yield name, retention.replies_entries, "raise retention.replies_entries, or lower dedupe_keep"
        elif kind == "requests":
            yield (
                name,
                2 * policy.max_open + 1000,
                f"its client writes faster than it is answered: {start_router(facts)}",
            )
        elif kind == "work":
            yield name, 2 * policy.max_open + 1000, f"is its agent running? {start_agent(facts, name[5:])}"
