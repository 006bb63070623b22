"""What the inviting side sees of a machine that joins: the invitation is taken, then its agent reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from orion_streams.cli.install.invitation import Ticket, ready_line
from orion_streams.cli.read_commands import look
from orion_streams.cli.tables import node_state
from orion_streams.config import Config
from orion_streams.errors import BackendError, LogError, OrionError
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.gateway.view_models import node_rows
from orion_streams.model.state import Grid, Node
from orion_streams.runtime.connection import end_if_cancelled

LOOK_S = 0.5
SETTLES_MS, SLOW_MS, LATEST_MS = 15_000, 120_000, 1_800_000
"""So long a node may take until it is available, before it is said why not; to be heard of, before it is
said where to look; and before nobody waits any longer."""
GRACE_MS = 10_000
"""So much later the server lets an invitation expire than whoever waits ends it: what is gone before was
taken, in the last moment, too."""
FINE = ("available", "no_inference")


class Joined(Struct, frozen=True):
    """What a node reports that has joined. `models`: None without inference; `line`: all of it in words."""

    node: str
    state: str
    models: int | None
    temp_mc: int | None
    sensor: str
    engine: str
    line: str


async def now_ms(redis: Any) -> int:
    """Return the server's time."""
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def is_alive(redis: Any, config: Config, node: str) -> bool:
    """Whether a node has reported its health lately, and has not said goodbye."""
    for entry_id, fields in await redis.xrevrange(config.key("health", node), count=1):
        told_ms = int(entry_id.partition(b"-")[0])
        is_last = b'"goodbye":true' in fields.get(b"head", b"")
        return not is_last and await now_ms(redis) - told_ms <= config.policy.stale_ms
    return False


async def grid_of(redis: Any, config: Config) -> Grid:
    """Return the grid now; an empty one where no router has run."""
    try:
        return (await look(RedisLog(redis, config.prefix))).grid
    except (BackendError, LogError):
        return Grid()


async def wait_until_joined(
    redis: Any, config: Config, ticket: Ticket, old_boot: str, say: Callable[[str], None]
) -> Joined | None:
    """Wait until the node reports, saying what happens; return None if the invitation expires unused.
    Raises OrionError if it was taken and nothing comes of it within LATEST_MS."""
    while await redis.exists(ticket.key):
        end_if_cancelled()
        if await now_ms(redis) >= ticket.until_ms and await redis.delete(ticket.key):
            return None
        await asyncio.sleep(LOOK_S)
    taken_ms = await now_ms(redis)
    say(f"orion: {ticket.node} has taken the invitation, and sets itself up")
    reported_ms, was_slow = 0, False
    while True:
        grid, server_ms = await grid_of(redis, config), await now_ms(redis)
        end_if_cancelled()
        node = grid.nodes.get(ticket.node)
        if node is not None and is_told(node, old_boot, bool(ticket.ollama)):
            if not reported_ms:
                reported_ms = server_ms
            joined = report(grid, node, ticket)
            if joined.state in FINE or server_ms - reported_ms > SETTLES_MS:
                return joined
        elif not was_slow and server_ms - taken_ms > SLOW_MS:
            was_slow = True
            say(f"orion: {late(node, old_boot, ticket.node)}")
        elif server_ms - taken_ms > LATEST_MS:
            raise OrionError(late(node, old_boot, ticket.node))
        await asyncio.sleep(LOOK_S)


def is_told(node: Node, old_boot: str, inference: bool) -> bool:
    """Whether a new agent has told all that is said of the node."""
    is_new = node.heard_ms is not None and node.boot != old_boot
    return is_new and (node.inventory_known or not inference)


def report(grid: Grid, node: Node, ticket: Ticket) -> Joined:
    """Return what the router knows of a node."""
    [row] = [each for each in node_rows(grid) if each.node == ticket.node]
    models = len(node.installed) if ticket.ollama else None
    state = "ready" if row.state in FINE else f"here, but {node_state(row).plain}"
    line = ready_line(ticket.node, state, models, node.temp_mc, node.sensor)
    return Joined(ticket.node, row.state, models, node.temp_mc, node.sensor, node.engine, line)


def late(node: Node | None, old_boot: str, name: str) -> str:
    """Say what keeps it waiting."""
    if node is None:
        return f"no router knows {name} yet: systemctl status orion-router, on its machine"
    if node.heard_ms is None or node.boot == old_boot:
        return f"nothing is heard of {name} yet: there, journalctl -u orion-agent tells why"
    return f"{name} reports, but Ollama does not answer there: systemctl status ollama"
