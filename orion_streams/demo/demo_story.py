"""The acts of the demo. Each act waits until the log shows what it tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orion_streams.client.streams_client import AsyncClient
from orion_streams.demo.cast import models_of
from orion_streams.demo.screen import Screen
from orion_streams.demo.simulated_grid import SimulatedGrid
from orion_streams.model.marks import ram_permille
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import Mark
from orion_streams.protocol.answer_events import Answer

MASTER, WORKER = "orion-master", "orion-worker"
OPERATOR = "owner"
"""The client of a person, with `operator = true`."""
ACT_S = 120.0
SEED = 7
FILLED_PERMILLE = 920

Condition = Callable[[Grid], bool]


class Story:
    """Sends the requests and pushes the machines. `sent`: requests so far, `total`: all."""

    def __init__(self, grid: SimulatedGrid, screen: Screen) -> None:
        self.grid, self.screen = grid, screen
        self.real = "llama" in grid.engines.values()
        self.light, self.heavy = (model.name for model in models_of("llama" if self.real else "synthetic"))
        self.tokens = 12 if self.real else 24
        self.total, self.sent = 46, 0
        self._client = AsyncClient(grid.redis_url, prefix=grid.config.prefix)

    async def tell(self) -> None:
        """Play all acts. Raises BackendError when something does not happen in time."""
        try:
            await self.warm()
            await self.heat()
            await self.memory()
            await self.crash()
            await self.reboot()
        finally:
            await self._client.close()

    async def warm(self) -> None:
        """Use two models on two tiers: after one load each, every request finds its model in memory."""
        self.screen.act("1. Sticky: a model that is in memory is used where it is")
        for _ in range(4):
            await asyncio.gather(self.ask(self.light, 1), self.ask(self.heavy, 2), self.ask(self.light, 1))

    async def heat(self) -> None:
        """Heat orion-worker under load until waiting work moves to orion-master; let it cool and return."""
        self.screen.act("2. Heat: orion-worker gets hot while work is waiting for it")
        await self.grid.push(WORKER, ambient_mc=68_000, temp_mc=74_500)
        work = [asyncio.create_task(self.ask(self.heavy, 2)) for _ in range(12)]
        await self.until(
            lambda grid: grid.nodes[WORKER].backed_off == (Mark.HOT,), "orion-worker above 75 °C"
        )
        self.screen.say(
            "orion-worker passed 75 °C: it takes nothing more, what waits flows to orion-master"
        )
        await self.grid.push(WORKER, ambient_mc=45_000)
        await asyncio.gather(*work)
        await self.until(lambda grid: not grid.nodes[WORKER].backed_off, "orion-worker cooled down")
        self.screen.say("orion-worker stayed below 70 °C for three samples: it is back")

    async def memory(self) -> None:
        """Fill orion-master beyond 90 %, so that it unloads idle models, the least recently used first."""
        self.screen.act("3. Memory: another program fills orion-master beyond 90 %")
        grid = await self.grid.wait_for(lambda grid: bool(grid.nodes[MASTER].resident), ACT_S)
        master = grid.nodes[MASTER]
        filled_mb = master.ram_total_mb * FILLED_PERMILLE // 1000
        await self.grid.push(MASTER, extra_ram_mb=filled_mb - master.ram_used_mb)
        await self.until(
            lambda grid: grid.nodes[MASTER].backed_off == (Mark.RAM,), "orion-master above 90 %"
        )
        self.screen.say("orion-master passed 90 % of its memory: its requests go to orion-worker")
        await asyncio.gather(*(self.ask(self.light, 1) for _ in range(8)))
        await self.until(
            lambda grid: len(grid.nodes[MASTER].resident) < len(master.resident), "a model is unloaded"
        )
        self.screen.say("orion-master unloaded the idle model that was not used for longest")
        if self.real:  # its models are too small to make all the room
            await self.grid.push(MASTER, extra_ram_mb=0)
        await self.until(
            lambda grid: not grid.nodes[MASTER].backed_off and ram_permille(grid.nodes[MASTER]) < 850,
            "orion-master has memory again",
        )
        await self.grid.push(MASTER, extra_ram_mb=0)

    async def crash(self) -> None:
        """Kill orion-worker's agent in the middle of an answer."""
        self.screen.act("4. Crash: orion-worker's agent is killed (-9) in the middle of an answer")
        work = [asyncio.create_task(self.ask(self.heavy, 2, long=True)) for _ in range(2)]
        work += [asyncio.create_task(self.ask(self.light, 1)) for _ in range(8)]
        await self.until(runs_on(WORKER), "an answer begins on orion-worker")
        await self.grid.kill_agent(WORKER)
        self.screen.say("killed; once it has been silent for a while, its request is asked again elsewhere")
        await asyncio.gather(*work)
        await self.grid.start_agent(WORKER)
        await self.until(
            lambda grid: grid.at_ms - (grid.nodes[WORKER].heard_ms or 0) < 1_000, "orion-worker is back"
        )

    async def reboot(self) -> None:
        """Drain orion-master, restart its agent while orion-worker answers, and let it go on."""
        self.screen.act("5. Reboot: orion-master is drained first, and nothing fails for it")
        async with AsyncClient(self.grid.redis_url, OPERATOR, prefix=self.grid.config.prefix) as operator:
            await operator.drain(MASTER)
            self.screen.say("orion drain orion-master: it takes nothing, its requests go to orion-worker")
            work = [asyncio.create_task(self.ask(self.light, 1)) for _ in range(4)]
            await self.until(lambda grid: not grid.nodes[MASTER].assignments, "orion-master is empty")
            await self.grid.agents[MASTER].stop()
            await self.grid.start_agent(MASTER)
            await asyncio.gather(*work)
            await operator.resume(MASTER)
        await self.until(is_back(MASTER), "orion-master takes requests again")
        self.screen.say("orion resume orion-master: it is back")

    async def ask(self, model: str, tier: int, long: bool = False) -> Answer:
        """Send one request and await its answer."""
        self.sent += 1
        options = {"num_predict": self.tokens * (3 if long else 1), "seed": SEED, "temperature": 0}
        prompt = f"Question {self.sent}: why is the sky blue?"
        return await self._client.generate(model, prompt, tier=tier, options=options)

    async def until(self, condition: Condition, what: str) -> None:
        """Wait until the grid satisfies a condition. Raises BackendError."""
        await self.grid.wait_for(condition, ACT_S, what)


def is_back(node: str) -> Condition:
    """Return the condition that the node neither rests nor leaves."""
    return lambda grid: grid.nodes[node].rest is None and not grid.nodes[node].leaving


def runs_on(node: str) -> Condition:
    """Return the condition that a request runs on the node."""
    return lambda grid: any(row.node == node and row.started for row in grid.open.values())
