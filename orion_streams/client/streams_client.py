"""The Brain's side of the contract: `AsyncClient` for asyncio, `Client` for everything else.

    client = Client("redis://orion-master:6379/0")
    print(client.generate("gemma3:270m", "Why is the sky blue?").text)
    for event in client.stream("gemma3:270m", "Tell me a story."):
        match event:
            case Piece(text): print(text, end="")
            case Restarted(): print("\\n(from the beginning)")
            case Answer(): print(f"\\n{event.tokens} tokens on {event.node}")

The pieces since the last `Restarted` are always the beginning of the text of one attempt; pieces of two
attempts are never mixed. A slow reader gets larger pieces. The `Answer` comes last, with the whole text.

When the connection breaks, a request is sent again under the same id, which the grid answers once. Replies
are read from a position noted before the first send, so none is missed. Another process that sends the
same `id` gets the same answer. A request whose caller gave no `id` is cancelled when the caller abandons it
(abandon a stream by its `aclose()`, or `close()` in the blocking client).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from redis.backoff import DecorrelatedJitterBackoff
from redis.exceptions import RedisError, ResponseError

from orion_streams.client import calls, disk_orders
from orion_streams.client.calls import Call, Fields, RequestMethods
from orion_streams.client.disk_orders import PullProgress
from orion_streams.client.upload import NO_PARTS, Upload
from orion_streams.errors import BackendError, OrionError
from orion_streams.model import server_urls
from orion_streams.model.commit import PUBLIC
from orion_streams.model.policy import UNLISTED, ClientRules
from orion_streams.protocol.answer_events import Answer, AnswerEvent
from orion_streams.protocol.public_row import SILENT_MS, PublicRow
from orion_streams.protocol.replies import Reply
from orion_streams.runtime.connection import cancel_requests, connect, in_short, will_pass
from orion_streams.runtime.grid_row import look
from orion_streams.runtime.read_size import ReadSize, size_of

log = logging.getLogger("orion.client")

BLOCK_MS, READ_COUNT, SENDERS, REMEMBERED = 1_000, 100, 8, 1_000
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
CONTROL_S = 30.0
"""How long an operator's entry may take."""
START = b"0-0"

T = TypeVar("T")


class AsyncClient(RequestMethods[Coroutine[Any, Any, Answer], AsyncGenerator[AnswerEvent, None]]):
    """Async client; one reader task serves all requests in flight. Redis may be unreachable for `give_up_s`
    at a time, then BackendError is raised. A request without an end `margin_s` after its deadline raises
    RequestTimeoutError. `duplicates` counts terminal replies that were repeated because the server had lost
    its tail; they are dropped."""

    def __init__(
        self,
        url: str,
        client: str = "brain",
        *,
        prefix: str = "orion:",
        give_up_s: float = 180.0,
        margin_s: float = 5.0,
        password: str = "",
        tls_ca_file: str = "",
        tls_cert_file: str = "",
        tls_key_file: str = "",
    ) -> None:
        url = server_urls.with_password(url, password) if password else url
        self._redis: Any = connect(server_urls.with_tls(url, tls_ca_file, tls_cert_file, tls_key_file))
        self._client, self._grid = client, prefix + PUBLIC
        self._requests, self._replies = f"{prefix}requests:{client}", f"{prefix}replies:{client}"
        self._parts = f"{prefix}parts:{client}"
        self._is_known = False
        self._give_up_s, self._margin_s = give_up_s, margin_s
        self._calls: dict[str, Call] = {}
        self._ended: dict[str, bytes] = {}
        self._position = START
        self._last: dict[bytes, bytes] = {}
        self._size = ReadSize(READ_COUNT)
        self._reader: asyncio.Task[None] | None = None
        self._starting, self._sending = asyncio.Lock(), asyncio.Semaphore(SENDERS)
        self._background: set[asyncio.Task[None]] = set()
        self._resending: set[str] = set()
        self._cuts = self.duplicates = 0  # cuts: lost connections that the reader noticed

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def cancel(self, request_id: str) -> None:
        """Cancel a request. Its caller gets RequestCancelledError, unless the answer arrives first."""
        await self._send({"cancel": request_id})

    async def cancel_of(self, client: str, request_id: str) -> None:
        """Cancel a request of another client, as an operator. Raises RequestRejectedError if this client is
        none, or nobody knows the request."""
        await self._told({"cancel": request_id, "client": client})

    async def open_requests(self) -> list[dict[str, Any]]:
        """Return the open requests of all clients, for an operator. Raises RequestRejectedError for
        others."""
        end = await self._told({"list": "open"})
        return msgspec.json.decode(end.requests or "[]", type=list[dict[str, Any]])

    async def drain(self, node: str, for_ms: int = 0, *, last: bool = False) -> None:
        """Let a node rest, as an operator: it takes nothing for so long (0: until `resume`), and what it
        has moves. `last`: even if no other node answers. Raises RequestRejectedError for others, for an
        unknown node, and for the last one."""
        await self._told({"drain": node, "for_ms": str(for_ms), "last": str(int(last))})

    async def resume(self, node: str) -> None:
        """End a node's rest, as an operator. Raises RequestRejectedError for others and an unknown node."""
        await self._told({"resume": node})

    async def pull(
        self, model: str, node: str, *, request_id: str = ""
    ) -> AsyncGenerator[PullProgress, None]:
        """Pull a model onto a node, as an operator, and yield how far it is until it is there. Leaving
        before cancels it. Raises RequestRejectedError, RequestFailedError, RequestCancelledError."""
        async with aclosing(self._ordered({"pull": model, "node": node}, request_id)) as steps:
            async for step in steps:
                yield step

    async def remove(self, model: str, node: str, *, request_id: str = "", last: bool = True) -> None:
        """Remove a model from a node's disk, as an operator; without `last` not the house's last copy.
        Raises as `pull` does."""
        order = {"remove": model, "node": node, **({} if last else {"last": "0"})}
        async with aclosing(self._ordered(order, request_id)) as steps:
            async for _ in steps:
                pass

    async def _ordered(self, entry: dict[str, str], request_id: str) -> AsyncGenerator[PullProgress, None]:
        """Send an order for a node's disk, and yield what is said of it. Raises as a request does."""
        request_id = request_id or self.new_id()
        call = self._calls[request_id] = Call({**entry, "id": request_id}, asks=False)
        try:
            async with asyncio.timeout(self._margin_s + CONTROL_S):
                await self._begin(call)
            async with aclosing(disk_orders.heard(call, self._margin_s + CONTROL_S)) as steps:
                async for step in steps:
                    yield step
        except TimeoutError:
            what = "nothing was said of it for too long"
            raise calls.RequestTimeoutError(request_id, "timeout", what) from None
        finally:
            del self._calls[request_id]
            if call.end is None:
                self._spawn(self.cancel(request_id))

    async def add_guest(self, name: str, rules: ClientRules = UNLISTED) -> None:
        """Add a client `key-…` of the grid, or give it other rules, as the gateway. Raises
        RequestRejectedError for others, and for another name."""
        await self._told({"guest": name, "rules": msgspec.json.encode(rules).decode()})

    async def remove_guest(self, name: str) -> None:
        """Remove a client that was added, as the gateway. What it has open comes to its end."""
        await self._told({"remove_guest": name})

    async def _told(self, entry: dict[str, str]) -> Reply:
        """Send an operator's entry, or the gateway's, and wait for the reply. Raises as a request does."""
        request_id = self.new_id()
        call = self._calls[request_id] = Call({**entry, "id": request_id}, asks=False)
        try:
            async with asyncio.timeout(self._margin_s + CONTROL_S):
                await self._begin(call)
                while call.end is None:
                    await call.news.wait()
        except TimeoutError:
            what = f"no answer after {self._margin_s + CONTROL_S:g} s"
            raise calls.RequestTimeoutError(request_id, "timeout", what) from None
        finally:
            del self._calls[request_id]
        if isinstance(call.end, Exception):
            raise call.end
        if call.end.kind == "rejected":
            raise calls.RequestRejectedError(request_id, call.end.code, call.end.message)
        return call.end

    def abandon(self, error: Exception) -> None:
        """Let all who wait for an answer go, with this error. Their requests stay open in the grid; pulls
        and removals are cancelled."""
        for request_id, call in self._calls.items():
            if call.end is None and disk_orders.is_order(call):
                self._spawn(self.cancel(request_id))
            call.finish(error)

    async def close(self) -> None:
        """Close the connection. Who still waits for an answer gets BackendError. Wait up to a second for
        cancels that are being sent."""
        self.abandon(BackendError("this client is closed"))
        if self._background:
            await asyncio.wait(self._background, timeout=1)
        tasks = {task for task in (*self._background, self._reader) if task is not None}
        while tasks:
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.05)  # a cancel may get lost, see _patiently
        await self._redis.aclose()

    async def _answer(self, content: Mapping[str, Any], fields: Fields) -> Answer:
        async for event in self._events({"stream": False, **content}, fields):
            last = event
        assert isinstance(last, Answer)  # noqa: S101 - else an error was raised
        return last

    async def _events(
        self, content: Mapping[str, Any], fields: Fields
    ) -> AsyncGenerator[AnswerEvent, None]:
        if twice := content.keys() & fields.keys():
            raise TypeError(f"a field that is given twice: {', '.join(sorted(twice))}")
        values = {name: value for name, value in {**content, **fields}.items() if name != "timeout_s"}
        request_id = values["id"] = fields.get("id") or self.new_id()
        deadline_ms = calls.deadline_ms_of(fields)
        call = calls.request_call({**values, "deadline_ms": deadline_ms})
        if request_id in self._calls:
            raise ValueError(f"{request_id} is already in flight")
        self._calls[request_id] = call
        until = asyncio.get_running_loop().time() + deadline_ms / 1000 + self._margin_s
        try:
            async with asyncio.timeout_at(until):
                await self._begin(call)
            while True:
                end = call.end
                for event in call.take():
                    yield event
                if end is not None:
                    break
                async with asyncio.timeout_at(until):
                    await call.news.wait()
            yield await self._conclude(end)
        except TimeoutError:
            raise calls.RequestTimeoutError(
                request_id, "timeout", f"no end after {deadline_ms / 1000:g} s"
            ) from None
        except (BackendError, calls.RequestRejectedError) as error:
            call.finish(error)  # so that nothing is cancelled that was never sent
            raise
        finally:
            del self._calls[request_id]
            if call.end is None and not fields.get("id"):
                self._spawn(self.cancel(request_id))

    async def _conclude(self, end: Reply | Exception) -> Answer:
        if isinstance(end, Exception):
            raise end
        if end.kind != "known":
            return calls.conclude(end)
        place = end.reply_id
        rows = await self._patiently(lambda: self._redis.xrange(self._replies, place, place))
        if not rows:
            raise calls.RequestFailedError(
                end.id, "reply_gone", f"it ended as {end.state}, its reply is gone"
            )
        return calls.conclude(calls.read_reply(rows[0][1]))

    async def _begin(self, call: Call) -> None:
        """Send the request; start the reader first, so that no reply is missed. Before the first one look
        whether anybody reads it. Raises RequestRejectedError if this client is unknown."""
        async with self._starting:
            if not self._is_known:
                await self._look(call.entry["id"])
            if self._reader is None or self._reader.done():
                self._position, self._last = await self._patiently(self._newest_reply)
                self._reader = asyncio.create_task(self._read())
        await self._send(call.entry, call.upload)

    async def _look(self, request_id: str) -> None:
        """Look into the grid's public row; one that is not there, or that this user may not read, says
        nothing, and an old one may know too few clients. Raises RequestRejectedError."""
        now_ms, row = await self._patiently(self._public_row)
        silent_ms = now_ms - row.looked_ms if row is not None else 0
        if row is not None and self._client not in row.clients and silent_ms <= SILENT_MS:
            what = f"{self._client} is no client of this grid (known: {', '.join(row.clients)})"
            mend = f"add [clients.{self._client}] to the router's streams.toml, and raise revision"
            raise calls.RequestRejectedError(request_id, "unknown_client", f"{what}: {mend}")
        if silent_ms > SILENT_MS:
            log.warning("no router has looked for requests for %d s: this one waits", silent_ms // 1000)
        self._is_known = True

    async def _public_row(self) -> tuple[int, PublicRow | None]:
        """Return the server's time in ms, and the row if this user may read both."""
        try:
            return await look(self._redis, self._grid)
        except ResponseError:
            return 0, None

    async def _send(self, entry: dict[str, str], upload: Upload = NO_PARTS) -> None:
        async def put() -> None:
            parts = await upload.fields(self._redis, self._parts)
            await self._redis.xadd(self._requests, entry | parts)

        async with self._sending:
            await self._patiently(put)

    async def _read(self) -> None:
        """Dispatch replies while any request is in flight. After a cut send all open requests again: the
        server may have lost what it acknowledged, and the grid ignores an id that it knows. If the last
        reply itself was lost, read the stream from its start: after a clock change ids may repeat."""
        try:
            while self._calls:
                cuts = self._cuts
                rows = await self._patiently(self._next_replies)
                if cuts != self._cuts and not await self._patiently(self._stands):
                    self._position, self._last, rows = START, {}, []
                for entry_id, fields in rows:
                    self._position, self._last = entry_id, fields
                    self._hand_out(entry_id, fields)
                if cuts != self._cuts:
                    for request_id in self._calls.keys() - self._resending:
                        self._resending.add(request_id)
                        self._spawn(self._resend(request_id))
        except Exception as error:  # whatever it is, the callers must get it
            self.abandon(error)

    async def _resend(self, request_id: str) -> None:
        """Send a request again, and once more if another cut happened meanwhile, which may have lost it."""
        cuts = -1
        try:
            while (call := self._calls.get(request_id)) and call.end is None and cuts != self._cuts:
                cuts = self._cuts
                await self._send(call.entry, call.upload)
        finally:
            self._resending.discard(request_id)

    async def _newest_reply(self) -> tuple[bytes, dict[bytes, bytes]]:
        newest = await self._redis.xrevrange(self._replies, count=1)
        return newest[0] if newest else (START, {})

    async def _next_replies(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        answer = await self._redis.xread({self._replies: self._position}, self._size.count, BLOCK_MS)
        found = [row for _, rows in answer or () for row in rows]
        self._size.saw(len(found), size_of(fields for _, fields in found))
        return found

    async def _stands(self) -> bool:
        """Return whether the last reply read is still in the stream, unchanged."""
        rows = await self._redis.xrange(self._replies, self._position, self._position)
        return self._position == START or rows == [(self._position, self._last)]

    def _hand_out(self, entry_id: bytes, fields: Mapping[bytes, bytes]) -> None:
        request_id = fields.get(b"id", b"").decode(errors="replace")
        call = self._calls.get(request_id)
        if call is not None and call.end is None:
            try:
                call.hear(calls.read_reply(fields))
            except BackendError as error:
                call.finish(error)
            if call.end is not None:
                self._ended[request_id] = entry_id
                if len(self._ended) > REMEMBERED:
                    del self._ended[next(iter(self._ended))]
        elif fields.get(b"kind") not in (b"token", b"known", b"rejected"):
            self.duplicates += self._ended.get(request_id, entry_id) != entry_id

    async def _patiently(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Retry until Redis answers. A write may happen twice; that is harmless because requests have ids.
        Raises BackendError after `give_up_s`, or if Redis refuses the command."""
        cancels, pause_s = cancel_requests(), 0.0
        backoff = DecorrelatedJitterBackoff(cap=LONGEST_PAUSE_S, base=FIRST_PAUSE_S)
        clock = asyncio.get_running_loop().time
        give_up = clock() + self._give_up_s
        while True:
            try:
                answer = await ask()
                if cancel_requests() > cancels:
                    raise asyncio.CancelledError  # it got lost in Python 3.11's wait_for, inside redis-py
                return answer
            except (RedisError, OSError) as error:
                what = in_short(error)
                if not will_pass(error):
                    raise BackendError(f"redis refuses: {what}") from error
                if pause_s == 0:
                    log.warning("redis is away (%s): trying for %g s", what, self._give_up_s)
                self._cuts += asyncio.current_task() is self._reader
                pause_s = backoff.compute(0)  # it ignores the count of failures
                if clock() + pause_s > give_up:
                    raise BackendError(f"redis is away: {what}") from error
            await asyncio.sleep(pause_s)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def quietly() -> None:
            try:
                await work
            except OrionError as error:
                log.info("%s", error)

        task = asyncio.create_task(quietly())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
