"""Loads and unloads that the router orders, and pinned options."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from orion_streams.agents.ollama_backend import Ollama
from orion_streams.protocol import agent_entries
from tests.agents.agent_bench import MODEL, SKILLED, Bench, limited, open_bench, running

COLD_MS = 500
"""What a load of MODEL takes on a slow disk."""
DISK = 253.113294 * 1000 / COLD_MS
PINNED = {"num_ctx": 2048, "num_thread": 3}
OWN = {"num_ctx": 8192, "num_thread": 7}


@pytest.fixture
async def slow(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """A load of MODEL takes half a second."""
    async with open_bench(valkey_url, prefix, disk_mb_per_s=DISK) as opened:
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


async def never(backend: Ollama, *asked: Any) -> None:
    """Stand in for a load or unload that hangs."""
    await asyncio.Event().wait()


async def test_a_model_whose_load_is_overdue_counts_as_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama lists a model while it loads, and this one never came to its end."""
    async with running(limited(bench.config, load_deadline_ms=300)):
        await bench.ended(await bench.run())
        await bench.healthy(resident((MODEL, 4096)), "it is listed")
        monkeypatch.setattr(Ollama, "load", never)
        end = await bench.ended(await bench.load())
        assert (end.head.op, end.head.code, end.head.blame) == ("failed", "load_overdue", "node")
        await bench.healthy(resident(), "it counts as gone")


async def test_an_unload_that_hangs_blocks_nothing_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `load_deadline_ms` it is over, without a result, and what waited begins; its model is still
    there for all that is known."""
    monkeypatch.setattr(Ollama, "unload", never)
    async with running(limited(bench.config, load_deadline_ms=2_000)):
        await bench.ended(await bench.run())
        await bench.work("unload", model=MODEL)
        assert (await bench.ended(await bench.run(model=SKILLED))).head.op == "completed"
        await bench.idle()
        await bench.healthy(resident((MODEL, 4096), (SKILLED, 4096)), "both are there")
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
