"""A real gateway in one event loop: on a real server, with the real router and scripted STAND-INS for the
agents."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from orion_streams.agents import gateway_server
from tests.contract.contract_grid import Grid, Script, echo, running, stop
from tests.helpers import eventually

CHAT = {"model": "gemma3:270m", "messages": [{"role": "user", "content": "Why?"}]}


class Stage:
    """The grid behind a gateway, and an HTTP client of it."""

    def __init__(self, grid: Grid, url: str, http: aiohttp.ClientSession, task: asyncio.Task[None]) -> None:
        self.grid, self.url, self.http, self.task = grid, url, http, task

    async def stop(self) -> None:
        """Stop the gateway, as a signal does."""
        await stop([self.task])

    async def post(self, path: str, body: object, **options: Any) -> aiohttp.ClientResponse:
        """Post JSON, and read the whole answer."""
        answer = await self.http.post(self.url + path, json=body, **options)
        await answer.read()
        return answer

    async def models(self) -> list[dict[str, Any]]:
        """What `/api/tags` lists."""
        answer = await self.http.get(f"{self.url}/api/tags")
        found = await answer.json()
        return list(found.get("models", ()))

    async def lines(self, path: str, body: object) -> tuple[int, list[dict[str, Any]]]:
        """Post, and read lines of JSON."""
        answer = await self.post(path, body)
        return answer.status, [msgspec.json.decode(line) for line in (await answer.read()).splitlines()]


@asynccontextmanager
async def gateway(
    url: str, prefix: str, folder: Path, script: Script = echo, **rules: Any
) -> AsyncIterator[Stage]:
    """A grid with a gateway while the block runs; `rules`: of the table [gateway]."""
    async with (
        running(url, prefix, script, clients=("gateway", "brain")) as grid,
        serving(grid, folder, **rules) as stage,
    ):
        yield stage


@asynccontextmanager
async def serving(grid: Grid, folder: Path, **rules: Any) -> AsyncIterator[Stage]:
    """A gateway of that grid on a free port."""
    config = grid.config
    table = msgspec.structs.replace(config.gateway, keys_file=str(folder / "keys.json"), **rules)
    redis = msgspec.structs.replace(config.redis, url=grid.url)
    config = msgspec.structs.replace(config, gateway=table, redis=redis)
    where: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    work = gateway_server.run(config, insecure=False, port=0, ready=where.set_result)
    task = asyncio.create_task(work)
    waits: set[asyncio.Future[Any]] = {task, where}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    try:
        async with aiohttp.ClientSession() as http:
            stage = Stage(grid, where.result(), http, task)
            await eventually(stage.models, "the models are known")
            yield stage
    finally:
        await stop([task])
