"""Keeps the counters of `/metrics`: they follow the log, and are saved with the position and the running
hash of the log up to there, so that a restart is no reset and nothing counts twice.

A file that is lost or damaged, and one of another grid, is a reset, as Prometheus expects of a counter.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from orion_streams.agents.key_file import at_once, path_of, write
from orion_streams.config import Config
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.projections.metrics import Metrics, Tally, fitting
from orion_streams.protocol.commit_builder import LoggedGrid

log = logging.getLogger("orion.metrics")

SAVE_EVERY_S = 10.0
IDLE_SAVES = 30
"""Where nothing was counted the position alone is saved, at one in so many times."""
MAX_FILE_BYTES = 4_000_000
ANEW = "the counters of /metrics begin at 0"


class Mark(Struct, frozen=True):
    """Up to where a log was counted: the running hash and the server's time there."""

    position: Annotated[int, Meta(ge=0)]
    digest: str
    server_ms: int


class Saved(Struct, frozen=True):
    """The file."""

    prefix: str
    mark: Mark
    tally: Tally


def file_of(config: Config) -> Path:
    """Return where the counters are: beside the keys, under the gateway's name."""
    return path_of(config).with_name(f"metrics-{config.gateway.name}.json")


def read(path: Path) -> Saved | None:
    """Return what the file holds; None if there is none. Raise ValueError if it is of no use."""
    try:
        with open(path, "rb", opener=at_once) as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"is larger than {MAX_FILE_BYTES} bytes")
    try:
        return msgspec.json.decode(raw, type=Saved)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is damaged: {error}") from error


class MetricsKeeper:
    """Counts what a follower of the log folds. `tally`: what was counted so far."""

    def __init__(self, path: Path, prefix: str) -> None:
        self.tally = Tally()
        self._path, self._prefix = path, prefix
        self._mark: Mark | None = None
        self._state: LoggedGrid | None = None
        self._metrics: Metrics | None = None
        self._written, self._idle, self._fault = b"", 0, ""
        self._begun = asyncio.Event()
        self._take_up()

    def _take_up(self) -> None:
        """Take up what an earlier life has counted, unless it is of no use."""
        try:
            saved = read(self._path)
        except ValueError as error:
            log.warning("%s %s: %s", self._path, error, ANEW)
            return
        if saved is None:
            return
        if saved.prefix != self._prefix:
            log.warning("%s is of the grid %s: %s", self._path, ascii(saved.prefix[:80]), ANEW)
            return
        self.tally, self._mark = fitting(saved.tally), saved.mark

    # a listener of the log

    @property
    def position(self) -> int | None:
        """The last event that was counted; None if none was."""
        return known.position if (known := self._known()) is not None else None

    def _known(self) -> Mark | None:
        """Return up to where the log was counted."""
        if self._metrics is None or self._state is None:
            return self._mark
        grid = self._state.grid
        return Mark(grid.position, self._state.digest.hex(), grid.server_ms)

    def begin(self, state: LoggedGrid) -> None:
        """Go on from this state of the log, if what was counted leads there."""
        self._mark, self._metrics, self._state = self._known(), None, state
        self._go_on(state)
        self._begun.set()

    def take(self, grid: Grid, event: ev.AnyEvent) -> None:
        """Count an event, unless it was counted before."""
        if self._metrics is not None:
            self._metrics.take(grid, event)
        elif self._state is not None:
            self._go_on(self._state)

    def _go_on(self, state: LoggedGrid) -> None:
        """Count from here on, if this is where the count was left, or the log no longer has that place."""
        grid, mark = state.grid, self._mark
        if mark is not None and grid.position < mark.position:
            if grid.server_ms <= mark.server_ms:
                return  # told for another listener
            self._anew("the log has lost its tail, or is another one")
        elif mark is not None and grid.position == mark.position and state.digest.hex() != mark.digest:
            self._anew("the log is another one than that which was counted")
        elif mark is not None and grid.position > mark.position:
            missing = grid.position - mark.position
            why = "too old, or no longer in the log"
            log.warning(
                "/metrics has not counted %d events after position %d: %s", missing, mark.position, why
            )
        self._metrics = Metrics(self.tally, grid)

    def _anew(self, why: str) -> None:
        log.warning("%s: %s", why, ANEW)
        self.tally = Tally()

    # the file

    def save(self) -> None:
        """Write the file, if there is something new to write. Log a failure once until it changes."""
        raw = self._due()
        if raw:
            self._write(raw)

    async def keep(self) -> None:
        """Save at the begin and every SAVE_EVERY_S, until cancelled."""
        await self._begun.wait()
        while True:
            if raw := self._due():
                await asyncio.to_thread(self._write, raw)
            await asyncio.sleep(SAVE_EVERY_S)

    def _due(self) -> bytes:
        """Return what is to be written now, b"" if nothing is."""
        mark, counted = self._known(), msgspec.json.encode(self.tally)
        if mark is None or self._metrics is None:
            return b""
        self._idle += 1
        if counted == self._written and self._idle < IDLE_SAVES:
            return b""
        self._written, self._idle = counted, 0
        return msgspec.json.encode(Saved(self._prefix, mark, self.tally))

    def _write(self, raw: bytes) -> None:
        fault = ""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write(self._path, raw)
        except OSError as error:
            fault = f"{self._path} cannot be written: {error.strerror or error}"
            self._written = b""  # try again
        if fault and fault != self._fault:
            log.warning("%s: a restart of the gateway will be a reset of /metrics", fault)
        self._fault = fault
