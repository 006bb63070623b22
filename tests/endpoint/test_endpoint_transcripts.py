"""What a real Ollama was recorded to answer, the grid answers through the gateway, but for listed
differences: status, type, the keys of each answer, their types and their order."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.endpoint.running_endpoint import RECORDED, RunningEndpoint
from tests.gateway.listed_differences import Row, altered, explained, unlisted
from tests.helpers import WAIT_S, eventually
from tests.simulated_ollama.recorded_contract import Exchange, by_name, recorded, send, shape

pytestmark = pytest.mark.everything  # the quick run compares what the gateway writes, without a grid

FILES = ("1-discovery", "2-residency", "3-inference", "4-reload-and-context", "5-refusals", "6-openai")
EXCHANGES = [exchange for file in FILES for exchange in recorded(file)]

# What is in memory depends on the tests before: ps has a test of its own.
EXCHANGES = [each for each in EXCHANGES if each.request.path != "/api/ps"]

FEW_KEYS = "of a model's file the log has the few keys that clients read, and no tensors"
HALVES = "a request that is wrong is a 400, whenever that is noticed"
INCAPABLE = "the router knows what a model can do before any node is asked"
ROOMY = "another runner of the model has a longer context, where the prompt fits"
BY_NAME = "a name that no model has is not found, however it is written"
ELSEWHERE = "models are removed on the nodes"
ROLE_ONCE = "the role stands in the first chunk only, as OpenAI sends it and its clients add it up"
EMPTY_END = "the last chunk has an empty delta, as OpenAI's has"
ONE_TYPE = "an error has one content type and ends with a line, whoever raised it"

# Exchange, place of the field, and why it is not as recorded.
DIFFERENCES = (
    ("show.*", r"end\.(model_info\..*|tensors\..*)?", FEW_KEYS),
    ("embed|embeddings-old|images-unsupported", "status", INCAPABLE),
    ("embed-empty", ".*", INCAPABLE),
    ("images-unsupported|tools-unsupported", r"end\.error", INCAPABLE),
    ("v1-embeddings", r"status|end\.error\.type", INCAPABLE),
    ("wrong-option-type", "status", HALVES),
    ("bad-format", "status|type", HALVES),
    ("long-prompt-no-truncate", r"status|end\..*", ROOMY),
    ("bad-model-name", r"status|end\.error", BY_NAME),
    ("missing-model-delete", r"status|end\.error", ELSEWHERE),
    ("v1-chat-stream(-usage)?", r"part\.choices", ROLE_ONCE),
    ("v1-chat-stream", r"end\.choices", EMPTY_END),
    ("v1-(bad-json|no-messages)", "type", ONE_TYPE),
)


@pytest.fixture(scope="module")
def bench() -> Iterator[RunningEndpoint]:
    """A grid with the models of the transcripts."""
    with RunningEndpoint(RECORDED) as running:
        yield running


@pytest.fixture
async def http(bench: RunningEndpoint) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway."""
    async with httpx.AsyncClient(base_url=bench.url, timeout=WAIT_S, verify=False) as client:
        yield client


def units(exchange: Exchange) -> list[Any]:
    """The objects of an answer, and what is none, without what the grid adds of its own."""
    is_events = "event-stream" in kind(exchange)
    found = exchange.text.split("\n\n" if is_events else "\n")
    texts = [text.removeprefix("data: ") for text in found if text.strip()]
    values = [json.loads(text) if text.startswith("{") else text for text in texts]
    return [without_times(value) if isinstance(value, dict) else value for value in values]


def without_times(value: dict[str, Any]) -> dict[str, Any]:
    """An object without what the grid adds, and without durations: the log has whole ms, and what took less
    is left out, as Ollama leaves out zero."""
    times = [member for name, member in value.items() if name.endswith("_duration")]
    assert all(isinstance(each, int) for each in times)
    return {
        name: each for name, each in value.items() if name != "orion" and not name.endswith("_duration")
    }


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
    """All that is compared: of a stream its first event, the parts, the last one, and how it ends."""
    values = units(exchange)
    objects = [value for value in values if isinstance(value, dict)]
    places: dict[str, Any] = {
        "status": exchange.status,
        "type": kind(exchange),
        "ends": exchange.text[-2:] == "\n\n",
    }
    places["rest"] = [value for value in values if not isinstance(value, dict)]
    begin = "first" if "event-stream" in kind(exchange) else "part"
    roles = [begin, *["part"] * (len(objects) - 2)] if len(objects) > 1 else []
    for role, value in zip([*roles, *["end"] * bool(objects)], objects, strict=True):
        for place, leaf in flat(shape(value)).items():
            places.setdefault(role + place, leaf)
    return places


def differing(wanted: Exchange, got: Exchange) -> dict[str, tuple[Any, Any]]:
    """The places that are not as recorded. Parts may all have been joined to one."""
    was, now = outline(wanted), outline(got)
    if not any(place.startswith("part") for place in now):
        was = {place: leaf for place, leaf in was.items() if not place.startswith("part")}
    pairs = {place: (was.get(place, "nothing"), now.get(place, "nothing")) for place in (*was, *now)}
    return {place: pair for place, pair in pairs.items() if pair[0] != pair[1]}


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
async def test_an_answer_through_the_grid_is_as_recorded(
    http: httpx.AsyncClient, exchange: Exchange
) -> None:
    """Each recorded request, sent to the gateway."""
    assert unlisted(DIFFERENCES, exchange, differing(exchange, await send(http, exchange))) == {}


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: f"{row[0]} {row[1]}")
@pytest.mark.everything
async def test_each_listed_difference_is_one(http: httpx.AsyncClient, row: Row) -> None:
    """No row of the table explains what is no longer so."""
    await send(http, by_name(EXCHANGES)["generate-once"])  # loads with the default context
    chosen = [exchange for exchange in EXCHANGES if re.fullmatch(row[0], exchange.name)]
    found = [(exchange, differing(exchange, await send(http, exchange))) for exchange in chosen]
    assert any(explained(row, *each) for each in found)


async def test_what_is_in_memory_is_listed_as_recorded(http: httpx.AsyncClient) -> None:
    """`/api/ps`, once a model is there."""
    exchanges = by_name(recorded("2-residency"))
    wanted = exchanges["ps-resident"]
    await send(http, exchanges["generate-load"])

    async def as_recorded() -> bool:
        return differing(wanted, await send(http, wanted)) == {}

    await eventually(as_recorded, "the list is as recorded")


@pytest.mark.parametrize(
    ("name", "old", "new", "place"),
    [
        ("generate-once", '"eval_count":8,', "", "end.eval_count"),
        ("generate-once", '"done":true', '"done":"true"', "end.done"),
        ("generate-stream-warm", '"response":', '"text":', "part.response"),
        ("chat-stream", '"done_reason"', '"reason"', "end.done_reason"),
        ("v1-chat-stream", "[DONE]", "[ENDED]", "rest"),
        ("v1-missing-model", '"param":null', '"param":""', "end.error.param"),
        ("missing-model-chat", "not found", "unknown", "end.error"),
    ],
)
def test_the_comparison_sees_a_changed_field(name: str, old: str, new: str, place: str) -> None:
    """A key, a type, an end or an error that was not recorded is a difference."""
    exchange = by_name(EXCHANGES)[name]
    assert differing(exchange, exchange) == {}
    assert place in differing(altered(exchange, old, new), exchange)
