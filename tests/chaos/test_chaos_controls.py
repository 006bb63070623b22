"""Negative controls: without its guard a fault breaks the promise that the judges name; with it, none."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import pytest

from orion_streams import AsyncClient
from orion_streams.agents.backend import Chunk
from orion_streams.agents.ollama_backend import Ollama
from orion_streams.demo.observer import Observer
from orion_streams.eventlog import redis_log
from orion_streams.model.measured import Usage
from orion_streams.protocol import admission
from tests.agents.agent_bench import MODEL, NODE, Bench, open_bench, routing, running
from tests.chaos import chaos_command
from tests.chaos.chaos_load import ChaosClients
from tests.chaos.chaos_run import Round, Stage, broken_promises, read_log
from tests.cli.conftest import Orion
from tests.cluster.removing import without
from tests.helpers import eventually

PROMPT = "What does the robot see?"
KNOWN = "if key in grid.open or grid.find_closed(key) is not None:"
CURSORS = "if #set > 0 then redis.call('HSET', guard, unpack(set)) end"
BOTH = pytest.mark.parametrize("guarded", [True, False])


class Scene:
    """A grid of one node, whose router comes and goes; what an observer saw, and what a client was told."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.observer = Observer(bench.redis, bench.prefix, ["brain"], [NODE])
        self.load = ChaosClients(random.Random(1), [MODEL], tail_may_go=False)

    async def ask(self) -> None:
        """Ask the same once more, and keep the answer."""
        async with AsyncClient(self.bench.url, prefix=self.bench.prefix) as client:
            answer = await client.generate(MODEL, PROMPT, options={"temperature": 0})
        self.load.texts.setdefault((MODEL, PROMPT), Counter())[answer.text] += 1

    async def send(self, fields: dict[str, str]) -> None:
        """Send an entry by hand, and wait for what ends it."""
        before = await self.ends()
        await self.bench.redis.xadd(f"{self.bench.prefix}requests:brain", fields)

        async def ended() -> bool:
            return await self.ends() > before

        await eventually(ended, f"the end of {fields}")

    async def ends(self) -> int:
        """How many replies ended something."""
        rows = await self.bench.redis.xrange(f"{self.bench.prefix}replies:brain")
        return sum(fields[b"kind"] in (b"done", b"known", b"rejected") for _, fields in rows)

    async def broken(self) -> set[str]:
        """Name the promises that do not hold."""
        await self.observer.stop()
        rows = await read_log(self.bench.url, self.bench.config)
        found = broken_promises(self.observer, self.load, rows, always=True)
        return {name for name, cases in found.items() if cases}


@pytest.fixture
async def scene(valkey_url: str, prefix: str) -> AsyncIterator[Scene]:
    """A node that answers at once, and its agent."""
    async with open_bench(valkey_url, prefix) as bench, running(bench.config):
        yield Scene(bench)


@BOTH
async def test_an_answer_that_breaks_off_is_no_answer(
    scene: Scene, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama ends without `done`: an agent that takes any end for an answer gives a half one."""
    run = Ollama.run

    async def any_end(self: Ollama, *asked: Any) -> AsyncGenerator[Chunk, None]:
        chunk = Chunk()
        async for chunk in run(self, *asked):
            yield chunk
        if chunk.usage is None:
            yield Chunk(usage=Usage())

    if not guarded:
        monkeypatch.setattr(Ollama, "run", any_end)
    async with routing(scene.bench.config):
        await scene.ask()
        await scene.bench.fault("end_without_done")
        await scene.ask()
    assert await scene.broken() == (set() if guarded else {"half_answers"})


@BOTH
async def test_a_known_id_is_not_run_again(
    scene: Scene, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id comes again, as after an answer that was lost on its way."""
    if not guarded:
        without(monkeypatch, admission, "admit", KNOWN, "if False:")
    async with routing(scene.bench.config):
        for _ in range(2):
            await scene.send({"id": "q1", "model": MODEL, "prompt": PROMPT})
    broken = {"duplicate_dispatches", "duplicate_replies"}
    assert await scene.broken() & broken == (set() if guarded else broken)


@BOTH
async def test_cursors_are_part_of_the_commit(
    scene: Scene, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router ends after a commit, and the next one begins where that commit says."""
    if not guarded:
        assert CURSORS in redis_log.SCRIPT
        monkeypatch.setattr(redis_log, "SCRIPT", redis_log.SCRIPT.replace(CURSORS, ""))
    for name in ("poison", "more poison"):
        async with routing(scene.bench.config):
            await scene.send({"id": name, "model": "", "prompt": PROMPT})
    assert await scene.broken() == (set() if guarded else {"unrefused_poison"})


def test_a_broken_promise_ends_the_command_with_1(orion: Orion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a round finds broken is told, and the exit code says so."""

    async def play(stage: Stage, *_: Any, **__: Any) -> Round:
        return Round(stage.server, stage.fsync, broken=["lost: brain/q1"])

    monkeypatch.setattr(chaos_command, "play", play)
    code, out, err = orion("chaos", "--json", "--minutes", "0.1", "--server", "valkey", "--fsync", "always")
    assert (code, msgspec.json.decode(out)["broken"]) == (1, ["valkey always: lost: brain/q1"])
    assert "BROKEN lost: brain/q1" in err
