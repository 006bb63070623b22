"""The router as a process: killed, stopped and misconfigured."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.agents.agent_bench import MODEL, Bench, process, running, toml
from tests.helpers import eventually


async def ask(bench: Bench, request_id: str) -> None:
    """A request of the Brain."""
    fields = {"id": request_id, "model": MODEL, "prompt": "x", "stream": "0"}
    await bench.redis.xadd(f"{bench.prefix}requests:brain", fields)


async def answered(bench: Bench, *request_ids: str) -> None:
    """Each of them has exactly one terminal reply, done."""

    async def all_there() -> bool:
        rows = await bench.redis.xrange(f"{bench.prefix}replies:brain")
        kinds = [(row[b"id"].decode(), row[b"kind"].decode()) for _, row in rows]
        return sorted(kinds) == sorted((each, "done") for each in request_ids)

    await eventually(all_there, f"one answer each for {request_ids}")


async def test_a_killed_router_goes_on_where_it_was(bench: Bench, tmp_path: Path) -> None:
    """kill -9, requests meanwhile, a new start: each is answered once."""
    async with running(bench.config):
        async with process(tmp_path, bench, "router") as router:
            await ask(bench, "q1")
            await answered(bench, "q1")
            await router.kill()
        await ask(bench, "q2")
        async with process(tmp_path, bench, "router"):
            await ask(bench, "q3")
            await answered(bench, "q1", "q2", "q3")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_router_cleanly(
    bench: Bench, tmp_path: Path, number: signal.Signals
) -> None:
    """Exit code 0, nothing on stdout, no traceback, no file; and it said that it led."""
    async with process(tmp_path, bench, "router") as router:
        await router.logged("leading from position")
        router.signal(number)
        assert await router.ended() == 0
        assert router.out.read_bytes() == b""
        assert "Traceback" not in router.log()
        assert list(router.cwd.iterdir()) == []


async def test_the_same_revision_with_other_rules_is_refused(bench: Bench, tmp_path: Path) -> None:
    """One line that names the next revision, exit code 78, no traceback."""
    config = tmp_path / "streams.toml"
    async with process(tmp_path, bench, "router") as router:
        await router.logged("leading from position")
    config.write_text(toml(bench.url, bench.prefix, bench.node.url) + "slots = 3\n")
    async with process(tmp_path, bench, "router") as router:
        assert await router.ended() == 78
        [line] = router.log().splitlines()
        assert "set revision = 2" in line
        assert router.out.read_bytes() == b""


async def test_a_key_of_another_type_ends_the_router(bench: Bench, tmp_path: Path) -> None:
    """WRONGTYPE: one line, exit code 78, no traceback."""
    await bench.redis.set(f"{bench.prefix}requests:brain", "no stream")
    async with process(tmp_path, bench, "router") as router:
        assert await router.ended() in (1, 78)
        assert "Traceback" not in router.log()
        assert "WRONGTYPE" in router.log().splitlines()[-1]
