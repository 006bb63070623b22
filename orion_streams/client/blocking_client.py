"""The blocking client: the async one on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator, Mapping
from typing import Any, TypeVar

from orion_streams.client.calls import Fields, RequestMethods
from orion_streams.client.streams_client import AsyncClient
from orion_streams.errors import BackendError
from orion_streams.protocol.answer_events import Answer, AnswerEvent

T = TypeVar("T")


class Client(RequestMethods[Answer, Generator[AnswerEvent, None, None]]):
    """Blocking client for any number of threads: an AsyncClient on an event loop in a thread of its own."""

    def __init__(self, url: str, client: str = "brain", **settings: Any) -> None:
        self._inner = AsyncClient(url, client, **settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="orion-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cancel(self, request_id: str) -> None:
        """Cancel a request. Its caller gets RequestCancelledError, unless the answer arrives first."""
        self._wait(self._inner.cancel(request_id))

    def cancel_of(self, client: str, request_id: str) -> None:
        """Cancel a request of another client, as an operator. Raises RequestRejectedError if this client is
        none, or nobody knows the request."""
        self._wait(self._inner.cancel_of(client, request_id))

    def open_requests(self) -> list[dict[str, Any]]:
        """Return the open requests of all clients, for an operator. Raises RequestRejectedError for
        others."""
        return self._wait(self._inner.open_requests())

    def drain(self, node: str, for_ms: int = 0, *, last: bool = False) -> None:
        """Let a node rest, as an operator; see AsyncClient.drain."""
        self._wait(self._inner.drain(node, for_ms, last=last))

    def resume(self, node: str) -> None:
        """End a node's rest, as an operator. Raises RequestRejectedError for others and an unknown node."""
        self._wait(self._inner.resume(node))

    def pull(self, model: str, node: str) -> None:
        """Pull a model onto a node, as an operator, and wait until it is there; see AsyncClient.pull."""
        self._wait(self._pulled(model, node))

    async def _pulled(self, model: str, node: str) -> None:
        async for _ in self._inner.pull(model, node):
            pass

    def remove(self, model: str, node: str, *, last: bool = True) -> None:
        """Remove a model from a node's disk, as an operator; see AsyncClient.remove."""
        self._wait(self._inner.remove(model, node, last=last))

    def close(self) -> None:
        """Close the connection and end the thread; once it is closed, do nothing."""
        if self._loop.is_closed():
            return
        self._wait(self._inner.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _answer(self, content: Mapping[str, Any], fields: Fields) -> Answer:
        return self._wait(self._inner._answer(content, fields))

    def _events(self, content: Mapping[str, Any], fields: Fields) -> Generator[AnswerEvent, None, None]:
        events = self._inner._events(content, fields)

        async def step() -> AnswerEvent | None:
            return await anext(events, None)

        try:
            while (event := self._wait(step())) is not None:
                yield event
        finally:
            self._wait(events.aclose())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise BackendError("this client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
