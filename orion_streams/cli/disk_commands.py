"""`orion pull` and `orion rm` with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from orion_streams.cli.drain_commands import AsOperator
from orion_streams.cli.options import AsJson, CommonOptions, ConfigFile, RedisUrl, do, examples_of, filled

disk_commands = typer.Typer()
WORK = "orion_streams.cli.disk_command"
Model = Annotated[
    str, typer.Argument(metavar="MODEL", callback=filled, help="Its name in Ollama, e.g. gemma3:4b.")
]


@disk_commands.command(epilog=examples_of("pull gemma3:4b", "pull gemma3:4b --node orion-worker"))
def pull(
    model: Model,
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="NODE", help="Which one. Default: each that lacks it. Repeatable."),
    ] = None,
    client: AsOperator = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Let nodes pull a model, one after the other. Off until the router's streams.toml names registries
    in pull_from. Ctrl-C cancels; pulled again, it goes on where it was."""
    common = CommonOptions(as_json, redis, config)
    return do(WORK, op="pull", model=model, nodes=node or [], client=client, common=common)


@disk_commands.command(epilog=examples_of("rm gemma3:4b --node orion-worker", "rm gemma3:4b --yes"))
def rm(
    model: Model,
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="NODE", help="Which one. Default: each that has it. Repeatable."),
    ] = None,
    last: Annotated[bool, typer.Option("--yes", help="Even the last copy in the house.")] = False,
    client: AsOperator = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Remove a model from the disks of nodes. One that is pinned or at work stays, and it is said why; so
    does the last copy in the house, without --yes."""
    common = CommonOptions(as_json, redis, config)
    return do(WORK, op="remove", model=model, nodes=node or [], last=last, client=client, common=common)
