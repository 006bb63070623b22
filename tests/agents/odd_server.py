"""A server that answers as an Ollama must not, and the real client of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from orion_streams.agents.ollama_backend import Ollama
from orion_streams.config import NodeConfig


@asynccontextmanager
async def answering(answer: Callable[[str], bytes]) -> AsyncIterator[Ollama]:
    """Answer each path with these bytes, head and all, then close the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
            await reader.readexactly(int(length[1]) if length else 0)  # a close before would be a reset
            writer.write(answer(head.split()[1].decode()))
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    backend = Ollama(NodeConfig(ollama=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), 50)
    try:
        yield backend
    finally:
        await backend.close()
        server.close()
        await server.wait_closed()
