"""Logs for the tests of replay: made by the real router, in memory, and written to files."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.replay.exporting import export
from orion_streams.replay.source import LiveSource
from tests.conftest import MemoryStore
from tests.helpers import Agent
from tests.log.test_retention import WORKER, work_for_a_while


async def grown(config: Config, rounds: int = 20, snapshot_events: int = 40) -> MemoryStore:
    """A log of a grid that has worked for a while, with its snapshots."""
    often = structs.replace(config.retention, snapshot_events=snapshot_events)
    store = MemoryStore()
    router = Router(store.log, structs.replace(config, retention=often))
    await router.start()
    await work_for_a_while(store, router, Agent(store, WORKER), rounds)
    return store


async def exported(store: MemoryStore, config: Config, path: Path, first: int = 1, last: int = 0) -> Path:
    """The log in a file."""
    log = LiveSource(store.log, config)
    await export(log, config, path, first, last or await store.log.last_position(), lambda _: None)
    return path
