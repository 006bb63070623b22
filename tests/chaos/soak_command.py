"""`orion chaos --soak HOURS`: home life in small, for hours, and whether anything grows meanwhile.

The same real processes as the chaos, few users, the small faults of a house one at a time. Memory,
descriptors and threads of each process, every stream and the disk are measured, and each is flat at the end
or named (see soak_slope). What is kept is bounded tightly (SETTINGS), so that every bound is reached within
minutes.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from orion_streams.cli.outcome import write_json
from orion_streams.errors import EXIT_FAILED, EXIT_OK, BackendError
from orion_streams.runtime.connection import connect
from tests.chaos import invariants
from tests.chaos.chaos_grid import ROUTERS, ChaosGrid
from tests.chaos.chaos_load import ChaosClients
from tests.chaos.chaos_run import REST_S, Transcript, said
from tests.chaos.lasting import lasts
from tests.chaos.soak_faults import HOME_FAULTS, Home
from tests.chaos.soak_samples import Key, Series, add_disk, add_process, add_streams, rising
from tests.chaos.soak_slope import Trend

USERS, HTTP_USERS = 4, 4
MOST_SAMPLES, EVERY_S = 1_000, 5.0
PAUSE_S = (15.0, 45.0)
"""Between two faults."""
TELL_S = 60.0
SETTINGS = {
    "retention": {
        "log_keep_ms": 60_000,
        "log_keep_mb": 8,
        "snapshot_events": 500,
        "health_entries": 100,
        "results_entries": 500,
        "replies_entries": 2_000,
    }
}
BOUNDS = {kind: SETTINGS["retention"][f"{kind}_entries"] for kind in ("health", "results", "replies")}
DEDUPE = {"dedupe_keep": 200, "dedupe_keep_ms": 60_000}
REWRITE = {"auto-aof-rewrite-min-size": "2mb", "auto-aof-rewrite-percentage": "50"}
"""Of the append-only file: a saw tooth of some MB instead of 64."""


class Row(Struct, frozen=True):
    """A series of the report. `first`, `last`: the floors after the warm-up."""

    what: str
    of: str
    first: float
    last: float
    highest: float
    per_hour: float
    flat: bool


class SoakReport(Struct, frozen=True):
    """The keys of `orion chaos --soak --json`. `broken`: what rises, and answers that did not come."""

    hours: float
    seed: int
    requests: int
    ended: int
    http: dict[str, int]
    faults: dict[str, int]
    samples: int
    impossible: list[str]
    rows: list[Row]
    broken: list[str]


def run(*, hours: float, seed: int, log: str | None = None, json: bool = False) -> int:
    """Soak a grid for so many hours and return the exit code. Raises ConfigError, BackendError."""
    with said(log) as file:
        report = asyncio.run(soak(hours, seed, Transcript(file)))
    if json:
        write_json(report)
    else:
        show(report)
    return EXIT_FAILED if report.broken else EXIT_OK


async def soak(hours: float, seed: int, transcript: Transcript) -> SoakReport:
    """Start a grid, soak it, and report."""
    folder = Path(tempfile.mkdtemp(prefix="orion-soak-"))
    try:
        async with SoakGrid(folder, None, "everysec", transcript.note) as grid:
            return await Soak(grid, hours, seed, transcript).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class SoakGrid(ChaosGrid):
    """A grid that keeps little."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        policy = {**self._settings["policy"], **DEDUPE}
        self._settings = {**self._settings, **SETTINGS, "policy": policy}


class Soak:
    """Runs one soak."""

    def __init__(self, grid: ChaosGrid, hours: float, seed: int, transcript: Transcript) -> None:
        self.grid, self.hours, self.seed, self._transcript = grid, hours, seed, transcript
        rng = random.Random(f"soak {seed}")
        models = sorted({model.name for node in grid.nodes.values() for model in node.spec.models})
        self.load, self.home = ChaosClients(rng, models, tail_may_go=False), Home(grid, rng)
        self.faults: Counter[str] = Counter()
        self.series, self._samples, self._began_s = Series(BOUNDS), 0, time.monotonic()
        self._all = [each for each in HOME_FAULTS if each.__name__ != "step_clock" or grid.can_move_clock]

    async def run(self) -> SoakReport:
        """Let life go on for so many hours, then report."""
        for name, value in REWRITE.items():
            await self.grid.tell_server("CONFIG", "SET", name, value)
        self.load.start(self.grid, USERS, HTTP_USERS)
        self._began_s = time.monotonic()
        living = asyncio.create_task(self._live())
        try:
            await self._measure()
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
        await self._mend()
        await self.load.stop(REST_S)
        return self._report()

    async def _live(self) -> None:
        """Let one fault after the other happen; each comes once before any comes again."""
        deck: list[Any] = []
        while True:
            await lasts(self.home.rng.uniform(*PAUSE_S))
            if not deck:
                deck = self.home.rng.sample(self._all, len(self._all))
            fault = deck.pop()
            try:
                await fault(self.home)
                self.faults[fault.__name__] += 1
            except (RedisError, OSError, BackendError, httpx.HTTPError) as error:
                self._transcript.say(f"{fault.__name__} was no use: {type(error).__name__}")

    async def _measure(self) -> None:
        seconds, told_s = self.hours * 3_600, 0.0
        pause_s = max(EVERY_S, seconds / MOST_SAMPLES)
        redis: Any = connect(self.grid.redis_url, 3.0)
        try:
            while (at_s := time.monotonic() - self._began_s) < seconds:
                await self._sample(redis, at_s)
                if at_s - told_s >= TELL_S:
                    told_s = at_s
                    self._tell(at_s, seconds)
                await lasts(pause_s)
        finally:
            await redis.aclose()

    async def _sample(self, redis: Any, at_s: float) -> None:
        grid = self.grid
        processes = {"server": grid.server.pid, "gateway": grid.gateway.pid if grid.gateway else None}
        processes |= {name: child.pid for name, child in zip(ROUTERS, grid.routers, strict=True)}
        processes |= {f"agent {name}": child.pid for name, child in grid.agents.items()}
        for name, pid in processes.items():
            add_process(self.series, at_s, name, pid)
        await add_streams(self.series, at_s, redis, grid.config.prefix)
        add_disk(self.series, at_s, grid.folder)
        self._samples += 1

    def _tell(self, at_s: float, seconds: float) -> None:
        now = {key: rows[-1][1] for key, rows in self.series.by_key.items()}
        shown = ", ".join(f"{of} {now['rss_mb', of]:.0f} MB" for of in ("router", "gateway", "server"))
        self._transcript.say(
            f"{at_s / 60:.0f} of {seconds / 60:.0f} min: {self.load.asked} asked, "
            f"{self.faults.total()} faults, {shown}, disk {now['disk_mb', 'everything']:.1f} MB"
        )

    async def _mend(self) -> None:
        """Undo what the last fault, cut short, left broken."""
        grid = self.grid
        for proxy in grid.proxies.values():
            proxy.join()
        for children, start in ((grid.ollamas, grid.start_ollama), (grid.agents, grid.start_agent)):
            for name in [name for name, child in children.items() if child.pid is None]:
                await start(name)

    def _report(self) -> SoakReport:
        load, trends = self.load, self.series.trends()
        missing = [f"never answered: {name}" for name in load.gave_up[:10]]
        cut = [f"a half answer: {name}" for name in invariants.half_answers(load.texts)]
        too_short = [] if trends else ["too short to tell anything: at least 4 minutes"]
        http = load.http
        unanswered = [*missing, *cut, *(http.broken if http is not None else ())]
        possible = {each.__name__ for each in self._all}
        return SoakReport(
            hours=self.hours,
            seed=self.seed,
            requests=load.asked + (http.ends.total() if http is not None else 0),
            ended=len(load.told),
            http=dict(sorted(http.ends.items())) if http is not None else {},
            faults=dict(sorted(self.faults.items())),
            samples=self._samples,
            impossible=sorted({each.__name__ for each in HOME_FAULTS} - possible),
            rows=[row_of(key, each) for key, each in trends.items()],
            broken=[*rising(trends), *unanswered, *too_short],
        )


def row_of(key: Key, each: Trend) -> Row:
    """Return a series as a row, rounded."""
    first, last, highest = (round(figure, 1) for figure in (each.first, each.last, each.highest))
    return Row(*key, first, last, highest, round(each.per_hour, 1), each.flat)


def show(report: SoakReport) -> None:
    """Print the report for a person."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("measured", "of", "first", "last", "highest", "an hour", ""):
        table.add_column(name, justify="left" if name in ("measured", "of", "") else "right")
    for row in report.rows:
        figures = (f"{each:.1f}" for each in (row.first, row.last, row.highest))
        table.add_row(row.what, row.of, *figures, f"{row.per_hour:+.1f}", "flat" if row.flat else "RISES")
    console.print(table)
    faults = ", ".join(f"{name} {count}" for name, count in report.faults.items())
    console.print(f"{report.requests} requests, {report.ended} ended; {report.samples} samples; {faults}")
    for line in report.broken:
        console.print(f"BROKEN {line}")
