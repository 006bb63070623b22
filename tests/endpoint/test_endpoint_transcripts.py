"""What a real Ollama was recorded to answer, the grid answers through the gateway, but for listed
differences: status, type, the keys of each answer, their types and their order."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.endpoint.running_endpoint import RunningEndpoint
from tests.helpers import WAIT_S
from tests.simulated_ollama.recorded_contract import BodyLine, Exchange, by_name, recorded, send, shape

FILES = ("1-discovery", "2-residency", "3-inference", "4-reload-and-context", "5-refusals", "6-openai")
EXCHANGES = [exchange for file in FILES for exchange in recorded(file)]

# Exchange, place of the field, and why it is not as recorded.
DIFFERENCES: tuple[tuple[str, str, str], ...] = ()


@pytest.fixture
async def http(endpoint: RunningEndpoint) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway."""
    async with httpx.AsyncClient(base_url=endpoint.url, timeout=WAIT_S, verify=False) as client:
        yield client


def units(exchange: Exchange) -> list[Any]:
    """The objects of an answer, and what is none, without what the grid adds of its own."""
    is_events = "event-stream" in kind(exchange)
    found = exchange.text.split("\n\n" if is_events else "\n")
    texts = [text.removeprefix("data: ") for text in found if text.strip()]
    values = [json.loads(text) if text.startswith("{") else text for text in texts]
    for value in values:
        if isinstance(value, dict):
            value.pop("orion", None)
    return values


def kind(exchange: Exchange) -> str:
    """The content type."""
    return {name.lower(): value for name, value in exchange.headers.items()}.get("content-type", "")


def flat(found: Any, place: str = "") -> dict[str, Any]:
    """A shape as its leaves by their place, and the order of its keys."""
    if not isinstance(found, list):
        return {place: found}
    leaves = {f"{place}.": [name for name, _ in found]}
    for name, inner in found:
        leaves |= flat(inner, f"{place}.{name}")
    return leaves


def outline(exchange: Exchange) -> dict[str, Any]:
    """All that is compared: of a stream its first objects, those between, the last one, and its end."""
    values = units(exchange)
    objects = [value for value in values if isinstance(value, dict)]
    places = {"status": exchange.status, "type": kind(exchange), "ends": exchange.text[-2:] == "\n\n"}
    places["rest"] = [value for value in values if not isinstance(value, dict)]
    roles = ["end"] if len(objects) == 1 else ["first", *["part"] * (len(objects) - 2), "end"]
    for role, value in zip(roles, objects, strict=False):
        for place, leaf in flat(shape(value)).items():
            places.setdefault(role + place, leaf)
    return places


def differing(wanted: Exchange, got: Exchange) -> dict[str, tuple[Any, Any]]:
    """The places that are not as recorded."""
    was, now = outline(wanted), outline(got)
    pairs = {place: (was.get(place, "nothing"), now.get(place, "nothing")) for place in (*was, *now)}
    return {place: pair for place, pair in pairs.items() if pair[0] != pair[1]}


def unlisted(exchange: Exchange, found: dict[str, Any]) -> dict[str, Any]:
    """The differences that no row of the table explains."""
    rows = [place for name, place, _ in DIFFERENCES if re.fullmatch(name, exchange.name)]
    return {at: pair for at, pair in found.items() if not any(re.fullmatch(row, at) for row in rows)}


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_an_answer_through_the_grid_is_as_recorded(
    http: httpx.AsyncClient, exchange: Exchange
) -> None:
    """Each recorded request, sent to the gateway."""
    assert unlisted(exchange, differing(exchange, await send(http, exchange))) == {}
