"""Loads and unloads that the router orders, pinned options, and the order in which room is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec import structs

from orion_streams.agents.ollama_backend import Ollama
from orion_streams.agents.worker_core import WorkerCore
from orion_streams.demo.ollama import serve
from orion_streams.protocol import agent_entries, requests_replies
from tests.agents.agent_bench import MODEL, QUICK, SKILLED, Bench, elsewhere, limited, running
from tests.cluster.removing import without

COLD_MS = 500
"""What a load of MODEL takes on a slow disk."""
DISK = 253.113294 * 1000 / COLD_MS
PINNED = {"num_ctx": 2048, "num_thread": 3}
OWN = {"num_ctx": 8192, "num_thread": 7}


@pytest.fixture
async def agent(bench: Bench) -> AsyncIterator[Bench]:
    """The bench with its agent running."""
    async with running(bench.config):
        yield bench


async def disk_bench(url: str, prefix: str, mb_per_s: float) -> AsyncIterator[Bench]:
    """Open a bench whose node's disk is slow."""
    async with serve(structs.replace(QUICK, disk_mb_per_s=mb_per_s)) as node:
        opened = Bench(url, prefix, node)
        await opened.prepare()
        yield opened
        await opened.close()


@pytest.fixture
async def slow(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """A load of MODEL takes half a second."""
    async for opened in disk_bench(valkey_url, prefix, DISK):
        yield opened


@pytest.fixture
async def stuck(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """A load takes longer than any test."""
    async for opened in disk_bench(valkey_url, prefix, 0.1):
        yield opened


def resident(*rows: tuple[str, int]) -> Callable[[agent_entries.HealthHead], bool]:
    """Ask whether just these models are in memory, with these context lengths."""
    return lambda head: {(row.name, row.context_length) for row in head.resident} == set(rows)


async def test_a_load_says_how_long_it_took(slow: Bench) -> None:
    """A completed result with the time that the agent measured, for no request; then health shows the
    model with the context length that was pinned."""
    async with running(slow.config):
        end = await slow.ended(await slow.load(pinned=PINNED))
        assert (end.head.op, end.head.request, end.head.attempt) == ("completed", "", 0)
        assert end.head.load_ms == end.head.total_ms >= COLD_MS
        assert end.fields.keys() == {b"head"}
        await slow.healthy(resident((MODEL, 2048)), "it is resident")
        assert len(await slow.results()) == 1


@pytest.mark.parametrize(("pinned", "is_cold"), [(PINNED, False), ({}, True)])
async def test_a_run_finds_the_model_as_it_was_loaded(
    slow: Bench, pinned: dict[str, int], is_cold: bool
) -> None:
    """With the load's options a run does not load again, whatever it asks for itself; with its own, which
    go through where nothing is pinned, it does."""
    async with running(slow.config):
        await slow.ended(await slow.load(pinned=PINNED))
        end = await slow.ended(await slow.run(pinned=pinned, options=OWN))
        assert end.head.op == "completed"
        assert (end.head.load_ms >= COLD_MS) is is_cold
        await slow.healthy(resident((MODEL, 8192 if is_cold else 2048)), "as it was")


@pytest.mark.parametrize(
    "body", [{"prompt": "x"}, {"messages": [{"role": "user", "content": "x"}]}, {"input": ["x"]}]
)
async def test_pinned_options_reach_ollama_and_a_requests_own_do_not(
    agent: Bench, body: dict[str, Any]
) -> None:
    """Generate, chat and embed: the model has the pinned context length; unpinned it has the request's."""
    for pinned, num_ctx in ((PINNED, 2048), ({}, 8192), ({"num_thread": 3}, 4096)):
        end = await agent.ended(await agent.run(model=SKILLED, pinned=pinned, options=OWN, **body))
        assert end.head.op == "completed"
        await agent.healthy(resident((SKILLED, num_ctx)), f"{num_ctx} tokens")


async def test_load_and_unload_show_in_health(agent: Bench) -> None:
    """The router's load makes a model resident, its unload makes it go, without a result."""
    load = await agent.load(SKILLED)
    await agent.healthy(resident((SKILLED, 4096)), "it is resident")
    await agent.work("unload", model=SKILLED)
    await agent.healthy(resident(), "it is gone")
    await agent.idle()
    assert [(each.head.op, each.head.work_id) for each in await agent.results()] == [("completed", load)]


async def test_a_load_that_fails_says_so_and_the_agent_goes_on(agent: Bench) -> None:
    """The failure's own code, by the node; an unload that fails says nothing; the next load is done."""
    end = await agent.ended(await agent.load("absent:7b"))
    assert (end.head.op, end.head.code, end.head.blame) == ("failed", "model_missing", "node")
    assert "absent:7b" in end.message
    await agent.work("unload", model="absent:7b")
    assert (await agent.ended(await agent.load())).head.op == "completed"
    await agent.idle()
    assert len(await agent.results()) == 2


async def test_a_load_without_ollama_is_unreachable(bench: Bench) -> None:
    """Connection refused: said as such."""
    async with running(elsewhere(bench.config, "http://127.0.0.1:9")):
        end = await bench.ended(await bench.load())
        assert (end.head.op, end.head.code, end.head.blame) == ("failed", "ollama_unreachable", "node")


async def test_a_load_has_a_deadline(stuck: Bench) -> None:
    """After `load_deadline_ms` it is overdue, by the node, and what comes next is begun."""
    async with running(limited(stuck.config, load_deadline_ms=100)):
        for _ in range(2):
            end = await stuck.ended(await stuck.load())
            assert (end.head.op, end.head.code, end.head.blame) == ("failed", "load_overdue", "node")
        await stuck.healthy(lambda head: head.in_hand == (), "nothing in hand")


async def test_a_model_whose_load_is_overdue_counts_as_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama lists a model while it loads, and this one never came to its end."""

    async def never(backend: Ollama, *asked: Any) -> None:
        await asyncio.Event().wait()

    async with running(limited(bench.config, load_deadline_ms=300)):
        await bench.ended(await bench.run())
        await bench.healthy(resident((MODEL, 4096)), "it is listed")
        monkeypatch.setattr(Ollama, "load", never)
        assert (await bench.ended(await bench.load())).head.code == "load_overdue"
        await bench.healthy(resident(), "it counts as gone")


async def test_a_load_in_hand_is_listed_and_can_be_cancelled(stuck: Bench) -> None:
    """Health lists it while Ollama loads; a cancel ends it at once, as cancelled, and lets Ollama go."""
    async with running(stuck.config):
        load = await stuck.load()
        listed = await stuck.healthy(lambda head: head.work_read == load, "it is in hand")
        assert listed.in_hand == (load,)
        await stuck.cancel(load)
        end = await stuck.ended(load)
        assert (end.head.op, end.head.code, end.head.blame) == ("failed", "cancelled", "ours")
        await stuck.idle()
        await stuck.healthy(lambda head: head.in_hand == (), "nothing in hand")
        assert len(await stuck.results()) == 1


class Held:
    """Ollama's unload, carried out only once `go` is set; `done` is the order in which unloads ended and
    the rest began, `begun` how many unloads began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = asyncio.Event()
        self.done: list[str] = []
        self.begun = 0
        unload, load, run = Ollama.unload, Ollama.load, Ollama.run

        async def held_unload(backend: Ollama, model: str) -> None:
            self.begun += 1
            await self.go.wait()
            await unload(backend, model)
            self.done.append("unload")

        async def noted_load(backend: Ollama, *asked: Any) -> None:
            self.done.append("load")
            await load(backend, *asked)

        def noted_run(backend: Ollama, entry: requests_replies.RequestEntry, *pinned: Any) -> Any:
            self.done.append("run")
            return run(backend, entry, *pinned)

        monkeypatch.setattr(Ollama, "unload", held_unload)
        monkeypatch.setattr(Ollama, "load", noted_load)
        monkeypatch.setattr(Ollama, "run", noted_run)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    """Unloads wait until the test lets them go on."""
    return Held(monkeypatch)


async def after_unload(bench: Bench, op: str) -> tuple[str, str]:
    """Order an unload of one model, and a run or load of another, until both are in hand. Return their
    work ids."""
    unload = await bench.work("unload", model=SKILLED)
    work_id = await (bench.run() if op == "run" else bench.load())
    await bench.healthy(lambda head: head.in_hand == (unload, work_id), "both are in hand")
    return unload, work_id


@pytest.mark.parametrize("op", ["run", "load"])
async def test_what_is_read_after_an_unload_begins_after_it(agent: Bench, held: Held, op: str) -> None:
    """It stays in hand while the unload goes on, though slots are free, and begins when that has ended."""
    unload, work_id = await after_unload(agent, op)
    for _ in range(3):
        await agent.healthy(lambda head: head.in_hand == (unload, work_id), "both still are")
        assert held.done == []
    held.go.set()
    assert (await agent.ended(work_id)).head.op == "completed"
    assert held.done == ["unload", op]


@pytest.mark.parametrize("op", ["run", "load"])
async def test_control_without_the_wait_it_overtakes(
    agent: Bench, held: Held, op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the test above."""

    without(monkeypatch, WorkerCore, "_begin", "has_room and", "True and")
    unload = await agent.work("unload", model=SKILLED)
    work_id = await (agent.run() if op == "run" else agent.load())
    assert (await agent.ended(work_id)).head.op == "completed"
    assert held.done == [op]
    assert await agent.pending() == [unload]
    held.go.set()
    await agent.idle()


async def test_an_unload_that_hangs_blocks_nothing_for_ever(bench: Bench, held: Held) -> None:
    """After `load_deadline_ms` it is over, without a result, and what waited begins; its model is still
    there for all that is known. The loads before it have the same deadline, on a slow machine, too."""
    async with running(limited(bench.config, load_deadline_ms=2_000)):
        first = await bench.ended(await bench.run())
        await bench.work("unload", model=MODEL)
        second = await bench.ended(await bench.run(model=SKILLED))
        assert (first.head.op, second.head.op) == ("completed", "completed")
        await bench.idle()
        await bench.healthy(resident((MODEL, 4096), (SKILLED, 4096)), "both are there")
    assert (held.begun, held.done) == (1, ["run", "run"])
    assert len(await bench.ends()) == 2


async def test_an_unload_that_fails_strangely_blocks_nothing(
    agent: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in it, it is acknowledged, and what follows begins."""

    async def fail(backend: Ollama, model: str) -> None:
        raise ValueError(model)

    monkeypatch.setattr(Ollama, "unload", fail)
    await agent.work("unload", model=MODEL)
    assert (await agent.ended(await agent.run())).head.op == "completed"
    await agent.idle()
