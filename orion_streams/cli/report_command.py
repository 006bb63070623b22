"""`orion replay report`: a log as one page that opens offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.cli import log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_result
from orion_streams.errors import ConfigError, LogError
from orion_streams.model.state import Grid
from orion_streams.model.text import duration
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.export import check_target, new_file
from orion_streams.replay.incident import Collector, Incident
from orion_streams.replay.render_page import render
from orion_streams.replay.request_table import Group
from orion_streams.replay.request_words import said
from orion_streams.replay.source import Source, placed

MOST_SLOW, MOST_SENTENCES = 3, 6
"""So many of the slowest requests and of the findings about nodes are told in the terminal."""
OF_NODES = ("thrash", "flapping", "backoff", "breaker", "killed", "restart", "twins", "stale", "gap")


class Reported(Struct, frozen=True):
    """The page written, from how many events, and the number of anomalies of each kind."""

    file: str
    bytes: int
    events: int
    anomalies: dict[str, int]


async def run(*, file: str | None, target: str, force: bool, common: CommonOptions) -> int:
    """Write the page. Raises BackendError, ConfigError, LogError; then no file was written."""
    path = log_sources.target(target)
    if path.suffix not in (".html", ".htm"):
        raise ConfigError(f"{target}: expected a name that ends with .html")
    check_target(path, force)
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        collector, config = await collected(log), await log.config()
    incident = replace(collector.finish(), simulated=config.simulated())
    with new_file(path) as page:
        page.write(render(incident).encode())
    found = {kind: incident.found[kind] for kind in sorted({each.kind for each in incident.anomalies})}
    done = Reported(target, path.stat().st_size, incident.events, found)
    told = ", ".join(f"{count} {kind}" for kind, count in done.anomalies.items()) or "nothing unusual"
    text = f"{target}: {done.events} events, {done.bytes} bytes; found: {told}"
    write_result(done, "\n".join([text, *summary(incident)]), common.as_json)
    return 0


def summary(incident: Incident) -> Iterator[str]:
    """Yield what the page says first of all: how long answers took, the slowest, what happened to nodes."""
    for group in incident.groups[:1]:
        otherwise = f", {group.otherwise} ended without an answer" if group.otherwise else ""
        yield f"{group.answered} requests were answered{otherwise}{within(group)}"
    if incident.slowest:
        yield "the slowest:"
    for row in incident.slowest[:MOST_SLOW]:
        why = said(row)
        yield f"  {row.ended.request}, {duration(row.ended.age_ms)}" + (f": {why}" if why else "")
    of_nodes = [each.sentence for each in incident.anomalies if each.kind in OF_NODES]
    yield from of_nodes[:MOST_SENTENCES]
    if len(of_nodes) > MOST_SENTENCES:
        yield f"… and {len(of_nodes) - MOST_SENTENCES} more of nodes, in the page"


def within(group: Group) -> str:
    """Say how long answers took."""
    if not group.total.count:
        return ""
    half, nine, most = map(duration, group.total.ms)
    return f": half within {half}, 9 of 10 within {nine}, 99 of 100 within {most}"


async def collected(log: Source) -> Collector:
    """Collect everything that the page shows from a log."""
    first, last = await log.bounds()
    collector: Collector | None = None
    with log_sources.progress("reading", first, last) as see:
        async for stretch in log.stretches():
            if collector is None:
                collector = Collector(stretch.state() or LoggedGrid(Grid()), Path(log.name).name)
            with placed(stretch, collector.state):
                collector.take(stretch.rows)
            see(stretch.rows[-1][0])
    if collector is None:
        raise LogError(f"{log.name} is empty: there is nothing to report")
    return collector
