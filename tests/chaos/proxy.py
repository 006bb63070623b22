"""A small TCP proxy in front of the server: cuts connections, swallows answers, parts a role from Redis."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

CHUNK = 65_536


class Proxy:
    """Forwards bytes to the server at `url`; clients connect to `self.url`, an address of this machine.

    `lose_answers`: so many commands that contain `word` are executed, but their connection is cut before
    the answer. While the proxy is parted, bytes wait, as packets that a network drops and resends: they
    arrive late.
    """

    def __init__(self, url: str, host: str = "127.0.0.1") -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        self.url, self._listens_at = "", host
        self.word = b"XADD"
        self.lose_answers = self.lost = 0
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on a free port."""
        self._listener = await asyncio.start_server(self._accept, self._listens_at, 0)
        self.url = "redis://{}:{}/0".format(*self._listener.sockets[0].getsockname())

    async def stop(self) -> None:
        """Stop listening, and cut all connections."""
        if self._listener is None:
            return
        self._listener.close()
        self.join()
        self.cut()
        if self._serving:
            await asyncio.wait(self._serving)
        await self._listener.wait_closed()

    def part(self) -> None:
        """Hold all bytes back from now on, without closing a connection."""
        self._passing.clear()

    def join(self) -> None:
        """Forward what was held back, and go on."""
        self._passing.set()

    def cut(self) -> int:
        """Cut all connections and return how many there were."""
        count = len(self._writers) // 2
        for writer in self._writers:
            writer.transport.abort()
        return count

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, up_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:  # the server is away
            writer.transport.abort()
            return
        pair = {writer, up_writer}
        self._writers |= pair
        back = asyncio.create_task(self._pass(upstream, writer))
        try:
            while data := await reader.read(CHUNK):
                await self._passing.wait()
                up_writer.write(data)
                if self.lose_answers and self.word in data:
                    self.lose_answers -= 1
                    back.cancel()
                    await asyncio.wait([back])
                    await upstream.read(CHUNK)  # the answer: it has been carried out
                    self.lost += 1
                    break
                await up_writer.drain()
        except OSError:
            pass
        finally:
            back.cancel()
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
