"""Misbehaviour on demand: each kind as it was seen of a real server, and over when it is over."""

import asyncio
import json
import math
import time
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from tests.helpers import eventually
from tests.simulated_ollama.conftest import INSTANT, client_of

CRASH = "an error was encountered while running the model: unexpected EOF"
REQUEST = {"model": "gemma3:270m", "prompt": "hello"}
CHAT = {"model": "gemma3:270m", "messages": [{"role": "user", "content": "hello"}]}


async def arm(client: httpx.AsyncClient, kind: str, **more: Any) -> None:
    assert (await client.post("/sim/fault", json={"kind": kind, **more})).status_code == 200


async def generate(client: httpx.AsyncClient, *, stream: bool = True) -> httpx.Response:
    return await client.post("/api/generate", json={**REQUEST, "stream": stream})


def told(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


async def test_a_crash_midway_is_an_error_line_under_200(client: httpx.AsyncClient) -> None:
    """Some tokens come, then the error; ps goes on listing the model, whose memory is free."""
    await arm(client, "error_line")
    answer = await generate(client)
    *tokens, last = told(answer)
    assert (answer.status_code, last) == (200, {"error": CRASH})
    assert len(tokens) == 3
    assert [m["name"] for m in (await client.get("/api/ps")).json()["models"]] == ["gemma3:270m"]
    assert (await client.get("/sim/sensors")).json()["ram_used_mb"] == 900


async def test_after_a_crash_the_next_request_loads_anew() -> None:
    """The request after a crash pays for a load and succeeds."""
    spec = replace(INSTANT, disk_mb_per_s=250, unload_ms=0)
    async with client_of(spec) as client:
        await arm(client, "error_line")
        await generate(client)
        after = (await generate(client, stream=False)).json()
        warm = (await generate(client, stream=False)).json()
    load_ns = 253e6 / 250e6 * 1e9
    assert after["done"]
    assert after["load_duration"] > load_ns > warm["load_duration"]


async def test_a_crash_that_is_not_streamed_is_a_500(client: httpx.AsyncClient) -> None:
    """Without a stream there is a status to say it with."""
    await arm(client, "error_line")
    answer = await generate(client, stream=False)
    assert (answer.status_code, answer.json()) == (500, {"error": CRASH})


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_a_stream_can_end_without_done(client: httpx.AsyncClient, path: str) -> None:
    """A clean end is no success: none of the lines is done, and the whole form says so too."""
    await arm(client, "end_without_done", times=2)
    body = REQUEST | CHAT
    streamed = await client.post(path, json=body)
    whole = await client.post(path, json={**body, "stream": False})
    assert [line["done"] for line in told(streamed)] == [False] * 3
    assert (whole.status_code, whole.json()["done"]) == (200, False)


async def test_a_hanging_run_hangs_until_the_client_leaves(client: httpx.AsyncClient) -> None:
    """Some tokens, then nothing; when the client is gone the slot is free."""
    await arm(client, "hang")
    async with client.stream("POST", "/api/generate", json=REQUEST) as answer:
        lines = answer.aiter_lines()
        for _ in range(3):
            await anext(lines)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(lines), 0.3)
    assert (await generate(client, stream=False)).json()["done"]


async def test_a_busy_node_says_so(client: httpx.AsyncClient) -> None:
    """503 with the recorded sentence, on every route, as often as armed."""
    await arm(client, "busy", times=3)
    sentence = "server busy, please try again.  maximum pending requests exceeded"
    native = await generate(client)
    chat = await client.post("/api/chat", json=CHAT)
    vectors = await client.post("/api/embed", json={"model": "gemma3:270m", "input": "x"})
    assert [r.status_code for r in (native, chat, vectors)] == [503] * 3
    assert native.json() == chat.json() == vectors.json() == {"error": sentence}
    assert (await generate(client)).status_code == 200


async def test_a_model_may_be_gone(client: httpx.AsyncClient) -> None:
    """404 with each route's recorded sentence, as often as armed."""
    await arm(client, "not_found", times=3)
    native = await generate(client)
    chat = await client.post("/api/chat", json=CHAT)
    vectors = await client.post("/api/embed", json={"model": "gemma3:270m", "input": "x"})
    assert [r.status_code for r in (native, chat, vectors)] == [404] * 3
    assert native.json() == chat.json() == {"error": "model 'gemma3:270m' not found"}
    assert vectors.json() == {"error": 'model "gemma3:270m" not found, try pulling it first'}
    assert (await generate(client)).status_code == 200


async def test_a_killed_server_answers_nothing(client: httpx.AsyncClient) -> None:
    """The connection is closed without a response; the next request is answered."""
    await arm(client, "kill")
    with pytest.raises(httpx.RemoteProtocolError):
        await generate(client)
    assert (await generate(client)).status_code == 200


async def test_an_unload_can_take_its_time(client: httpx.AsyncClient) -> None:
    """The next unload takes as long as armed, its reply does not."""
    await arm(client, "slow_unload_ms", ms=1_500)
    await client.post("/api/generate", json={"model": "gemma3:270m"})
    began_s = time.monotonic()
    await client.post("/api/generate", json={"model": "gemma3:270m", "keep_alive": 0})
    assert (await client.get("/api/ps")).json()["models"]

    async def gone() -> bool:
        return not (await client.get("/api/ps")).json()["models"]

    await eventually(gone, "the model is unloaded")
    assert time.monotonic() - began_s >= 1.5


async def test_faults_come_in_the_order_they_were_armed(client: httpx.AsyncClient) -> None:
    """Each kind counts by itself; arming it 0 times disarms it."""
    await arm(client, "busy", times=math.trunc(1e6))
    await arm(client, "busy", times=0)
    await arm(client, "error_line")
    reply = await client.post("/sim/fault", json={"kind": "end_without_done", "times": 2})
    assert reply.json() == {"armed": {"error_line": 1, "end_without_done": 2}}
    first, second = told(await generate(client)), told(await generate(client))
    assert first[-1] == {"error": CRASH}
    assert second[-1]["done"] is False


async def test_loading_is_no_inference(client: httpx.AsyncClient) -> None:
    """A load uses up no armed misbehaviour."""
    await arm(client, "busy")
    assert (await client.post("/api/generate", json={"model": "gemma3:270m"})).status_code == 200
    assert (await generate(client)).status_code == 503
