"""`langchain-ollama`, unchanged, with the gateway as its base URL."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

from tests.endpoint.client_requests import BOTH, PNG_URI, SCHEMA, TOOLS
from tests.endpoint.running_endpoint import EMBEDDER, PLAIN, SKILLED, RunningEndpoint

pytestmark = [pytest.mark.everything, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Its models never close their connections: they go here, and not in another test."""
    yield
    gc.collect()


def chat(endpoint: RunningEndpoint, model: str = PLAIN.name, **more: Any) -> ChatOllama:
    """A chat model."""
    return ChatOllama(model=model, base_url=endpoint.url, temperature=0, **more)


async def test_a_chat_comes_whole_and_in_pieces(endpoint: RunningEndpoint) -> None:
    """Blocking and not, whole and streamed: the same, with the usage at the end."""
    llm = chat(endpoint)
    whole = await asyncio.to_thread(llm.invoke, "Say hello")
    parts = [part async for part in llm.astream("Say hello")]
    added = parts[0]
    for part in parts[1:]:
        added = added + part
    assert isinstance(added, AIMessageChunk)
    assert added.content == whole.content == (await llm.ainvoke("Say hello")).content
    assert whole.content
    assert added.usage_metadata == whole.usage_metadata
    assert whole.response_metadata["done_reason"] == "stop"
    assert whole.response_metadata["model"] == PLAIN.name


def test_a_model_is_looked_for_first(endpoint: RunningEndpoint) -> None:
    """Its validation finds a model that is listed, and no other."""
    assert chat(endpoint, validate_model_on_init=True).invoke("Say hello").content
    with pytest.raises(ValueError, match="not found"):
        chat(endpoint, "nobody:has-it", validate_model_on_init=True)
    with pytest.raises(ollama.ResponseError, match="not found"):
        chat(endpoint, "nobody:has-it").invoke("x")


def test_two_tools_are_called_and_their_results_taken(endpoint: RunningEndpoint) -> None:
    """Through its messages and back."""
    llm = chat(endpoint, SKILLED.name, reasoning=False).bind_tools(TOOLS)
    asked: list[BaseMessage] = [HumanMessage(BOTH)]
    called = llm.invoke(asked)
    calls = called.tool_calls
    assert [call["name"] for call in calls] == ["weather", "time"]
    results = [ToolMessage("20", tool_call_id=call["id"]) for call in calls]
    told = llm.invoke([*asked, called, *results])
    assert told.content
    assert told.tool_calls == []


def test_thoughts_and_pictures(endpoint: RunningEndpoint) -> None:
    """Reasoning beside the text; a picture in a list of parts."""
    llm = chat(endpoint, SKILLED.name, reasoning=True)
    shown: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": PNG_URI},
    ]
    told = llm.invoke([HumanMessage(shown)])
    assert told.content
    assert told.additional_kwargs["reasoning_content"]


def test_a_structured_answer(endpoint: RunningEndpoint) -> None:
    """By a JSON schema."""
    wanted = {"title": "City", "description": "a city", **SCHEMA}
    told: Any = chat(endpoint).with_structured_output(wanted, method="json_schema").invoke("A city")
    assert set(told) == {"city", "people"}


def test_vectors_and_plain_texts(endpoint: RunningEndpoint) -> None:
    """Documents and a question become vectors; a text goes on."""
    embedder = OllamaEmbeddings(model=EMBEDDER.name, base_url=endpoint.url)
    rows = embedder.embed_documents(["a text", "another"])
    assert [len(row) for row in rows] == [EMBEDDER.embedding_length] * 2
    assert embedder.embed_query("a text") == rows[0]
    assert OllamaLLM(model=PLAIN.name, base_url=endpoint.url).invoke("Once")
