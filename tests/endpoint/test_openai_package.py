"""The `openai` package, unchanged, with the gateway as its base URL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any

import openai
import pytest

from tests.endpoint.client_requests import BOTH, HELLO, PNG_URI, SCHEMA, TOOLS
from tests.endpoint.running_endpoint import EMBEDDER, NAMES, PLAIN, SKILLED, RunningEndpoint

KEY = "any text"
STREAMS = 100


@pytest.fixture
def client(endpoint: RunningEndpoint) -> Iterator[openai.OpenAI]:
    """The blocking client, which does not try again by itself."""
    with openai.OpenAI(base_url=endpoint.v1, api_key=KEY, max_retries=0) as opened:
        yield opened


def asynchronous(endpoint: RunningEndpoint) -> openai.AsyncOpenAI:
    """The other client."""
    return openai.AsyncOpenAI(base_url=endpoint.v1, api_key=KEY, max_retries=0)


def texts(chunks: Iterable[Any]) -> str:
    """The text of a stream, whose role stands once, and whose last choice says why it ended."""
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert [choice.delta.role for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
    assert [choice.finish_reason is not None for choice in choices] == [False] * (len(choices) - 1) + [True]
    return "".join(choice.delta.content or "" for choice in choices)


def test_a_chat_comes_whole_and_in_chunks(client: openai.OpenAI) -> None:
    """Both say the same; one id and one time for all chunks, and the usage at the end where it was asked
    for."""
    asked: dict[str, Any] = {"model": PLAIN.name, "messages": HELLO, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    counted = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert whole.choices[0].message.role == "assistant"
    assert texts(chunks) == texts(counted) == whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in (*chunks, *counted[:-1]))
    assert counted[-1].choices == []
    assert counted[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0


def test_a_helper_adds_the_chunks_up(client: openai.OpenAI) -> None:
    """The package's own accumulator finds the whole message."""
    asked: dict[str, Any] = {"model": SKILLED.name, "messages": HELLO, "temperature": 0}
    with client.chat.completions.stream(**asked) as stream:
        told = "".join(event.delta for event in stream if event.type == "content.delta")
        whole = stream.get_final_completion()
    assert told == whole.choices[0].message.content
    assert told


@pytest.mark.everything
async def test_many_streams_at_once_are_each_whole_and_in_order(endpoint: RunningEndpoint) -> None:
    """A hundred streams, each with its own answer, from one client."""
    async with asynchronous(endpoint) as client:

        async def streamed(number: int) -> str:
            asked: Any = [{"role": "user", "content": f"Tale {number}"}]
            stream: Any = await client.chat.completions.create(
                model=PLAIN.name,
                messages=asked,
                stream=True,
                temperature=0,
            )
            return texts([chunk async for chunk in stream])

        told = await asyncio.gather(*map(streamed, range(STREAMS)))
        again = [await streamed(number) for number in (0, STREAMS - 1)]
    assert [told[0], told[-1]] == again
    assert len(set(told)) == STREAMS


@pytest.mark.parametrize("stream", [False, True])
def test_two_tools_are_called_and_their_results_taken(client: openai.OpenAI, stream: bool) -> None:
    """Both calls have ids, places and arguments in JSON; with the results the model speaks. The call goes
    back with `content: null`, as the package sends it."""
    messages: list[Any] = [{"role": "user", "content": BOTH}]
    asked: dict[str, Any] = {"model": SKILLED.name, "tools": TOOLS, "reasoning_effort": "none"}
    if stream:
        with client.chat.completions.stream(messages=messages, **asked) as opened:
            choice = opened.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(messages=messages, **asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    calls: Any = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "time"]
    assert [set(json.loads(call.function.arguments)) for call in calls] == [{"place"}, {"zone"}]
    assert len({call.id for call in calls}) == 2
    kept = [call.model_dump(include={"id", "type", "function"}) for call in calls]
    messages.append({"role": "assistant", "content": None, "tool_calls": kept})
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "20"} for call in calls]
    told = client.chat.completions.create(messages=messages, **asked).choices[0]
    assert told.message.content
    assert told.finish_reason == "stop"


def test_a_picture_is_looked_at(client: openai.OpenAI) -> None:
    """A data URI in a list of parts; a model that cannot see is a bad request."""
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PNG_URI}},
    ]
    shown: Any = [{"role": "user", "content": parts}]
    assert client.chat.completions.create(model=SKILLED.name, messages=shown).choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="does not support vision"):
        client.chat.completions.create(model=PLAIN.name, messages=shown)


def test_an_answer_follows_a_schema(client: openai.OpenAI) -> None:
    """`response_format` as a JSON schema, and as any object."""
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    asked: dict[str, Any] = {"model": PLAIN.name, "messages": HELLO}
    text = client.chat.completions.create(response_format=wanted, **asked).choices[0].message.content
    value = json.loads(text or "")
    assert isinstance(value["city"], str)
    assert isinstance(value["people"], int)
    text = (
        client.chat.completions.create(response_format={"type": "json_object"}, **asked)
        .choices[0]
        .message.content
    )
    assert isinstance(json.loads(text or ""), dict)


@pytest.mark.parametrize("effort", ["minimal", "high", "xhigh"])
def test_thoughts_are_reasoning(client: openai.OpenAI, effort: Any) -> None:
    """Whole and streamed alike, before the text; with effort `none` there are none."""
    asked: dict[str, Any] = {"model": SKILLED.name, "messages": HELLO, "temperature": 0}
    whole = client.chat.completions.create(reasoning_effort=effort, **asked)
    chunks = list(client.chat.completions.create(reasoning_effort=effort, stream=True, **asked))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    thought = "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
    assert thought
    assert thought == getattr(whole.choices[0].message, "reasoning", None)
    assert texts(chunks) == whole.choices[0].message.content
    silent = client.chat.completions.create(reasoning_effort="none", **asked).choices[0].message
    assert getattr(silent, "reasoning", None) is None


def test_vectors_come_in_both_encodings(client: openai.OpenAI) -> None:
    """The package asks for base64 unless it is told otherwise; both are the same to a float's precision."""
    asked: dict[str, Any] = {"model": EMBEDDER.name, "input": ["a text", "another"]}
    packed = client.embeddings.create(**asked)
    plain = client.embeddings.create(encoding_format="float", **asked)
    raw = client.embeddings.with_raw_response.create(encoding_format="base64", **asked)
    assert isinstance(json.loads(raw.text)["data"][0]["embedding"], str)
    assert [row.index for row in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert len(one.embedding) == EMBEDDER.embedding_length
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    short = client.embeddings.create(dimensions=64, **asked)
    assert len(short.data[0].embedding) == 64
    assert packed.usage.prompt_tokens > 0


def test_a_text_goes_on(client: openai.OpenAI) -> None:
    """The older completions, whole and in chunks, with odds."""
    asked: dict[str, Any] = {"model": PLAIN.name, "prompt": "Once", "temperature": 0, "max_tokens": 5}
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(stream=True, **asked))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"
    odds = client.chat.completions.create(
        model=PLAIN.name,
        messages=HELLO,
        logprobs=True,
        top_logprobs=2,
        max_tokens=3,
    ).choices[0]
    assert odds.logprobs is not None
    assert [len(row.top_logprobs) for row in odds.logprobs.content or ()] == [2, 2, 2]


def test_models_are_listed(client: openai.OpenAI) -> None:
    """All of them with their names, aliases too, and one alone."""
    names = {model.id for model in client.models.list()}
    assert names == NAMES
    assert client.models.retrieve(PLAIN.name).id == PLAIN.name


def test_a_name_that_programs_insist_on_is_an_alias(client: openai.OpenAI) -> None:
    """An alias of the configuration answers under its own name."""
    told = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert told.model == "gpt-4o"
    assert told.choices[0].message.content


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    """NotFoundError with a sentence and a kind, from every call."""
    asked: dict[str, Any] = {"model": "nobody:has-it", "messages": HELLO}
    calls = (
        lambda: client.chat.completions.create(**asked),
        lambda: client.chat.completions.create(**asked, stream=True),
        lambda: client.completions.create(model="nobody:has-it", prompt="x"),
        lambda: client.embeddings.create(model="nobody:has-it", input="x"),
        lambda: client.models.retrieve("nobody:has-it"),
    )
    for call in calls:
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert "nobody:has-it" in caught.value.message
        assert caught.value.type == "not_found_error"


def test_nonsense_is_a_bad_request(client: openai.OpenAI) -> None:
    """BadRequestError."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=PLAIN.name, messages=[])
    assert caught.value.type == "invalid_request_error"


def test_responses_are_served_without_state(client: openai.OpenAI) -> None:
    """Whole and as events that the package understands."""
    asked: dict[str, Any] = {"model": PLAIN.name, "input": "Say hello", "temperature": 0}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        told = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == told
    assert whole.output_text == told
    assert told


def test_a_client_that_breaks_off_a_stream_cancels_it(
    client: openai.OpenAI, endpoint: RunningEndpoint
) -> None:
    """The request ends as cancelled, and the node is free."""
    endpoint.hang()
    stream: Any = client.chat.completions.create(model=PLAIN.name, messages=HELLO, stream=True)
    assert next(stream).choices
    key = endpoint.the_open_one()
    stream.close()
    endpoint.is_cancelled(key)


async def test_a_client_that_waits_no_longer_cancels_its_request(endpoint: RunningEndpoint) -> None:
    """A time-out of the package, while nothing has come back."""
    endpoint.hang()
    async with asynchronous(endpoint) as client:
        asked: dict[str, Any] = {"model": PLAIN.name, "messages": HELLO}
        task = asyncio.create_task(client.chat.completions.create(**asked))
        key = await asyncio.to_thread(endpoint.the_open_one)
        task.cancel()
        await asyncio.wait({task})
        await asyncio.to_thread(endpoint.is_cancelled, key)
