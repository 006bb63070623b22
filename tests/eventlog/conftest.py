"""A router with one agent, and where an archive is."""

from __future__ import annotations

from pathlib import Path

import pytest

from orion_streams.agents.router import Router
from orion_streams.config import Config
from tests.eventlog.driving import WORKER, running
from tests.helpers import Agent, Store


@pytest.fixture
def agent(store: Store) -> Agent:
    """The worker's agent."""
    return Agent(store, WORKER)


@pytest.fixture
async def router(store: Store, config: Config, agent: Agent) -> Router:
    """A router that has heard of the agent."""
    return await running(store, config, agent)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the archive is."""
    return tmp_path / "archive"
