"""`orion chaos`: real processes, real servers, real kills; whether the promises hold all the same.

Rounds on Valkey and, where it is installed, Redis, with the append-only file written always and every
second. An observer of the raw streams counts, and a fresh process recomputes every decision. A promise that
does not hold is named, and the command exits 1.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO

from orion_streams.cli.outcome import write_json
from orion_streams.errors import EXIT_FAILED, EXIT_OK, ConfigError
from orion_streams.runtime.embedded_server import Fsync
from tests.chaos.chaos_faults import FAULTS, SHORT_OUTAGE_S
from tests.chaos.chaos_report import show, summarize
from tests.chaos.chaos_run import Round, play

ROUND_MINUTES = 2.5
LONG_MINUTES, LONG_OUTAGE_S = 5.0, 65.0
"""A long run takes the server away for more than a minute, once."""

Make = tuple[str, Path | None]


def run(
    *,
    minutes: float,
    seed: int,
    server: str,
    fsync: str,
    only: list[str],
    log: str | None = None,
    json: bool = False,
) -> int:
    """Break a grid for so many minutes. The exit code. Raises ConfigError, BackendError."""
    stages = plan(minutes, seed, servers(server), fsync)
    chosen = checked(only)
    with said(log) as file:
        rounds = asyncio.run(play_all(stages, minutes, seed, chosen, Protocol(file)))
    report = summarize(seed, minutes, rounds)
    if json:
        write_json(report)
    else:
        show(report)
    return EXIT_FAILED if report.broken else EXIT_OK


def said(path: str | None) -> AbstractContextManager[TextIO | None]:
    """The file for what the processes say, if any. ConfigError when it cannot be written."""
    if path is None:
        return nullcontext()
    try:
        return Path(path).open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise ConfigError(f"--log {path}: cannot be written: {error}") from error


class Protocol:
    """Tells a person what is broken, and keeps what the processes say in a file, if there is one."""

    def __init__(self, file: TextIO | None) -> None:
        self._file, self._began_s = file, time.monotonic()

    def say(self, line: str) -> None:
        """A line for the person."""
        sys.stderr.write(f"{time.monotonic() - self._began_s:7.1f} s  {line}\n")
        sys.stderr.flush()
        self.note("chaos", line)

    def note(self, name: str, line: str) -> None:
        """A line of a process."""
        if self._file is not None:
            self._file.write(f"{time.monotonic() - self._began_s:7.1f} s  {name}: {line}\n")


async def play_all(
    stages: list[tuple[Make, Fsync]], minutes: float, seed: int, only: frozenset[str], protocol: Protocol
) -> list[Round]:
    """All rounds, one after the other."""
    rounds: list[Round] = []
    for number, ((name, binary), fsync) in enumerate(stages, start=1):
        protocol.say(f"round {number} of {len(stages)}: {name}, fsync {fsync}, simulated Ollamas")
        done = await play(
            name,
            binary,
            fsync,
            seconds=minutes * 60 / len(stages),
            rng=random.Random(f"{seed} {number}"),
            only=only,
            outage_s=LONG_OUTAGE_S if minutes >= LONG_MINUTES and number == 1 else SHORT_OUTAGE_S,
            say=protocol.say,
            log=protocol.note,
        )
        for line in done.broken:
            protocol.say(f"BROKEN {line}")
        rounds.append(done)
    return rounds


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
