"""`orion drain` and `orion resume` with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from orion_streams.cli.options import AsJson, CommonOptions, ConfigFile, RedisUrl, do, examples_of, filled

drain_commands = typer.Typer()
WORK = "orion_streams.cli.drain_command"
NodeName = Annotated[str, typer.Argument(metavar="NODE", callback=filled, help="Its name in streams.toml.")]
AsOperator = Annotated[
    str | None,
    typer.Option("--client", metavar="NAME", help="The operator to be. Default: one of streams.toml."),
]


@drain_commands.command(epilog=examples_of("drain orion-worker", "drain orion-worker --for 2h"))
def drain(
    node: NodeName,
    term: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TIME", help="2h, 90m, at most 720h (30 days): then it goes on by itself."
        ),
    ] = None,
    last: Annotated[
        bool, typer.Option("--yes", help="Even if no other node answers: all requests wait.")
    ] = False,
    client: AsOperator = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Let a node rest: it takes nothing, and what it has moves, until `orion resume`."""
    common = CommonOptions(as_json, redis, config)
    return do(WORK, node=node, term=term, last=last, rests=True, client=client, common=common)


@drain_commands.command(epilog=examples_of("resume orion-worker"))
def resume(
    node: NodeName,
    client: AsOperator = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Let a node go on that was drained."""
    common = CommonOptions(as_json, redis, config)
    return do(WORK, node=node, rests=False, client=client, common=common)
