"""`orion ask`: send a request as client `cli` and show its answer as it is generated."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import Unpack

from redis.exceptions import NoPermissionError

from orion_streams import Answer, AsyncClient, Piece, Restarted
from orion_streams.cli import grid_discovery
from orion_streams.cli.grid_discovery import opened
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell, write_result
from orion_streams.cli.read_commands import look, warn
from orion_streams.client.calls import Fields
from orion_streams.config import Config
from orion_streams.errors import ConfigError, OrionError

CLIENT = "cli"
GIVE_UP_S = 10.0


async def run(
    *, prompt: str, model: str | None, stream: bool, common: CommonOptions, **fields: Unpack[Fields]
) -> int:
    """Ask, print the answer, and say which node made it. Raises RequestError, BackendError, ConfigError."""
    config = grid_discovery.find(common.redis_url, common.config_path)
    if CLIENT not in config.clients:
        raise ConfigError(f"clients: expected [clients.{CLIENT}], which `orion ask` asks as")
    model = await model_to_ask(config, model)
    text = sys.stdin.read() if prompt == "-" else prompt
    async with AsyncClient(config.redis.url, CLIENT, prefix=config.prefix, give_up_s=GIVE_UP_S) as client:
        if stream:
            answer = await show_as_it_comes(client, model, text, fields)
        else:
            answer = await client.generate(model, text, **fields)
            write_result(answer, answer.text, common.as_json)
    tell(dim(f"{answer.node} · {answer.engine} · {answer.tokens} tokens · {answer.total_ms} ms"))
    tell(dim(f"why there: ./orion explain {answer.id}"))
    return 0


async def model_to_ask(config: Config, wanted: str | None) -> str:
    """Return the wanted model, else the first one installed. A client's own ACL user may not read the log:
    then it must be given, or ConfigError is raised. Raises OrionError if no node has a model."""
    try:
        async with opened(config) as store:
            now = await look(store)
    except NoPermissionError:
        if wanted is None:
            raise ConfigError("this user may not read which models there are: name one (--model)") from None
        return wanted
    warn(now)
    if wanted is None:
        nodes = [node for node in now.grid.nodes.values() if node.rules.inference]
        wanted = min((model for node in nodes for model in node.installed), default=None)
        if wanted is None:
            raise OrionError("no node has a model installed, as far as the grid knows")
        tell(f"orion: asking {wanted}")
    return wanted


async def show_as_it_comes(client: AsyncClient, model: str, text: str, fields: Fields) -> Answer:
    """Print the pieces as they come; start a new line for a new attempt."""
    answer: Answer | None = None
    shown = False
    try:
        async with aclosing(client.stream(model, text, **fields)) as events:
            async for event in events:
                match event:
                    case Piece():
                        sys.stdout.write(event.text)
                        shown = True
                    case Restarted():
                        sys.stdout.write("\n")
                        tell(dim(f"from the beginning, attempt {event.attempt} on {event.node}"))
                    case Answer():
                        answer, shown = event, True
                sys.stdout.flush()
    finally:  # an error is reported on a line of its own
        sys.stdout.write("\n" if shown else "")
        sys.stdout.flush()
    if answer is None:
        raise OrionError("the answer ended without its last reply")
    return answer


def dim(line: str) -> str:
    """Dim a line if stderr is a terminal."""
    return f"\x1b[2m{line}\x1b[0m" if sys.stderr.isatty() else line
