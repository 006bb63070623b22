"""Error texts, names and times: what is worded as the real server's language words it."""

from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.demo.ollama import ModelSpec
from orion_streams.demo.ollama.model_names import ModelName
from orion_streams.gateway import golang
from orion_streams.gateway.refusal import Refusal
from tests.simulated_ollama.conftest import INSTANT, client_of


def with_a_model(body: dict[str, Any]) -> dict[str, Any]:
    """Most nonsense is only read when the model exists."""
    return {"model": "gemma3:270m", "options": {"num_predict": 2}, **body}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("5m", 300),
        ("1h30m", 5_400),
        ("-1s", -1),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        (".5m", 30),
        ("+2s", 2),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Amounts with units add up; a sign goes first."""
    assert golang.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "--1s", "5", "5d", "1s5"])
def test_a_bad_duration_is_refused(text: str) -> None:
    """The complaint names the duration."""
    with pytest.raises(Refusal) as refused:
        golang.parse_duration(text)
    assert (refused.value.status, refused.value.message) == (400, f'time: invalid duration "{text}"')


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (10_413_792_000_000_000_001, "2300-01-01T00:00:00.000000001Z"),
    ],
)
def test_times_have_no_trailing_zeros(nanoseconds: int, text: str) -> None:
    """A time is in UTC, to the nanosecond, and as short as it can be."""
    assert golang.timestamp(nanoseconds) == text


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "missing request body"),
        (b"  \n", "missing request body"),
        (b'{"model": "a', "unexpected EOF"),
        (b"[1, 2", "unexpected EOF"),
        (b"{model: 1}", "invalid JSON"),
        (b'{"model": x}', "invalid JSON"),
        (b'{"model": NaN}', "invalid JSON"),
        (b'{"model": 1e999}', "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (b'{"model": {}}', "json: cannot unmarshal object into Go struct field "
         "GenerateRequest.model of type string"),
        (b'{"top_logprobs": 1.5}', "json: cannot unmarshal number into Go struct field "
         "GenerateRequest.top_logprobs of type int"),
        (b'{"options": []}', "json: cannot unmarshal array into Go struct field "
         "GenerateRequest.options of type map[string]interface {}"),
        (b'{"keep_alive": true}', "Unsupported type of keep_alive"),
        (b'{"think": "much"}', "invalid think value"),
        (b'{"think": 5}', "invalid think value"),
    ],
)  # fmt: skip
async def test_a_body_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, body: bytes, sentence: str
) -> None:
    """A bad body is a 400 that says what is wrong."""
    reply = await client.post("/api/generate", content=body)
    assert reply.status_code == 400
    assert reply.json()["error"].startswith(sentence)


# fmt: off
KEYS = (
    "model", "messages", "prompt", "options", "format", "keep_alive", "tools", "role",
    "content", "think", "input", "images", "stop", "num_predict", "num_ctx", "temperature",
    "stream", "logprobs", "top_logprobs", "suffix", "raw", "context", "type", "text",
    "properties", "items", "enum", "tool_calls", "thinking",
)
# fmt: on
# fmt: off
ROUTES = (
    "/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show",
    "/sim/set", "/sim/fault",
)
# fmt: on
leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5)
values = st.recursive(
    leaves | st.just("gemma3:270m"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6).map(with_a_model)
    ),
    max_leaves=15,
)
bodies = st.dictionaries(st.sampled_from(KEYS), values, max_size=8).map(with_a_model)


@given(sent=st.lists(bodies.map(msgspec.json.encode) | st.binary(max_size=20), min_size=8))
@settings(max_examples=5)
async def test_no_body_breaks_a_node(sent: list[bytes]) -> None:
    """Whatever is sent, every route answers, and never by a crash of its own."""
    model = ModelSpec(
        name="gemma3:270m",
        size_mb=9,
        capabilities=("completion", "tools", "thinking", "embedding", "insert"),
        embedding_length=4,
    )
    async with client_of(replace(INSTANT, models=(model,))) as client:
        for body in sent:
            for route in ROUTES:
                reply = await client.post(route, content=body)
                kind = reply.headers["content-type"]
                assert "json" in kind or kind == "text/event-stream", (route, reply.text)


@pytest.mark.parametrize(
    ("text", "shortest", "valid"),
    [
        ("a", "a:latest", True),
        ("a:b", "a:b", True),
        ("me/a:b", "me/a:b", True),
        ("library/a", "a:latest", True),
        ("host.io:80/me/a:b", "host.io:80/me/a:b", True),
        ("bad name!", "bad name!:latest", False),
        ("a:", "a:", False),
        ("-a", "-a:latest", False),
        ("x" * 81, "x" * 81 + ":latest", False),
    ],
)
def test_names_have_defaults(text: str, shortest: str, valid: bool) -> None:
    """A missing tag is `latest`; default hosts and namespaces are not shown."""
    name = ModelName.parse(text)
    assert (name.shortest, name.valid) == (shortest, valid)


async def test_text_is_escaped_for_html(client: httpx.AsyncClient) -> None:
    """The characters that mean something in HTML are written as escapes, also in errors."""
    reply = await client.post("/api/generate", json={"model": "<a&b>", "prompt": "x"})
    assert reply.json() == {"error": "invalid model name"}
    reply = await client.post("/api/generate", json={"model": "a", "keep_alive": "<&>"})
    assert b"\\u003c\\u0026\\u003e" in reply.content
