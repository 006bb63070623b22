"""What lives run on."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis as sync_redis

from orion_streams.demo.ollama import serve
from orion_streams.runtime.embedded_server import EmbeddedServer
from orion_streams.runtime.faust_redis import App
from tests.agents.agent_bench import QUICK, Bench


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who is killed while it connects leaves a socket behind, as a process would to its system."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


@pytest.fixture(autouse=True)
def sockets_of_the_killed() -> Iterator[None]:
    """They are closed before another test looks."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(autouse=True)
def nothing_is_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent is looked at when a life is over, however slow the machine."""
    for often in ("KEEP_FIRST_S", "KEEP_EVERY_S"):
        monkeypatch.setattr(f"orion_streams.agents.apps.{often}", 3_600.0)


@pytest.fixture(scope="module")
def exact_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose streams are trimmed to the entry, not by the hundred."""
    with EmbeddedServer(tmp_path_factory.mktemp("exact")) as server:
        with sync_redis.Redis.from_url(server.url) as client:
            client.config_set("stream-node-max-entries", 1)
        yield server.url


@pytest.fixture(scope="module")
def app() -> App:
    """What a channel wants to know of its app."""
    return App("crash")


@pytest.fixture
async def bench(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """Everything around one node's agent, whose simulated Ollama answers at once."""
    async with serve(QUICK) as node:
        opened = Bench(valkey_url, prefix, node)
        await opened.prepare()
        yield opened
        await opened.close()
