"""Virtual time: who does what when, and processes that wait. One seed, one run."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from heapq import heappop, heappush
from random import Random
from typing import Any

EPOCH_MS = 1_800_000_000_000
LOOK_MS = 40


class World:
    """Virtual time: a heap of what is to happen. `now_ms`: true time; the server's clock may jump away from
    it. `happened`: how often each fault did."""

    def __init__(self, seed: int, faults: frozenset[str]) -> None:
        self.seed, self.faults = seed, faults
        self.now_ms = self.clock_off_ms = 0
        self.is_healed = False
        self.happened: Counter[str] = Counter()
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def rng(self, name: str) -> Random:
        """Return a source of chance of its own, so that one fault less does not shuffle all others."""
        return Random(f"{self.seed} {name}")

    def server_ms(self) -> int:
        """Return the server's clock."""
        return EPOCH_MS + self.now_ms + self.clock_off_ms

    def at(self, delay_ms: int, act: Callable[..., None], *arguments: Any) -> None:
        """Schedule a call in so many ms."""
        self._sequence += 1
        heappush(self._heap, (self.now_ms + delay_ms, self._sequence, act, arguments))

    def run_until(self, is_over: Callable[[], bool], limit_ms: int) -> bool:
        """Let things happen until `is_over`. Return whether that was before `limit_ms`."""
        heap, look_ms = self._heap, self.now_ms
        while heap and heap[0][0] <= limit_ms:
            if self.now_ms >= look_ms:
                if is_over():
                    return True
                look_ms = self.now_ms + LOOK_MS
            self.now_ms, _, act, arguments = heappop(heap)
            act(*arguments)
        return is_over()


class News(int):
    """A wait of so many ms that ends sooner when something comes."""


@types.coroutine
def pause(wait_ms: int) -> Generator[int, None, None]:
    """Wait in virtual time."""
    yield wait_ms


class Process:
    """A coroutine of the real code, driven by hand: it may be killed at each of its waits."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._work: Coroutine[Any, Any, None] | None = None
        self._turn = 0
        self._wakeable = False

    @property
    def is_alive(self) -> bool:
        """Return whether it runs."""
        return self._work is not None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin."""
        self._work = work
        self._go_on(0)

    def kill(self) -> None:
        """End it where it waits: nothing of its memory is left."""
        work, self._work = self._work, None
        self._turn += 1
        if work is not None:
            work.close()

    def wake(self, delay_ms: int) -> None:
        """Go on, if it waits for news, in so many ms."""
        if self._wakeable:
            self._go_on(delay_ms)

    def _go_on(self, delay_ms: int) -> None:
        self._turn += 1
        self._wakeable = False
        self.world.at(delay_ms, self._step, self._turn)

    def _step(self, turn: int) -> None:
        if turn != self._turn or self._work is None:
            return
        try:
            wait_ms = self._work.send(None)
        except StopIteration:
            self._work = None
            return
        self._go_on(int(wait_ms or 0))
        self._wakeable = isinstance(wait_ms, News)


class Reader:
    """When somebody reads: soon after something came, and every `block_ms` all the same; one read at a
    time. Who reads says afterwards how it went: `done` or `failed`."""

    def __init__(self, world: World, read: Callable[[], None], wake_ms: int, block_ms: int) -> None:
        self._world, self._act = world, read
        self._wake_ms, self._block_ms = wake_ms, block_ms
        self._is_reading = self._again = False
        self._due_ms = self._turn = 0

    def start(self) -> None:
        """Read now, and forget a read that is under way."""
        self.stop()
        self._within(0)

    def stop(self) -> None:
        """Read no more."""
        self._turn += 1
        self._due_ms = 0
        self._is_reading = self._again = False

    def wake(self) -> None:
        """Read soon: something came."""
        if self._is_reading:
            self._again = True
        elif self._due_ms:
            self._within(self._wake_ms)

    def done(self, found: bool) -> None:
        """Take note that a read ended well, and plan the next one."""
        again, self._is_reading, self._again = self._again, False, False
        self._within(1 if found or again else self._block_ms)

    def failed(self, pause_ms: int) -> None:
        """Take note that a read failed, and plan the next one after a pause."""
        self._is_reading = self._again = False
        self._within(pause_ms)

    def _within(self, delay_ms: int) -> None:
        due_ms = self._world.now_ms + delay_ms
        if not self._due_ms or due_ms < self._due_ms:
            self._due_ms = due_ms
            self._turn += 1
            self._world.at(delay_ms, self._ring, self._turn)

    def _ring(self, turn: int) -> None:
        if turn == self._turn:
            self._due_ms = 0
            self._is_reading = True
            self._act()


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that waits for nobody to its end. Return its result."""
    while True:
        try:
            work.send(None)
        except StopIteration as end:
            return end.value
