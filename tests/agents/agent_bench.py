"""A node on the bench: its agent is real, its Ollama simulated, and the router's part is done by hand."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec import Struct, structs

from orion_streams.agents import apps
from orion_streams.config import Config, parse
from orion_streams.demo.ollama import ModelSpec, NodeSpec, RunningNode, serve
from orion_streams.model.commit import GROUP
from orion_streams.protocol import agent_entries
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import EmbeddedServer
from orion_streams.runtime.faust_redis import App
from tests.helpers import WAIT_S, Fields, eventually

ROOT = Path(__file__).parents[2]
NODE, MODEL, SKILLED = "n1", "gemma3:270m", "skilled:1b"
MODELS = (
    ModelSpec(name=MODEL, size_mb=253.113294),
    ModelSpec(
        name=SKILLED, size_mb=800, capabilities=("completion", "tools", "thinking", "embedding", "vision")
    ),
)
QUICK = NodeSpec(
    name=NODE,
    disk_mb_per_s=0,
    prefill_tokens_per_s=0,
    decode_tokens_per_s=0,
    unload_ms=0,
    slots=4,
    models=MODELS,
)
"""A node that answers at once."""
TOML = """
revision = {revision}
prefix = "{prefix}"
[redis]
url = "{url}"
block_ms = 50
[limits]
health_ms = 50
inventory_ms = 100
token_flush_ms = 5
[nodes.n1]
tiers = [1]
simulated = {simulated}
ollama = "{ollama}"
[nodes.edge]
inference = false
ollama = ""
"""


def toml(url: str, prefix: str, ollama: str, revision: int = 1, simulated: bool = True) -> str:
    """Return a small grid's streams.toml."""
    return TOML.format(
        url=url, prefix=prefix, ollama=ollama, revision=revision, simulated=str(simulated).lower()
    )


def limited(config: Config, slots: int = 1, attempt_ms: int = 0, **limits: int) -> Config:
    """Return the same grid with other limits."""
    node = structs.replace(config.nodes[NODE], slots=slots)
    policy = config.policy
    if attempt_ms:
        policy = structs.replace(policy, attempt_deadline_ms=attempt_ms)
    return structs.replace(
        config,
        nodes={**config.nodes, NODE: node},
        limits=structs.replace(config.limits, **limits),
        policy=policy,
    )


def elsewhere(config: Config, ollama: str, simulated: bool = True) -> Config:
    """Return the same grid with the node's Ollama at another URL."""
    node = structs.replace(config.nodes[NODE], ollama=ollama, simulated=simulated)
    return structs.replace(config, nodes={**config.nodes, NODE: node})


class Result(Struct, frozen=True):
    """An entry of `results:n1`."""

    id: str
    head: agent_entries.ResultHead
    fields: Fields

    @property
    def text(self) -> str:
        return self.fields.get(b"text", b"").decode()

    @property
    def message(self) -> str:
        return self.fields.get(b"message", b"").decode()


class Bench:
    """The router's part of one node, over plain Redis."""

    def __init__(self, url: str, prefix: str, node: RunningNode) -> None:
        self.redis: Any = connect(url)
        self.url, self.prefix, self.node = url, prefix, node
        self.config = parse(toml(url, prefix, node.url))

    async def prepare(self) -> None:
        """Make the work group, as the router does before any work."""
        await self.redis.xgroup_create(f"{self.prefix}work:{NODE}", GROUP, id="0", mkstream=True)

    async def close(self) -> None:
        keys = [key async for key in self.redis.scan_iter(match=self.prefix + "*", count=1000)]
        if keys:
            await self.redis.delete(*keys)
        await self.redis.aclose()

    async def work(self, op: str, body: Mapping[str, Any] | None = None, **head: Any) -> str:
        """XADD an entry of the router. Return its id."""
        packed = agent_entries.encode_head(agent_entries.WorkHead(op, **head))  # type: ignore[arg-type]
        added = await self.redis.xadd(f"{self.prefix}work:{NODE}", {"head": packed, **(body or {})})
        return str(added.decode())

    async def run(
        self,
        request: str = "q",
        model: str = MODEL,
        pinned: Mapping[str, int] | None = None,
        **body: Any,
    ) -> str:
        """Hand the node a run, with a prompt unless there is other content. Return the work id."""
        fields = {
            name: value if isinstance(value, str | bytes | int) else msgspec.json.encode(value)
            for name, value in body.items()
        }
        if not {"prompt", "messages", "input"} & fields.keys():
            fields["prompt"] = f"prompt of {request}"
        fields["model"] = model
        head = {"request": f"brain/{request}", "attempt": 1, "model": model, "options": dict(pinned or {})}
        return await self.work("run", fields, **head)

    async def load(self, model: str = MODEL, pinned: Mapping[str, int] | None = None) -> str:
        """Order a load. Return the work id."""
        return await self.work("load", model=model, options=dict(pinned or {}))

    async def cancel(self, work_id: str) -> str:
        return await self.work("cancel", work_id=work_id)

    async def results(self, work_id: str = "") -> list[Result]:
        """Return what the node said, of one run or of all."""
        rows = await self.redis.xrange(f"{self.prefix}results:{NODE}")
        found = [Result(key.decode(), agent_entries.decode_result(row[b"head"]), row) for key, row in rows]
        return [each for each in found if not work_id or each.head.work_id == work_id]

    async def ends(self, work_id: str = "") -> list[Result]:
        """Return the terminal results."""
        return [each for each in await self.results(work_id) if each.head.op in ("completed", "failed")]

    async def ended(self, work_id: str) -> Result:
        """Wait for the one end of a run, written and acknowledged."""
        [end] = await self.all_ends(work_id)
        return end

    async def all_ends(self, work_id: str) -> list[Result]:
        """Wait as `ended` does where the end may be written again, as an acknowledgement was lost."""

        async def over() -> bool:
            return bool(await self.ends(work_id)) and work_id not in await self.pending()

        await eventually(over, f"the end of {work_id}")
        return await self.ends(work_id)

    async def said(self, work_id: str, op: str) -> None:
        """Wait for a result of that kind."""

        async def there() -> bool:
            return any(each.head.op == op for each in await self.results(work_id))

        await eventually(there, f"{op} of {work_id}")

    async def pending(self) -> list[str]:
        """Return the ids that are delivered and not acknowledged."""
        rows = await self.redis.xpending_range(f"{self.prefix}work:{NODE}", GROUP, "-", "+", 1000)
        return [row["message_id"].decode() for row in rows]

    async def idle(self) -> None:
        """Wait until all work is read and acknowledged."""

        async def done() -> bool:
            [group] = await self.redis.xinfo_groups(f"{self.prefix}work:{NODE}")
            return bool(group["pending"] == 0 and group["lag"] == 0)

        await eventually(done, "all work acknowledged")

    async def health(self, node: str = NODE) -> list[agent_entries.HealthHead]:
        """Return all health entries, oldest first."""
        rows = await self.redis.xrange(f"{self.prefix}health:{node}")
        return [agent_entries.decode_health(row[b"head"]) for _, row in rows]

    async def healthy(self, holds: Any, what: str, node: str = NODE) -> agent_entries.HealthHead:
        """Wait for the first health entry from now on of which `holds` is true."""
        top = await self.redis.xrevrange(f"{self.prefix}health:{node}", count=1)
        after = f"({top[0][0].decode()}" if top else "-"
        found: list[agent_entries.HealthHead] = []

        async def there() -> bool:
            rows = await self.redis.xrange(f"{self.prefix}health:{node}", min=after)
            heads = [agent_entries.decode_health(row[b"head"]) for _, row in rows]
            found.extend(each for each in heads if holds(each))
            return bool(found)

        await eventually(there, what)
        return found[0]

    async def fault(self, kind: str, times: int = 1, **more: Any) -> None:
        """Make the simulated Ollama fail."""
        await self.simulate("fault", kind=kind, times=times, **more)

    async def simulate(self, what: str, **said: Any) -> None:
        """Tell the simulated machine something."""
        async with httpx.AsyncClient(base_url=self.node.url, trust_env=False) as http:
            answer = await http.post(f"/sim/{what}", json=said)
            assert answer.status_code == 200, answer.text

    async def hanging(self, request: str = "h", **body: Any) -> str:
        """Hand the node a run that says three tokens and then nothing more, and wait until it does so."""
        await self.fault("hang")
        work_id = await self.run(request, **body)
        await self.said(work_id, "tokens")
        return work_id


class Own:
    """A server of the test's own, to be killed or stopped, with a bench whose answers take a while."""

    def __init__(self, server: EmbeddedServer, bench: Bench) -> None:
        self.server, self.bench = server, bench

    async def begun(self) -> str:
        """Hand the node a run, and wait for its first tokens."""
        work_id = await self.bench.run()
        await self.bench.said(work_id, "tokens")
        return work_id

    async def answered(self) -> None:
        """Wait until Ollama has nothing to do: the answer is in the agent's hands."""
        await eventually(lambda: self.bench.node.machine.active == 0, "the end of the answer")

    async def whole(self, work_id: str) -> Result:
        """Wait for the end of a run, of which every token is there in order. After a cut tokens and end may
        be written again."""
        end, *repeats = await self.bench.all_ends(work_id)
        assert {(each.head, each.text) for each in repeats} <= {(end.head, end.text)}
        pieces = {each.head.seq: each.text for each in await self.bench.results(work_id) if each.head.seq}
        assert list(pieces) == list(range(1, len(pieces) + 1))
        assert "".join(pieces.values()) == end.text != ""
        return end


@asynccontextmanager
async def open_bench(url: str, prefix: str, **spec: Any) -> AsyncIterator[Bench]:
    """Open a bench whose node answers at once, but for what `spec` says."""
    async with serve(structs.replace(QUICK, **spec)) as node:
        bench = Bench(url, prefix, node)
        await bench.prepare()
        try:
            yield bench
        finally:
            await bench.close()


@asynccontextmanager
async def in_process(app: App) -> AsyncIterator[App]:
    """Run a role's app inside this process, without a Faust worker around it."""
    app.stopper = lambda: None
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def running(config: Config, node: str = NODE) -> AbstractAsyncContextManager[App]:
    """Run the node's agent inside this process."""
    return in_process(apps.agent_app(config, node))


def routing(config: Config) -> AbstractAsyncContextManager[App]:
    """Run the grid's router inside this process."""
    return in_process(apps.router_app(config))


class Process:
    """`orion WORDS` as a process of its own; stdout and stderr go to files in `home`."""

    def __init__(self, home: Path, *words: str, env: Mapping[str, str] | None = None) -> None:
        self.home, self.words, self.more = home, words, dict(env or {})
        self.out, self.err = home / "stdout", home / "stderr"
        self._process: asyncio.subprocess.Process | None = None
        self.cwd = home / "cwd"

    async def __aenter__(self) -> Process:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ORION_")}
        folders = dict.fromkeys(("TMPDIR", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"), str(self.home))
        self.cwd.mkdir(exist_ok=True)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "orion_streams.cli", *self.words),
                cwd=self.cwd,
                env={**kept, **folders, "PYTHONPATH": str(ROOT), **self.more},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Return what it said on stderr."""
        return self.err.read_text(errors="replace")

    async def logged(self, words: str) -> None:
        """Wait for a line with these words."""
        await eventually(lambda: words in self.log(), f"{words!r} in the log")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def ended(self) -> int:
        """Wait for its end. Return its exit code."""
        assert self._process is not None
        async with asyncio.timeout(WAIT_S):
            return await self._process.wait()


def agent_process(home: Path, bench: Bench, node: str = NODE, **env: str) -> Process:
    """Start the node's agent as the command line does."""
    return process(home, bench, "agent", "--node", node, env=env)


def process(home: Path, bench: Bench, *words: str, env: Mapping[str, str] | None = None) -> Process:
    """Start a role of the bench's grid as a process."""
    config = home / "streams.toml"
    if not config.exists():
        config.write_text(toml(bench.url, bench.prefix, bench.node.url))
    return Process(home, *words, "--redis", bench.url, "--config", str(config), env=env)
