"""Connections of the gateway: too many, slow, broken off, and those whose client does not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from orion_streams.agents import gateway_connections, gateway_http, gateway_server
from orion_streams.agents.gateway_connections import Connections
from orion_streams.model import events as ev
from tests.contract.contract_grid import Run, count, silence
from tests.endpoint.wire import ECHO, GET, RUNNING, WHOLE, wire
from tests.gateway.gateway_stage import Stage, gateway
from tests.helpers import eventually


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are looked at often."""
    monkeypatch.setattr(gateway_connections, "SWEEP_S", 0.01)


@pytest.fixture
async def stage(valkey_url: str, prefix: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """A gateway."""
    async with gateway(valkey_url, prefix, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("first", [(), ("GET / HTTP/1.1", "Host: local")])
async def test_a_head_that_never_ends_is_given_up(
    stage: Stage, first: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that says nothing, or never enough, is closed; one that has asked is not."""
    async with wire(stage.url) as asked, wire(stage.url) as line:
        await asked.send(*GET)
        await asked.answer()
        await line.send(*first, end="")
        monkeypatch.setattr(gateway_connections, "HEAD_S", 0.0)
        assert await line.is_closed()
        await asked.send(*GET)
        assert (await asked.answer()).body == RUNNING


async def test_a_connection_that_asks_nothing_more_is_closed(
    valkey_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, also in the middle of its next head."""
    monkeypatch.setattr(gateway_server, "IDLE_S", 0.05)
    async with gateway(valkey_url, prefix, tmp_path) as stage, wire(stage.url) as line:
        await line.send(*GET)
        assert (await line.answer()).status == 200
        await line.send(*GET, end="")
        assert await line.is_closed()


async def test_too_many_connections_are_turned_away(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """503 with a time to come back; where one closes there is room again."""
    async with gateway(valkey_url, prefix, tmp_path, max_connections=3) as stage:
        await stage.http.close()  # its own connection
        async with wire(stage.url) as one, wire(stage.url) as two:
            for line in (one, two):
                await line.send(*GET)
                assert (await line.answer()).status == 200
            async with wire(stage.url) as third:
                await third.send(*GET)
                assert (await third.answer()).status == 200
                async with wire(stage.url) as fourth:
                    refused = await fourth.answer()
                    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
                    assert "max_connections" in refused.error
                    assert await fourth.is_closed()

            async def is_let_in() -> bool:
                async with wire(stage.url) as another:
                    await another.send(*GET)
                    return (await another.answer()).status == 200

            await eventually(is_let_in, "there is room again")


async def talking(run: Run) -> None:
    """A script that says more than any socket holds."""
    await run.started()
    while not run.cancelled.is_set():
        await run.token("x" * 50_000)


async def test_who_does_not_read_is_given_up(
    valkey_url: str,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once nothing more can be written for a while, the request is cancelled."""
    monkeypatch.setattr(gateway_http, "WRITE_S", 0.1)
    async with (
        gateway(valkey_url, prefix, tmp_path, talking) as stage,
        wire(stage.url, buffer_bytes=4096) as line,
    ):
        await line.post("/api/generate", ECHO)
        [run] = await eventually(lambda: stage.grid.runs, "it runs")
        await run.cancelled.wait()
        assert await count(stage.grid, ev.RequestCancelled) == 1
        await eventually(lambda: line.was_cut, "the connection was cut")
    assert not caplog.records


async def test_who_does_not_take_a_whole_answer_is_cut_off(
    valkey_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer in one piece is not kept for ever either."""

    async def long(run: Run) -> None:
        await run.done("\x01" * 3_000_000)

    async with (
        gateway(valkey_url, prefix, tmp_path, long) as stage,
        wire(stage.url, buffer_bytes=4096) as line,
    ):
        monkeypatch.setattr(gateway_http, "BODY_S", 0.1)
        await line.post("/api/generate", WHOLE)
        await eventually(lambda: line.was_cut, "the connection was cut")


async def test_a_machine_that_is_switched_off_cancels_its_request(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """A reset of the connection in the middle of an answer."""
    async with gateway(valkey_url, prefix, tmp_path, silence) as stage, wire(stage.url) as line:
        await line.post("/api/generate", ECHO)
        [run] = await eventually(lambda: stage.grid.runs, "it runs")
        line.reset()
        await run.cancelled.wait()
        assert await count(stage.grid, ev.RequestCancelled) == 1


async def test_what_is_left_of_a_closed_connection_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts until it is gone, and it goes, whether or not its client reads."""
    connections = Connections(1)

    async def hasty_end(request: Any) -> web.Response:
        transport = request.transport
        connections.asked(request)
        transport.write(b"x" * 20_000_000)
        transport.close()
        return web.Response()

    connections.server = web.Server(hasty_end)
    server = await asyncio.get_running_loop().create_server(connections.accept, "127.0.0.1", 0)
    sweeping = asyncio.create_task(connections.sweep())
    host, port = server.sockets[0].getsockname()
    async with wire(f"http://{host}:{port}", buffer_bytes=4096) as line:
        await line.send(*GET)
        await line.reader.readexactly(1)
        assert len(connections) == 1
        monkeypatch.setattr(gateway_connections, "HEAD_S", 0.0)
        await eventually(lambda: line.was_cut, "the connection was cut")
        assert len(connections) == 0
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    server.close()
