"""A part of a process that can be ended at any of its awaits, as kill -9 would end it.

Every coroutine that a mortal's tasks run is wrapped: each time one of them is suspended, that is a point.
At point number `at` the mortal is struck. A kill aborts its connections and never resumes any of its
coroutines, so no `finally` of it writes anything, as in a process that is gone; a cancel delivers
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
        """Run it as a task of this mortal; so are all tasks that it makes."""
        outside = _current.set(self)
        try:
            return asyncio.get_running_loop().create_task(work)
        finally:
            _current.reset(outside)

    def suspended(self) -> None:
        """One more point."""
        self.points += 1
        if self.points == self.at:
            self.struck.set()
            self.strike()
            self.at = 0

    def die(self) -> None:
        """Nothing of it runs any more, and nothing of it reaches the server."""
        self.dead = True
        self.cut()

    def cut(self) -> None:
        """Abort its connections; new ones fail."""
        for client in self.clients:
            pool = client.connection_pool
            pool.connection_kwargs["port"] = CLOSED_PORT
            for connection in (*pool._available_connections, *pool._in_use_connections):
                connection.port = CLOSED_PORT
                if connection._writer is not None:
                    connection._writer.transport.abort()

    async def bury(self) -> None:
        """Let its coroutines end, so that nothing is left in this test; they reach no server."""
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
    """What a task may be handed as the future that it waits for."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future._asyncio_future_blocking = True
    return future


def make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """The loop's task factory: tasks of a mortal, and all that they make, are its own."""
    mortal = _current.get()
    if mortal is None:
        return asyncio.Task(work, loop=loop, **options)
    task = asyncio.Task(Counted(mortal, work), loop=loop, **options)
    mortal.tasks.add(task)
    task.add_done_callback(mortal.tasks.discard)
    return task


@contextmanager
def mortality() -> Iterator[None]:
    """Within it, mortals can be started on the running loop."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(make_task)
    try:
        yield
    finally:
        loop.set_task_factory(None)


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What they return; the first error, once all are over."""
    found = await asyncio.gather(*works, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return [each for each in found if not isinstance(each, BaseException)]
