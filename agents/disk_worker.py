"""Pulls and removes models on a node, within limits of time and disk, and says how far it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from orion_streams.agents.backend import Backend, DiskFailedError, PullStep
from orion_streams.config import Limits

log = logging.getLogger("orion.agent")

TELL_S = 0.5
"""Progress of one part is told at most so often."""
BYTES_PER_MB = 1_000_000
PARTS_MAX = 1_000
Tell = Callable[[dict[str, bytes]], Awaitable[None]]


async def nothing() -> None:
    """Tell nobody."""


class DiskWorker:
    """A node's disk. `free_mb`: what is free of it; None where nobody here can know."""

    def __init__(self, backend: Backend, limits: Limits, free_mb: Callable[[], int | None]) -> None:
        self._backend, self._limits, self._free_mb = backend, limits, free_mb
        self.changed: Callable[[], Awaitable[None]] = nothing
        """Tells the router what is on the disk now; awaited before the end is told."""

    async def pull(self, model: str, tell: Tell) -> None:
        """Pull a model, and tell how far it is. Raises RunFailedError."""
        limits, now = self._limits, asyncio.get_running_loop().time
        overdue_s = now() + limits.pull_deadline_ms / 1000
        room, told = Room(self._free_mb, limits.pull_margin_mb), Told()
        if not room.is_known:
            await tell(fields_of(PullStep(DISK_UNKNOWN)))
        steps = self._backend.pull(model)
        try:
            async with asyncio.timeout_at(overdue_s) as limit:
                while True:
                    limit.reschedule(min(now() + limits.pull_idle_ms / 1000, overdue_s))
                    step = await anext(steps, None)
                    limit.reschedule(overdue_s)  # telling may take long: that is not Ollama's silence
                    if step is None:
                        return
                    room.check(step)
                    if told.is_due(step, now()):
                        await tell(fields_of(step))
        except TimeoutError:
            if now() < overdue_s:
                what = f"Ollama said nothing for {limits.pull_idle_ms} ms"
                raise DiskFailedError("pull_stalled", what) from None
            what = f"no end within {limits.pull_deadline_ms} ms"
            raise DiskFailedError("overdue", what) from None
        finally:
            await steps.aclose()  # closing the connection ends the pull; what is there stays

    async def remove(self, model: str) -> None:
        """Remove a model. Raises RunFailedError."""
        try:
            async with asyncio.timeout(self._limits.load_deadline_ms / 1000):
                await self._backend.remove(model)
        except TimeoutError:
            what = f"no end within {self._limits.load_deadline_ms} ms"
            raise DiskFailedError("remove_failed", what) from None


DISK_UNKNOWN = "free disk unknown: nothing is refused for it (nodes.NAME.ollama_models)"


class Room:
    """Whether what a pull announces fits onto the disk, part by part, as each is announced."""

    def __init__(self, free_mb: Callable[[], int | None], margin_mb: int) -> None:
        self._free_mb, self._margin_mb = free_mb, margin_mb
        self.is_known = free_mb() is not None
        self._left: dict[str, int] = {}

    def check(self, step: PullStep) -> None:
        """Look at the disk when a part is announced. Raises RunFailedError no_space."""
        if not step.digest or not step.total:
            return
        is_new = step.digest not in self._left and len(self._left) < PARTS_MAX
        self._left[step.digest] = max(step.total - step.completed, 0)
        if not is_new:
            return
        free_mb = self._free_mb()
        needed_mb = sum(self._left.values()) // BYTES_PER_MB
        if free_mb is not None and needed_mb > free_mb - self._margin_mb:
            what = (
                f"{needed_mb / 1000:.1f} GB to come, {free_mb / 1000:.1f} GB free, of which "
                f"{self._margin_mb / 1000:.1f} GB stay free (limits.pull_margin_mb)"
            )
            raise DiskFailedError("no_space", what)


class Told:
    """What was told last, and when."""

    def __init__(self) -> None:
        self._what, self._at_s = ("", ""), float("-inf")

    def is_due(self, step: PullStep, now_s: float) -> bool:
        """Whether a step is to be told: it says something else, ends a part, or time has passed."""
        what = (step.status, step.digest)
        is_end = bool(step.total) and step.completed == step.total
        if what == self._what and not is_end and now_s < self._at_s + TELL_S:
            return False
        self._what, self._at_s = what, now_s
        return True


def fields_of(step: PullStep) -> dict[str, bytes]:
    """Return a step as PROGRESS_FIELDS, without those that say nothing."""
    fields = {"status": step.status, "digest": step.digest}
    fields |= {"total": str(step.total or ""), "completed": str(step.completed or "")}
    return {name: value.encode() for name, value in fields.items() if value}
