"""Prompts and answers stay between client, node and the streams that carry them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.exceptions import ResponseError

from orion_streams import AsyncClient
from orion_streams.client.calls import RequestError
from orion_streams.demo.ollama import serve
from orion_streams.protocol import agent_entries
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.agents.agent_bench import MODEL, NODE, QUICK, SKILLED, Bench, Process, toml
from tests.contract.test_bad_input import REJECTED
from tests.helpers import TERMINAL_REPLIES, eventually

SECRET = "xyzzy-plugh"
LIMITS = """token_flush_ms = 5
answer_max_bytes = 15000
inter_token_ms = 1500
[policy]
max_attempts = 2
retry_pause_ms = 10
breaker_open_ms = 1
breaker_open_max_ms = 1
"""
CHECKED = "kind tier stream think options format images messages deadline_ms"
SCHEMA = {"type": "object", "properties": {SECRET: {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "look", "description": SECRET}}


class Watched:
    """A router and an agent as processes that log all they can, and what they were asked."""

    def __init__(self, bench: Bench, home: Path) -> None:
        self.bench, self.home = bench, home
        self.processes: list[Process] = []

    def start(self, *words: str) -> Process:
        """A role of the grid, with its output in a folder of its own."""
        home = self.home / f"{len(self.processes)}"
        home.mkdir()
        config = self.home / "streams.toml"
        text = toml(self.bench.url, self.bench.prefix, self.bench.node.url)
        config.write_text(text.replace("token_flush_ms = 5", LIMITS))
        process = Process(
            home, *words, "--redis", self.bench.url, "--config", str(config), env={"ORION_LOG": "debug"}
        )
        self.processes.append(process)
        return process

    async def ask(self, request_id: str, model: str = MODEL, **fields: Any) -> None:
        """A request; JSON fields as such."""
        entry = {
            name: value if isinstance(value, str) else msgspec.json.encode(value)
            for name, value in fields.items()
        }
        await self.bench.redis.xadd(
            f"{self.bench.prefix}requests:brain", {"id": request_id, "model": model, **entry}
        )

    async def told(self, request_id: str, kinds: tuple[str, ...]) -> str:
        """The first of these kinds that it was told."""
        found: list[str] = []

        async def there() -> bool:
            rows = await self.bench.redis.xrange(f"{self.bench.prefix}replies:brain")
            mine = [row[b"kind"].decode() for _, row in rows if row[b"id"].decode() == request_id]
            found.extend(kind for kind in mine if kind in kinds)
            return bool(found)

        await eventually(there, f"{request_id}: {kinds}")
        return found[0]

    async def ended(self, request_id: str) -> str:
        """The kind of its terminal reply, once that is there."""
        return await self.told(request_id, TERMINAL_REPLIES)

    async def hanging(self, request_id: str) -> None:
        """A request that has begun to be answered and hangs for a while."""
        await self.bench.fault("hang")
        await self.ask(request_id, prompt=SECRET)
        await self.told(request_id, ("token",))

    async def asked(self, request_id: str, model: str = MODEL, **fields: Any) -> str:
        """A request to its end."""
        await self.ask(request_id, model, **fields)
        return await self.ended(request_id)

    async def answers(self) -> list[str]:
        """Every text that a client was told."""
        rows = await self.bench.redis.xrange(f"{self.bench.prefix}replies:brain")
        return [text for _, row in rows if len(text := row.get(b"text", b"").decode()) > 20]

    def said(self) -> str:
        """All that the processes wrote."""
        return "".join(each.log() + each.out.read_text(errors="replace") for each in self.processes)

    async def logged(self) -> str:
        """The log stream and the guard, as they are."""
        redis, prefix = self.bench.redis, self.bench.prefix
        return repr(await redis.xrange(f"{prefix}log")) + repr(await redis.hgetall(f"{prefix}guard"))


@pytest.fixture
async def watched(tmp_path: Path, prefix: str) -> AsyncIterator[Watched]:
    """On a server of its own, which the test fills up."""
    with EmbeddedServer(tmp_path / "data") as server:
        async with serve(QUICK) as node:
            bench = Bench(server.url, prefix, node)
            yield Watched(bench, tmp_path)
            await bench.redis.aclose()


async def test_prompts_and_answers_reach_no_log(watched: Watched) -> None:
    """Whatever becomes of a request, with every log line there is: answered, failed in each way that Ollama
    knows, cut, hung, cancelled, too large, malformed, the server full, the agent killed. The secret is in
    no line of a process and in no entry of the log; the ids are, so the search would have found it."""
    bench = watched.bench
    async with (
        watched.start("router") as router,
        watched.start("agent", "--node", NODE) as agent,
    ):
        await router.logged("leading from position")
        assert await watched.asked("plain", prompt=SECRET, system=SECRET) == "done"
        await all_fields(watched)
        await failures(watched)
        await poison(watched)
        await watched.hanging("full")
        await bench.redis.config_set("maxmemory", 1)
        await agent.logged("OutOfMemoryError")
        await agent.logged("brain/full attempt 1 failed: stalled")
        await bench.redis.config_set("maxmemory", 0)
        await watched.ended("full")
        await watched.hanging("killed")
        await agent.kill()
        async with watched.start("agent", "--node", NODE):
            await watched.ended("killed")
            assert await watched.asked("last", prompt=SECRET) == "done"
    said, log = watched.said(), await watched.logged()
    assert "DEBUG" in said
    assert "brain/plain" in said
    assert "brain/plain" in log
    secrets = [SECRET, *await watched.answers()]
    assert len(secrets) > 5
    for secret in secrets:
        assert secret not in said
        assert secret not in log


async def all_fields(watched: Watched) -> None:
    """Every field that may hold content."""
    messages = [{"role": "system", "content": SECRET}, {"role": "user", "content": SECRET}]
    assert await watched.asked("chat", SKILLED, kind="chat", messages=messages, tools=[TOOL]) == "done"
    assert await watched.asked("embed", SKILLED, kind="embed", input=[SECRET]) == "done"
    assert await watched.asked("format", prompt=SECRET, format=SCHEMA) == "done"
    assert await watched.asked("images", SKILLED, prompt=SECRET, images=["eHl6enktcGx1Z2g="]) == "done"


async def failures(watched: Watched) -> None:
    """Every way to fail."""
    for kind in ("error_line", "end_without_done", "busy", "kill", "hang"):
        await watched.bench.fault(kind, times=2)
        await watched.asked(kind, prompt=SECRET)
        await watched.bench.fault(kind, times=0)
    assert await watched.asked("large", SKILLED, kind="embed", input=[SECRET] * 3) == "error"
    assert await watched.asked("option", prompt=SECRET, options={"temperature": SECRET}) == "error"
    messages = [{"role": "user", "content": SECRET}]
    await watched.ask("tools", kind="chat", messages=messages, tools=[TOOL])
    assert await watched.told("tools", ("rejected",)) == "rejected"
    await watched.hanging("cancelled")
    await watched.bench.redis.xadd(f"{watched.bench.prefix}requests:brain", {"cancel": "cancelled"})
    await watched.ended("cancelled")


async def poison(watched: Watched) -> None:
    """Entries that nobody can read, in every stream."""
    redis, prefix = watched.bench.redis, watched.bench.prefix
    for fields, _ in REJECTED.values():
        await redis.xadd(f"{prefix}requests:brain", {**fields, "extra": SECRET})
    for name in CHECKED.split():
        await watched.ask(f"bad {name}", prompt=SECRET, **{name: SECRET})
    run = agent_entries.encode_head(agent_entries.WorkHead("run", "brain/broken", 1, MODEL))
    for fields in ({"head": SECRET}, {"head": run, "messages": SECRET}, {"head": run, "prompt": b"\xff"}):
        await forge(redis, f"{prefix}work:{NODE}", fields)
    for stream in ("health", "results"):
        await redis.xadd(f"{prefix}{stream}:{NODE}", {"head": SECRET})
    assert await watched.asked("after poison", prompt=SECRET) == "done"


async def forge(redis: Any, key: str, fields: dict[str, Any]) -> None:
    """An entry below the router's next one: above it, the router would refuse to go on."""
    for _ in range(100):
        [(newest, _fields)] = await redis.xrevrange(key, count=1)
        with suppress(ResponseError):  # the router was quicker
            await redis.xadd(key, fields, id=newest.decode().partition("-")[0] + "-*")
            return
    raise AssertionError("the router adds without end")


async def test_the_client_logs_no_prompt(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """Also while Redis is full or gone the client's own lines and errors hold none."""
    caplog.set_level(logging.DEBUG, "orion")
    await watched.bench.redis.config_set("maxmemory", 1)
    async with AsyncClient(
        watched.bench.url, prefix=watched.bench.prefix, give_up_s=0.2, margin_s=0
    ) as client:
        with pytest.raises(Exception, match="redis") as refused:
            await client.generate(MODEL, SECRET, timeout_s=5)
        with pytest.raises(RequestError) as unanswered:
            await watched.bench.redis.config_set("maxmemory", 0)
            await client.generate(MODEL, SECRET, timeout_s=0.1)
        await watched.bench.redis.shutdown(nosave=True)
        with pytest.raises(Exception, match="redis is away") as away:
            await client.generate(MODEL, SECRET, timeout_s=5)
    assert "redis is away" in caplog.text
    for text in (caplog.text, repr(refused.value), repr(unanswered.value), repr(away.value)):
        assert SECRET not in text
