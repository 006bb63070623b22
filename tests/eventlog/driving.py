"""A router and its agents, driven by hand."""

from __future__ import annotations

from orion_streams.agents.router import Router
from orion_streams.config import Config
from tests.helpers import Agent, Run, Store, ask, settle

WORKER, MASTER, EDGE = "orion-worker", "orion-master", "orion-edge"


async def running(store: Store, config: Config, *agents: Agent) -> Router:
    """A router that has heard of the agents."""
    for agent in agents:
        await agent.beat()
    router = Router(store.log, config)
    await router.start()
    return router


async def another(store: Store, config: Config) -> Router:
    """One more router on the same log, with a connection of its own."""
    router = Router(store.another(), config)
    await router.start()
    return router


async def dispatch(store: Store, router: Router, agent: Agent, request_id: str) -> Run:
    """Ask the worker's tier, and take the run off the agent's stream."""
    await ask(store, request_id, tier="2")
    await settle(router)
    [run] = await agent.read_work()
    assert run.request == f"brain/{request_id}"
    return run
