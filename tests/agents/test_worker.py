"""What a node's agent makes of its work, in the real Faust app, on a simulated Ollama over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from orion_streams.demo.ollama import RunningNode
from tests.agents.agent_bench import MODEL, SKILLED, Bench, elsewhere, limited, running
from tests.helpers import eventually

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def agent(bench: Bench) -> AsyncIterator[Bench]:
    """The bench with its agent running."""
    async with running(bench.config):
        yield bench


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


async def test_a_stream_that_ends_without_done_is_no_success(agent: Bench) -> None:
    """Success is `done: true` only: a clean end without it failed by the node."""
    await agent.fault("end_without_done")
    end = await agent.ended(await agent.run())
    assert (end.head.op, end.head.code, end.head.blame) == ("failed", "no_done", "node")


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
    ("fault", "code"), [("busy", "ollama_busy"), ("kill", "stream_cut"), ("error_line", "ollama_error")]
)
async def test_the_node_is_blamed_for_what_it_did(agent: Bench, fault: str, code: str) -> None:
    """A full queue, a cut connection and a crash are the node's fault."""
    await agent.fault(fault)
    end = await agent.ended(await agent.run())
    assert (end.head.op, end.head.code, end.head.blame) == ("failed", code, "node")


async def test_a_missing_model_is_the_nodes_fault(agent: Bench) -> None:
    """404: another node may have it."""
    end = await agent.ended(await agent.run(model="absent:7b"))
    assert (end.head.code, end.head.blame) == ("model_missing", "node")


@pytest.mark.parametrize(
    "body",
    [
        {"options": {"temperature": "hot"}},
        {"messages": [{"role": "user", "content": "x"}], "tools": [TOOL]},
        {"input": ["x"]},
        {"think": "1"},
        {"kind": "generate", "messages": [{"role": "user", "content": "x"}]},
        {"options": "{no json"},
    ],
)
async def test_a_requests_own_fault_is_blamed_on_it(agent: Bench, body: dict[str, Any]) -> None:
    """400s, 501s and those 500s that mean the request, and entries against the contract: refused."""
    end = await agent.ended(await agent.run(**body))
    assert (end.head.op, end.head.code, end.head.blame) == ("failed", "refused", "request")
    assert end.message


async def test_an_ollama_that_is_not_there_is_unreachable(bench: Bench) -> None:
    """Connection refused: said as such, and the agent goes on."""
    async with running(elsewhere(bench.config, "http://127.0.0.1:9")):
        for _ in range(2):
            end = await bench.ended(await bench.run())
            assert (end.head.code, end.head.blame) == ("ollama_unreachable", "node")


async def test_silence_within_an_answer_ends_it(bench: Bench) -> None:
    """No token for `inter_token_ms`: stalled, by the node, and Ollama is let go."""
    async with running(limited(bench.config, inter_token_ms=50)):
        await bench.fault("hang")
        end = await bench.ended(await bench.run())
        assert (end.head.code, end.head.blame) == ("stalled", "node")
        await eventually(idle(bench.node), "Ollama stops")


async def test_an_attempt_has_a_deadline(bench: Bench) -> None:
    """Whatever happens within it, an attempt is over after `attempt_deadline_ms`."""
    async with running(limited(bench.config, attempt_ms=100)):
        await bench.fault("hang")
        end = await bench.ended(await bench.run())
        assert (end.head.code, end.head.blame) == ("overdue", "node")


@pytest.mark.parametrize("body", [{}, {"model": SKILLED, "input": ["x"]}])
async def test_an_answer_is_bounded(bench: Bench, body: dict[str, Any]) -> None:
    """Text or vectors beyond `answer_max_bytes` end the run, by the request's fault."""
    async with running(limited(bench.config, answer_max_bytes=20)):
        end = await bench.ended(await bench.run(**body))
        assert (end.head.code, end.head.blame) == ("answer_too_large", "request")


def idle(node: RunningNode):  # type: ignore[no-untyped-def]
    """Whether nothing runs on the node's Ollama."""

    async def nothing_runs() -> bool:
        return node.machine.active == 0

    return nothing_runs


async def test_a_cancel_acts_at_once(agent: Bench) -> None:
    """A cancelled run ends as cancelled, its connection closes, and its slot is free for the next."""
    work_id = await agent.hanging()
    cancelled = await agent.cancel(work_id)
    end = await agent.ended(work_id)
    assert (end.head.op, end.head.code, end.head.blame) == ("failed", "cancelled", "ours")
    await eventually(idle(agent.node), "Ollama stops")
    assert (await agent.ended(await agent.run("next"))).head.op == "completed"
    await agent.idle()
    assert cancelled not in await agent.pending()


async def test_no_more_runs_than_slots(bench: Bench) -> None:
    """With two slots and eight runs at once, Ollama never has more than two, and all are answered."""
    seen: list[int] = []
    running_of = bench.node.machine.running

    def watched():  # type: ignore[no-untyped-def]
        seen.append(bench.node.machine.active + 1)
        return running_of()

    bench.node.machine.running = watched  # type: ignore[method-assign]
    ids = [await bench.run(f"q{n}") for n in range(8)]
    async with running(limited(bench.config, slots=2)):
        for work_id in ids:
            assert (await bench.ended(work_id)).head.op == "completed"
    assert len(seen) == 8
    assert max(seen) <= 2


async def test_a_run_that_waits_for_its_slot_can_be_cancelled(agent: Bench) -> None:
    """It never reaches Ollama, and the one that has the slot goes on."""
    holder = await agent.hanging()
    waiting = await agent.run("waits")
    listed = await agent.healthy(lambda head: waiting in head.in_hand, "it is in hand")
    assert listed.in_hand == (holder, waiting)
    await agent.cancel(waiting)
    assert (await agent.ended(waiting)).head.code == "cancelled"
    assert await agent.ends(holder) == []
    assert agent.node.machine.active == 1


async def test_a_cancel_read_together_with_its_run_stops_it(agent: Bench) -> None:
    """Run and cancel in one transaction: one end, cancelled, nothing in hand afterwards."""
    for number in range(10):
        pipe = agent.redis.pipeline(transaction=True)
        key = f"{agent.prefix}work:n1"
        fields = {"model": MODEL, "prompt": "x"}
        run_id, cancel_id = f"{9_000_000_000_000 + number}-1", f"{9_000_000_000_000 + number}-2"
        head = {"op": "run", "request": f"brain/q{number}", "attempt": 1, "model": MODEL}
        pipe.xadd(key, {"head": msgspec.json.encode(head), **fields}, id=run_id)
        pipe.xadd(key, {"head": msgspec.json.encode({"op": "cancel", "work_id": run_id})}, id=cancel_id)
        await pipe.execute()
        assert (await agent.ended(run_id)).head.code == "cancelled"
    await agent.idle()
    await agent.healthy(lambda head: head.in_hand == (), "nothing in hand")


async def test_a_cancel_after_the_end_changes_nothing(agent: Bench) -> None:
    """A run has one end: a cancel that comes late is acknowledged and forgotten."""
    work_id = await agent.run()
    await agent.ended(work_id)
    await agent.cancel(work_id)
    await agent.cancel("1-1")
    await agent.idle()
    assert [each.head.op for each in await agent.ends()] == ["completed"]


@pytest.mark.parametrize(
    "fields",
    [
        {"nothing": "here"},
        {"head": ""},
        {"head": b"\xff\xfe"},
        {"head": "[" * 5000},
        {"head": '{"op":"dance"}'},
        {"head": '{"op":"run","attempt":-1}'},
        {"head": '{"op":"run","request":' + "9" * 400 + "}"},
        {"head": b'{"op":"run","request":"\xff"}'},
    ],
)
async def test_work_that_cannot_be_read_is_left_out(agent: Bench, fields: dict[str, str]) -> None:
    """A malformed entry is acknowledged, held by nobody, and the next run is answered."""
    await agent.raw(fields)
    assert (await agent.ended(await agent.run())).head.op == "completed"
    await agent.idle()
    await agent.healthy(lambda head: head.in_hand == (), "nothing in hand")


async def test_a_run_whose_body_is_broken_is_refused(agent: Bench) -> None:
    """The head can be read but the body not: one refused result."""
    work_id = await agent.run(prompt=b"\xff\xfe")
    end = await agent.ended(work_id)
    assert (end.head.code, end.head.blame) == ("refused", "request")


async def test_two_slots_serve_two_requests_at_once(bench: Bench) -> None:
    """One run that hangs does not hold up the other slot."""
    async with running(limited(bench.config, slots=2)):
        held = await bench.hanging()
        assert (await bench.ended(await bench.run("free"))).head.op == "completed"
        assert await bench.ends(held) == []
