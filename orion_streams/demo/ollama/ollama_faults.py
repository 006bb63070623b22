"""Faults on demand: the ways in which a real server was seen to fail, armed one by one."""

import asyncio
from collections.abc import AsyncGenerator, Container
from contextlib import aclosing
from typing import Annotated, Literal

import msgspec

from orion_streams.demo.ollama.engine import Event, Finished, Piece
from orion_streams.demo.ollama.runner import Runner
from orion_streams.gateway.refusal import Refusal

FaultKind = Literal[
    "error_line",
    "end_without_done",
    "hang",
    "busy",
    "not_found",
    "slow_unload_ms",
    "kill",
    "pull_offline",
    "pull_no_space",
    "pull_cut",
]

# Tokens of a failing answer before it fails.
_TOLD = 3
CRASH = "an error was encountered while running the model: unexpected EOF"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fault for the next `times` times; 0 disarms it.

    - `error_line`: the model process dies after some tokens: an error line under status 200, or a
      500 when not streamed. `/api/ps` goes on listing the model; the next request loads it anew.
    - `end_without_done`: the answer ends after some tokens, cleanly, without `done: true`.
    - `hang`: no more tokens come after some, until the client goes away.
    - `busy`: 503, the queue is full.
    - `not_found`: 404, as if the model had been removed.
    - `kill`: the connection is closed without a response.
    - `pull_offline`: the next pull does not reach the registry.
    - `pull_no_space`: the next pull finds the disk full half-way.
    - `pull_cut`: the next pull ends half-way, cleanly, without `success`.
    - `slow_unload_ms`: the next unloads take `ms` milliseconds each.
    """

    kind: FaultKind
    times: Annotated[int, msgspec.Meta(ge=0)] = 1
    ms: Annotated[int, msgspec.Meta(ge=0)] = 1_000


class Faults:
    """The armed faults, in order."""

    def __init__(self) -> None:
        self._armed: dict[FaultKind, Fault] = {}

    def arm(self, fault: Fault) -> None:
        self._armed.pop(fault.kind, None)
        if fault.times:
            self._armed[fault.kind] = fault

    def armed(self) -> dict[FaultKind, int]:
        """Return how many times each is still due."""
        return {kind: fault.times for kind, fault in self._armed.items()}

    def take(self, kinds: Container[FaultKind]) -> Fault | None:
        """Use up one fault of these kinds, the one armed first."""
        for kind, fault in self._armed.items():
            if kind in kinds:
                left = msgspec.structs.replace(fault, times=fault.times - 1)
                if left.times:
                    self._armed[kind] = left
                else:
                    del self._armed[kind]
                return fault
        return None


async def spoiled(
    events: AsyncGenerator[Event, None], kind: FaultKind, runner: Runner
) -> AsyncGenerator[Event, None]:
    """Let a run fail after _TOLD tokens, or at its end if that is earlier."""
    told = 0
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finished) or told == _TOLD:
                break
            yield event
            told += isinstance(event, Piece)
    if kind == "error_line":
        runner.crashed = True
        raise Refusal(500, CRASH)
    if kind == "hang":
        await asyncio.Event().wait()
