"""`orion pull` and `orion rm`: an operator changes which models nodes have."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal

from msgspec import Struct

from orion_streams import AsyncClient, RequestError
from orion_streams.cli import grid_discovery, log_sources
from orion_streams.cli.answer_view import ERASE
from orion_streams.cli.drain_command import operator_of
from orion_streams.cli.interruptible import (
    NOT_CONFIRMED,
    Interrupted,
    became_of,
    client_of,
    ended_by_itself,
)
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import EXIT_INTERRUPTED, plain, tell, write, write_json
from orion_streams.cli.read_commands import grid_at
from orion_streams.client.disk_orders import PullProgress
from orion_streams.environment import command
from orion_streams.errors import EXIT_FAILED, EXIT_OK, OrionError
from orion_streams.gateway.listings import nodes_to_change

Op = Literal["pull", "remove"]
LAST = "last_copy"
BAR, LARGE_BYTES = 30, 50_000_000


class Changed(Struct, frozen=True, omit_defaults=True):
    """What came of it on a node: done if `code` is empty."""

    node: str
    model: str
    code: str = ""
    message: str = ""


async def run(
    *,
    op: Op,
    model: str,
    nodes: Sequence[str],
    client: str | None,
    common: CommonOptions,
    last: bool = False,
) -> int:
    """Order it of each node in turn, and say what came of it. `last`: remove even the last copy. Raises
    ConfigError, BackendError, RequestError, OrionError."""
    config = grid_discovery.find(common.redis_url, common.config_path)
    chosen = list(nodes) or await nodes_for(op, model, common)
    if not chosen:
        if op == "remove":
            raise OrionError(f"no node has {model}")
        tell(f"orion: no node is known to lack {model}; to pull it all the same: --node")
    if op == "remove" and not nodes and not last:
        raise OrionError(all_copies(model, chosen))
    found: list[Changed] = []
    interrupted = ""
    async with client_of(config, client or operator_of(config)) as grid:
        for node in chosen:
            try:
                found.append(await changed(grid, op, model, node, last))
            except Interrupted as end:
                interrupted = f"orion: {node}: {end}"
                break
            if not common.as_json:
                say(op, found[-1])
    if common.as_json:
        write_json(found)
    if interrupted:
        tell(interrupted)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if any(each.code for each in found) else EXIT_OK


async def nodes_for(op: Op, model: str, common: CommonOptions) -> list[str]:
    """Return the nodes that are meant where none is named."""
    async with log_sources.source(None, common.redis_url, common.config_path) as log:
        now = await grid_at(log)
    return nodes_to_change(now.grid, op, model)


def all_copies(model: str, nodes: Sequence[str]) -> str:
    """Say that a removal would take the last copy out of the house, and how to remove all or one."""
    rm = f"{command()} rm {model}"
    one = f"; to keep one, name the others: {rm} --node {nodes[0]}" if len(nodes) > 1 else ""
    return (
        f"nothing is removed: {model} is on {' and '.join(nodes)} and nowhere else, so its last copy would "
        f"go. If it is to: {rm} --yes{one}"
    )


async def changed(grid: AsyncClient, op: Op, model: str, node: str, last: bool) -> Changed:
    """Order it of a node, and return what came of it. Raises Interrupted after Ctrl-C, BackendError."""
    request_id = grid.new_id()
    if op == "pull":
        working = asyncio.create_task(shown(grid.pull(model, node, request_id=request_id)))
    else:
        working = asyncio.create_task(grid.remove(model, node, request_id=request_id, last=last))
    if not await ended_by_itself(grid, request_id, working):
        stopped = "cancelled: the node stops"
        if op == "pull":
            stopped += "; what it has pulled stays for the next time"
        raise Interrupted(became_of(working, stopped, f"{NOT_CONFIRMED}; look: {command()} log"))
    try:
        working.result()
    except RequestError as error:
        return Changed(node, model, error.code, error.message)
    return Changed(node, model)


def say(op: Op, done: Changed) -> None:
    """Say what came of it on a node."""
    if done.code:
        what = f"{done.message} ({done.code})" if done.message else done.code
        rm = f". If it is to go: {command()} rm {done.model} --node {done.node} --yes"
        tell(f"orion: {done.node}: {plain(what)}{rm if done.code == LAST else ''}")
    else:
        write(f"{done.node}: {done.model} {'is there' if op == 'pull' else 'is removed'}")


async def shown(pull: AsyncGenerator[PullProgress, None]) -> None:
    """Pull, and show on a terminal how far it is. Raises RequestError."""
    try:
        async with aclosing(pull) as steps:
            async for step in steps:
                draw(line_of(step))
    finally:
        draw("")


def draw(line: str) -> None:
    """Write a line on a terminal over the one before; elsewhere nothing."""
    if sys.stderr.isatty():
        sys.stderr.write(ERASE + line)
        sys.stderr.flush()


def line_of(step: PullProgress) -> str:
    """Return how far a pull is: a bar for a part that takes time."""
    if step.total < LARGE_BYTES:
        return f"{step.node}: {step.status}"
    share = min(step.completed / step.total, 1)
    bar = "█" * round(share * BAR) + "·" * (BAR - round(share * BAR))
    return f"{step.node}: {step.status} {bar} {share:.0%} of {step.total / 1e9:.1f} GB"
