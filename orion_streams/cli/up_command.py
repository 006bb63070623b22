"""`orion up`: run a grid, or the part of it on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from orion_streams import config as configuration
from orion_streams.cli.grid_discovery import Running, noted
from orion_streams.cli.local_grid import LocalRoles
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell, write_json
from orion_streams.demo.simulated_grid import SimulatedGrid
from orion_streams.environment import command
from orion_streams.model.names import HOST
from orion_streams.model.server_urls import BY_SENTINELS, scheme_of, shown

LOOK_S = 1.0
"""The interval between checks of the embedded server."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ready(NamedTuple):
    """The announcement of a grid: its note for other commands, further keys of --json, and the text."""

    note: Running
    more: dict[str, Any]
    text: str


async def run(*, simulated: bool, roles: str | None, port: int, common: CommonOptions) -> int:
    """Start the grid, announce it, wait for a signal, and stop in order. Raise what starting raises."""
    if simulated:
        # their registry is simulated, too: no byte is fetched
        settings = {"": {"pull_from": [HOST]}}
        grid = SimulatedGrid(redis=port, settings=settings, remark=remark, gateway=True)
        return await serve(grid, lambda: ready_simulated(grid), common.as_json)
    config = configuration.load(common.config_path, common.redis_url)
    local = LocalRoles(config, common.config_path or "", roles=roles, port=port, say=remark)
    return await serve(local, lambda: ready_local(local), common.as_json)


def remark(name: str, line: str) -> None:
    """Print a line of a process, or about it."""
    tell(f"{name}: {line}")


async def serve(grid: SimulatedGrid | LocalRoles, announcement: Callable[[], Ready], as_json: bool) -> int:
    """Run the grid until a signal, which may come while it starts. A second one ends it at once."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for each in SIGNALS:
        loop.add_signal_handler(each, asked.set)
    stopped = asyncio.create_task(asked.wait())
    starting = asyncio.create_task(grid.start())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return 0
    await starting
    try:
        ready = announcement()
        with noted(ready.note):
            announce(ready, as_json)
            while not (await asyncio.wait({stopped}, timeout=LOOK_S))[0]:
                grid.check()
    finally:
        asked.clear()
        await stop(grid, asked)
    return 0


async def stop(grid: SimulatedGrid | LocalRoles, again: asyncio.Event) -> None:
    """Stop the grid, at once if a further signal comes."""
    stopping, asked = asyncio.create_task(grid.stop()), asyncio.create_task(again.wait())
    await asyncio.wait({stopping, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not stopping.done():
        grid.hurry()
    await stopping


def announce(ready: Ready, as_json: bool) -> None:
    """Print that the grid is ready, and what to do next."""
    url, simulated, config = shown(ready.note.redis_url), ready.note.simulated, ready.note.config
    if as_json:
        write_json({"redis_url": url, "simulated": simulated, "config": config, **ready.more})
    else:
        sys.stdout.write(ready.text)
        sys.stdout.flush()


def ready_simulated(grid: SimulatedGrid) -> Ready:
    """Make the announcement of a simulated grid."""
    models = sorted({model.name for node in grid.nodes.values() for model in node.spec.models})
    nodes = [
        {
            "node": name,
            "url": url,
            "engine": grid.engines[name],
            "models": [model.name for model in grid.nodes[name].spec.models],
        }
        for name, url in grid.node_urls.items()
    ]
    engines = ", ".join(sorted(set(grid.engines.values())))
    text = (
        f"The grid is up: a router, and {len(grid.nodes)} SIMULATED nodes (engine: {engines}) with "
        f"{' and '.join(models)}.\n" + hints(grid.redis_url, "orion:", models[0], grid.gateway_url)
    )
    note = Running(os.getpid(), grid.redis_url, str(grid.config_path), simulated=True)
    return Ready(note, {"models": models, "nodes": nodes, "gateway_url": grid.gateway_url}, text)


def ready_local(local: LocalRoles) -> Ready:
    """Make the announcement of the roles of this machine."""
    model = local.models[0] if local.models else "MODEL"
    text = f"Up on this machine: {', '.join(local.roles)}.\n"
    text += hints(local.redis_url, local.config.prefix, model, local.gateway_url)
    note = Running(os.getpid(), local.redis_url, local.config_file, simulated=False)
    return Ready(
        note, {"roles": local.roles, "models": local.models, "gateway_url": local.gateway_url}, text
    )


def hints(url: str, prefix: str, model: str, gateway_url: str) -> str:
    """Return commands to paste. redis-cli reads a password from REDISCLI_AUTH."""
    url, orion, question = shown(url), command(), '"Why is the sky blue?"'
    by_hand = (
        f"  by hand   redis-cli -u {url} XADD {prefix}requests:brain '*' id q1 model {model} "
        f"prompt {question}\n"
        f"            redis-cli -u {url} XREAD BLOCK 0 STREAMS {prefix}replies:brain 0\n"
    )
    speaks = "shows the grid to a browser, and speaks Ollama's and OpenAI's API"
    http = f"  HTTP      {gateway_url} {speaks}\n" if gateway_url else ""
    return (
        f"\n  Redis     {url}\n{http}"
        f"  ask       {orion} ask {question} --model {model}\n"
        f"  look      {orion} top · {orion} ps · {orion} requests · {orion} log --follow\n"
        f"{by_hand if scheme_of(url) not in BY_SENTINELS else ''}"
        f"  stop      Ctrl-C\n"
    )
