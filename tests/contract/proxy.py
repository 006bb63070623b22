"""A small TCP proxy between a client and the server, to cut connections where it hurts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on. `lose_answers`: so many commands that hold `word` are carried out, but their
    connection is cut before the answer."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        self.url = ""
        self.word = b"XADD"
        self.lose_answers = 0
        self.lost = 0
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> int:
        """Cut every connection. How many there were."""
        count = len(self._writers) // 2
        for writer in self._writers:
            writer.transport.abort()
        return count

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        upstream, up_writer = await asyncio.open_connection(self._host, self._port)
        pair = {writer, up_writer}
        self._writers |= pair
        back = asyncio.create_task(self._pass(upstream, writer))
        try:
            while data := await reader.read(65_536):
                up_writer.write(data)
                if self.lose_answers and self.word in data:
                    self.lose_answers -= 1
                    back.cancel()
                    await asyncio.wait([back])
                    await upstream.read(65_536)  # the answer: it has been carried out
                    self.lost += 1
                    break
        except OSError:
            pass
        finally:
            back.cancel()
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.transport.abort()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the server at `url`."""
    proxy = Proxy(url)
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(proxy.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.url = "redis://{}:{}".format(*listener.sockets[0].getsockname())
    try:
        yield proxy
    finally:
        listener.close()
        proxy.cut()
        if serving:
            await asyncio.wait(serving)
        await listener.wait_closed()
