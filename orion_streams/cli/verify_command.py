"""`orion replay`: recompute every decision in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

import msgspec
from msgspec import structs

from orion_streams.cli import log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell, write_json
from orion_streams.errors import EXIT_DIVERGED, EXIT_OK
from orion_streams.eventlog.jsonl import Stretch
from orion_streams.gateway import view_models
from orion_streams.model import event_codec
from orion_streams.model.policy import DECIDER
from orion_streams.model.state import Grid
from orion_streams.replay.compare_states import plain
from orion_streams.replay.verify import Report, verify

SAMPLE_EVENTS = 20_000
"""How many events are decoded a second time, to measure decoding alone."""


class Replayed(Report, kw_only=True):
    """The object of `orion replay --json`. `decode_ratio`: the speed of replay as a share of that of
    decoding alone on this machine."""

    events_per_s: int
    decode_ratio: float


class Watch:
    """Measures how long the first SAMPLE_EVENTS take to decode."""

    def __init__(self) -> None:
        self.decoded = 0
        self.decoding_s = 0.0

    def see(self, stretch: Stretch) -> None:
        """Decode an early stretch once more, with the clock running."""
        if self.decoded < SAMPLE_EVENTS:
            began_s = time.perf_counter()
            for _, raw in stretch.rows:
                event_codec.decode(raw)
            self.decoding_s += time.perf_counter() - began_s
            self.decoded += len(stretch.rows)


async def run(*, file: str | None, common: CommonOptions) -> int:
    """Verify a log. Return EXIT_DIVERGED if a recomputed decision differs. Raises LogError."""
    watch = Watch()
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        first, last = await log.bounds()
        with log_sources.progress("replaying", first, last) as see:

            def seen(stretch: Stretch) -> None:
                watch.see(stretch)
                see(stretch.rows[-1][0])

            began_s = time.perf_counter()
            report = await verify(log, seen)
            took_s = time.perf_counter() - began_s - watch.decoding_s
    done = replayed(report, took_s, watch)
    if common.as_json:
        write_json(as_data(done))
    else:
        show(done)
    return EXIT_DIVERGED if report.diverged else EXIT_OK


def replayed(report: Report, took_s: float, watch: Watch) -> Replayed:
    """Combine the report with the measured speed."""
    pace = report.events / max(took_s, 1e-9)
    decoding = watch.decoded / max(watch.decoding_s, 1e-9)
    return Replayed(
        **structs.asdict(report), events_per_s=round(pace), decode_ratio=round(pace / decoding, 4)
    )


def as_data(done: Replayed) -> Replayed:
    """Return the result with a state that JSON can hold: its keys are strings."""
    first = done.first_divergence
    if first is None:
        return done
    state = {name: plain(row) if isinstance(row, dict) else row for name, row in first.state.items()}
    return structs.replace(done, first_divergence=structs.replace(first, state=state))


def show(done: Replayed) -> None:
    """Print the result."""
    differ = done.diverged or "none"
    sys.stdout.write(f"{done.decisions} decisions recomputed from {done.events} events: {differ} differ\n")
    plural = "" if done.snapshots == 1 else "s"
    compared = f", {done.snapshots} snapshot{plural} compared" if done.snapshots else ""
    tell(f"{done.events_per_s} events a second, {done.decode_ratio:.1%} of decoding alone{compared}")
    if done.older:
        which = ", ".join(map(str, done.older_deciders))
        tell(f"{done.older} decisions by version {which} of the decider: not judged (this is {DECIDER})")
    first = done.first_divergence
    if first is not None:
        tell(f"first at position {first.position}")
        tell(f"  recorded   {first.recorded or 'nothing'}")
        tell(f"  recomputed {first.recomputed or 'nothing'}")
        tell("the state that led there:")
        show_state(first.state)


def show_state(state: dict[str, Any]) -> None:
    """Print nodes and open requests of a grid to stderr."""
    from orion_streams.cli import tables  # noqa: PLC0415 - rich only where something is drawn

    grid = msgspec.convert(state, Grid)
    console = tables.make_console(stderr=True)
    console.print(tables.nodes_table(view_models.node_rows(grid), {}))
    tables.show_ps(console, view_models.ps_rows(grid))
