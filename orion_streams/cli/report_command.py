"""`orion replay report`: a log as one page that opens offline."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.cli import log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_result
from orion_streams.errors import ConfigError, LogError
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.export import check_target, new_file
from orion_streams.replay.incident import Collector
from orion_streams.replay.render_page import render
from orion_streams.replay.source import Source, placed


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
    write_result(done, text, common.as_json)
    return 0


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
