"""Findings about nodes and requests. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from orion_streams.cli.doctor.findings import Facts, Finding, Severity, start_agent, url_as
from orion_streams.decider.placement import missing_pins
from orion_streams.gateway.view_models import NodeRow, RequestRow, node_rows, ps_rows
from orion_streams.model.names import same_name
from orion_streams.model.state import Grid, Node, parse_stream_id
from orion_streams.model.text import degrees, long, percent, seconds, time_of_day

THROTTLED = {
    0: "under-voltage",
    1: "its frequency is capped",
    2: "throttled",
    3: "at the soft temperature limit",
}
"""Bits of `vcgencmd get_throttled`; 16 bits higher they say that it happened since boot."""
AWAY = ("silent", "left", "stale")
"""States of a node whose health is not of now."""
NEAR_PERMILLE = 900
SPARE_MB = 1_000
"""Memory that may be used beyond policy.ram_system_mb without a warning."""


def nodes(facts: Facts) -> Iterator[Finding]:
    """Yield findings about the nodes, by name."""
    grid = facts.grid
    if grid is None:
        return
    for row in node_rows(grid):
        node = grid.nodes[row.node]
        yield standing(facts, row, node)
        if row.state not in AWAY:
            yield from power(row)
            yield from leftover(grid, row, node)
            yield from lists(facts, row, node)
            yield from pinned(grid, row, node)
        yield from ollama(facts, row)
        yield from abandoned(facts, row)


def standing(facts: Facts, row: NodeRow, node: Node) -> Finding:
    """Say whether a node takes work; if not, why, since when, and what brings it back."""
    agent = f"on {row.node}: {start_agent(facts, row.node)}"
    match row.state:
        case "available" | "no_inference":
            return Finding("ok", row.node, running_well(row, node))
        case "silent" | "stale" if is_alive(facts, row.node):
            return Finding("ok", row.node, "its agent reports, but no router has read it yet")
        case "silent":
            return Finding("problem", row.node, "never heard from: its agent has not run", agent)
        case "stale":
            what = f"not heard from for {seconds(row.value)}"
            return Finding("problem", row.node, what, agent)
        case "left":
            what = f"its agent was stopped, and said goodbye {seconds(row.heard_ms_ago or 0)} ago"
            return Finding("warning", row.node, what, agent)
        case "drained" | "quiet":
            return resting(facts, row)
        case "leaving":
            return Finding("ok", row.node, f"its agent is about to stop: {row.in_hand} in hand")
        case "hot" | "ram":
            return backed_off(facts, row)
        case "breaker":
            what = f"its breaker is open after failures ({', '.join(node.suspects) or 'of requests'})"
            left = f"nothing: it gets one probe in {seconds(row.breaker_left_ms)}"
            return Finding("warning", row.node, f"{what}, {node.trips} times in a row", left)
        case "no_temperature":
            why = f": {node.sensor}" if node.sensor else ""
            mend = (
                "repair the sensor, or set temperature_sensor = false under [nodes.{}] and raise revision"
            )
            what = f"no temperature reading, so it takes nothing{why}"
            return Finding("problem", row.node, what, mend.format(row.node))
        case "stuck_sensor":
            sensor = f" ({node.sensor})" if node.sensor else ""
            what = f"its sensor{sensor} has shown {degrees(row.temp_mc)} for {seconds(row.value)} of work"
            mend = f"nothing if it moves again; else on {row.node}: look at the sensor, then restart it"
            return Finding("problem", row.node, f"{what}: it is not believed", mend)
        case other:
            what, mend = OTHERS.get(other, (f"takes nothing now: {other.replace('_', ' ')}", ""))
            severity: Severity = "problem" if other in OTHERS else "warning"
            return Finding(
                severity, row.node, what, mend.format(node=row.node, url=url_of(facts, row.node))
            )


def resting(facts: Facts, row: NodeRow) -> Finding:
    """Describe a node that takes nothing because somebody wants it so."""
    if row.state == "quiet":
        return Finding("ok", row.node, f"quiet hours until {time_of_day(row.limit)}: it takes nothing new")
    rest = f"for {long(row.limit)}" if row.limit else "until it is resumed"
    what = f"{row.drained_by} drained it {rest}, {seconds(row.value)} ago: {row.in_hand} in hand"
    line = f"orion resume {row.node} --redis {url_as(facts, 'owner')}"
    return Finding("ok", row.node, what, f"when it is to go on: {line}")


def url_of(facts: Facts, node: str) -> str:
    """Return where the node's own Ollama answers, as streams.toml says."""
    return facts.config.nodes[node].ollama.rstrip("/") if node in facts.config.nodes else "http://OLLAMA"


def is_alive(facts: Facts, node: str) -> bool:
    """Return whether its agent wrote health recently, read by a router or not."""
    stream = facts.streams.get(f"health:{node}")
    fresh_ms = facts.config.policy.stale_ms
    return stream is not None and facts.server_ms - parse_stream_id(stream.top)[0] <= fresh_ms


OTHERS = {
    "inventory_unknown": (
        "its agent cannot ask its Ollama: its models are unknown",
        "on {node}: systemctl status ollama; curl -s {url}/api/version",
    ),
    "two_agents": (
        "two agents claim to be this node: it takes nothing",
        "stop one of them: on each machine, pgrep -af 'orion agent --node {node}'",
    ),
    "no_models": ("it has no model on disk", "on {node}: ollama pull MODEL"),
}
"""What somebody has to mend, by filter: the problem and the remedy."""


def running_well(row: NodeRow, node: Node) -> str:
    """Describe a healthy node."""
    heat = degrees(row.temp_mc) + (f" by {node.sensor}" if node.sensor and row.temp_mc is not None else "")
    memory = percent(row.ram_used_mb * 1000 // row.ram_total_mb) if row.ram_total_mb else "?"
    engine = f", {row.engine}" if row.engine else ""
    return f"{row.state.replace('_', ' ')}: {heat}, {memory} RAM, {row.in_hand} in hand{engine}"


def backed_off(facts: Facts, row: NodeRow) -> Finding:
    """Describe a node that passed a mark: since when, and when it returns."""
    assert facts.grid is not None  # noqa: S101 - it has the row
    policy = facts.grid.policy
    hot = row.state == "hot"
    now, mark, lower = (
        (degrees(row.value), degrees(policy.temp_max_mc), degrees(policy.temp_return_mc))
        if hot
        else (percent(row.value), percent(policy.ram_max_permille), percent(policy.ram_return_permille))
    )
    since_ms = facts.since_ms.get(row.node)
    since = f" for {seconds(max(facts.server_ms - since_ms, 0))}" if since_ms else ""
    what = f"backed off{since}, {'too hot' if hot else 'memory too full'}: {now} now, its mark is {mark}"
    back = f"at {lower} or below for {policy.return_samples} samples in a row it returns by itself"
    help_it = "better cooling helps" if hot else "what uses its memory: ps aux --sort -rss | head"
    return Finding("warning", row.node, what, f"{back}; {help_it}")


def power(row: NodeRow) -> Iterator[Finding]:
    """Yield a finding if a Pi is short of power or slowed down, now or since its boot."""
    now = [words for bit, words in THROTTLED.items() if row.throttled >> bit & 1]
    before = [words for bit, words in THROTTLED.items() if row.throttled >> (bit + 16) & 1]
    mend = "a power supply of 5 A, a shorter cable" if row.throttled & 0x10001 else "better cooling"
    if now:
        yield Finding("warning", row.node, f"slowed down now: {', '.join(now)}", mend)
    elif before:
        yield Finding("ok", row.node, f"since its boot it was slowed down: {', '.join(before)}", mend)


def leftover(grid: Grid, row: NodeRow, node: Node) -> Iterator[Finding]:
    """Yield a finding if memory is used without a model, as by what a killed Ollama leaves behind."""
    smallest = min((each.size_mb for each in node.installed.values()), default=0)
    spare_mb = grid.policy.ram_system_mb + SPARE_MB + smallest
    if not smallest or row.resident or node.assignments or row.ram_used_mb <= spare_mb:
        return
    what = (
        f"{row.ram_used_mb} MB are used and no model is listed: perhaps a model process that a killed "
        "Ollama left behind, of which the next one does not know"
    )
    yield Finding("warning", row.node, what, f"on {row.node}: ps aux --sort -rss | grep -i ollama")


def lists(facts: Facts, row: NodeRow, node: Node) -> Iterator[Finding]:
    """Yield findings on what Ollama lists and the grid cannot use."""
    if node.left_out:
        rows = "1 row is" if node.left_out == 1 else f"{node.left_out} rows are"
        what = f"{rows} left out of what its Ollama lists, the first for {node.left_out_why}"
        yield Finding(
            "warning", row.node, what, f"on {row.node}: curl -s {url_of(facts, row.node)}/api/tags"
        )
    if node.remote:
        what = f"never asked, since they run outside this house: {', '.join(node.remote)}"
        yield Finding("ok", row.node, what)


def pinned(grid: Grid, row: NodeRow, node: Node) -> Iterator[Finding]:
    """Yield a finding for each model that is to stay in this node's memory and is not on its disk, or is
    listed there in another case: rules are found by the name that Ollama lists."""
    for model in [model for name, model in missing_pins(grid) if name == row.node]:
        listed = same_name(model, node.installed)
        if listed != model:
            what = f"it lists {model} as {listed}: the rules of {model} do not keep it in memory"
            mend = f'write [models."{listed}"] and raise revision'
        else:
            what = (
                f'{model} is not on its disk, though models."{model}".resident_on wants it in memory here'
            )
            mend = f"on {row.node}: ollama pull {model}"
        yield Finding("warning", row.node, what, mend)


def ollama(facts: Facts, row: NodeRow) -> Iterator[Finding]:
    """Yield a finding if a node's Ollama does not answer from here."""
    seen = facts.ollamas.get(row.node)
    if seen is not None and seen.error and row.state not in ("inventory_unknown", "drained"):
        what = f"its Ollama does not answer from here: {seen.error}"
        yield Finding("warning", row.node, what, f"on {row.node}: systemctl status ollama")


def abandoned(facts: Facts, row: NodeRow) -> Iterator[Finding]:
    """Yield a finding if an agent went away with work that it had read and not ended."""
    group = facts.groups.get(f"work:{row.node}")
    if group is not None and group.pending and row.state in AWAY:
        what = f"{group.pending} entries of its work were read and not ended; it ends them when it starts"
        yield Finding("warning", row.node, what, f"on {row.node}: {start_agent(facts, row.node)}")


def requests(facts: Facts) -> Iterator[Finding]:
    """Yield findings about open requests."""
    grid = facts.grid
    if grid is None:
        return
    rows = ps_rows(grid).requests
    if not rows:
        yield Finding("ok", "requests", "none is open")
        return
    waiting = [row for row in rows if not row.node]
    oldest = max(row.age_ms for row in rows)
    places = Counter(row.waiting_for for row in waiting if row.waiting_for)
    whom = ", ".join(f"{count} for {name}" for name, count in sorted(places.items()))
    held = f" ({whom})" if whom else ""
    what = f"{len(rows)} open, {len(waiting)} of them waiting{held}, the oldest is {seconds(oldest)} old"
    nobody = [row for row in waiting if row.waiting == "no_node"]
    yield Finding("ok", "requests", what)
    if nobody:
        what = f"{len(nobody)} wait and no node takes them: {why(nobody)}"
        mend = f"orion explain {nobody[0].client}/{nobody[0].id} --redis {facts.url}"
        yield Finding("warning", "requests", what, mend)
    yield from crowded(grid, rows)


def why(rows: list[RequestRow]) -> str:
    """List what excludes each node, over all these requests."""
    reasons = Counter((node, reason) for row in rows for node, reason in row.reasons.items())
    return ", ".join(
        f"{node} {reason.replace('_', ' ')}" for node, reason in sorted(reasons) if reason != "role"
    )


def crowded(grid: Grid, rows: list[RequestRow]) -> Iterator[Finding]:
    """Yield clients that have nearly as many open requests as allowed."""
    for client, count in sorted(Counter(row.client for row in rows).items()):
        limit = grid.rules_of(client).max_open or grid.policy.max_open
        if count * 1000 >= NEAR_PERMILLE * limit:
            what = f"client {client} has {count} of {limit} open requests: more are rejected"
            mend = "let it ask less"
            if client not in grid.guests:
                mend += f", or raise max_open under [clients.{client}], and revision"
            yield Finding("warning", "requests", what, mend)
