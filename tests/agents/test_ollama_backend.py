"""What is sent to Ollama, and how its odd answers are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest
from msgspec import structs

from orion_streams.agents.backend import Chunk, RunFailedError
from orion_streams.agents.ollama_backend import Ollama
from orion_streams.agents.ollama_requests import request_body, tokens_allowed
from orion_streams.config import NodeConfig
from orion_streams.demo.ollama import ModelSpec, RunningNode, serve
from orion_streams.model.measured import Usage
from orion_streams.protocol.agent_entries import WorkHead
from orion_streams.protocol.requests_replies import Message, RequestEntry
from tests.agents.agent_bench import MODEL, QUICK, SKILLED
from tests.agents.odd_server import answering

RUN = WorkHead("run")


@pytest.mark.parametrize(
    ("asked", "sent"),
    [(None, 100), (0, 100), (-1, 100), (7, 7), (100, 100), (101, 100), (1e9, 100), (0.5, 100), ("x", "x")],
)
def test_every_answer_has_a_limit(asked: Any, sent: Any) -> None:
    """`num_predict` is bounded, whatever is asked; what is no number goes on, to be refused."""
    options = {} if asked is None else {"num_predict": asked}
    entry = RequestEntry(model=MODEL, prompt="x", options={"temperature": 0.5, **options})
    body = msgspec.json.decode(request_body(entry, RUN, "30m", 100))
    assert body["options"] == {"temperature": 0.5, "num_predict": sent}


@pytest.mark.parametrize(
    ("asked", "allowed"), [(None, 100), (7, 7), (7.0, 7), (-1, 100), (101, 100), ("x", 100)]
)
def test_so_many_tokens_may_come(asked: Any, allowed: int) -> None:
    """What is asked for, where it is a limit within ours."""
    assert tokens_allowed({} if asked is None else {"num_predict": asked}, 100) == allowed


def test_a_body_holds_what_was_asked_and_nothing_else() -> None:
    """Fields that were not given are left out; every kind pins how long the model stays."""
    body = msgspec.json.decode(request_body(RequestEntry(model=MODEL, prompt="x"), RUN, "30m", 9))
    assert body == {
        "model": MODEL,
        "keep_alive": "30m",
        "options": {"num_predict": 9},
        "stream": True,
        "prompt": "x",
    }
    embed = msgspec.json.decode(request_body(RequestEntry(model=MODEL, input=["x"]), RUN, "30m", 9))
    assert embed == {"model": MODEL, "keep_alive": "30m", "options": {}, "input": ["x"]}


@pytest.mark.parametrize(
    "content",
    [
        {"prompt": "x"},
        {"messages": [Message(role="user", content="x")]},
        {"input": ["x"]},
        {"kind": "embed", "prompt": "x"},
    ],
)
def test_pinned_options_are_the_runners_only_ones(content: dict[str, Any]) -> None:
    """Whatever the kind: what is pinned wins, the request's other runner options go, the rest stays; and
    where nothing is pinned all of them stay."""
    own: dict[str, Any] = {"num_ctx": 8192, "num_thread": 7, "num_batch": 8, "num_gpu": 0, "main_gpu": 1}
    asked: dict[str, Any] = own | {"use_mmap": False, "temperature": 0.5, "num_predict": 5}
    entry = RequestEntry(model=MODEL, options=asked, **content)
    pinned = WorkHead("run", options={"num_ctx": 2048, "num_gpu": -1})
    body = msgspec.json.decode(request_body(entry, pinned, "30m", 9))
    assert body["options"] == {"num_ctx": 2048, "num_gpu": -1, "temperature": 0.5, "num_predict": 5}
    assert msgspec.json.decode(request_body(entry, RUN, "30m", 9))["options"] == asked
    assert entry.options == asked


async def collect(backend: Ollama, entry: RequestEntry) -> list[Chunk]:
    return [each async for each in backend.run(entry, WorkHead("run"))]


async def test_two_requests_at_once_do_not_mix(node: RunningNode) -> None:
    """Two streams over one client: each gets its own answer."""
    backend = Ollama(NodeConfig(ollama=node.url, simulated=True), 50)
    entries = [RequestEntry(model=model, prompt=model) for model in (MODEL, SKILLED)]
    alone = [await collect(backend, entry) for entry in entries]
    together = await asyncio.gather(*(collect(backend, entry) for entry in entries))
    for one, other in zip(alone, together, strict=True):
        assert [each.text for each in one] == [each.text for each in other]
    await backend.close()


async def test_no_proxy_of_the_environment_is_used(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The house is air-gapped: HTTP_PROXY changes nothing."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    backend = Ollama(NodeConfig(ollama=node.url, simulated=True), 50)
    assert (await collect(backend, RequestEntry(model=MODEL, prompt="x")))[-1].usage is not None
    await backend.close()


Answer = Callable[[str], bytes]


def speaking(answer: Answer, version: bytes = b'{"version":"1.2"}') -> AbstractAsyncContextManager[Ollama]:
    """A server that answers a path with these bytes under status 200, and a client of it."""

    def whole(path: str) -> bytes:
        body = version if path == "/api/version" else answer(path)
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body

    return answering(whole)


async def test_a_line_ends_at_a_newline_only() -> None:
    """U+0085 and U+2028 in a text are text."""
    text = "a\x85b\u2028c"
    line = msgspec.json.encode({"response": text}) + b"\n"
    async with speaking(lambda path: line + b'\n{"done":true}') as backend:
        chunks = await collect(backend, RequestEntry(model=MODEL, prompt="x"))
    assert [each.text for each in chunks] == [text, ""]
    assert chunks[-1].usage == Usage()
    assert backend.engine == "ollama 1.2"


async def test_a_line_of_white_space_is_none() -> None:
    """Some servers end their lines with a carriage return, or send a blank as a sign of life."""
    body = b' \n\r\n\t\n{"response":"a"}\r\n \n{"done":true}\r\n \r\n'
    async with speaking(lambda path: body) as backend:
        chunks = await collect(backend, RequestEntry(model=MODEL, prompt="x"))
    assert [each.text for each in chunks] == ["a", ""]
    assert chunks[-1].usage == Usage()


async def test_a_server_that_does_not_tell_its_version_works_as_well() -> None:
    """Only the label is missing."""
    async with speaking(lambda path: b'{"done":true}', version=b"404 page not found") as backend:
        assert (await collect(backend, RequestEntry(model=MODEL, prompt="x")))[-1].usage == Usage()
        assert backend.engine == "ollama"


ASKED = RequestEntry(model=MODEL, prompt="x")
EMBED = RequestEntry(model=MODEL, input=["x"])
EMBED_TWO = RequestEntry(model=MODEL, input=["x", "y"])


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (ASKED, b"no json\n"),
        (ASKED, b'{"response":5}\n'),
        (ASKED, b'{"response":"\xff"}\n'),
        (ASKED, b'{"message":{"tool_calls":' + b"[" * 5000 + b"\n"),
        (EMBED, b""),
        (EMBED, b"no json"),
        (EMBED, b"[]"),
        (EMBED, b'{"embeddings":[[1,2'),
        (EMBED, b'{"total_duration":-1}'),
        (EMBED, b'{"embeddings":null}'),
        (EMBED, b'{"embeddings":[]}'),
        (EMBED, b'{"embeddings":[[0.5],[0.5]]}'),
        (EMBED, b'{"embeddings":[[]]}'),
        (EMBED, b'{"embeddings":[[1e999]]}'),
        (EMBED, b'{"embeddings":[[true]]}'),
        (EMBED, b'{"embeddings":[["0.5"]]}'),
        (EMBED, b'{"embeddings":"oops"}'),
        (EMBED_TWO, b'{"embeddings":[[0.5,1],[0.5]]}'),
        (EMBED_TWO, b'{"embeddings":[[0.5,1],null]}'),
    ],
)
async def test_an_answer_that_cannot_be_read_fails_the_run(asked: RequestEntry, body: bytes) -> None:
    """Nonsense under status 200, in a line or as vectors: bad_answer, by the node, and no other error."""
    async with speaking(lambda path: body) as backend:
        with pytest.raises(RunFailedError) as failed:
            await collect(backend, asked)
    assert (failed.value.code, failed.value.blame) == ("bad_answer", "node")


async def test_who_is_not_what_was_configured_is_said() -> None:
    """A node that should be simulated and is not: bad_answer, and no crash."""
    async with speaking(lambda path: b"{}") as backend:
        backend._simulated = True
        with pytest.raises(RunFailedError, match="/sim/sensors answers without `engine`") as failed:
            await collect(backend, RequestEntry(model=MODEL, prompt="x"))
    assert failed.value.code == "bad_answer"


async def test_a_model_that_only_embeds_can_be_loaded_and_unloaded() -> None:
    """Ollama refuses to load it by an empty prompt: another way is found, with the same options."""
    embedder = ModelSpec(name="embedder:30m", size_mb=60, capabilities=("embedding",))
    async with serve(structs.replace(QUICK, models=(embedder,))) as node:
        backend = Ollama(NodeConfig(ollama=node.url, simulated=True), 50)
        await backend.load("embedder:30m", {"num_ctx": 512})
        assert [(row.name, row.context_length) for row in (await backend.resident()).models] == [
            ("embedder:30m", 512)
        ]
        await backend.unload("embedder:30m")
        with pytest.raises(RunFailedError) as failed:
            await backend.load("absent:7b", {"num_ctx": 512})
        assert failed.value.code == "model_missing"
        await backend.close()


@pytest.mark.parametrize(("answer", "code"), [(b"{}", "no_done"), (b"no json", "bad_answer")])
async def test_a_load_succeeds_with_done_only(answer: bytes, code: str) -> None:
    """A server that is being stopped may still answer with status 200."""
    async with speaking(lambda path: answer) as backend:
        for asked in (backend.load(MODEL, {}), backend.unload(MODEL)):
            with pytest.raises(RunFailedError) as failed:
                await asked
            assert (failed.value.code, failed.value.blame) == (code, "node")
    async with speaking(lambda path: b'{"done":true}') as backend:
        await backend.load(MODEL, {})
