"""What the synthetic engine answers: deterministic, cut where it is told, honest about tokens."""

import json
import math
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.demo.ollama import ModelSpec, json_schema
from orion_streams.demo.ollama.engine import fitted_prompt
from orion_streams.demo.ollama.tokenizer import cut, seeded, tokenize
from tests.simulated_ollama.conftest import INSTANT, client_of

SKILLED = replace(
    INSTANT,
    models=(
        ModelSpec(name="chat:1b", size_mb=800),
        ModelSpec(name="tool:1b", size_mb=800, capabilities=("completion", "tools")),
        ModelSpec(name="deep:1b", size_mb=800, capabilities=("completion", "thinking")),
        ModelSpec(name="vec:1b", size_mb=80, capabilities=("embedding",), embedding_length=48),
    ),
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


async def generate(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    body = {"model": "gemma3:270m", "prompt": "Of rivers", "stream": False, **more}
    answer: dict[str, Any] = (await client.post("/api/generate", json=body)).json()
    return answer


async def chat(client: httpx.AsyncClient, model: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": model, "messages": messages, "stream": False, **more}
    answer: dict[str, Any] = (await client.post("/api/chat", json=body)).json()
    return answer


async def test_the_same_request_has_the_same_answer_on_every_node() -> None:
    """Text depends on model, prompt and sampling only: not on the node, the time or the run."""
    texts = set()
    for name in ("one", "two"):
        async with client_of(replace(INSTANT, name=name)) as client:
            for _ in range(2):
                answer = await generate(client, options={"seed": 5, "temperature": 1})
                texts.add(answer["response"])
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"temperature": 0, "seed": 9}, True),
        ({"temperature": 0, "seed": 5, "num_ctx": 1024}, True),
        ({"temperature": 1, "seed": 5}, False),
        ({"temperature": 1, "seed": 9}, False),
    ],
)
async def test_the_seed_counts_only_above_temperature_0(
    client: httpx.AsyncClient, options: dict[str, Any], same: bool
) -> None:
    """At temperature 0 only model and prompt matter; above, the seed does too."""
    base = await generate(client, options={"temperature": 0, "seed": 5})
    other = await generate(client, options=options)
    assert (base["response"] == other["response"]) == same


async def test_model_and_prompt_change_the_answer(client: httpx.AsyncClient) -> None:
    """Another prompt, or another model, has another answer."""
    answers = [
        await generate(client),
        await generate(client, prompt="Of mountains"),
        await generate(client, model="other:270m"),
    ]
    assert len({answer["response"] for answer in answers}) == 3


async def test_num_predict_only_cuts(client: httpx.AsyncClient) -> None:
    """A shorter answer is the beginning of a longer one, and has exactly so many tokens."""
    whole = await generate(client)
    short = await generate(client, options={"num_predict": 7})
    assert whole["done_reason"] == "stop"
    assert (short["done_reason"], short["eval_count"]) == ("length", 7)
    assert whole["response"].startswith(short["response"])


async def test_a_stop_sequence_is_made_but_not_shown(client: httpx.AsyncClient) -> None:
    """The answer ends before the first stop sequence; its tokens are counted."""
    whole = await generate(client)
    stopped = await generate(client, options={"stop": ["never said", "."]})
    assert stopped["response"] == whole["response"].partition(".")[0]
    assert stopped["done_reason"] == "stop"
    assert stopped["eval_count"] == len(tokenize(stopped["response"])) + 1


async def test_a_stream_says_the_same_as_the_whole(client: httpx.AsyncClient) -> None:
    """The parts of a stream add up to the answer in one piece."""
    whole = await generate(client, options={"num_predict": 20})
    body = {"model": "gemma3:270m", "prompt": "Of rivers", "options": {"num_predict": 20}}
    streamed = (await client.post("/api/generate", json=body)).text.splitlines()
    parts = [json.loads(line) for line in streamed]
    assert "".join(part["response"] for part in parts) == whole["response"]
    assert [part["done"] for part in parts] == [False] * 20 + [True]
    assert parts[-1]["context"] == whole["context"]


async def test_one_token_takes_no_time(client: httpx.AsyncClient) -> None:
    """`eval_duration` counts from the first token: for a single one it is left out."""
    one = await generate(client, options={"num_predict": 1})
    two = await generate(client, options={"num_predict": 2})
    assert (one["eval_count"], "eval_duration" in one) == (1, False)
    assert (two["eval_count"], "eval_duration" in two) == (2, True)


async def test_a_repeated_prompt_is_read_faster() -> None:
    """What the model has just read is cached: the count stays, the time drops."""
    async with client_of(replace(INSTANT, prefill_tokens_per_s=100)) as client:
        first = await generate(client, prompt="word " * 40, options={"num_predict": 1})
        again = await generate(client, prompt="word " * 40, options={"num_predict": 1})
    assert first["prompt_eval_count"] == again["prompt_eval_count"]
    assert again["prompt_eval_duration"] < first["prompt_eval_duration"] / 2


async def test_times_follow_the_rates_and_the_size() -> None:
    """A model of twice the size loads, reads and decodes at half the speed."""
    models = tuple(ModelSpec(name=f"s{mb}:x", size_mb=mb) for mb in (250, 500))
    spec = replace(
        INSTANT,
        models=models,
        disk_mb_per_s=5_000,
        prefill_tokens_per_s=100,
        decode_tokens_per_s=50,
    )
    async with client_of(spec) as client:
        small, large = [
            await generate(client, model=m.name, prompt="word " * 20, options={"num_predict": 11})
            for m in models
        ]
    # 23 tokens of prompt at 400 and 200 a second; 10 steps at 200 and 100 a second.
    for key, least_ms in (("load_duration", 50), ("prompt_eval_duration", 55)):
        assert small[key] >= least_ms * 1e6
        assert large[key] >= 2 * least_ms * 1e6
    assert small["eval_duration"] >= 50e6
    assert large["eval_duration"] >= 100e6


@given(words=st.integers(1, 400), num_ctx=st.integers(4, 300))
def test_the_prompt_count_never_exceeds_the_context(words: int, num_ctx: int) -> None:
    """A prompt that is too long is cut, silently, to exactly the context."""
    tokens = list(range(words))
    fitted = fitted_prompt(tokens, num_ctx, truncate=True)
    assert len(fitted) == min(words, num_ctx)
    assert fitted[-1] == tokens[-1]


async def test_a_long_prompt_is_cut_or_refused(client: httpx.AsyncClient) -> None:
    """The cut shows only in the count; `truncate: false` refuses instead."""
    options = {"num_ctx": 256, "num_predict": 1}
    cut_short = await generate(client, prompt="word " * 700, options=options)
    refused = await generate(client, prompt="word " * 700, options=options, truncate=False)
    assert cut_short["prompt_eval_count"] == 256
    assert refused == {"error": "the input length exceeds the context length"}


async def test_a_full_context_ends_the_answer(client: httpx.AsyncClient) -> None:
    """Without shifting, prompt and answer together fill the context and no more."""
    options = {"num_ctx": 256, "num_predict": 40}
    full = await generate(client, prompt="word " * 240, options=options, shift=False)
    assert full["done_reason"] == "length"
    assert full["prompt_eval_count"] + full["eval_count"] == 256


@pytest.mark.parametrize("temperature", [0, 1])
async def test_json_is_json(client: httpx.AsyncClient, temperature: int) -> None:
    """`format: json` makes a JSON object."""
    answer = await generate(client, format="json", options={"temperature": temperature})
    assert isinstance(json.loads(answer["response"]), dict)


async def test_a_schema_is_kept(client: httpx.AsyncClient) -> None:
    """An answer under a JSON schema has its properties, in their types and bounds."""
    schema = {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 3, "maximum": 5},
            "kind": {"enum": ["a", "b"]},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["age", "kind", "tags", "next"],
    }
    value = json.loads((await generate(client, format=schema))["response"])
    assert 3 <= value["age"] <= 5
    assert value["kind"] in ("a", "b")
    assert len(value["tags"]) == 2
    assert set(value["next"]) == set(schema["properties"])


@given(low=st.integers(-50, 50), span=st.integers(0, 20), whole=st.booleans(), seed=st.integers(0, 99))
def test_numbers_stay_within_their_bounds(low: int, span: int, whole: bool, seed: int) -> None:
    """A number drawn from a schema lies between its minimum and its maximum."""
    kind = "integer" if whole else "number"
    schema = {"type": kind, "minimum": low, "maximum": low + span}
    value = json_schema.sample(schema, seeded(seed))
    assert isinstance(value, int | float)
    assert low <= value <= low + span


async def test_a_senseless_schema_is_refused(client: httpx.AsyncClient) -> None:
    """A schema that cannot be read is an error, not a crash."""
    answer = await generate(client, format={"properties": {"a": {"minItems": "x", "items": {}}}})
    assert answer == {"error": "invalid JSON schema in format"}


@given(text=st.text())
def test_tokens_add_up_to_the_text(text: str) -> None:
    """The tokenizer loses nothing."""
    assert "".join(tokenize(text)) == text


@given(
    tokens=st.lists(st.text("ab. ", min_size=1, max_size=3), max_size=20),
    stops=st.lists(st.text("ab. ", min_size=1, max_size=2), max_size=2),
    limit=st.one_of(st.none(), st.integers(1, 20)),
)
def test_a_cut_shows_a_beginning_without_stops(
    tokens: list[str], stops: list[str], limit: int | None
) -> None:
    """What is shown is the text up to its first stop sequence, within the limit of tokens."""
    done = cut(tokens, stops, limit)
    shown = "".join(done.pieces)
    text = "".join(tokens if limit is None else tokens[:limit])
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert shown == text[: min(ends, default=len(text))]
    assert len(done.pieces) <= done.tokens <= (len(tokens) if limit is None else limit)


async def test_tools_are_called_then_their_results_are_put_into_words() -> None:
    """A model with tools answers with a call that fits its schema, and to its result with text."""
    async with client_of(SKILLED) as client:
        called = (await chat(client, "tool:1b", tools=[WEATHER]))["message"]
        messages = [called, {"role": "tool", "content": "12 degrees", "tool_name": "weather"}]
        told = (await chat(client, "tool:1b", tools=[WEATHER], messages=messages))["message"]
    function = called["tool_calls"][0]["function"]
    assert called["content"] == ""
    assert function["name"] == "weather"
    assert isinstance(function["arguments"]["city"], str)
    assert told["content"]
    assert "tool_calls" not in told


async def test_thoughts_come_apart_from_the_answer() -> None:
    """A thinking model thinks by default, beside its content, and not when told not to."""
    async with client_of(SKILLED) as client:
        thinking = (await chat(client, "deep:1b"))["message"]
        silent = (await chat(client, "deep:1b", think=False))["message"]
    assert thinking["thinking"]
    assert thinking["content"]
    assert "thinking" not in silent


async def test_vectors_are_deterministic_and_of_length_one() -> None:
    """An embedding depends on model and text, has the model's dimension and length 1."""
    async with client_of(SKILLED) as client:
        body = {"model": "vec:1b", "input": ["one", "two", "one"]}
        answer = (await client.post("/api/embed", json=body)).json()
        short = (await client.post("/api/embed", json={**body, "dimensions": 8})).json()
        old = {"model": "vec:1b", "prompt": "one"}
        single = (await client.post("/api/embeddings", json=old)).json()["embedding"]
    one, two, again = answer["embeddings"]
    assert one == again == single != two
    assert (len(one), len(short["embeddings"][0])) == (48, 8)
    assert all(math.isclose(math.hypot(*v), 1) for v in (one, two, short["embeddings"][0]))
    assert answer["prompt_eval_count"] > 3


@pytest.mark.parametrize(("path", "verb"), [("/api/generate", "generate"), ("/api/chat", "chat")])
async def test_a_model_for_embeddings_does_not_talk(path: str, verb: str) -> None:
    """Text from a model without completion is refused with 400."""
    async with client_of(SKILLED) as client:
        reply = await client.post(path, json={"model": "vec:1b", "prompt": "x", "messages": []})
    assert reply.status_code == 400
    assert reply.json() == {"error": f'"vec:1b" does not support {verb}'}
