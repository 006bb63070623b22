"""`orion chaos`: real processes, real servers, real kills, and whether every promise holds.

The rounds run on Valkey and, if installed, on Redis, with fsync always and everysec. An observer of the raw
streams counts, and a fresh process recomputes every decision. A broken promise is named, and the command
exits 1.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

from orion_streams.cli.outcome import write_json
from orion_streams.errors import EXIT_FAILED, EXIT_OK, ConfigError
from orion_streams.runtime.embedded_server import Fsync
from tests.chaos import soak_command
from tests.chaos.chaos_faults import FAULTS, SHORT_OUTAGE_S
from tests.chaos.chaos_report import show, summarize
from tests.chaos.chaos_run import Round, Stage, Transcript, play, said

ROUND_MINUTES = 2.5
LONG_MINUTES, LONG_OUTAGE_S = 5.0, 65.0
"""A run of at least LONG_MINUTES has one outage of the server of LONG_OUTAGE_S."""


def run(
    *,
    minutes: float,
    seed: int,
    server: str,
    fsync: str,
    only: list[str],
    log: str | None = None,
    soak_hours: float = 0.0,
    json: bool = False,
) -> int:
    """Break a grid for so many minutes and return the exit code; `soak_hours`: soak it for so long instead.
    Raises ConfigError, BackendError."""
    if soak_hours:
        return soak_command.run(hours=soak_hours, seed=seed, log=log, json=json)
    stages = plan(minutes, seed, servers(server), fsync)
    chosen = checked(only)
    with said(log) as file:
        rounds = asyncio.run(play_all(stages, minutes, seed, chosen, Transcript(file)))
    report = summarize(seed, minutes, rounds)
    if json:
        write_json(report)
    else:
        show(report)
    return EXIT_FAILED if report.broken else EXIT_OK


async def play_all(
    stages: list[Stage], minutes: float, seed: int, only: frozenset[str], transcript: Transcript
) -> list[Round]:
    """Play all rounds, one after the other."""
    rounds: list[Round] = []
    for number, stage in enumerate(stages, start=1):
        place = f"{stage.server}, fsync {stage.fsync}, simulated Ollamas"
        transcript.say(f"round {number} of {len(stages)}: {place}")
        done = await play(
            stage,
            transcript,
            seconds=minutes * 60 / len(stages),
            rng=random.Random(f"{seed} {number}"),
            only=only,
            outage_s=LONG_OUTAGE_S if minutes >= LONG_MINUTES and number == 1 else SHORT_OUTAGE_S,
        )
        for line in done.broken:
            transcript.say(f"BROKEN {line}")
        rounds.append(done)
    return rounds


def servers(wanted: str) -> dict[str, Path | None]:
    """Find the wanted servers by name; binary None: the embedded Valkey. Raises ConfigError for none."""
    redis = shutil.which("redis-server")
    found = {"valkey": None, **({"redis": Path(redis)} if redis else {})}
    chosen = {name: binary for name, binary in found.items() if wanted in ("any", name)}
    if not chosen:
        raise ConfigError(f"--server {wanted}: not installed: sudo apt install redis-server")
    return chosen


def plan(minutes: float, seed: int, binaries: Mapping[str, Path | None], fsync: str) -> list[Stage]:
    """List the rounds: each server with each way of writing in turn; the seed says which is first."""
    ways: list[Fsync] = [way for way in ("everysec", "always") if fsync in ("any", way)]
    if not ways:
        raise ConfigError(f"--fsync {fsync}: expected everysec, always or any")
    makes = list(binaries.items())
    stages = [
        Stage(*makes[(n + n // len(ways)) % len(makes)], ways[n % len(ways)])
        for n in range(len(makes) * len(ways))
    ]
    count = max(1, round(minutes / ROUND_MINUTES))
    return [stages[(seed + n) % len(stages)] for n in range(count)]


def checked(only: list[str]) -> frozenset[str]:
    """Return the names of faults as a set. Raises ConfigError for an unknown one."""
    known = [fault.name for fault in FAULTS]
    for name in only:
        if name not in known:
            raise ConfigError(f"--only {name}: no such fault (known: {', '.join(known)})")
    return frozenset(only)
