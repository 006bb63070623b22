"""`orion chaos`: real processes, real servers, real kills; whether the promises hold all the same.

Rounds on Valkey and, where it is installed, Redis, with the append-only file written always and every
second. An observer of the raw streams counts, and a fresh process recomputes every decision. A promise that
does not hold is named, and the command exits 1.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from pathlib import Path

import msgspec

from orion_streams.chaos.faults import FAULTS
from orion_streams.chaos.report import show, summarize
from orion_streams.chaos.running import Round, play
from orion_streams.errors import EXIT_FAILED, EXIT_OK, ConfigError
from orion_streams.server import Fsync

ROUND_MINUTES = 2.5
LONG_MINUTES, LONG_OUTAGE_S, SHORT_OUTAGE_S = 5.0, 65.0, 4.0
"""A long run takes the server away for more than a minute, once a round."""

Make = tuple[str, Path | None]


async def run(
    *, minutes: float, seed: int, server: str, fsync: str, only: list[str], json: bool = False
) -> int:
    """Break a grid for so many minutes. The exit code. Raises ConfigError, BackendError."""
    stages = plan(minutes, seed, servers(server), fsync)
    chosen = checked(only)
    began_s, rounds = time.monotonic(), list[Round]()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began_s:7.1f} s  {line}\n")
        sys.stderr.flush()

    for number, ((name, binary), how) in enumerate(stages, start=1):
        say(f"round {number} of {len(stages)}: {name}, fsync {how}, simulated Ollamas")
        done = await play(
            name,
            binary,
            how,
            seconds=minutes * 60 / len(stages),
            rng=random.Random(f"{seed} {number}"),  # noqa: S311 - chaos, no secret
            only=chosen,
            outage_s=LONG_OUTAGE_S if minutes >= LONG_MINUTES else SHORT_OUTAGE_S,
            say=say,
        )
        for line in done.broken:
            say(f"BROKEN {line}")
        rounds.append(done)
    report = summarize(seed, minutes, rounds)
    if json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        show(report, rounds)
    return EXIT_FAILED if report.broken else EXIT_OK


def servers(wanted: str) -> list[Make]:
    """The makes of server that are asked for and installed. ConfigError when there is none."""
    redis = shutil.which("redis-server")
    found: list[Make] = [("valkey", None), *([("redis", Path(redis))] if redis else [])]
    chosen = [each for each in found if wanted in ("any", each[0])]
    if not chosen:
        raise ConfigError(f"--server {wanted}: not installed: sudo apt install redis-server")
    return chosen


def plan(minutes: float, seed: int, makes: list[Make], fsync: str) -> list[tuple[Make, Fsync]]:
    """The rounds: every make of server with every way of writing, another one first for another seed."""
    ways: list[Fsync] = [way for way in ("everysec", "always") if fsync in ("any", way)]
    if not ways:
        raise ConfigError(f"--fsync {fsync}: expected everysec, always or any")
    pairs = [
        (makes[(n + n // len(ways)) % len(makes)], ways[n % len(ways)])
        for n in range(len(makes) * len(ways))
    ]
    count = max(1, round(minutes / ROUND_MINUTES))
    return [pairs[(seed + n) % len(pairs)] for n in range(count)]


def checked(only: list[str]) -> frozenset[str]:
    """Names of faults. ConfigError for one that is none."""
    known = [fault.name for fault in FAULTS]
    for name in only:
        if name not in known:
            raise ConfigError(f"--only {name}: no such fault (known: {', '.join(known)})")
    return frozenset(only)
