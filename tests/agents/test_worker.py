"""What a node's agent makes of its work, in the real Faust app, on a simulated Ollama over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from orion_streams.agents.results import ResultWriter
from orion_streams.agents.worker import Worker
from orion_streams.runtime.faust_redis import App, StreamChannel
from tests.agents.agent_bench import MODEL, NODE, SKILLED, Bench, elsewhere, limited, running
from tests.crash.crash_roles import Ollama
from tests.helpers import eventually

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


async def test_tokens_joined_are_the_text_of_the_end(agent: Bench) -> None:
    """Tokens are numbered from 1 without a gap, come before the end, and joined they are its text."""
    end = await agent.ended(await agent.run("q1"))
    said = await agent.results(end.head.work_id)
    tokens = [each for each in said if each.head.op == "tokens"]
    assert [each.head.seq for each in tokens] == list(range(1, len(tokens) + 1))
    assert "".join(each.text for each in tokens) == end.text != ""
    assert said[-1].id == end.id
    assert (end.head.op, end.head.request, end.head.attempt) == ("completed", "brain/q1", 1)
    assert end.head.engine == "simulated (synthetic)"
    assert end.head.tokens > 0
    assert end.head.prompt_tokens > 0


async def test_a_run_that_takes_its_time_says_that_it_has_started(agent: Bench) -> None:
    """`started` comes first, once, while the answer still grows; then tokens."""
    work_id = await agent.hanging()
    assert [each.head.op for each in await agent.results(work_id)][:2] == ["started", "tokens"]


async def test_without_stream_only_the_end_is_said(agent: Bench) -> None:
    """`stream` 0: no token entries, the whole answer in the end."""
    end = await agent.ended(await agent.run(stream="0"))
    assert {each.head.op for each in await agent.results()} <= {"started", "completed"}
    assert end.text


async def test_a_chat_is_answered(agent: Bench) -> None:
    """Messages go to the chat path and come back as text."""
    end = await agent.ended(await agent.run(messages=[{"role": "user", "content": "hello"}]))
    assert end.head.op == "completed"
    assert end.text


async def test_vectors_come_one_per_text(agent: Bench) -> None:
    """An embedding has a vector for each text and no text of its own, in a list or as a prompt."""
    end = await agent.ended(await agent.run(model=SKILLED, input=["a", "b", "c"]))
    assert [len(each) for each in msgspec.json.decode(end.fields[b"vectors"])] == [640] * 3
    assert b"text" not in end.fields
    one = await agent.ended(await agent.run(model=SKILLED, prompt="a", kind="embed"))
    assert len(msgspec.json.decode(one.fields[b"vectors"])) == 1


async def test_a_tool_call_comes_as_it_is(agent: Bench) -> None:
    """A model that calls a tool: the end holds the call."""
    messages = [{"role": "user", "content": "how is the weather?"}]
    end = await agent.ended(await agent.run(model=SKILLED, messages=messages, tools=[TOOL]))
    [call] = msgspec.json.decode(end.fields[b"tool_calls"])
    assert call["function"]["name"] == "weather"


async def test_format_images_and_thinking_reach_the_model(agent: Bench) -> None:
    """A JSON schema is followed, thoughts come apart, and an image is refused by who has no eyes."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    formed = await agent.ended(await agent.run(format=schema))
    assert isinstance(msgspec.json.decode(formed.text)["n"], int)
    thought = await agent.ended(await agent.run(model=SKILLED, think="1"))
    assert thought.fields[b"thinking"]
    image = (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    seen = await agent.ended(await agent.run(model=SKILLED, images=[image]))
    assert seen.head.op == "completed"
    blind = await agent.ended(await agent.run(images=[image]))
    assert (blind.head.op, blind.head.code, blind.head.blame) == ("failed", "refused", "request")


async def test_a_broken_model_counts_as_gone_until_a_run_succeeds(agent: Bench) -> None:
    """After an error line health does not list the model though Ollama does; a good run brings it back."""
    await agent.ended(await agent.run())
    await agent.healthy(lambda head: [row.name for row in head.resident] == [MODEL], "it is resident")
    await agent.fault("error_line")
    end = await agent.ended(await agent.run())
    assert (end.head.code, end.head.blame) == ("ollama_error", "node")
    assert "unexpected EOF" in end.message
    await agent.healthy(lambda head: head.resident == (), "it counts as gone")
    await agent.ended(await agent.run())
    await agent.healthy(lambda head: [row.name for row in head.resident] == [MODEL], "it is back")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("busy", "ollama_busy"),
        ("kill", "stream_cut"),
        ("error_line", "ollama_error"),
        ("end_without_done", "no_done"),
        ("", "model_missing"),
    ],
)
async def test_the_node_is_blamed_for_what_it_did(agent: Bench, fault: str, code: str) -> None:
    """A full queue, a cut connection, a crash, an answer that ends without `done: true`, and a model that
    another node may have are the node's fault."""
    if fault:
        await agent.fault(fault)
    end = await agent.ended(await agent.run(model=MODEL if fault else "absent:7b"))
    assert (end.head.op, end.head.code, end.head.blame) == ("failed", code, "node")


@pytest.mark.parametrize(
    "body",
    [
        {"options": {"temperature": "hot"}},
        {"messages": [{"role": "user", "content": "x"}], "tools": [TOOL]},
        {"input": ["x"]},
        {"think": "1"},
        {"kind": "generate", "messages": [{"role": "user", "content": "x"}]},
        {"options": "{no json"},
        {"prompt": b"\xff\xfe"},
    ],
)
async def test_a_requests_own_fault_is_blamed_on_it(agent: Bench, body: dict[str, Any]) -> None:
    """400s, 501s and those 500s that mean the request, and entries against the contract: refused."""
    end = await agent.ended(await agent.run(**body))
    assert (end.head.op, end.head.code, end.head.blame) == ("failed", "refused", "request")
    assert end.message


async def test_an_ollama_that_is_not_there_is_unreachable(bench: Bench) -> None:
    """Connection refused: a run and a load fail by the node, and the agent goes on."""
    async with running(elsewhere(bench.config, "http://127.0.0.1:9")):
        for order in (bench.run, bench.load, bench.run):
            end = await bench.ended(await order())
            assert (end.head.code, end.head.blame) == ("ollama_unreachable", "node")


@pytest.mark.parametrize(
    ("limits", "code"), [({"inter_token_ms": 50}, "stalled"), ({"attempt_ms": 100}, "overdue")]
)
async def test_an_answer_that_takes_too_long_is_ended(
    bench: Bench, limits: dict[str, int], code: str
) -> None:
    """No token for `inter_token_ms`, or no end within `attempt_deadline_ms`: failed by the node, and Ollama
    is let go."""
    async with running(limited(bench.config, **limits)):
        await bench.fault("hang")
        end = await bench.ended(await bench.run())
        assert (end.head.code, end.head.blame) == (code, "node")
        await eventually(lambda: bench.node.machine.active == 0, "Ollama stops")


@pytest.mark.parametrize("body", [{}, {"model": SKILLED, "input": ["x"]}])
async def test_an_answer_is_bounded(bench: Bench, body: dict[str, Any]) -> None:
    """Text or vectors beyond `answer_max_bytes` end the run, by the request's fault."""
    async with running(limited(bench.config, answer_max_bytes=20)):
        end = await bench.ended(await bench.run(**body))
        assert (end.head.code, end.head.blame) == ("answer_too_large", "request")


async def test_a_cancel_acts_at_once(agent: Bench) -> None:
    """A cancelled run ends as cancelled, its connection closes, and its slot is free for the next."""
    work_id = await agent.hanging()
    cancelled = await agent.cancel(work_id)
    end = await agent.ended(work_id)
    assert (end.head.op, end.head.code, end.head.blame) == ("failed", "cancelled", "ours")
    await eventually(lambda: agent.node.machine.active == 0, "Ollama stops")
    assert (await agent.ended(await agent.run("next"))).head.op == "completed"
    await agent.idle()
    assert cancelled not in await agent.pending()


async def test_a_run_cancelled_before_its_task_has_begun_has_its_end(bench: Bench) -> None:
    """Run and cancel are read one after the other before the event loop turns: the end is written, and the
    backend never hears of the run."""
    ollama, key = Ollama(), f"{bench.prefix}work:{NODE}"
    results = ResultWriter(bench.redis, f"{bench.prefix}results:{NODE}", 1_000)
    channel = StreamChannel(App("by-hand"), redis=bench.redis, key=key)
    worker = Worker(bench.config, NODE, channel, results, ollama)
    work_id = await bench.run()
    await bench.cancel(work_id)
    run, cancel = await channel.read(">", 10, None)
    writing = asyncio.create_task(results.run())
    for item in (run, cancel):
        worker.noticed(item)
        await worker.handle(item)
    await eventually(lambda: not worker.core.jobs, "the end")
    assert [each.head.code for each in await bench.ends(work_id)] == ["cancelled"]
    assert ollama.runs == 0
    await worker.stop()
    assert await bench.pending() == []
    writing.cancel()


async def test_two_slots_serve_two_requests_at_once(bench: Bench) -> None:
    """One run that hangs does not hold up the other slot."""
    async with running(limited(bench.config, slots=2)):
        held = await bench.hanging()
        assert (await bench.ended(await bench.run("free"))).head.op == "completed"
        assert await bench.ends(held) == []
