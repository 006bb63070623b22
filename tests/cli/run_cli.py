"""Running `orion`: inside the test, or as a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from redis.asyncio import Redis

from orion_streams.agents.router import Router
from orion_streams.config import Config, parse
from orion_streams.protocol import agent_entries
from orion_streams.runtime.connection import connect
from tests.conftest import ServerStore
from tests.helpers import WAIT_S, Agent, settle

ROOT = Path(__file__).parents[2]
MODEL, OTHER = "gemma3:270m", "llama3.2:3b"
TOML = """
revision = 1
prefix = "{prefix}"
[redis]
url = "{url}"
[policy]
stale_ms = 3600000
[nodes.edge]
inference = false
ollama = ""
[nodes.master]
role = "validator"
tiers = [1]
[nodes.worker]
tiers = [2]
[nodes.never]
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which no other grid of this machine is seen."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ORION_")}
    own = {"XDG_RUNTIME_DIR": str(home), "XDG_DATA_HOME": str(home), "TMPDIR": str(home)}
    return {**kept, **own, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **more}


def start(home: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    """`orion WORDS` as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "orion_streams.cli", *words],
        cwd=home,
        env=environment(home, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr."""
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


def run(home: Path, *words: str, **more: str) -> tuple[int, str, str]:
    """`orion WORDS` to its end."""
    return finish(start(home, *words, **more))


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below one."""
    found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return found


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; none if it ends while it is looked at."""
    try:
        found: list[str] = process.cmdline()
    except psutil.NoSuchProcess:
        return []
    return found


def gone(processes: list[psutil.Process]) -> Callable[[], bool]:
    """Whether all of them have ended."""
    return lambda: not any(runs(each) for each in processes)


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended, also if it ends while it is looked at."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def with_store(url: str, prefix: str, work: Callable[[ServerStore, Config], Any]) -> None:
    """Do something with a store on a real server."""
    redis: Redis = connect(url)
    try:
        await work(ServerStore("valkey", redis, prefix), parse(TOML.format(prefix=prefix, url=url)))
    finally:
        await redis.aclose()


async def prepare(store: ServerStore, config: Config) -> None:
    """A log with a cool master, a hot worker, an edge and a node never heard of; of three requests one
    runs on the master, one waits for it and one waits for the worker to cool."""
    router = Router(store.log, config)
    master = Agent(store, "master", (MODEL,), boot="m")
    worker = Agent(store, "worker", (MODEL, OTHER), boot="w")
    edge = Agent(store, "edge", (), boot="e")
    await router.start()
    await master.beat(resident=(agent_entries.ResidentModel(MODEL, f"digest of {MODEL}", 478, 4096),))
    await worker.beat(temp_mc=76_100)
    await edge.beat(temp_mc=None)
    await settle(router)
    for request_id, model in (("runs", MODEL), ("queued", MODEL), ("cooling", OTHER)):
        fields = {"id": request_id, "model": model, "prompt": f"secret prompt of {request_id}"}
        await store.add("requests:brain", fields)
        await settle(router)
    [first] = await master.read_work()
    await master.say(first, "started")
    await settle(router)


def prepared(url: str, prefix: str) -> None:
    """Write that log."""
    asyncio.run(with_store(url, prefix, prepare))
