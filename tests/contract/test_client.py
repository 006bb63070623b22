"""The client: what it promises on a good day, on a cut, on a restart, and when nobody answers."""

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import aclosing
from typing import Any

import pytest

import orion_streams
from orion_streams import (
    Answer,
    AsyncClient,
    BackendError,
    Client,
    Piece,
    RequestCancelledError,
    RequestError,
    RequestExpiredError,
    RequestFailedError,
    RequestRejectedError,
    RequestTimeoutError,
    Restarted,
)
from orion_streams.client.calls import Call
from orion_streams.errors import ConfigError
from orion_streams.model import events as ev
from orion_streams.protocol.replies import Reply
from tests.contract.contract_grid import MODEL, Run, connected, count, running, silence
from tests.helpers import WAIT_S, eventually


async def test_a_prompt_is_answered_whole(valkey_url: str, prefix: str) -> None:
    """generate() returns the done reply's text, node, engine and counts, and asks for no tokens."""
    async with connected(valkey_url, prefix) as (grid, client):
        answer = await client.generate(MODEL, "Why?", options={"temperature": 0}, tier=2, priority=3)
        kinds = [reply["kind"] for reply in await grid.replies(answer.id)]
        [accepted] = [each for each in await grid.events() if isinstance(each, ev.RequestAccepted)]
    assert (answer.text, answer.node, answer.engine) == ("Why?", "two", "simulated")
    assert (answer.tokens, answer.prompt_tokens, answer.total_ms, answer.attempt) == (2, 3, 1, 1)
    assert kinds == ["done"]
    assert (accepted.tier, accepted.priority, accepted.stream) == (2, 3, False)
    assert [json.loads(run.fields["options"]) for run in grid.runs] == [{"temperature": 0}]


async def test_a_chat_brings_messages_there_and_tool_calls_back(valkey_url: str, prefix: str) -> None:
    """chat() hands the messages, tools, format and think over unchanged and decodes the tool calls."""
    calls = [{"function": {"name": "look", "arguments": {"where": "left"}}}]
    messages = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Look 👀"}]
    tools = [{"type": "function", "function": {"name": "look"}}]

    async def script(run: Run) -> None:
        await run.done("", {"tool_calls": json.dumps(calls), "thinking": "hm"})

    async with connected(valkey_url, prefix, script) as (grid, client):
        answer = await client.chat(MODEL, messages, tools=tools, format="json", think="low")
    assert (answer.tool_calls, answer.thinking, answer.text) == (calls, "hm", "")
    [fields] = [run.fields for run in grid.runs]
    assert json.loads(fields["messages"]) == messages
    assert json.loads(fields["tools"]) == tools
    assert (fields["kind"], fields["format"], fields["think"]) == ("chat", "json", "low")


async def test_texts_become_vectors(valkey_url: str, prefix: str) -> None:
    """embed() returns one vector per text."""

    async def script(run: Run) -> None:
        await run.done("", {"vectors": json.dumps([[0.5, 1.0] for _ in json.loads(run.fields["input"])])})

    async with connected(valkey_url, prefix, script) as (_, client):
        answer = await client.embed(MODEL, ["a", "b", "c"])
    assert answer.vectors == [[0.5, 1.0]] * 3


async def test_a_stream_is_pieces_and_then_the_answer(valkey_url: str, prefix: str) -> None:
    """stream() yields pieces that join to the text of the Answer, which comes last."""
    async with connected(valkey_url, prefix) as (_, client):
        events = [event async for event in client.stream(MODEL, "Tell me a story")]
        chat = [event async for event in client.stream(MODEL, [{"role": "user", "content": "x"}])]
    *pieces, answer = events
    assert isinstance(answer, Answer)
    assert "".join(each.text for each in pieces if isinstance(each, Piece)) == answer.text
    assert answer.text == "Tell me a story"
    assert isinstance(chat[-1], Answer)


async def test_a_restart_is_announced_and_halves_never_meet(valkey_url: str, prefix: str) -> None:
    """After an attempt that failed midway comes Restarted, and the pieces since then are the answer."""
    heard = asyncio.Event()

    async def script(run: Run) -> None:
        if run.head.attempt == 1:
            await run.token("wrong ")
            await heard.wait()
            await run.fail("ollama_error")
        else:
            await run.token("right ")
            await run.token("words")
            await run.done("right words")

    async with connected(valkey_url, prefix, script) as (grid, client):
        joined, seen = "", []
        async for event in client.stream(MODEL, "go"):
            seen.append(event)
            match event:
                case Piece(text):
                    joined += text
                    heard.set()
                case Restarted():
                    joined = ""
        nodes = [run.agent.name for run in grid.runs]
    assert seen[:2] == [Piece("wrong ", 1), Restarted(2, nodes[1])]
    assert isinstance(seen[-1], Answer)
    assert joined == seen[-1].text == "right words"
    assert len(set(nodes)) == 2


def test_tokens_out_of_turn_are_dropped() -> None:
    """Whatever is resent, skipped or of another attempt, the pieces remain a beginning of one attempt."""
    call = Call({})
    for attempt, seq, text in [
        (1, 1, "a"),
        (1, 1, "a"),
        (1, 2, "b"),
        (1, 4, "d"),
        (2, 1, "x"),
        (1, 3, "c"),
    ]:
        call.hear(Reply(id="q", kind="token", attempt=attempt, seq=seq, text=text))
    assert list(call.take()) == [Piece("abc", 1)]
    call.hear(Reply(id="q", kind="token", attempt=1, seq=4, text="d"))
    call.hear(Reply(id="q", kind="restarted", attempt=2, node="two"))
    call.hear(Reply(id="q", kind="token", attempt=1, seq=5, text="e"))
    call.hear(Reply(id="q", kind="token", attempt=2, seq=1, text="A"))
    assert list(call.take()) == [Restarted(2, "two"), Piece("A", 2)]
    call.hear(Reply(id="q", kind="rejected", code="unknown_id"))
    assert call.end is None
    call.hear(Reply(id="q", kind="done", text="A"))
    call.hear(Reply(id="q", kind="expired"))
    assert isinstance(call.end, Reply)
    assert call.end.kind == "done"


async def test_fifty_at_once_get_their_own_answers(valkey_url: str, prefix: str) -> None:
    """Fifty concurrent requests each get the answer to their own prompt, through one blocked reader."""
    prompts = [f"prompt {number}" for number in range(50)]
    async with connected(valkey_url, prefix) as (grid, client):
        answers = await asyncio.gather(*(client.generate(MODEL, prompt) for prompt in prompts))
        assert await count(grid, ev.RequestCompleted) == 50
    assert [answer.text for answer in answers] == prompts
    assert client.duplicates == 0


async def test_cancel_ends_a_request_that_runs(valkey_url: str, prefix: str) -> None:
    """cancel() makes the waiting call raise RequestCancelled, and the node is told to stop."""
    async with connected(valkey_url, prefix, silence) as (grid, client):
        asked = asyncio.create_task(client.generate(MODEL, "x", id="c1"))
        await eventually(lambda: grid.runs, "the request runs")
        await client.cancel("c1")
        with pytest.raises(RequestCancelledError):
            await asked
        await asyncio.wait_for(grid.runs[0].cancelled.wait(), WAIT_S)


@pytest.mark.parametrize("how", ["task", "stream"])
async def test_a_caller_that_leaves_takes_its_request_along(valkey_url: str, prefix: str, how: str) -> None:
    """Without an id of its own it is cancelled when its caller is, or closes the stream."""

    async def script(run: Run) -> None:
        await run.token("a piece")
        await run.cancelled.wait()

    async with connected(valkey_url, prefix, script) as (grid, client):

        async def cancelled() -> bool:
            return await count(grid, ev.RequestCancelled) == 1

        if how == "task":
            asked = asyncio.create_task(client.generate(MODEL, "x"))
            await eventually(lambda: grid.runs, "the request runs")
            asked.cancel()
            await asyncio.wait([asked])
            assert asked.cancelled()
        else:
            async with aclosing(client.stream(MODEL, "x")) as events:
                assert await anext(events) == Piece("a piece")
        await eventually(cancelled, "the grid knows")


async def test_a_request_under_an_own_id_goes_on_without_its_caller(valkey_url: str, prefix: str) -> None:
    """A caller that leaves a request with an id of its own finds the answer when it asks again."""
    left = asyncio.Event()

    async def script(run: Run) -> None:
        await run.started()
        await left.wait()
        await run.done("still here")

    async with connected(valkey_url, prefix, script) as (grid, client):
        asked = asyncio.create_task(client.generate(MODEL, "x", id="mine"))
        await eventually(lambda: grid.runs, "the request runs")
        asked.cancel()
        await asyncio.wait([asked])
        left.set()
        assert (await client.generate(MODEL, "x", id="mine")).text == "still here"
        assert len(grid.runs) == 1


async def test_errors_are_typed_by_kind(valkey_url: str, prefix: str) -> None:
    """Replies rejected, error and expired raise an error of their own, with the code."""

    async def script(run: Run) -> None:
        if run.prompt == "fail":
            await run.fail("stream_cut")
        else:
            await silence(run)

    async with connected(valkey_url, prefix, script) as (_, client):
        with pytest.raises(RequestRejectedError) as rejected:
            await client.generate("nobody-has-it", "x")
        with pytest.raises(RequestFailedError) as failed:
            await client.generate(MODEL, "fail")
        with pytest.raises(RequestExpiredError) as expired:
            await client.generate(MODEL, "x", timeout_s=0.2)
        with pytest.raises(RequestExpiredError):
            await client.generate(MODEL, "x", deadline_ms=200)
    assert rejected.value.code == "unknown_model"
    assert failed.value.code == "attempts_exhausted"
    assert expired.value.code == "expired"
    assert all(isinstance(each.value, RequestError) for each in (rejected, failed, expired))


async def test_misuse_is_an_error_before_anything_is_sent(valkey_url: str, prefix: str) -> None:
    """An unknown field is a TypeError, an id in flight twice a ValueError; neither reaches the stream."""
    async with connected(valkey_url, prefix, silence) as (grid, client):
        with pytest.raises(TypeError, match="temperatur"):
            await client.generate(MODEL, "x", temperatur=1)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="given twice: stream"):
            await client.generate(MODEL, "x", stream=True)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="given twice: by timeout_s and by deadline_ms"):
            await client.generate(MODEL, "x", timeout_s=1, deadline_ms=1000)
        with pytest.raises(ValueError, match="deadline_ms: expected a whole number of at least 1, got 0"):
            await client.generate(MODEL, "x", deadline_ms=0)
        with pytest.raises(ValueError, match="timeout_s: expected a number of seconds, got nan"):
            await client.generate(MODEL, "x", timeout_s=float("nan"))
        assert await grid.redis.xlen(f"{prefix}requests:brain") == 0
        asked = asyncio.create_task(client.generate(MODEL, "x", id="one"))
        await eventually(lambda: grid.runs, "the request runs")
        with pytest.raises(ValueError, match="in flight"):
            await client.generate(MODEL, "x", id="one")
        await client.cancel("one")
        with pytest.raises(RequestCancelledError):
            await asked


async def test_nobody_at_home_is_a_timeout(valkey_url: str, prefix: str) -> None:
    """Without a router a request raises RequestTimeout once deadline and margin are over."""
    async with AsyncClient(valkey_url, prefix=prefix, margin_s=0.05) as client:
        with pytest.raises(RequestTimeoutError):
            await client.generate(MODEL, "x", timeout_s=0.05)


async def test_a_server_that_refuses_is_a_backend_error_at_once(valkey_url: str, prefix: str) -> None:
    """A key of the wrong type raises BackendError without any retry."""
    async with connected(valkey_url, prefix, give_up_s=3600) as (grid, client):
        await grid.redis.set(f"{prefix}requests:other", "no stream")
        async with AsyncClient(valkey_url, "other", prefix=prefix) as other:
            with pytest.raises(BackendError, match="WRONGTYPE"):
                await other.generate(MODEL, "x")
        assert (await client.generate(MODEL, "fine")).text == "fine"


async def test_blocking_clients_serve_threads(valkey_url: str, prefix: str) -> None:
    """One Client used from several threads answers each; a stream works and may be left early."""
    found: dict[int, str] = {}

    def use(client: Client, number: int) -> None:
        found[number] = client.generate(MODEL, f"thread {number}").text

    def work() -> tuple[list[Any], str]:
        with Client(valkey_url, prefix=prefix) as client:
            threads = [threading.Thread(target=use, args=(client, number)) for number in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            events = list(client.stream(MODEL, "as it comes"))
            leaving = client.stream(MODEL, "never mind")
            next(leaving)
            leaving.close()
            with pytest.raises(RequestRejectedError):
                client.chat("nobody-has-it", [{"role": "user", "content": "x"}])
            client.cancel("nothing")
            return events, client.new_id()

    async with running(valkey_url, prefix):
        events, made_up = await asyncio.to_thread(work)
    assert found == {number: f"thread {number}" for number in range(5)}
    assert isinstance(events[-1], Answer)
    assert "".join(each.text for each in events[:-1]) == "as it comes"
    assert len(made_up) == 32


def test_the_package_is_light_and_its_names_are_there() -> None:
    """Importing orion_streams loads neither redis nor asyncio clients; each public name resolves."""
    code = "import sys, orion_streams; print('redis' in sys.modules or 'msgspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert set(orion_streams.__all__) <= set(dir(orion_streams))
    assert all(getattr(orion_streams, name) is not None for name in orion_streams.__all__)
    with pytest.raises(AttributeError):
        _ = orion_streams.nothing


def test_a_closed_client_says_so(valkey_url: str, prefix: str) -> None:
    """After `close` a call raises one clear error; another `close` is harmless."""
    with Client(valkey_url, prefix=prefix) as client:
        client.close()
    client.close()
    with pytest.raises(BackendError, match="closed"):
        client.generate(MODEL, "too late")


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:1", "redis://127.0.0.1:port"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """A wrong URL is refused with what was expected, and not repeated: it may hold a password."""
    with pytest.raises(ConfigError, match=r"redis\.url: expected") as refused:
        Client(url)
    assert url not in str(refused.value)
