"""The gateway's side of the worker for the past: one process, one question at a time, killed when stuck.

It is started by the first question and ended when nobody has asked for a while, so that a gateway whose
page nobody opens is as small as before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import Counter
from contextlib import suppress

import msgspec

from orion_streams.agents.past_messages import Question, Reply, Setup, frame, read_frame
from orion_streams.environment import child_environment
from orion_streams.gateway.failures import RETRY_AFTER_S
from orion_streams.gateway.refusal import Refusal
from orion_streams.runtime.supervisor import describe_exit, die_with_parent

log = logging.getLogger("orion.gateway")

ANSWER_S, IDLE_S = 15.0, 600.0
"""How long one question may take, with the start of the process; after so long without one it ends."""
MOST_WAITING, MOST_EACH = 16, 4
"""So many questions may be open at a time, and of one place."""
ARGV = (sys.executable, "-m", "orion_streams.agents.past_worker")


class PastProcess:
    """Asks the worker. `argv`: another program in its place."""

    def __init__(self, url: str, prefix: str, argv: tuple[str, ...] = ARGV) -> None:
        self._setup, self._argv = Setup(url, prefix), argv
        self._process: asyncio.subprocess.Process | None = None
        self._turn, self._waiting = asyncio.Lock(), Counter[str]()
        self._working: asyncio.Task[Reply] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The id of the process; None if none runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def ask(self, question: Question, place: str = "") -> bytes:
        """Return the encoded answer. `place`: where who asks is. Raise Refusal: 404 with why there is none,
        503 if too many ask, or it took too long, or the process died twice. Who goes away is not waited
        for, but what was begun is brought to its end: it is known then, and the process goes on."""
        if self._waiting[place] >= MOST_EACH or self._waiting.total() >= MOST_WAITING:
            raise Refusal(503, "too many ask for the past at once", retry_after_s=RETRY_AFTER_S)
        self._waiting[place] += 1
        try:
            await self._turn.acquire()
            self._working = working = asyncio.create_task(self._within(question))
            working.add_done_callback(self._done)
            reply = await asyncio.shield(working)
        finally:
            self._waiting[place] -= 1
            self._waiting += Counter()  # without who has none
        if reply.status != 200:
            again_s = RETRY_AFTER_S if reply.status == 503 else 0
            raise Refusal(reply.status, reply.body.decode(), retry_after_s=again_s)
        return reply.body

    def _done(self, working: asyncio.Task[Reply]) -> None:
        """Let the next one have its turn, also when nobody waits for this answer any more."""
        self._turn.release()
        if not working.cancelled():
            working.exception()

    async def _within(self, question: Question) -> Reply:
        """Ask with a limit of time. One that dies is started again, once: it may have been killed."""
        if self._is_closed:
            raise Refusal(503, "the gateway ends")
        if self._idle is not None:
            self._idle.cancel()
        try:
            async with asyncio.timeout(ANSWER_S):
                try:
                    return await self._answered(question)
                except (asyncio.IncompleteReadError, ConnectionError) as error:
                    how = await self._end()
                    if self._is_closed:
                        raise
                    log.warning("the worker for the past ended (%s): it is started again", how or error)
                    return await self._answered(question)
        except TimeoutError:
            await self._end()
            what = f"the past could not be worked out within {ANSWER_S:g} s"
            raise Refusal(503, what, retry_after_s=RETRY_AFTER_S) from None
        except (asyncio.IncompleteReadError, OSError, ValueError, msgspec.MsgspecError) as error:
            how = await self._end()
            if not self._is_closed:  # else it ended because the gateway does
                log.error("the worker for the past failed: %s", how or error)
            what = "the past cannot be worked out: the gateway's log says why"
            raise Refusal(503, what, retry_after_s=RETRY_AFTER_S) from error
        finally:
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._kill)

    async def _answered(self, question: Question) -> Reply:
        process = await self._running()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - both are pipes
        process.stdin.write(frame(question))
        await process.stdin.drain()
        return msgspec.msgpack.decode(await read_frame(process.stdout), type=Reply)

    async def _running(self) -> asyncio.subprocess.Process:
        """Return the process, started where none runs. Raise ConnectionError after `close`."""
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=child_environment(None),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                process_group=0,
                preexec_fn=die_with_parent(os.getpid()),
            )
            assert self._process.stdin is not None  # noqa: S101 - it is a pipe
            self._process.stdin.write(frame(self._setup))
        if self._is_closed:
            raise ConnectionAbortedError("the gateway ends")
        return self._process

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _end(self) -> str:
        """Kill the process; return how it had ended, "" if it had not."""
        process, self._process = self._process, None
        if process is None:
            return ""
        how = describe_exit(process.returncode) if process.returncode is not None else ""
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return how

    async def close(self) -> None:
        """End the process, whatever it works at, also one that is just being started."""
        self._is_closed = True
        await self._end()
        if self._working is not None:
            await asyncio.wait({self._working})
        if self._idle is not None:
            self._idle.cancel()
