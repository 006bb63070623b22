"""Start child processes, wait until they are ready, restart them after a crash, stop them within bounds.

A child is killed when its parent dies, even by SIGKILL (Linux: parent-death signal). Each child has its own
process group: Ctrl-C in the terminal reaches only the parent, which stops its children in order.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
from redis.backoff import DecorrelatedJitterBackoff

from orion_streams.environment import child_environment
from orion_streams.errors import EXIT_BAD_CONFIG, EXIT_USAGE, BackendError

FIRST_S, LONGEST_S = 0.5, 30.0
"""Of the pauses before restarts."""
STEADY_S = 60.0
"""A child that ran for longer is restarted after the shortest pause again."""
NOT_RESTARTED = (EXIT_USAGE, EXIT_BAD_CONFIG)
"""Exit codes that another start would end with again."""
KEPT_LINES = 20
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
LINE_BYTES = 1 << 20

Say = Callable[[str, str], None]
"""A callback for output: (child's name, line)."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def silent(_name: str, _line: str) -> None:
    """Discard the line."""


class Child:
    """One supervised process. `announces`: its first line on stdout is JSON and means ready. `say` gets the
    lines it prints, `remark` is told of crashes, restarts and kills."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        announces: bool = False,
        say: Say = silent,
        remark: Say = silent,
    ) -> None:
        self.name, self.argv = name, tuple(argv)
        self.announced: dict[str, object] = {}
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.restarts = 0
        self.gave_up = False
        self._env = child_environment(env)
        self._announces, self._say, self._remark = announces, say, remark
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the running process; None when none runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def start(self, timeout_s: float = 20.0) -> None:
        """Start the process, wait for its ready line if it announces, and watch it. Raises BackendError."""
        self.gave_up = False
        await self._spawn(timeout_s)
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self, grace_s: float = 5.0, how: signal.Signals = signal.SIGTERM) -> int | None:
        """Send SIGTERM or another signal, and SIGKILL after `grace_s`. Return the exit code; None when
        nothing ran."""
        return await self._end(how, grace_s)

    def hurry(self) -> None:
        """Send SIGINT: whatever it does, it ends at once."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGINT)

    async def kill(self) -> None:
        """Send SIGKILL. The process stays down until `start`."""
        await self._end(signal.SIGKILL, 0.0)

    async def _end(self, how: signal.Signals, grace_s: float) -> int | None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        process = self._process
        if process is None:
            return None
        with suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            async with asyncio.timeout(grace_s or None):
                await process.wait()
        except TimeoutError:
            self._remark(self.name, f"did not stop within {grace_s:.0f} s: killed")
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self._process = None
        return process.returncode

    async def _spawn(self, timeout_s: float) -> None:
        self.last_lines.clear()
        self._process = process = await asyncio.create_subprocess_exec(
            *self.argv,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            process_group=0,
            preexec_fn=die_with_parent(os.getpid()),
        )
        assert process.stdout is not None and process.stderr is not None  # noqa: S101 - both are pipes
        self._readers = [asyncio.create_task(self._relay(process.stderr))]
        try:
            if self._announces:
                await self._wait_for_announcement(process.stdout, timeout_s)
        except BackendError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        finally:
            self._readers.append(asyncio.create_task(self._relay(process.stdout)))

    async def _wait_for_announcement(self, stdout: asyncio.StreamReader, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                line = await stdout.readline()
            self.announced = msgspec.json.decode(line, type=dict[str, object])
        except (TimeoutError, ValueError, msgspec.DecodeError) as error:
            await asyncio.wait(self._readers, timeout=0.2)
            raise BackendError(f"{self.name} did not start: {self.last_words() or error}") from error

    async def _relay(self, pipe: asyncio.StreamReader) -> None:
        while line := await read_line(pipe):
            text = TERMINAL_CODE.sub("", line.decode(errors="replace")).rstrip()
            if not text:
                continue
            self.last_lines.append(text)
            self._say(self.name, text)

    async def _watch(self) -> None:
        """Restart the process whenever it ends unasked, after pauses that grow up to LONGEST_S."""
        loop, backoff = asyncio.get_running_loop(), DecorrelatedJitterBackoff(cap=LONGEST_S, base=FIRST_S)
        while self._process is not None:
            began = loop.time()
            code = await self._process.wait()
            if loop.time() - began > STEADY_S:
                backoff.reset()
            await asyncio.wait(self._readers, timeout=0.2)
            how = describe_exit(code) + (f" ({self.last_words()})" if self.last_lines else "")
            if code in NOT_RESTARTED:
                self.gave_up = True
                self._remark(self.name, f"ended with {how}; it is not started again")
                return
            pause_s = backoff.compute(0)  # it ignores the count of failures
            self._remark(self.name, f"ended with {how}; starting it again in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)
            self.restarts += 1
            try:
                await self._spawn(20.0)
            except (BackendError, OSError) as error:
                self._remark(self.name, str(error))

    def last_words(self) -> str:
        """Return the first line that says CRITICAL, else the last line printed: why the process ended."""
        critical = [line for line in self.last_lines if "CRITICAL" in line]
        return (critical or list(self.last_lines)[-1:] or [""])[0]


async def read_line(pipe: asyncio.StreamReader) -> bytes:
    """Return the next line, or a note in place of one longer than LINE_BYTES. Empty at the end."""
    try:
        return await pipe.readline()
    except ValueError:  # asyncio has dropped the line from its buffer
        return b"(a line too long to show)\n"


def die_with_parent(parent: int) -> Callable[[], None] | None:
    """Return what a child runs before its program: it asks the kernel to kill it when its parent dies."""
    libc = _libc
    if libc is None:
        return None

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the kernel was asked
            os._exit(1)

    return before_exec


def describe_exit(code: int) -> str:
    """Return an exit code in words: "exit code 1", "SIGKILL"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


async def stop_all(
    children: Sequence[Child], grace_s: float = 5.0, how: signal.Signals = signal.SIGTERM
) -> None:
    """Stop all children concurrently."""
    await asyncio.gather(*(child.stop(grace_s, how) for child in children))
