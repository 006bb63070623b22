"""`orion drain` and `orion resume`: an operator lets a node rest, and go on."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.cli import grid_discovery
from orion_streams.cli.interruptible import client_of
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_result
from orion_streams.client.calls import RequestRejectedError
from orion_streams.config import Config
from orion_streams.environment import command
from orion_streams.errors import ConfigError, OrionError
from orion_streams.model.text import long
from orion_streams.model.toml_values import duration_ms
from orion_streams.protocol.rest_entries import MAX_REST_MS
from orion_streams.runtime import acl


class Rested(Struct, frozen=True):
    """What an operator wanted of a node: that it rests (`for_ms`; 0: until it is resumed), or goes on."""

    node: str
    drained: bool
    for_ms: int = 0


async def run(
    *,
    node: str,
    rests: bool,
    client: str | None,
    common: CommonOptions,
    term: str | None = None,
    last: bool = False,
) -> int:
    """Tell the grid, and say what comes of it. Raises ConfigError, BackendError, RequestError."""
    for_ms = ms_of(term) if term is not None else 0
    config = grid_discovery.find(common.redis_url, common.config_path)
    async with client_of(config, client or operator_of(config)) as grid:
        try:
            await (grid.drain(node, for_ms, last=last) if rests else grid.resume(node))
        except RequestRejectedError as error:
            if error.code == "last_node":
                mend = f"If they are to: {command()} drain {node} --yes"
                raise OrionError(f"{node}: {error.message} {mend}") from None
            raise
    text = drained(node, for_ms) if rests else f"{node} takes requests again"
    write_result(Rested(node, rests, for_ms), text, common.as_json)
    return 0


def ms_of(term: str) -> int:
    """Return a duration such as 2h or 1h30m in ms. Raises ConfigError."""
    found = duration_ms(term)
    if found is None or found <= 0:
        raise ConfigError(f"--for: expected a duration, e.g. 2h or 90m, got {term[:80]!a}")
    if found > MAX_REST_MS:
        most = f"expected at most {long(MAX_REST_MS)} (30 days)"
        raise ConfigError(f"--for {term[:80]}: {most}; without --for it rests until it is resumed")
    return found


def operator_of(config: Config) -> str:
    """Return the client as which a person speaks here: that of the URL's user, if it is an operator or
    there is none, else the first operator."""
    operators = sorted(name for name, rules in config.clients.items() if rules.operator)
    own = acl.client_of(config)
    return own if own in operators or not operators else operators[0]


def drained(node: str, for_ms: int) -> str:
    """Say what happens to a node that was drained."""
    until = f"for {long(for_ms)}, then it goes on by itself" if for_ms else "until it is resumed"
    moves = "What waits there moves now; what runs may end, and moves if that takes too long."
    return f"{node} takes nothing {until}. {moves}\nTo end it: {command()} resume {node}"
