"""`orion pull` and `orion rm`: an operator changes which models nodes have."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import Literal

from msgspec import Struct

from orion_streams import AsyncClient, RequestError
from orion_streams.cli import grid_discovery, log_sources
from orion_streams.cli.answer_view import ERASE
from orion_streams.cli.drain_command import operator_of
from orion_streams.cli.interruptible import client_of, ends_before, interrupts
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import EXIT_INTERRUPTED, tell, write, write_json
from orion_streams.cli.read_commands import grid_at
from orion_streams.client.disk_orders import PullProgress
from orion_streams.errors import EXIT_FAILED, EXIT_OK, OrionError
from orion_streams.gateway.listings import nodes_to_change

Op = Literal["pull", "remove"]
BAR = 30


class Changed(Struct, frozen=True, omit_defaults=True):
    """What came of it on a node: done if `code` is empty."""

    node: str
    model: str
    code: str = ""
    message: str = ""


async def run(
    *, op: Op, model: str, nodes: Sequence[str], client: str | None, common: CommonOptions
) -> int:
    """Order it of each node in turn, and say what came of it. Raises ConfigError, BackendError,
    RequestError."""
    config = grid_discovery.find(common.redis_url, common.config_path)
    chosen = list(nodes) or await nodes_for(op, model, common)
    if not chosen:
        if op == "remove":
            raise OrionError(f"no node has {model}")
        tell(f"orion: every node has {model}; to look for a newer one: --node")
    async with client_of(config, client or operator_of(config)) as grid:
        found: list[Changed] = []
        working = asyncio.create_task(change_all(grid, op, model, chosen, found, common))
        with interrupts() as pressed:
            ended = await ends_before(working, pressed)
        if not ended:
            working.cancel()
            await asyncio.wait({working})
            tell("orion: cancelled: the node stops; what it has pulled stays for the next time")
            return EXIT_INTERRUPTED
        working.result()
    if common.as_json:
        write_json(found)
    return EXIT_FAILED if any(each.code for each in found) else EXIT_OK


async def nodes_for(op: Op, model: str, common: CommonOptions) -> list[str]:
    """Return the nodes that are meant where none is named."""
    async with log_sources.source(None, common.redis_url, common.config_path) as log:
        now = await grid_at(log)
    return nodes_to_change(now.grid, op, model)


async def change_all(
    grid: AsyncClient, op: Op, model: str, nodes: Sequence[str], found: list[Changed], common: CommonOptions
) -> None:
    """Change one node after the other, and say of each what came of it."""
    for node in nodes:
        try:
            await (pull(grid, model, node) if op == "pull" else grid.remove(model, node))
        except RequestError as error:
            found.append(Changed(node, model, error.code, error.message))
            if not common.as_json:
                tell(f"orion: {node}: {error.code}: {error.message}")
        else:
            found.append(Changed(node, model))
            if not common.as_json:
                write(f"{node}: {model} {'is there' if op == 'pull' else 'is removed'}")


async def pull(grid: AsyncClient, model: str, node: str) -> None:
    """Pull, and show on a terminal how far it is. Raises RequestError."""
    shows = sys.stderr.isatty()
    try:
        async with aclosing(grid.pull(model, node)) as steps:
            async for step in steps:
                if shows:
                    sys.stderr.write(ERASE + line_of(step))
                    sys.stderr.flush()
    finally:
        if shows:
            sys.stderr.write(ERASE)
            sys.stderr.flush()


def line_of(step: PullProgress) -> str:
    """Return how far a pull is: a bar for a part whose size is known."""
    if not step.total:
        return f"{step.node}: {step.status}"
    share = min(step.completed / step.total, 1)
    bar = "█" * round(share * BAR) + "·" * (BAR - round(share * BAR))
    return f"{step.node}: {step.status} {bar} {share:.0%} of {step.total / 1e9:.1f} GB"
