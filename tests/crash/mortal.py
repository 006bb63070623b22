"""A part of a process that can be ended at any of its awaits, as kill -9 would end it.

Each suspension of a coroutine of its tasks is a point; at point number `at` it is struck. A kill aborts its
connections and never resumes its coroutines, so that no `finally` writes anything; a cancel delivers
CancelledError at just that await.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
CLOSED_PORT = 1
_current: ContextVar[Mortal | None] = ContextVar("mortal", default=None)


class Mortal:
    """Counts points. `strike` is called at point `at` (0: never); `clients` are its Redis clients."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.points = at, 0
        self.dead = False
        self.struck = asyncio.Event()
        self.strike: Callable[[], object] = self.die
        self.tasks: set[asyncio.Task[Any]] = set()
        self.clients: list[Any] = []

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it as a task of this mortal, to which all tasks that it makes belong, too."""
        outside = _current.set(self)
        try:
            return asyncio.get_running_loop().create_task(work)
        finally:
            _current.reset(outside)

    def suspended(self) -> None:
        """Count a point, and strike at point `at`."""
        self.points += 1
        if self.points == self.at:
            self.struck.set()
            self.strike()
            self.at = 0

    def die(self) -> None:
        """Resume none of its coroutines any more, and let nothing reach the server."""
        self.dead = True
        self.cut()

    def cut(self) -> None:
        """Abort its connections, and let new ones fail."""
        for client in self.clients:
            pool = client.connection_pool
            pool.connection_kwargs["port"] = CLOSED_PORT
            for connection in (*pool._available_connections, *pool._in_use_connections):
                connection.port = CLOSED_PORT
                if connection._writer is not None:
                    connection._writer.transport.abort()

    async def bury(self) -> None:
        """End its coroutines, which reach no server, so that nothing is left in this test."""
        self.at, self.dead = 0, False
        self.cut()
        while self.tasks:
            for task in self.tasks:
                task.cancel()
            over, _ = await asyncio.wait(self.tasks, timeout=0.05)
            for task in over:
                if not task.cancelled():
                    task.exception()  # it found no server
        for client in self.clients:
            await client.aclose()


class Counted(Coroutine[Any, Any, Any]):
    """A mortal's coroutine."""

    def __init__(self, mortal: Mortal, inner: Coroutine[Any, Any, Any]) -> None:
        self._mortal, self._inner = mortal, inner

    def send(self, value: Any) -> Any:
        return never() if self._mortal.dead else self._suspended(self._inner.send(value))

    def throw(self, *error: Any) -> Any:
        return never() if self._mortal.dead else self._suspended(self._inner.throw(*error))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        raise TypeError("it runs as a task")

    def _suspended(self, awaited: Any) -> Any:
        self._mortal.suspended()
        return never() if self._mortal.dead else awaited


def never() -> asyncio.Future[None]:
    """Make a future that a task waits for for ever."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future._asyncio_future_blocking = True
    return future


def make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task; one that a mortal's task makes is the mortal's, too."""
    mortal = _current.get()
    if mortal is None:
        return asyncio.Task(work, loop=loop, **options)
    task = asyncio.Task(Counted(mortal, work), loop=loop, **options)
    mortal.tasks.add(task)
    task.add_done_callback(mortal.tasks.discard)
    return task


@contextmanager
def mortality() -> Iterator[None]:
    """Let mortals be started on the running loop."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(make_task)
    try:
        yield
    finally:
        loop.set_task_factory(None)


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Wait for all. Return what they return; raise the first error."""
    found = await asyncio.gather(*works, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return [each for each in found if not isinstance(each, BaseException)]
