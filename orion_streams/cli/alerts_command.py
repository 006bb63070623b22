"""`orion alerts list` and `orion alerts test`. No server is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct
from rich.table import Table
from rich.text import Text

from orion_streams.agents import alert_file, alert_targets
from orion_streams.agents.alert_targets import Target
from orion_streams.cli.key_command import found
from orion_streams.cli.outcome import tell, write, write_json
from orion_streams.cli.tables import BAD, DIM, GOOD, WAITING, make_console, table
from orion_streams.config import Config
from orion_streams.environment import command
from orion_streams.errors import EXIT_NO_BACKEND, EXIT_OK, BackendError, TellError
from orion_streams.model.alert_rules import SEEN_LIVE
from orion_streams.model.text import seconds
from orion_streams.projections.alerts import Alert
from orion_streams.protocol.alert_messages import says, trial

STYLES = {"info": DIM, "warning": WAITING, "critical": BAD}


class OpenAlert(Struct, frozen=True):
    """An open alert. `live`: seen by the process that sends, and in no log."""

    rule: str
    about: str
    severity: str
    began_ms: int
    says: str
    live: bool


class OpenAlerts(Struct, frozen=True):
    """All open alerts, the oldest first, as they were noted at `position`; `sending`: whether a process
    sends just now. `waiting`: by target, the lines that it has not been told yet."""

    sending: bool
    position: int
    open: list[OpenAlert]
    waiting: dict[str, int]


class Told(Struct, frozen=True):
    """What came back from one target."""

    target: str
    ok: bool
    answer: str
    took_ms: int


def run(*, action: Literal["list", "test"], as_json: bool, config_path: str | None) -> int:
    """Do one of the actions, and print what came of it. Raises ConfigError, BackendError."""
    config = found(config_path).config
    if action == "list":
        show(open_alerts(config), as_json)
        return EXIT_OK
    told = asyncio.run(tried(alert_targets.targets_of(config), config.prefix))
    if as_json:
        write_json(told)
    else:
        for each in told:
            write(f"{each.target}: {each.answer} ({seconds(each.took_ms)})")
    return EXIT_OK if all(each.ok for each in told) else EXIT_NO_BACKEND


def open_alerts(config: Config) -> OpenAlerts:
    """Return what the sender has noted. Raises BackendError if none has run here, ConfigError."""
    path = alert_file.path_of(config)
    state = alert_file.read(path, config.prefix)
    if state is None:
        raise BackendError(f"no process has sent alerts on this machine ({path}): {command()} alerts run")
    alerts = [*state.folded.book.open.values(), *state.live.open.values()]
    waiting = {
        name: len(box.waiting) + (box.sending is not None)
        for name, box in state.outboxes.items()
        if box.waiting or box.sending is not None
    }
    rows = [row_of(each) for each in sorted(alerts, key=lambda each: each.began_ms)]
    return OpenAlerts(alert_file.is_held(path), state.position or 0, rows, waiting)


def row_of(alert: Alert) -> OpenAlert:
    """Return an open alert as it is listed."""
    live = alert.kind in SEEN_LIVE
    return OpenAlert(alert.rule, alert.about, alert.severity, alert.began_ms, says(alert), live)


def show(found: OpenAlerts, as_json: bool) -> None:
    """Print what is open."""
    if as_json:
        write_json(found)
        return
    if found.open:
        make_console().print(table_of(found.open))
    else:
        write("no alert is open")
    for name, lines in found.waiting.items():
        tell(f"orion: {name} is still to be told: {lines}")
    if not found.sending:
        tell(f"orion: no process sends just now, this is what the last one noted: {command()} alerts run")


def table_of(rows: Iterable[OpenAlert]) -> Table:
    """Make the table of open alerts."""
    made = table("SINCE", "SEVERITY", "ALERT", "WHAT", whole=("SINCE", "ALERT"))
    for row in rows:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.began_ms / 1000))
        made.add_row(since, Text(row.severity, style=STYLES.get(row.severity, GOOD)), row.rule, row.says)
    return made


async def tried(targets: Iterable[Target], grid: str) -> list[Told]:
    """Try each target once, all at the same time."""
    return await asyncio.gather(*(try_one(target, grid) for target in targets))


async def try_one(target: Target, grid: str) -> Told:
    """Try one target."""
    began_s = time.monotonic()
    try:
        answer, ok = await target.tell(trial(grid, target.name)), True
    except TellError as error:
        answer, ok = str(error), False
    return Told(target.name, ok, answer, round((time.monotonic() - began_s) * 1000))
