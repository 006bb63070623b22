"""Runs the command of a target: no shell, JSON on its stdin, a time limit."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from orion_streams.environment import child_environment
from orion_streams.errors import TellError
from orion_streams.runtime.supervisor import describe_exit, die_with_parent

NULL = asyncio.subprocess.DEVNULL


async def run_command(argv: Sequence[str], stdin: bytes, timeout_s: float) -> str:
    """Run a command in a process group of its own, and return how it ended. What it started is killed with
    it, at the latest after `timeout_s`. None of our secrets is in its environment, and what it prints is
    read by nobody. Raises TellError if it does not end well."""
    environment = {
        name: value for name, value in child_environment(None).items() if not name.startswith("ORION_")
    }
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=NULL,
            stderr=NULL,
            env=environment,
            process_group=0,
            preexec_fn=die_with_parent(os.getpid()),
        )
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "its arguments cannot be passed"
        raise TellError(f"the command cannot be run: {what}") from None
    try:
        async with asyncio.timeout(timeout_s):
            await process.communicate(stdin)
    except TimeoutError:
        raise TellError(f"the command did not end within {timeout_s:g} s: it was killed") from None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.returncode:
        raise TellError(f"the command ended with {describe_exit(process.returncode)}")
    return "the command ended well"
