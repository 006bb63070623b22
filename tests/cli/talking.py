"""`orion ask` and `orion chat` as processes, in a pipe or at a terminal, in front of scripted STAND-INS."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.cli.run_cli import environment
from tests.contract.contract_grid import Grid, Script, echo, running
from tests.helpers import WAIT_S

CHUNK = 65_536
TOML = """
prefix = "{prefix}"
[redis]
url = "{url}"
[clients.cli]
[clients.kitchen]
[nodes.one]
[nodes.two]
{more}
"""


class Talk:
    """A process and what it has said. At a terminal both streams come as one."""

    def __init__(self, process: asyncio.subprocess.Process, master: int | None) -> None:
        self.process, self.master = process, master
        self.out = self.err = ""

    async def until(self, text: str, times: int = 1) -> None:
        """Read stdout, or the terminal, until a text has come so often."""
        async with asyncio.timeout(WAIT_S):
            while self.out.count(text) < times:
                piece = await self._read()
                assert piece, f"it ended without {text!r}: {self.out}"
                self.out += piece.decode()

    async def _read(self) -> bytes:
        if self.master is None:
            assert self.process.stdout is not None
            return await self.process.stdout.read(CHUNK)
        try:
            return await asyncio.to_thread(os.read, self.master, CHUNK)
        except OSError:  # how a terminal says that its process ended
            return b""

    async def type(self, text: str) -> None:
        """Write to its stdin."""
        if self.master is not None:
            os.write(self.master, text.encode())
            return
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        await self.process.stdin.drain()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    async def end(self) -> int:
        """Close a pipe's stdin; wait for the end, read the rest, and return the exit code."""
        async with asyncio.timeout(WAIT_S):
            if self.master is None:
                assert self.process.stdin is not None
                self.process.stdin.close()
                out, err = await self.process.communicate()
                self.out, self.err = self.out + out.decode(), err.decode()
            else:
                while piece := await self._read():
                    self.out += piece.decode()
            return await self.process.wait()


class House:
    """A grid, and the folder from which commands find it."""

    def __init__(self, grid: Grid, home: Path) -> None:
        self.grid, self._home = grid, home
        self._talks: list[Talk] = []

    async def start(self, *words: str, terminal: bool = False) -> Talk:
        """Start `orion WORDS`."""
        argv = (sys.executable, "-m", "orion_streams.cli", *words)
        where: dict[str, Any] = {"cwd": self._home, "env": environment(self._home, TERM="dumb")}
        if terminal:
            master, slave = os.openpty()
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=slave, stdout=slave, stderr=slave, **where
            )
            os.close(slave)
            talk = Talk(process, master)
        else:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=pipe, stdout=pipe, stderr=pipe, **where
            )
            talk = Talk(process, None)
        self._talks.append(talk)
        return talk

    async def say(self, *words: str, lines: str = "") -> tuple[int, str, str]:
        """Run `orion WORDS` to its end, with these lines on its stdin: exit code, stdout, stderr."""
        talk = await self.start(*words)
        await talk.type(lines)
        return await talk.end(), talk.out, talk.err

    async def close(self) -> None:
        """End what still runs."""
        for talk in self._talks:
            if talk.process.returncode is None:
                talk.process.kill()
                await talk.process.wait()
            if talk.master is not None:
                os.close(talk.master)


@asynccontextmanager
async def house(
    url: str, prefix: str, home: Path, script: Script = echo, more: str = ""
) -> AsyncIterator[House]:
    """A grid with the clients `cli` and `kitchen`; `more`: of streams.toml, as the commands read it."""
    async with running(url, prefix, script, clients=("cli", "kitchen")) as grid:
        (home / "streams.toml").write_text(TOML.format(prefix=prefix, url=url, more=more))
        made = House(grid, home)
        try:
            yield made
        finally:
            await made.close()
