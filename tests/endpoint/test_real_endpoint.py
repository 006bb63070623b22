"""A real Ollama, where ORION_TEST_OLLAMA names one: asked directly and through a grid, it says the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from orion_streams.demo.simulated_grid import SimulatedGrid, SimulatedNode
from orion_streams.simulation.machine_spec import NodeSpec
from tests.endpoint.running_endpoint import RunningEndpoint
from tests.endpoint.test_endpoint_transcripts import DIFFERENCES, EXCHANGES, differing, units
from tests.gateway.listed_differences import unlisted
from tests.helpers import WAIT_S
from tests.needs import REAL_URL
from tests.simulated_ollama.recorded_contract import Exchange, send

pytestmark = pytest.mark.everything(REAL_URL is not None)
NAME = "real"
GREEDY = {"temperature": 0, "seed": 7}
PATHS = ("/api/generate", "/api/chat", "/api/embed", "/v1/chat/completions", "/v1/completions")


def is_asked(exchange: Exchange) -> bool:
    """Whether it asks a model, and not for a load or an unload alone."""
    body = exchange.request.body
    asks = isinstance(body, dict) and body.keys() & {"prompt", "messages", "input"}
    return bool(asks) and exchange.request.path in PATHS


ASKED = [exchange for exchange in EXCHANGES if is_asked(exchange)]


class RealGrid(SimulatedGrid):
    """A grid around an Ollama that runs already."""

    async def start_ollama(self, name: str) -> None:
        self.node_urls[name], self.engines[name] = str(REAL_URL), "ollama"


@pytest.fixture(scope="module")
def real() -> Iterator[RunningEndpoint]:
    """A grid whose only node is the real one."""
    nodes = (SimulatedNode(NAME, "real", NodeSpec(name=NAME)),)
    settings = {f"nodes.{NAME}": {"simulated": False, "temperature_sensor": False}}
    with RunningEndpoint(grid=RealGrid(nodes, settings=settings, gateway=True)) as running:
        yield running


@pytest.fixture
async def both(real: RunningEndpoint) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of the Ollama and of the gateway."""
    options: dict[str, Any] = {"timeout": WAIT_S, "verify": False, "trust_env": False}
    async with (
        httpx.AsyncClient(base_url=str(REAL_URL), **options) as direct,
        httpx.AsyncClient(base_url=real.url, **options) as through,
    ):
        yield direct, through


def greedy(exchange: Exchange) -> Exchange:
    """The same request without chance in its answer."""
    body = exchange.request.body
    if exchange.request.path.startswith("/v1"):
        body = {**body, **GREEDY}
    elif isinstance(body.get("options", {}), dict):
        body = {**body, "options": {**GREEDY, **body.get("options", {})}}
    return replace(exchange, request=replace(exchange.request, body=body))


def has_less_room(exchange: Exchange) -> bool:
    """Whether it asks for less context than a runner in memory may have: then less of its prompt is cut."""
    return "num_ctx" in exchange.request.body.get("options", {})


def text(exchange: Exchange) -> str:
    """All that an answer says, in whichever form."""
    found = []
    for value in units(exchange):
        if isinstance(value, dict):
            choices = value.get("choices") or [{}]
            message = value.get("message") or choices[0].get("message") or choices[0].get("delta") or {}
            said = (value.get("response"), message.get("content"), choices[0].get("text"))
            found.append(next((each for each in said if each), ""))
    return "".join(found)


@pytest.mark.parametrize("exchange", ASKED, ids=lambda exchange: exchange.name)
async def test_through_the_grid_it_says_the_same(
    both: tuple[httpx.AsyncClient, httpx.AsyncClient], exchange: Exchange
) -> None:
    """The same text, the same keys with the same types, but for the differences that are listed."""
    direct, through = both
    asked = greedy(exchange)
    wanted, got = await send(direct, asked), await send(through, asked)
    assert unlisted(DIFFERENCES, exchange, differing(wanted, got)) == {}
    if wanted.status == got.status == 200 and not has_less_room(exchange):
        assert text(got) == text(wanted)
