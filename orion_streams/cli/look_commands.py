"""`orion explain`, `orion requests` and `orion top` with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from orion_streams.cli.options import (
    AsJson,
    CommonOptions,
    ConfigFile,
    FromFile,
    RedisUrl,
    do,
    examples_of,
    filled,
)

look_commands = typer.Typer()
Several = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", callback=filled, help="Of this one only; may come again."),
]


@look_commands.command(
    epilog=examples_of(
        "explain q1", "explain --last", "explain brain/q1 --json", "explain 3f2a --file incident.jsonl.gz"
    )
)
def explain(
    request: Annotated[
        str | None,
        typer.Argument(
            callback=filled, help="Its id, client/id, or the beginning of one that only it has."
        ),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="The one that was accepted or ended last.")] = False,
    file: FromFile = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """What happened to a request and why: who was asked, what each node would have cost, how it ended."""
    if (request is None) != last:
        raise typer.BadParameter("name a request, or ask for the --last one")
    common = CommonOptions(as_json, redis, config)
    return do("orion_streams.cli.explain_command", asked=request, common=common, file=file)


@look_commands.command(
    epilog=examples_of(
        "requests", "requests --slowest --since 2h", "requests --failed --client brain --limit 100",
        "requests --file incident.jsonl.gz --since 14:05 --json",
    )
)  # fmt: skip
def requests(
    slowest: Annotated[bool, typer.Option("--slowest", help="The slowest first, not the newest.")] = False,
    failed: Annotated[
        bool,
        typer.Option(
            "--failed",
            help="Errors and expired ones only. Rejected ones never began: orion log --event "
            "request.rejected.",
        ),
    ] = False,
    client: Several = None,
    model: Several = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="A duration (2h), time (14:05) or position. Default: 24h; of a file all."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, max=100_000, help="So many rows.")] = 20,
    file: FromFile = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Which requests ended, the newest first, with their times; below, percentiles of all of them, and how
    often an answer came when it was promised."""
    return do(
        "orion_streams.cli.requests_command",
        clients=client or [],
        models=model or [],
        failed=failed,
        slowest=slowest,
        limit=limit,
        since=since,
        file=file,
        common=CommonOptions(as_json, redis, config),
    )


@look_commands.command(epilog=examples_of("top", "top --interval 5", "top --once", "top --once --json"))
def top(
    once: Annotated[bool, typer.Option("--once", help="Print one frame, all of it, and leave.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.2, max=60, metavar="SECONDS", help="Between two frames.")
    ] = 1.0,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """The living grid: nodes, what runs and waits, the last decisions, and on top the whole in a sentence.
    Keys: q quits, space pauses, s sorts the queue, n the nodes, j and k go through the queue."""
    if as_json and not once:
        raise typer.BadParameter("--json goes with --once")
    common = CommonOptions(as_json, redis, config)
    return do("orion_streams.cli.top_command", once=once, interval_s=interval, common=common)
