"""The servers that lives run on."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis as sync_redis

from orion_streams.runtime.embedded_server import EmbeddedServer
from orion_streams.runtime.faust_redis import App
from tests.agents.agent_bench import Bench, open_bench
from tests.crash.life import Life, Plan
from tests.crash.mortal import mortality
from tests.helpers import eventually


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore unclosed sockets: who is killed while it connects leaves one behind."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


@pytest.fixture(autouse=True)
def sockets_of_the_killed() -> Iterator[None]:
    """Close what the killed left open before another test looks."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(autouse=True)
def nothing_is_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what was sent until a life is over and looked at, however slow the machine."""
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
    """The app that a channel asks for."""
    return App("crash")


@pytest.fixture
async def bench(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """Everything around one node's agent, whose simulated Ollama answers at once."""
    async with open_bench(valkey_url, prefix) as opened:
        yield opened


@pytest.fixture
async def life(
    exact_url: str, app: App, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Life]:
    """A grid that has answered one request and runs on; losses are looked for all the time."""
    monkeypatch.setattr("orion_streams.agents.apps.KEEP_EVERY_S", 0.0)
    opened = Life(exact_url, prefix, Plan("answered"), app)
    with mortality():
        await opened.ask()
        opened.start_router()
        opened.start_agent()
        await eventually(opened.rests, "the first answer")
        yield opened
        await opened.close()
