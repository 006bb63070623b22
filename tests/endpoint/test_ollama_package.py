"""The `ollama` package, unchanged, with the gateway as its host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import ollama
import pytest

from orion_streams.agents.gateway import MOST_TEXTS
from orion_streams.gateway.listings import EXPIRES_AT
from tests.endpoint.client_requests import BOTH, FIXED, HELLO, PNG, SCHEMA, TOOLS
from tests.endpoint.running_endpoint import EMBEDDER, NAMES, NODE, PLAIN, SKILLED, RunningEndpoint

STREAMS = 100


@pytest.fixture
def client(endpoint: RunningEndpoint) -> Iterator[ollama.Client]:
    """The blocking client."""
    with ollama.Client(host=endpoint.url) as opened:
        yield opened


def joined(parts: Sequence[ollama.ChatResponse]) -> str:
    """The text of a stream that ended well."""
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    return "".join(part.message.content or "" for part in parts)


def test_a_chat_comes_whole_and_in_pieces(client: ollama.Client) -> None:
    """Both say the same; the last object tells counts, times and the node."""
    whole = client.chat(PLAIN.name, HELLO, options=FIXED)
    parts = list(client.chat(PLAIN.name, HELLO, options=FIXED, stream=True))
    assert whole.message.role == "assistant"
    assert joined(parts) == whole.message.content
    assert len(whole.message.content or "") > 1
    for end in (whole, parts[-1]):
        assert (end.done, end.done_reason, end.model) == (True, "stop", PLAIN.name)
        assert end.eval_count
        assert end.prompt_eval_count
        assert end.created_at is not None
        assert end.model_extra is None or end.model_extra["orion"]["node"] == NODE


@pytest.mark.everything
async def test_many_streams_at_once_are_each_whole_and_in_order(endpoint: RunningEndpoint) -> None:
    """A hundred conversations get a hundred answers, each its own."""
    async with ollama.AsyncClient(host=endpoint.url) as client:

        async def streamed(number: int) -> str:
            asked = [{"role": "user", "content": f"Story {number}"}]
            stream = await client.chat(PLAIN.name, asked, options=FIXED, stream=True)
            return joined([part async for part in stream])

        async def at_once(number: int) -> str:
            asked = [{"role": "user", "content": f"Story {number}"}]
            return (await client.chat(PLAIN.name, asked, options=FIXED)).message.content or ""

        streams = await asyncio.gather(*map(streamed, range(STREAMS)))
        wholes = await asyncio.gather(*map(at_once, range(STREAMS)))
    assert streams == wholes
    assert len(set(streams)) == STREAMS


@pytest.mark.parametrize("stream", [False, True])
def test_two_tools_are_called_and_their_results_taken(client: ollama.Client, stream: bool) -> None:
    """Both calls come with their arguments; with the results in the conversation the model speaks."""
    messages: list[Any] = [{"role": "user", "content": BOTH}]
    answer = client.chat(SKILLED.name, messages, tools=TOOLS, stream=stream, think=False)  # type: ignore[call-overload]
    said = list(answer) if stream else [answer]
    calls = [call for part in said for call in part.message.tool_calls or ()]
    assert [call.function.name for call in calls] == ["weather", "time"]
    assert [set(call.function.arguments) for call in calls] == [{"place"}, {"zone"}]
    messages += [part.message for part in said if part.message.tool_calls]
    messages += [{"role": "tool", "tool_name": call.function.name, "content": "20"} for call in calls]
    told = client.chat(SKILLED.name, messages, tools=TOOLS, think=False)
    assert told.message.content
    assert not told.message.tool_calls


def test_a_picture_is_looked_at(client: ollama.Client) -> None:
    """Bytes of a PNG go with a message or a prompt; a model that cannot see says so."""
    shown = [{"role": "user", "content": "What is this?", "images": [PNG]}]
    assert client.chat(SKILLED.name, shown).message.content
    assert client.generate(SKILLED.name, "What is this?", images=[PNG]).response
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(PLAIN.name, shown)
    assert caught.value.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_follows_a_schema(client: ollama.Client, stream: bool) -> None:
    """`format` as a JSON schema: its keys, with their types."""
    answer = client.chat(PLAIN.name, HELLO, format=SCHEMA, stream=stream)  # type: ignore[call-overload]
    text = joined(list(answer)) if stream else answer.message.content
    value = json.loads(text)
    assert isinstance(value["city"], str)
    assert isinstance(value["people"], int)


@pytest.mark.parametrize("think", [True, "max", None])
def test_thoughts_come_before_the_text(client: ollama.Client, think: Any) -> None:
    """Whole and streamed alike, in `thinking`."""
    whole = client.chat(SKILLED.name, HELLO, think=think, options=FIXED)
    parts = list(client.chat(SKILLED.name, HELLO, think=think, options=FIXED, stream=True))
    thought = "".join(part.message.thinking or "" for part in parts)
    assert thought == whole.message.thinking
    assert thought
    assert joined(parts) == whole.message.content
    kinds = [bool(part.message.thinking) for part in parts if part.message.thinking or part.message.content]
    assert kinds == sorted(kinds, reverse=True)


def test_a_model_that_cannot_think_says_so(client: ollama.Client) -> None:
    """400, and without `think` an answer without thoughts."""
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(PLAIN.name, HELLO, think=True)
    assert caught.value.status_code == 400
    assert "does not support thinking" in caught.value.error
    assert client.chat(SKILLED.name, HELLO, think=False).message.thinking is None


def test_texts_become_vectors(client: ollama.Client) -> None:
    """One or several, shortened too; and by the older call."""
    one = client.embed(EMBEDDER.name, "a text")
    two = client.embed(EMBEDDER.name, ["a text", "another"])
    assert [len(row) for row in two.embeddings] == [EMBEDDER.embedding_length] * 2
    assert one.embeddings[0] == two.embeddings[0] != two.embeddings[1]
    assert one.prompt_eval_count
    assert len(client.embed(EMBEDDER.name, "a text", dimensions=64).embeddings[0]) == 64
    assert client.embeddings(EMBEDDER.name, "a text").embedding == pytest.approx(
        one.embeddings[0], abs=1e-5
    )
    assert client.embed(EMBEDDER.name, []).embeddings == []


def test_a_library_becomes_vectors_part_by_part(client: ollama.Client) -> None:
    """Each in its place, as alone; counted together."""
    texts = [f"text {number}" for number in range(2 * MOST_TEXTS + 2)]
    found = client.embed(EMBEDDER.name, texts)
    assert len(found.embeddings) == len(texts)
    for place in (0, MOST_TEXTS - 1, MOST_TEXTS, 2 * MOST_TEXTS, len(texts) - 1):
        assert found.embeddings[place] == client.embed(EMBEDDER.name, texts[place]).embeddings[0]
    few = client.embed(EMBEDDER.name, texts[:MOST_TEXTS])
    assert (found.prompt_eval_count or 0) > 2 * (few.prompt_eval_count or 0) > 0


def test_a_text_goes_on(client: ollama.Client) -> None:
    """`generate`, whole and streamed, with its context continued, raw, filled in between, and with odds."""
    whole = client.generate(PLAIN.name, "Once", options=FIXED)
    parts = list(client.generate(PLAIN.name, "Once", options=FIXED, stream=True))
    assert "".join(part.response or "" for part in parts) == whole.response
    assert parts[-1].context == whole.context
    assert whole.context
    assert client.generate(PLAIN.name, "and", context=whole.context).response
    assert client.generate(PLAIN.name, "Once", raw=True).context is None
    assert client.generate(SKILLED.name, "def f(", suffix="return 1", think=False).response
    rows = client.generate(PLAIN.name, "Once", logprobs=True, top_logprobs=2).logprobs
    assert rows
    assert all(len(row.top_logprobs or ()) == 2 for row in rows)


def test_a_model_is_loaded_and_unloaded(client: ollama.Client, endpoint: RunningEndpoint) -> None:
    """Without a prompt it is only loaded; with `keep_alive` 0 it goes."""
    loaded = client.generate(PLAIN.name, keep_alive="5m")
    assert (loaded.done_reason, loaded.response) == ("load", "")
    endpoint.when(lambda grid: PLAIN.name in grid.nodes[NODE].resident, "it is in memory")
    [row] = [each for each in client.ps().models if each.model == PLAIN.name]
    assert row.expires_at is not None
    assert row.expires_at.isoformat() == EXPIRES_AT
    gone = client.chat(PLAIN.name, keep_alive=0)
    assert (gone.done_reason, gone.message.content) == ("unload", "")
    endpoint.when(lambda grid: PLAIN.name not in grid.nodes[NODE].resident, "it is gone")
    assert PLAIN.name not in [each.model for each in client.ps().models]


@pytest.mark.parametrize("by", ["generate", "chat"])
def test_a_model_that_only_embeds_is_unloaded(
    client: ollama.Client, endpoint: RunningEndpoint, by: str
) -> None:
    """As `ollama stop` asks it; to load it in this way is refused, as by Ollama."""
    client.embed(EMBEDDER.name, "Once")
    endpoint.when(lambda grid: EMBEDDER.name in grid.nodes[NODE].resident, "it is in memory")
    assert getattr(client, by)(EMBEDDER.name, keep_alive=0).done_reason == "unload"
    endpoint.when(lambda grid: EMBEDDER.name not in grid.nodes[NODE].resident, "it is gone")
    for keep_alive in (None, "5m"):
        with pytest.raises(ollama.ResponseError, match="does not support completion"):
            getattr(client, by)(EMBEDDER.name, keep_alive=keep_alive)


def test_models_are_listed_and_shown(client: ollama.Client) -> None:
    """With what clients choose by: name, digest, size, capabilities, context."""
    listed = {row.model: row for row in client.list().models}
    assert set(listed) == NAMES
    assert listed[PLAIN.name].digest == PLAIN.digest
    assert listed[PLAIN.name].modified_at is not None
    shown = client.show(SKILLED.name)
    assert set(shown.capabilities or ()) == set(SKILLED.capabilities)
    assert shown.modelinfo is not None
    assert shown.modelinfo[f"{SKILLED.family}.context_length"] == SKILLED.context_length


def test_an_unknown_model_is_not_found(client: ollama.Client) -> None:
    """404 with Ollama's sentence, from every call."""
    calls = (
        lambda: client.chat("nobody:has-it", HELLO),
        lambda: next(iter(client.chat("nobody:has-it", HELLO, stream=True))),
        lambda: client.generate("nobody:has-it", "x"),
        lambda: client.embed("nobody:has-it", "x"),
        lambda: client.show("nobody:has-it"),
    )
    for call in calls:
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert caught.value.status_code == 404
        assert "nobody:has-it" in caught.value.error
        assert "not found" in caught.value.error


def test_what_the_grid_does_not_do_is_refused(client: ollama.Client) -> None:
    """501 and a sentence."""
    with pytest.raises(ollama.ResponseError) as caught:
        client.copy(PLAIN.name, "other")
    assert caught.value.status_code == 501
    assert "/api/copy" in caught.value.error


def test_a_client_that_breaks_off_a_stream_cancels_it(endpoint: RunningEndpoint) -> None:
    """The request ends as cancelled, and the node is free."""
    endpoint.hang()
    with ollama.Client(host=endpoint.url) as client:
        stream = client.chat(PLAIN.name, HELLO, stream=True)
        assert next(stream).message.content
        key = endpoint.the_open_one()
        stream.close()
        endpoint.is_cancelled(key)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_task_that_is_cancelled_cancels_its_request(
    endpoint: RunningEndpoint, stream: bool
) -> None:
    """Whether or not it streams; while nothing has come back either."""
    endpoint.hang()
    async with ollama.AsyncClient(host=endpoint.url) as client:

        async def ask() -> None:
            answer: Any = await client.chat(PLAIN.name, HELLO, stream=stream)
            if stream:
                async for _ in answer:
                    pass

        task = asyncio.create_task(ask())
        key = await asyncio.to_thread(endpoint.the_open_one)
        task.cancel()
        await asyncio.wait({task})
        await asyncio.to_thread(endpoint.is_cancelled, key)
