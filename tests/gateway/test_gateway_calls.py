"""A call of the gateway while its client waits: failover, leaving, refusals, signs of life."""

import asyncio
import socket
from functools import partial
from pathlib import Path

import msgspec
import pytest

from orion_streams.agents import gateway_calls
from orion_streams.agents.grid_follower import GridFollower
from orion_streams.agents.key_file import change
from orion_streams.gateway.keys import Key, digest_of, token_of, with_key, without_key
from orion_streams.model import events as ev
from orion_streams.protocol.public_row import SILENT_MS
from tests.contract.contract_grid import MODEL, Run, Script, count, echo, running, silence
from tests.gateway.gateway_stage import CHAT, Stage, gateway, serving
from tests.helpers import eventually

HOST = socket.gethostname()


def breaking(answers: str, heard: asyncio.Event) -> Script:
    """The first attempt breaks once what it has said was heard; the second one says `answers`."""

    async def script(run: Run) -> None:
        await run.started()
        if run.head.attempt == 1:
            await run.token("The sky ")
            await heard.wait()
            await run.fail("stream_cut")
            return
        for word in answers.split():
            await run.token(f"{word} ")
        await run.done("".join(f"{word} " for word in answers.split()))

    return script


async def broken_stream(stage: Stage, heard: asyncio.Event, path: str) -> str:
    """What a client reads that streams while the first attempt breaks."""
    async with stage.http.post(stage.url + path, json={**CHAT, "stream": True}) as answer:
        assert answer.status == 200
        first = await answer.content.readline()
        assert b"The sky" in first
        heard.set()
        return (first + await answer.read()).decode()


async def test_a_new_attempt_that_says_the_same_goes_on_silently(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """What was sent is not repeated, and the rest follows: one whole answer, which names its attempt."""
    heard = asyncio.Event()
    async with gateway(valkey_url, prefix, tmp_path, breaking("The sky is blue.", heard)) as stage:
        text = await broken_stream(stage, heard, "/api/chat")
    lines = [msgspec.json.decode(line) for line in text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == "The sky is blue. "
    assert [line["done"] for line in lines] == [*[False] * (len(lines) - 1), True]
    assert lines[-1]["orion"]["attempt"] == 2


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_two_halves_are_never_glued(valkey_url: str, prefix: str, tmp_path: Path, path: str) -> None:
    """An attempt that answers otherwise ends the stream in the API's own error, after what was sent."""
    heard = asyncio.Event()
    async with gateway(valkey_url, prefix, tmp_path, breaking("A cat sat.", heard)) as stage:
        text = await broken_stream(stage, heard, path)
    assert "cat" not in text
    assert "[DONE]" not in text
    assert "answers otherwise" in text.strip().splitlines()[-1]


async def test_who_does_not_stream_sees_nothing_of_a_crash(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """The whole answer of the second attempt, and headers that say so."""
    heard = asyncio.Event()
    heard.set()
    async with gateway(valkey_url, prefix, tmp_path, breaking("A cat sat.", heard)) as stage:
        answer = await stage.post("/api/chat", {**CHAT, "stream": False})
        body = msgspec.json.decode(await answer.read())
    assert (answer.status, body["message"]["content"]) == (200, "A cat sat. ")
    assert answer.headers["X-Orion-Attempt"] == "2"
    assert answer.headers["X-Orion-Id"] == body["orion"]["id"]


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_cancels(valkey_url: str, prefix: str, tmp_path: Path, stream: bool) -> None:
    """A client that goes away takes its request along: the node is told to stop."""
    async with gateway(valkey_url, prefix, tmp_path, silence) as stage:
        leaving = asyncio.create_task(stage.post("/api/chat", {**CHAT, "stream": stream}))
        [run] = await eventually(lambda: stage.grid.runs, "it runs")
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await run.cancelled.wait()
        assert await count(stage.grid, ev.RequestCancelled) == 1


async def test_an_answered_request_is_not_cancelled(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """Nothing is sent after the end, streamed or not."""
    async with gateway(valkey_url, prefix, tmp_path) as stage:
        for stream in (True, False):
            assert (await stage.post("/api/chat", {**CHAT, "stream": stream})).status == 200
        entries = await stage.grid.redis.xrange(f"{prefix}requests:gateway")
        assert [fields for _, fields in entries if b"cancel" in fields] == []


async def test_a_refusal_is_a_status_even_for_who_streams(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """What is refused at once is no 200: an unknown model, and what a node refuses."""

    async def refusing(run: Run) -> None:
        await run.fail("refused", "request", "bad image")

    async with gateway(valkey_url, prefix, tmp_path, refusing) as stage:
        unknown = await stage.post("/api/chat", {**CHAT, "model": "nope"})
        refused = await stage.post("/v1/chat/completions", {**CHAT, "stream": True})
        what = await refused.json()
    assert (unknown.status, await unknown.json()) == (404, {"error": "model 'nope' not found"})
    assert refused.status == 400
    assert "bad image" in what["error"]["message"]


async def test_signs_of_life_add_nothing(
    valkey_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing comes there are headers and heartbeats, and the answer is the same as without."""
    monkeypatch.setattr(gateway_calls, "FIRST_S", 0.0)
    monkeypatch.setattr(gateway_calls, "HEARTBEAT_S", 0.01)
    go_on = asyncio.Event()

    async def waiting(run: Run) -> None:
        await go_on.wait()
        await echo(run)

    async with gateway(valkey_url, prefix, tmp_path, waiting) as stage:
        body = {"model": MODEL, "prompt": "Why?"}
        async with stage.http.post(f"{stage.url}/api/generate", json=body) as answer:
            beats = [await answer.content.readline() for _ in range(3)]
            go_on.set()
            lines = [*beats, *(await answer.read()).splitlines()]
    found = [msgspec.json.decode(line) for line in lines]
    assert [line["response"] for line in found[:3]] == ["", "", ""]
    assert "".join(line["response"] for line in found) == "Why?"
    assert found[-1]["done"] is True


async def test_a_gateway_that_comes_back_cancels_what_it_had_open(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """Of its own name only: what another gateway, or nobody, asked stays."""
    async with running(valkey_url, prefix, silence, clients=("gateway", "brain")) as grid:
        mine = {"id": f"gateway@{HOST}.0ld.1", "model": MODEL, "prompt": "x"}
        await grid.redis.xadd(f"{prefix}requests:gateway", mine)
        await grid.redis.xadd(f"{prefix}requests:gateway", {**mine, "id": f"gateway-2@{HOST}.0ld.1"})
        await eventually(lambda: len(grid.runs) == 2, "both run")
        async with serving(grid, tmp_path):
            gone = next(run for run in grid.runs if run.head.request == f"gateway/gateway@{HOST}.0ld.1")
            await gone.cancelled.wait()
        assert await count(grid, ev.RequestCancelled) == 1


async def test_a_silent_router_is_a_503_that_says_so(
    valkey_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking and listing are refused with a time to come back; the state is told."""
    async with gateway(valkey_url, prefix, tmp_path) as stage:
        assert (await stage.http.get(f"{stage.url}/api/tags")).status == 200
        monkeypatch.setattr(GridFollower, "silent_ms", SILENT_MS + 1)
        asked = await stage.post("/api/chat", CHAT)
        listed = await stage.http.get(f"{stage.url}/api/tags")
        healthy = await stage.http.get(f"{stage.url}/orion/v1/health")
        state = await (await stage.http.get(f"{stage.url}/orion/v1/state")).json()
    assert (asked.status, listed.status, healthy.status) == (503, 503, 503)
    assert "the router has been silent for" in (await asked.json())["error"]
    assert asked.headers["Retry-After"]
    assert state["router"]["silent"] is True


async def test_a_client_has_so_many_requests_open_and_no_more(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """`max_streams`: one more is a 503; once one has ended there is room again."""
    async with gateway(valkey_url, prefix, tmp_path, silence, max_streams=1) as stage:
        first = asyncio.create_task(stage.post("/api/chat", CHAT))
        [run] = await eventually(lambda: stage.grid.runs, "it runs")
        full = await stage.post("/api/chat", CHAT)
        await run.done("x")
        assert (await first).status == 200
        second = asyncio.create_task(stage.post("/api/chat", CHAT))
        await eventually(lambda: len(stage.grid.runs) == 2, "there is room again")
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
    assert full.status == 503
    assert "max_streams" in (await full.json())["error"]


async def test_a_conversation_keeps_its_session(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """The second turn has the name of the first, another conversation has another; no prompt is in it."""
    turn = [
        *CHAT["messages"],
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "So?"},
    ]
    other = [{"role": "user", "content": "Else"}]
    async with gateway(valkey_url, prefix, tmp_path) as stage:
        for messages in (CHAT["messages"], turn, other):
            await stage.post("/api/chat", {**CHAT, "messages": messages})
        accepted = [each for each in await stage.grid.events() if isinstance(each, ev.RequestAccepted)]
    first, second, third = [each.session for each in accepted]
    assert first == second != third
    assert len(first) == 32


async def test_its_requests_status_is_told_to_its_client(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """`/orion/v1/requests/ID`: of one that has ended; one of another client is unknown."""
    async with gateway(valkey_url, prefix, tmp_path) as stage:
        answer = await stage.post("/api/chat", {**CHAT, "stream": False})
        name = answer.headers["X-Orion-Id"]

        async def state(request_id: str) -> str:
            answer = await stage.http.get(f"{stage.url}/orion/v1/requests/{request_id}")
            return str((await answer.json()).get("state", answer.status))

        async def is_done() -> bool:
            return await state(name) == "done"

        await eventually(is_done, "the log tells of its end")
        assert await state("nobody") == "404"


async def test_a_key_makes_a_client_and_its_removal_ends_it(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """Asked with or never used: the grid knows it while it is there, and the gateway goes on without."""
    path = tmp_path / "keys.json"

    def key(name: str) -> Key:
        digest = digest_of(token_of(name.encode()))
        return Key(name=name, client=f"key-{name}", hash=digest, created="2026-11-29", max_priority=3)

    async with gateway(valkey_url, prefix, tmp_path) as stage:
        for name in ("used", "unused"):
            change(path, partial(with_key, key=key(name)))
        bearer = {"Authorization": f"Bearer {token_of(b'used')}"}
        asked = await stage.post("/api/chat", {**CHAT, "stream": False}, headers=bearer)

        async def guests() -> set[str]:
            state = await stage.grid.events()
            added = {each.client for each in state if isinstance(each, ev.ClientAdded)}
            return added - {each.client for each in state if isinstance(each, ev.ClientRemoved)}

        async def both() -> bool:
            return await guests() == {"key-used", "key-unused"}

        async def none() -> bool:
            return await guests() == set()

        await eventually(both, "both are clients")
        for name in ("used", "unused"):
            change(path, partial(without_key, name=name))
        await eventually(none, "none is left")
        gone = await stage.post("/api/chat", CHAT, headers=bearer)
        local = await stage.post("/api/chat", {**CHAT, "stream": False})
        accepted = [each for each in await stage.grid.events() if isinstance(each, ev.RequestAccepted)]
    assert (asked.status, gone.status, local.status) == (200, 401, 200)
    assert [each.request.partition("/")[0] for each in accepted] == ["key-used", "gateway"]


async def test_a_grid_without_the_gateways_client_says_what_to_add(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """A streams.toml of an older house: 503 at once, with the table that is missing."""
    async with running(valkey_url, prefix, clients=("brain",)) as grid, serving(grid, tmp_path) as stage:
        refused = await stage.post("/api/chat", CHAT)
    assert refused.status == 503
    assert "add [clients.gateway] to the router's streams.toml" in (await refused.json())["error"]


async def test_signs_of_life_come_while_a_new_attempt_repeats(
    valkey_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an attempt says again is not sent; the client hears all the same that something goes on."""
    heard, beaten = asyncio.Event(), asyncio.Event()

    async def script(run: Run) -> None:
        await run.started()
        if run.head.attempt == 1:
            await run.token("x" * 1_000)
            await heard.wait()
            await run.fail("stream_cut")
            return
        said = 0
        while not beaten.is_set() and said < 900:
            await run.token("x")
            said += 1
        await run.token("x" * (1_001 - said))
        await run.done("x" * 1_001)

    async with gateway(valkey_url, prefix, tmp_path, script) as stage:
        body = {"model": MODEL, "prompt": "Why?"}
        async with stage.http.post(f"{stage.url}/api/generate", json=body) as answer:
            lines = [await answer.content.readline()]
            monkeypatch.setattr(gateway_calls, "HEARTBEAT_S", 0.0)
            heard.set()
            lines.append(await answer.content.readline())
            beaten.set()
            lines += (await answer.read()).splitlines()
    found = [msgspec.json.decode(line) for line in lines]
    assert found[1]["response"] == ""
    assert "".join(line["response"] for line in found) == "x" * 1_001
