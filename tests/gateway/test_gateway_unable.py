"""What the gateway says when it stops, its server is away, or a body makes no sense."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from orion_streams.agents import gateway_calls
from orion_streams.client import streams_client
from orion_streams.client.streams_client import AsyncClient
from orion_streams.errors import BackendError
from orion_streams.gateway import listings
from orion_streams.protocol.answer_events import Answer
from tests.contract.contract_grid import MODEL, connected, running, silence
from tests.gateway.gateway_stage import CHAT, gateway, serving
from tests.helpers import eventually

HOST = socket.gethostname()


@pytest.mark.parametrize("stream", [True, False])
async def test_who_is_asking_when_it_stops_is_told(
    valkey_url: str, prefix: str, tmp_path: Path, stream: bool
) -> None:
    """Its answer ends in a sentence, as a status or a last line, and the node is told to stop."""
    async with running(valkey_url, prefix, silence, clients=("gateway", "brain")) as grid:
        async with serving(grid, tmp_path) as stage:
            asking = asyncio.create_task(
                stage.http.post(f"{stage.url}/api/chat", json={**CHAT, "stream": stream})
            )
            [run] = await eventually(lambda: grid.runs, "it runs")
            if stream:
                answer = await asking  # the headers, after a second without a refusal
            stopping = asyncio.create_task(stage.stop())
            answer = await asking
            text = await answer.text()
            await stopping
        await run.cancelled.wait()
    assert answer.status == (200 if stream else 503)
    assert "the gateway stops" in text


async def test_a_server_that_is_away_costs_its_own_time_only(
    valkey_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks is not made to wait until the cancel of his request has failed as well."""
    never = asyncio.Event()

    async def hanging(*_: object) -> None:
        await never.wait()

    def broken(*_: object, **__: object) -> object:
        async def events() -> AsyncGenerator[Answer, None]:
            raise BackendError("redis is away")
            yield

        return events()

    monkeypatch.setattr(AsyncClient, "send", broken)
    monkeypatch.setattr(AsyncClient, "cancel", hanging)
    monkeypatch.setattr(gateway_calls, "CANCEL_S", 60.0)
    async with gateway(valkey_url, prefix, tmp_path) as stage:
        answer = await stage.post("/api/chat", {**CHAT, "stream": False})
        assert answer.status == 503
        assert len(gateway_calls.CANCELS) == 1
        never.set()


async def test_a_client_of_the_streams_that_is_closed_lets_its_callers_go(
    valkey_url: str, prefix: str
) -> None:
    """They get an error, and nobody waits for an answer that nobody reads."""
    async with connected(valkey_url, prefix, silence) as (grid, client):
        asking = asyncio.create_task(client.generate(MODEL, "x", id="q"))
        await eventually(lambda: grid.runs, "it runs")
        await client.close()
        with pytest.raises(BackendError, match="closed"):
            await asking


async def test_bad_bodies_blame_themselves(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """A packing that is none, half a character very deep: 400, and no defect of the gateway."""
    deep = b"[" * 900 + b'"\\ud800"' + b"]" * 900
    async with gateway(valkey_url, prefix, tmp_path) as stage:
        url = f"{stage.url}/api/chat"
        packed = await stage.http.post(url, data=b"rubbish", headers={"Content-Encoding": "gzip"})
        async with aiohttp.ClientSession() as other:  # the first connection is closed
            nested = await other.post(url, data=b'{"model":"m","x":' + deep + b"}")
    assert (packed.status, nested.status) == (400, 400)


async def test_a_model_may_be_where_nobody_has_looked_yet(
    valkey_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until each node has told its models, one that no other has is no 404; what another has is asked
    for."""
    async with gateway(valkey_url, prefix, tmp_path) as stage:
        known = await stage.post("/api/chat", {**CHAT, "model": "nope"})
        monkeypatch.setattr(listings, "untold", lambda _: ["three"])
        unknown = await stage.post("/api/chat", {**CHAT, "model": "nope"})
        asked = await stage.post("/api/chat", {**CHAT, "stream": False})
    assert (known.status, unknown.status, asked.status) == (404, 503, 200)
    assert "which models three has is not told yet" in (await unknown.json())["error"]


async def test_where_the_server_stands_is_told_to_nobody(
    valkey_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away callers learn that, and the gateway's log has the rest."""

    async def gone(*_: object) -> bytes:
        raise RedisConnectionError(f"Error connecting to {valkey_url}")

    async with gateway(valkey_url, prefix, tmp_path) as stage:
        monkeypatch.setattr(streams_client, "FIRST_PAUSE_S", 3_600.0)  # it gives up at the first try
        monkeypatch.setattr(streams_client, "LONGEST_PAUSE_S", 3_600.0)
        with monkeypatch.context() as away:
            away.setattr(Redis, "xadd", gone)
            refused = await stage.post("/api/chat", {**CHAT, "stream": False})
    text = await refused.text()
    assert refused.status == 503
    assert "the grid's server is away" in text
    assert "redis" not in text
