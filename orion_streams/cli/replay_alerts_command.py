"""`orion replay alerts`: which alerts a log would have sent, and when."""

from __future__ import annotations

from collections.abc import Sequence

from orion_streams import config as configuration
from orion_streams.cli import log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell, write, write_json
from orion_streams.config import Config
from orion_streams.errors import EXIT_OK, LogError
from orion_streams.model.state import Grid
from orion_streams.model.text import seconds
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.alert_replay import AlertReplay, ReplayedAlert, ReplayedAlerts, with_settings
from orion_streams.replay.source import FileSource, Source, placed


async def run(*, file: str | None, settings: Sequence[str], common: CommonOptions) -> int:
    """Fold a log into its alerts and print them. Raises LogError for a damaged log, ConfigError for a
    setting that is not valid, BackendError."""
    replay: AlertReplay | None = None
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        rules, change = with_settings(await config_for(log, common), settings)
        first, last = await log.bounds()
        with log_sources.progress("replaying", first, last) as see:
            async for stretch in log.stretches():
                if replay is None:
                    replay = AlertReplay(rules, stretch.state() or LoggedGrid(Grid()), change)
                with placed(stretch, replay.state):
                    replay.take(stretch.rows)
                see(stretch.rows[-1][0])
    if replay is None:
        raise LogError(f"{log.name} is empty: there is nothing to tell")
    show(replay.finish(), common.as_json)
    return EXIT_OK


async def config_for(log: Source, common: CommonOptions) -> Config:
    """Return the configuration whose rules count: that of --config, else the one that an exported file
    holds, else streams.toml. Raises ConfigError, LogError."""
    if not isinstance(log, FileSource):
        return await log.config()
    if common.config_path is None and log.has_config():
        return await log.config()
    path = configuration.chosen_file(common.config_path)
    return configuration.parse(configuration.read_text(path), str(path))


def show(found: ReplayedAlerts, as_json: bool) -> None:
    """Print what would have gone out."""
    if as_json:
        write_json(found)
        return
    for each in found.alerts:
        write(line_of(each))
    if not found.alerts:
        write(f"nobody would have been told anything from position {found.first} to {found.last}")
    if found.not_judged:
        tell(f"not judged, as they are seen live only: {', '.join(found.not_judged)}")


def line_of(alert: ReplayedAlert) -> str:
    """Return an alert as a line: when, how long, how bad, what."""
    lasted = "open at the end" if alert.lasted_ms is None else f"for {seconds(alert.lasted_ms)}"
    where = f"{log_sources.iso(alert.began_ms)}  {alert.position:>8}"
    return f"{where}  {lasted:<16}  {alert.severity:<8}  {alert.rule:<14}  {alert.says}"
