"""A whole grid in one event loop: the real router on a real server, and STAND-INS for the agents.

A stand-in reads `work:<node>` and writes `health:<node>` and `results:<node>` as the wire says; what it
answers is scripted by the test. It runs no model.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from orion_streams.agents.router import Router
from orion_streams.client.streams_client import AsyncClient
from orion_streams.config import Config, parse
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.protocol import agent_entries
from orion_streams.protocol.node_health import inventory_digest
from orion_streams.runtime.connection import connect
from tests.helpers import eventually

MODEL = "gemma3:270m"
HEALTH_S = 0.25
CONFIG = """
[clients]
names = {clients}
[nodes.one]
tiers = [1]
[nodes.two]
tiers = [2]
[nodes.edge]
inference = false
ollama = ""
[policy]
max_step_ms = 400
max_attempts = 3
{policy}
"""


class Run:
    """One attempt on a stand-in, for its script to answer."""

    def __init__(
        self, agent: "Agent", work_id: str, head: agent_entries.WorkHead, fields: dict[str, str]
    ) -> None:
        self.agent, self.work_id, self.head, self.fields = agent, work_id, head, fields
        self.cancelled = asyncio.Event()
        self.ended = False
        self._seq = 0

    @property
    def prompt(self) -> str:
        """What was asked."""
        return self.fields.get("prompt", "")

    async def started(self) -> None:
        """Say that it runs."""
        await self._write("started")

    async def token(self, text: str) -> None:
        """Pass a piece of text on."""
        await self.piece(text=text)

    async def piece(self, **fields: Any) -> None:
        """Pass a piece on; a list as JSON."""
        self._seq += 1
        await self._write("tokens", wire(fields), seq=self._seq)

    async def done(self, text: str = "", body: Mapping[str, Any] | None = None, **head: Any) -> None:
        """The answer."""
        self.ended = True
        await self._write("completed", {"text": text, **wire(body or {})}, engine="simulated", **head)

    async def fail(self, code: str, blame: str = "node", message: str = "scripted") -> None:
        """No answer."""
        self.ended = True
        await self._write("failed", {"message": message}, code=code, blame=blame)

    async def _write(self, op: Any, fields: Mapping[str, str] | None = None, **head: Any) -> None:
        result = agent_entries.ResultHead(op, self.head.request, self.head.attempt, self.work_id, **head)
        await self.agent.write("results", {"head": agent_entries.encode_head(result), **(fields or {})})


def wire(fields: Mapping[str, Any]) -> dict[str, str]:
    """Fields of an entry: text as it is, all else as JSON."""
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in fields.items()
    }


Script = Callable[[Run], Awaitable[None]]


async def echo(run: Run) -> None:
    """Answers with the prompt, in two pieces if it may stream."""
    await run.started()
    middle = len(run.prompt) // 2
    if run.fields.get("stream", "1") in ("1", "true"):
        await run.token(run.prompt[:middle])
        await run.token(run.prompt[middle:])
    await run.done(run.prompt, tokens=2, prompt_tokens=3, total_ms=1)


async def silence(run: Run) -> None:
    """Never answers, until it is cancelled."""
    await run.started()
    await run.cancelled.wait()


class Agent:
    """The stand-in for a node's agent."""

    def __init__(self, name: str, url: str, prefix: str, script: Script) -> None:
        self.name, self._prefix, self._script = name, prefix, script
        self._redis: Any = connect(url)
        self.runs: list[Run] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._work_read = self._results_written = ""
        self._heard = 0.0

    def key(self, stream: str) -> str:
        """The key of one of the node's streams."""
        return f"{self._prefix}{stream}:{self.name}"

    async def write(self, stream: str, fields: Mapping[str, Any]) -> None:
        """Append an entry."""
        entry_id: bytes = await self._redis.xadd(self.key(stream), dict(fields))
        if stream == "results":
            self._results_written = entry_id.decode()

    async def health(self) -> None:
        """A cool node with room, that has the model in memory."""
        row = agent_entries.InstalledModel(MODEL, "sha256:stand-in", 300)
        head = agent_entries.HealthHead(
            boot=f"boot-{self.name}",
            sampled_ms=time.monotonic_ns() // 1_000_000,
            temp_mc=50_000,
            ram_used_mb=1_000,
            ram_total_mb=8_000,
            cpu_permille=100,
            resident=(agent_entries.ResidentModel(row.name, row.digest, row.size_mb),),
            inventory_digest=inventory_digest((row,)),
            inventory=(row,),
            in_hand=tuple(self._tasks),
            work_read=self._work_read,
            results_written=self._results_written,
        )
        await self.write("health", {"head": agent_entries.encode_head(head)})
        self._heard = time.monotonic()

    async def live(self) -> None:
        """Read work until the end of the test."""
        with suppress(ResponseError):
            await self._redis.xgroup_create(self.key("work"), "agent", "0", mkstream=True)
        while True:
            if time.monotonic() - self._heard > HEALTH_S:
                await self.health()
            block_ms = int(HEALTH_S * 1000)
            answer = await self._redis.xreadgroup(
                "agent", "agent", {self.key("work"): ">"}, count=10, block=block_ms
            )
            for _, rows in answer or ():
                for entry_id, fields in rows:
                    self._take(entry_id.decode(), fields)
                    await self._redis.xack(self.key("work"), "agent", entry_id)

    def _take(self, entry_id: str, fields: dict[bytes, bytes]) -> None:
        self._work_read = entry_id
        head = agent_entries.decode_work(fields[b"head"])
        if head.op == "run":
            text = {name.decode(): value.decode() for name, value in fields.items()}
            run = Run(self, entry_id, head, text)
            self.runs.append(run)
            self._tasks[entry_id] = asyncio.create_task(self._execute(run))
        for run in self.runs:
            if head.op == "cancel" and run.work_id == head.work_id:
                run.cancelled.set()

    async def _execute(self, run: Run) -> None:
        try:
            await self._script(run)
            if not run.ended:
                await run.fail("cancelled", "ours")
        finally:
            del self._tasks[run.work_id]

    async def close(self) -> None:
        """Stop whatever runs."""
        await stop(list(self._tasks.values()))
        await self._redis.aclose()


class Grid:
    """What a test sees of the running grid."""

    def __init__(self, url: str, prefix: str, config: Config, agents: list[Agent]) -> None:
        self.url, self.prefix, self.agents, self.config = url, prefix, agents, config
        self.redis: Any = connect(url)
        self._router_redis = connect(url)
        self.router = Router(RedisLog(self._router_redis, prefix), config)

    @property
    def runs(self) -> list[Run]:
        """All attempts that any stand-in was given."""
        return [run for agent in self.agents for run in agent.runs]

    async def send(self, fields: Mapping[Any, Any], entry_id: str = "*") -> str:
        """A raw entry for the Brain's stream, as bytes go."""
        sent: bytes = await self.redis.xadd(f"{self.prefix}requests:brain", dict(fields), id=entry_id)
        return sent.decode()

    async def ask(self, request_id: str, **fields: str) -> str:
        """A good request by hand."""
        return await self.send({"id": request_id, "model": MODEL, "prompt": "hello", **fields})

    async def replies(self, request_id: str | None = None) -> list[dict[str, str]]:
        """All replies so far, or those to one id; each with its `entry`."""
        rows = await self.redis.xrange(f"{self.prefix}replies:brain")
        found = [
            {"entry": entry_id.decode()} | {n.decode(): v.decode() for n, v in fields.items()}
            for entry_id, fields in rows
        ]
        return [row for row in found if request_id in (None, row["id"])]

    async def ends(self, request_id: str) -> list[dict[str, str]]:
        """The replies to an id that are neither tokens nor restarts, once there is one."""

        async def there() -> list[dict[str, str]]:
            rows = await self.replies(request_id)
            return [row for row in rows if row["kind"] not in ("accepted", "token", "restarted")]

        found: list[dict[str, str]] = await eventually(there, f"an end for {request_id}")
        return found

    async def events(self) -> list[ev.AnyEvent]:
        """The whole log."""
        rows = await self.redis.xrange(f"{self.prefix}log")
        return [event_codec.decode(fields[b"event"]) for _, fields in rows]

    async def close(self) -> None:
        """Let go of the server."""
        await self.redis.aclose()
        await self._router_redis.aclose()

    async def route(self) -> None:
        """The router's loop."""
        await self.router.start()
        while True:
            await self.router.cycle(block_ms=200)


@asynccontextmanager
async def running(
    url: str, prefix: str, script: Script = echo, policy: str = "", clients: Sequence[str] = ("brain",)
) -> AsyncIterator[Grid]:
    """A grid that runs while the block does. A router or stand-in that dies fails the test."""
    text = CONFIG.format(policy=policy, clients=list(clients))
    config = msgspec.structs.replace(parse(text), prefix=prefix)
    agents = [Agent(name, url, prefix, script) for name in ("one", "two")]
    grid = Grid(url, prefix, config, agents)
    for agent in agents:
        await agent.health()
    tasks = [asyncio.create_task(work) for work in (grid.route(), *(agent.live() for agent in agents))]
    try:
        yield grid
    finally:
        ends = await stop(tasks)
        for agent in agents:
            await agent.close()
        await grid.close()
    assert ends == []


async def stop(tasks: Iterable[asyncio.Task[None]]) -> list[BaseException | None]:
    """Cancel tasks until they end; ending may take a while. redis-py on Python 3.11 may lose a cancel. How
    the others had ended."""
    waiting = list(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        _, still = await asyncio.wait(waiting, timeout=5)
        waiting = list(still)
    return [task.exception() for task in tasks if not task.cancelled()]


@asynccontextmanager
async def connected(
    url: str, prefix: str, script: Script = echo, policy: str = "", **settings: Any
) -> AsyncIterator[tuple[Grid, AsyncClient]]:
    """A grid and a client of it."""
    async with (
        running(url, prefix, script, policy) as grid,
        AsyncClient(url, prefix=prefix, **settings) as client,
    ):
        yield grid, client


async def count(grid: Grid, kind: type[ev.Event]) -> int:
    """How many events of a kind the log holds."""
    return sum(isinstance(event, kind) for event in await grid.events())
