"""The gateway as a process that is killed: what /metrics counts is what the log says."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from orion_streams.client.streams_client import AsyncClient
from orion_streams.model import events as ev
from tests.contract.contract_grid import CONFIG, MODEL, Grid, Run, running
from tests.gateway.gateway_stage import CHAT
from tests.gateway.scraped import Scraped
from tests.helpers import eventually

COUNTED: dict[str, type[ev.Event]] = {
    "done": ev.RequestCompleted,
    "error": ev.RequestFailed,
    "expired": ev.RequestExpired,
    "cancelled": ev.RequestCancelled,
}


async def fails_at_first(run: Run) -> None:
    """Each request's first attempt fails."""
    await run.started()
    if run.head.attempt == 1:
        await run.fail("stream_cut")
    else:
        await run.done("So.", tokens=2, prompt_tokens=3, total_ms=1)


class Running:
    """A gateway's process, and what it says."""

    def __init__(self, process: Process, url: str, http: aiohttp.ClientSession) -> None:
        self.process, self.url, self._http = process, url, http

    async def ask(self, count: int) -> None:
        """So many answers."""
        for _ in range(count):
            async with self._http.post(f"{self.url}/api/chat", json={**CHAT, "stream": False}) as answer:
                assert answer.status == 200, await answer.text()

    async def scrape(self) -> Scraped | None:
        """What it has counted; None while it has not read the log."""
        async with self._http.get(f"{self.url}/metrics") as answer:
            return Scraped(await answer.text()) if answer.status == 200 else None

    async def counted(self, grid: Grid) -> Scraped:
        """A scrape that has all that the log holds now."""
        answers = sum(isinstance(event, ev.RequestCompleted) for event in await grid.events())

        async def there() -> Scraped | None:
            found = await self.scrape()
            total = found.total("orion_requests_total", outcome="done") if found is not None else 0
            return found if total >= answers else None

        found: Scraped = await eventually(there, f"{answers} answers are counted")
        return found

    async def end(self, number: signal.Signals) -> None:
        """End it by a signal."""
        self.process.send_signal(number)
        await self.process.wait()


@asynccontextmanager
async def started(grid: Grid, folder: Path) -> AsyncIterator[Running]:
    """A gateway's process while the block runs."""
    house = CONFIG.format(policy="", clients=["gateway", "brain"])
    head = f'prefix = "{grid.prefix}"\n[redis]\nurl = "{grid.url}"\n'
    place = f'[gateway]\nlisten = "127.0.0.1:1"\nkeys_file = "{folder}/keys.json"\n'
    (folder / "streams.toml").write_text(head + house + place)
    command = ("-m", "orion_streams.cli", "gateway", "--json", "--port", "0")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=folder, stdout=PIPE)
    assert process.stdout is not None
    try:
        url = json.loads(await process.stdout.readline())["gateway_url"]
        async with aiohttp.ClientSession() as http:
            gateway = Running(process, url, http)
            await eventually(gateway.scrape, "it has read the log")
            yield gateway
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def assert_is_of(found: Scraped, events: list[ev.AnyEvent]) -> None:
    """A scrape says what the log says, counted naively."""
    kinds: Counter[type[ev.Event]] = Counter(type(event) for event in events)
    for outcome, kind in COUNTED.items():
        assert found.total("orion_requests_total", outcome=outcome) == kinds[kind], outcome
    assert found.total("orion_attempts_total", result="answered") == kinds[ev.RequestCompleted]
    assert found.total("orion_attempts_total", result="failed") == kinds[ev.AttemptFailed]
    assert found.value("orion_queue_wait_seconds_count") == kinds[ev.RequestRouted]
    tokens = sum(event.tokens for event in events if isinstance(event, ev.RequestCompleted))
    assert found.total("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == tokens


async def test_a_killed_gateway_counts_on(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """kill -9 after what it had not saved; meanwhile others ask; it comes back, is ended by a signal and
    comes back again: each time what the log says, nothing twice. Without its file it is a reset."""
    async with running(valkey_url, prefix, fails_at_first, clients=("gateway", "brain")) as grid:
        async with started(grid, tmp_path) as gateway:
            saved = tmp_path / "metrics-gateway.json"
            await eventually(saved.exists, "the first save")
            raw = saved.read_bytes()
            await gateway.ask(3)
            assert_is_of(await gateway.counted(grid), await grid.events())
            await gateway.end(signal.SIGKILL)
        saved.write_bytes(raw)  # as the first save left it, however long the requests took
        async with AsyncClient(valkey_url, prefix=prefix) as client:
            await client.generate(MODEL, "Why?", id="meanwhile")
        async with started(grid, tmp_path) as gateway:
            assert_is_of(await gateway.counted(grid), await grid.events())
            await gateway.ask(2)
            assert_is_of(await gateway.counted(grid), await grid.events())
            await gateway.end(signal.SIGTERM)
            assert gateway.process.returncode == 0
        assert saved.read_bytes() != raw
        async with started(grid, tmp_path) as gateway:
            found = await gateway.counted(grid)
            assert_is_of(found, await grid.events())
            with pytest.raises(AssertionError):  # the control
                assert_is_of(found, (await grid.events())[:-1] * 2)
            await gateway.end(signal.SIGKILL)
        saved.unlink()
        async with started(grid, tmp_path) as gateway:
            again = await gateway.scrape()
            assert again is not None
            assert again.total("orion_requests_total") == 0
