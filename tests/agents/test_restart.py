"""The agent as a process: killed, stopped, started twice; what it leaves behind and what it says."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil

from tests.agents.agent_bench import Bench, agent_process, elsewhere, running

SECRET = "marzipan-4711"
"""Stands in every prompt here and must stand in no log."""


async def test_a_killed_agent_reports_its_run_and_repeats_nothing(bench: Bench, tmp_path: Path) -> None:
    """kill -9 in a run: the next start reports it `agent_restarted`, does not run it again, and runs what
    was not delivered yet."""
    async with agent_process(tmp_path, bench) as agent:
        held = await bench.hanging()
        await agent.kill()
    fresh = await bench.run("fresh")
    async with agent_process(tmp_path, bench):
        end = await bench.ended(held)
        assert (end.head.op, end.head.code, end.head.blame) == ("failed", "agent_restarted", "node")
        assert (await bench.ended(fresh)).head.op == "completed"
        assert [each.head.op for each in await bench.results(held)].count("started") == 1


async def test_a_pending_run_is_reported_before_ollama_is_back(bench: Bench) -> None:
    """After a reboot nobody waits for Ollama to learn that a run is lost."""
    held = await bench.run()
    await bench.redis.xreadgroup("agent", "agent", {f"{bench.prefix}work:n1": ">"})
    async with running(elsewhere(bench.config, "http://127.0.0.1:9")):
        assert (await bench.ended(held)).head.code == "agent_restarted"


async def test_sigint_stops_the_agent_cleanly(bench: Bench, tmp_path: Path) -> None:
    """Exit code 0, no traceback, nothing on stdout, no file and no process left; the run it held stays
    pending and is reported at the next start."""
    async with agent_process(tmp_path, bench) as agent:
        held = await bench.hanging()
        children = psutil.Process(agent.pid).children(recursive=True)
        agent.signal(signal.SIGINT)
        assert await agent.ended() == 0
        assert not [child for child in children if child.is_running()]
        assert agent.out.read_bytes() == b""
        assert "Traceback" not in agent.log()
        assert "Error" not in agent.log()
        assert list(agent.cwd.iterdir()) == []
    assert await bench.ends(held) == []
    assert await bench.pending() == [held]
    async with running(bench.config):
        assert (await bench.ended(held)).head.code == "agent_restarted"


async def test_a_second_agent_of_the_node_is_refused(bench: Bench, tmp_path: Path) -> None:
    """One line that says why, exit code 78, and the first goes on."""
    async with agent_process(tmp_path, bench) as first:
        await bench.healthy(lambda head: True, "the first is there")
        log = first.log()
        async with agent_process(tmp_path, bench) as second:
            assert await second.ended() == 78
            [line] = second.log().splitlines()
            assert "an agent of n1 runs on this machine already" in line
            assert second.out.read_bytes() == b""
        assert "Traceback" not in log
        assert (await bench.ended(await bench.run())).head.op == "completed"


async def test_an_edge_reports_health_and_reads_no_work(bench: Bench, tmp_path: Path) -> None:
    """A node without inference: health with its own sensors, no models, a clean stop."""
    async with agent_process(tmp_path, bench, "edge") as agent:
        head = await bench.healthy(lambda head: True, "its health", "edge")
        assert (head.resident, head.inventory_digest, head.work_read) == ((), "", "")
        assert head.ram_total_mb > 0
        agent.signal(signal.SIGTERM)
        assert await agent.ended() == 0
        assert agent.out.read_bytes() == b""


async def test_logs_tell_runs_and_never_what_is_in_them(bench: Bench, tmp_path: Path) -> None:
    """Ids, models, counts and codes of every run are said, prompts and answers never, whatever fails;
    and nothing comes from Faust."""
    async with agent_process(tmp_path, bench, ORION_LOG="debug") as agent:
        done = await bench.ended(await bench.run("done", prompt=SECRET))
        await bench.fault("error_line")
        await bench.ended(await bench.run("crashed", prompt=SECRET))
        await bench.ended(await bench.run("refused", prompt=SECRET, options={"temperature": SECRET}))
        await bench.ended(await bench.run("broken", prompt=SECRET, messages=[{"role": SECRET}]))
        await bench.ended(await bench.run("absent", prompt=SECRET, model="absent:7b"))
        await bench.redis.xadd(f"{bench.prefix}work:n1", {"head": "no head", "prompt": SECRET})
        await bench.cancel(held := await bench.hanging(prompt=SECRET))
        await bench.ended(held)
        await bench.idle()
        agent.signal(signal.SIGTERM)
        assert await agent.ended() == 0
        log = agent.log()
    assert SECRET not in log
    assert done.text[:20] not in log
    assert "brain/done attempt 1 done" in log
    assert "brain/crashed attempt 1 failed: ollama_error" in log
    assert "brain/refused attempt 1 failed: refused" in log
    assert "brain/h attempt 1 failed: cancelled" in log
    assert "cannot be read" in log
    assert "[^" not in log


async def test_a_bad_log_level_is_refused(bench: Bench, tmp_path: Path) -> None:
    """ORION_LOG of no level: one line, exit code 78."""
    async with agent_process(tmp_path, bench, ORION_LOG="loud") as agent:
        assert await agent.ended() == 78
        [line] = agent.log().splitlines()
        assert "ORION_LOG" in line
