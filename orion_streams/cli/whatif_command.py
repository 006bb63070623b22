"""`orion replay whatif`: decisions of a log under other rules, and its workload in the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orion_streams.cli import log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_json
from orion_streams.config import parse, read_text
from orion_streams.errors import EXIT_OK, LogError
from orion_streams.eventlog.jsonl import Row
from orion_streams.model.state import Grid
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.rule_changes import Change, change_of
from orion_streams.replay.source import placed
from orion_streams.replay.whatif import WhatIf
from orion_streams.simulation.rerun.collect_workload import RecordedWorkload
from orion_streams.simulation.rerun.rerun_workload import WhatIfResult, rerun


class WhatIfPass:
    """Recomputes the decisions and collects the workload in one pass over a log."""

    def __init__(self, base: LoggedGrid, change: Change, simulate: bool = True) -> None:
        """`base` is the grid before the first entry that will be taken."""
        self._change = change
        self._what_if = WhatIf(base, change)
        self._workload = RecordedWorkload(base) if simulate else None
        self._unverified: list[Row] = []

    @property
    def state(self) -> LoggedGrid:
        """The grid folded so far; read-only."""
        return self._what_if.recorded

    def take(self, rows: Sequence[Row]) -> None:
        """Take the next entries of the log. Raises LogError, ConfigError as `WhatIf.take`."""
        self._what_if.take(rows)
        if self._workload is not None:
            self._unverified += rows
            done = self.state.grid.position
            self._workload.take([row for row in self._unverified if row[0] <= done])
            self._unverified = [row for row in self._unverified if row[0] > done]

    def finish(self) -> WhatIfResult:
        """Return the results. Raises ConfigError if the change names a node that the log does not have."""
        outcome = self._what_if.finish()
        if self._workload is not None:
            self._workload.take(self._unverified)
        return WhatIfResult(outcome, rerun(self._workload, self._change) if self._workload else None)


async def run(
    *,
    file: str | None,
    settings: Sequence[str],
    without: Sequence[str],
    policy: str | None,
    simulate: bool,
    common: CommonOptions,
) -> int:
    """Compute both results for a log and print them. Raises LogError for a damaged log, ConfigError for a
    change that makes no valid rules, BackendError."""
    change = change_from(settings, without, policy)
    both: WhatIfPass | None = None
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        first, last = await log.bounds()
        with log_sources.progress("asking", first, last) as see:
            async for stretch in log.stretches():
                if both is None:
                    both = WhatIfPass(stretch.state() or LoggedGrid(Grid()), change, simulate)
                with placed(stretch, both.state):
                    both.take(stretch.rows)
                see(stretch.rows[-1][0])
    if both is None:
        raise LogError(f"{log.name} is empty: there is nothing to ask")
    with placed(stretch, both.state):
        answered = both.finish()
    show(answered, change, common.as_json)
    return EXIT_OK


def change_from(settings: Sequence[str], without: Sequence[str], policy: str | None) -> Change:
    """Return the change that the command line describes; `policy` is a file. Raises ConfigError."""
    return change_of(settings, without, parse(read_text(Path(policy)), policy) if policy else None)


def show(found: WhatIfResult, change: Change, as_json: bool) -> None:
    """Print the results as one line of JSON, or as tables."""
    if as_json:
        write_json(found)
        return
    from orion_streams.cli import whatif_view  # noqa: PLC0415 - rich only where something is drawn

    whatif_view.show(found, change)
