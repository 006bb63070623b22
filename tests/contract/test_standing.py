"""`notify`: where a request stands, before its first token."""

import asyncio
from contextlib import aclosing

from orion_streams import Accepted, Answer, Piece
from tests.contract.contract_grid import MODEL, Run, connected, silence
from tests.helpers import eventually

PATIENT = "stale_ms = 600_000"
"""A stand-in that a busy machine holds up counts as there all the same."""


async def test_who_asks_is_told_at_once_and_others_are_not(valkey_url: str, prefix: str) -> None:
    """`accepted` comes before the answer; without `notify` it does not come."""
    async with connected(valkey_url, prefix) as (grid, client):
        async with aclosing(client.stream(MODEL, "Why?", notify=True)) as events:
            seen = [event async for event in events]
        plain = await client.generate(MODEL, "Why?")
        kinds = [reply["kind"] for reply in await grid.replies(plain.id)]
    assert isinstance(seen[0], Accepted)
    assert isinstance(seen[-1], Answer)
    assert "".join(event.text for event in seen if isinstance(event, Piece)) == "Why?"
    assert "accepted" not in kinds


async def test_a_queue_says_how_many_go_first(valkey_url: str, prefix: str) -> None:
    """With both nodes busy the third waits behind nobody, the fourth behind one, for the queue; and when
    the third is cancelled the fourth is told."""
    async with connected(valkey_url, prefix, silence, policy=PATIENT) as (grid, client):
        busy = [asyncio.create_task(client.generate(MODEL, "x", id=f"busy{n}")) for n in range(2)]
        await eventually(lambda: len(grid.runs) == 2, "both run")
        third = client.stream(MODEL, "x", id="third", notify=True)
        fourth = client.stream(MODEL, "x", id="fourth", notify=True)
        async with aclosing(third), aclosing(fourth):
            first = await anext(third)
            second = await anext(fourth)
            await client.cancel("third")
            moved = second
            while isinstance(moved, Accepted) and moved.waiting:
                moved = await anext(fourth)
        for name in ("busy0", "busy1", "fourth"):
            await client.cancel(name)
        await asyncio.gather(*busy, return_exceptions=True)
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    assert isinstance(moved, Accepted)
    assert (first.waiting, first.waits_for) == (0, "queue")
    assert (second.waiting, second.waits_for) == (1, "queue")
    assert min(first.eta_ms, second.eta_ms) > 0
    assert second.eta_high_ms > second.eta_ms
    assert moved.waiting == 0


async def test_thoughts_and_calls_come_as_they_are_made(valkey_url: str, prefix: str) -> None:
    """Pieces carry text, thoughts and tool calls; joined they are the answer; every end names its model."""
    call = {"id": "call_1", "function": {"name": "look", "arguments": {}}}

    async def script(run: Run) -> None:
        await run.piece(thinking="hm")
        await run.piece(text="So", tool_calls=[call])
        await run.done("So", {"thinking": "hm", "tool_calls": [call]}, first_token_ms=7)

    async with connected(valkey_url, prefix, script) as (_, client):
        seen = [event async for event in client.stream(MODEL, [{"role": "user", "content": "x"}])]
    pieces, answer = [each for each in seen if isinstance(each, Piece)], seen[-1]
    assert isinstance(answer, Answer)
    assert "".join(each.thinking for each in pieces) == answer.thinking == "hm"
    assert "".join(each.text for each in pieces) == answer.text == "So"
    assert [row for each in pieces for row in each.tool_calls] == answer.tool_calls == [call]
    assert (answer.model, answer.first_token_ms) == (MODEL, 7)
