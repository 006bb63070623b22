"""Operators pull and remove models of a real grid around a simulated Ollama."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from msgspec import structs

from orion_streams import (
    AsyncClient,
    BackendError,
    RequestCancelledError,
    RequestError,
    RequestFailedError,
    RequestRejectedError,
)
from orion_streams.client.calls import PROGRESS_MAX, Call
from orion_streams.client.disk_orders import PullProgress, heard
from orion_streams.demo.ollama import ModelSpec
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.protocol.replies import Reply
from tests.agents.agent_bench import MODEL as PULLED_BEFORE
from tests.agents.agent_bench import NODE, Bench, limited, open_bench, routing, running
from tests.helpers import eventually

REGISTRY = "registry.ollama.ai"
NEW = "new:1b"


@pytest.fixture
async def bench(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """A node whose registry is far away."""
    registry = (ModelSpec(name=NEW, size_mb=800),)
    async with open_bench(valkey_url, prefix, registry=registry, net_mb_per_s=200.0) as opened:
        opened.config = structs.replace(limited(opened.config, pull_margin_mb=0), pull_from=(REGISTRY,))
        async with routing(opened.config), running(opened.config):
            await opened.healthy(lambda head: head.inventory is not None, "it is there")
            yield opened


@pytest.fixture
async def owner(bench: Bench) -> AsyncIterator[AsyncClient]:
    """An operator."""
    async with AsyncClient(bench.url, "owner", prefix=bench.prefix) as opened:
        await eventually(lambda: first_answer(opened), "the grid answers")
        yield opened


async def first_answer(client: AsyncClient) -> bool:
    """Whether the node answers."""
    return (await client.generate(PULLED_BEFORE, "Why?")).node == NODE


async def events(bench: Bench) -> list[ev.AnyEvent]:
    """The whole log."""
    rows = await bench.redis.xrange(f"{bench.prefix}log")
    return [event_codec.decode(fields[b"event"]) for _, fields in rows]


async def pulled(client: AsyncClient, model: str = NEW) -> list[PullProgress]:
    """All that a pull says."""
    return [step async for step in client.pull(model, NODE)]


async def test_a_model_is_pulled_asked_and_removed(bench: Bench, owner: AsyncClient) -> None:
    """Two events for a pull, whatever its progress; once its end is told the model answers, and once it is
    removed nobody has it: the node's list comes before its word."""
    steps = await pulled(owner)
    assert [steps[0].status, steps[-1].status] == ["ordered", "success"]
    assert max(step.completed for step in steps) == 800_000_000
    assert await answers(owner)
    of_disk = [each for each in await events(bench) if isinstance(each, ev.DiskOrdered | ev.DiskEnded)]
    assert [type(each) for each in of_disk] == [ev.DiskOrdered, ev.DiskEnded]
    await owner.remove(NEW, NODE)
    assert not await answers(owner)


async def test_who_reads_slowly_hears_of_every_step() -> None:
    """Of each part the newest, in order; of more steps than are kept the last ones."""
    call = Call({}, asks=False)
    said = [("pulling manifest", 0), ("pulling a", 1), ("pulling a", 2), ("verifying", 0)]
    for status, completed in said:
        call.hear(Reply(id="p", kind="progress", node=NODE, status=status, completed=completed))
    call.hear(Reply(id="p", kind="noted", node=NODE))
    steps = [(step.status, step.completed) async for step in heard(call, 1.0)]
    assert steps == [("pulling manifest", 0), ("pulling a", 2), ("verifying", 0), ("success", 0)]
    for number in range(PROGRESS_MAX + 1):
        call.hear(Reply(id="p", kind="progress", status=str(number)))
    assert [each.status for each in call.progress] == [str(each + 1) for each in range(PROGRESS_MAX)]


async def answers(client: AsyncClient) -> bool:
    """Whether the new model answers."""
    try:
        return bool((await client.generate(NEW, "Why?")).text)
    except RequestError as error:
        assert error.code == "unknown_model"
        return False


async def test_who_leaves_cancels_and_the_next_pull_goes_on(bench: Bench, owner: AsyncClient) -> None:
    """Meanwhile a second one is refused, and what was pulled stays."""
    async with aclosing(owner.pull(NEW, NODE, request_id="p1")) as steps:
        async for step in steps:
            if step.completed:
                break
        with pytest.raises(RequestRejectedError, match="disk_busy"):
            await pulled(owner, "more:1b")

    await cancelled(bench)
    steps_again = [step for step in await pulled(owner) if step.digest]
    assert steps_again[0].completed > 0


async def cancelled(bench: Bench) -> None:
    """Wait for the one end of a pull, which is a cancel."""

    async def ended() -> bool:
        return any(isinstance(each, ev.DiskEnded) for each in await events(bench))

    await eventually(ended, "it is cancelled")
    [end] = [each for each in await events(bench) if isinstance(each, ev.DiskEnded)]
    assert end.code == "cancelled"


async def test_a_client_that_is_closed_cancels_its_pull(bench: Bench) -> None:
    """Though its caller looks at no further step."""
    async with AsyncClient(bench.url, "owner", prefix=bench.prefix) as client:
        steps = client.pull(NEW, NODE)
        assert (await anext(steps)).status == "ordered"
    await cancelled(bench)
    with pytest.raises(BackendError, match="closed"):
        await anext(steps)


async def test_a_pull_that_another_cancels(owner: AsyncClient) -> None:
    """Its caller is told."""
    with pytest.raises(RequestCancelledError):
        async for step in owner.pull(NEW, NODE, request_id="p2"):
            if step.completed:
                await owner.cancel("p2")


async def test_offline_it_is_said_in_ollamas_words(bench: Bench, owner: AsyncClient) -> None:
    """At once, and under a code of its own."""
    await bench.fault("pull_offline")
    with pytest.raises(RequestFailedError) as caught:
        await pulled(owner)
    assert caught.value.code == "registry_away"
    assert "no such host" in caught.value.message


async def test_a_model_at_work_is_not_removed(bench: Bench, owner: AsyncClient) -> None:
    """And the reason names the request."""
    await bench.fault("hang")
    async with aclosing(owner.stream(PULLED_BEFORE, "Why?", id="long")) as pieces:
        await anext(pieces)
        with pytest.raises(RequestRejectedError, match=f"at work with {PULLED_BEFORE}: owner/long"):
            await owner.remove(PULLED_BEFORE, NODE)
        await owner.cancel("long")
