"""`orion replay step`: step through a log by hand, forwards and backwards."""

from __future__ import annotations

import signal
import sys

from orion_streams.cli import log_sources, tables
from orion_streams.cli.log_lines import Line, as_text
from orion_streams.cli.options import CommonOptions
from orion_streams.errors import ConfigError
from orion_streams.eventlog.loader import decoded
from orion_streams.gateway import view_models
from orion_streams.replay.stepper import Stepper
from orion_streams.replay.verify import DECISIONS

HELP = """\
  Enter, n     the next commit             b         the one before
  +N, -N       so many forwards, back      g MOMENT  to a position (1234) or time (14:05:30)
  d            to the next decision        f TEXT    to the next commit that has it, say an id
  nodes ps models  the grid at this place  ?         this help          q  leave
"""
READS = {"nodes": view_models.node_rows, "ps": view_models.ps_rows, "models": view_models.model_rows}
MAX_STEPS, DIGITS = 1_000_000, 9
"""The most commits of one command, and the most digits that are read of its number."""


async def run(*, at: str | None, file: str | None, common: CommonOptions) -> int:
    """Read commands from stdin until it ends. Raises BackendError, ConfigError, LogError."""
    async with log_sources.source(file, common.redis_url, common.config_path) as log:
        first, last = await log.bounds()
        stepper = Stepper(log, await log.state_at(first - 1))
        if at is not None:
            await stepper.go(await log_sources.moment(at, log))
        session = Session(stepper, last)
        session.write(f"{log.name}: positions {first} to {last}. ? shows the commands.\n")
        session.show()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C ends the wait for a line at once
        while (line := session.ask()) is not None:
            try:
                await session.obey(line.strip())
            except ConfigError as error:
                session.write(f"{error}\n")
    return 0


class Session:
    """Reads the commands of a person and prints the answers."""

    def __init__(self, stepper: Stepper, last: int) -> None:
        self.stepper, self.last = stepper, last

    def write(self, text: str) -> None:
        """Write to stdout and flush."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def ask(self) -> str | None:
        """Return the next command; None to leave."""
        self.write(f"{self.stepper.position}/{self.last}> ")
        line = sys.stdin.readline()
        return None if not line or line.strip() in ("q", "quit", "exit") else line

    async def obey(self, command: str) -> None:
        """Execute one command."""
        word, _, rest = command.partition(" ")
        if word in ("", "n"):
            await self.move(1)
        elif word == "b":
            await self.move(-1)
        elif word[0] in "+-" and word[1:].isdecimal() and word.isascii():
            steps = int(word[1:][:DIGITS])
            await self.move(min(steps, MAX_STEPS) * (1 if word[0] == "+" else -1))
        elif word == "g" and rest:
            await self.stepper.go(await log_sources.moment(rest.strip(), self.stepper.log))
            self.show()
        elif word == "d":
            await self.seek("")
        elif word == "f" and rest:
            await self.seek(rest)
        elif word in READS:
            found = READS[word](self.stepper.state.grid)
            tables.show(word, found, await self.stepper.log.config())
        else:
            self.write(HELP if word in ("?", "h", "help") else f"{command}: no such command\n{HELP}")

    async def move(self, steps: int) -> None:
        """Move by so many commits and show the last one."""
        step = self.stepper.forward if steps > 0 else self.stepper.back
        for _ in range(abs(steps)):
            if not await step():
                self.write("the log ends here\n" if steps > 0 else "the log begins here\n")
                return
        self.show()

    async def seek(self, text: str) -> None:
        """Move forwards to a commit that contains a text, or to any decision; stay if there is none."""
        start = self.stepper.position
        wanted = text.encode(errors="surrogateescape")
        while await self.stepper.forward():
            for position, raw in self.stepper.commit:
                if wanted in raw if wanted else isinstance(decoded(position, raw), DECISIONS):
                    self.show()
                    return
        await self.stepper.go(start)
        self.write("none up to the log's end\n")

    def show(self) -> None:
        """Print the commit that led to this position."""
        server_ms = self.stepper.state.grid.server_ms
        for position, raw in self.stepper.commit:
            line = Line(position, server_ms, decoded(position, raw))
            self.write(as_text(line, sys.stdout.isatty()) + "\n")
