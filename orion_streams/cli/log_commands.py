"""The commands of `orion log` with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from orion_streams.cli.options import (
    AsJson,
    CommonOptions,
    ConfigFile,
    Filters,
    FromFile,
    RedisUrl,
    do,
    examples_of,
    filled,
)
from orion_streams.errors import EXIT_OK

VIEW = "orion_streams.cli.log_view"
log_commands = typer.Typer(invoke_without_command=True)
EXAMPLES = examples_of(
    "log", "log --follow", "log --follow --node orion-worker --model llama3.2:3b", "log --request 3f2a",
    "log --event node.backed_off --event attempt -n 100 --json", "log export incident.jsonl.gz",
)  # fmt: skip
Events = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        metavar="NAME",
        callback=filled,
        help="Only these, such as request.routed or attempt.*; may come again.",
    ),
]
Nodes = Annotated[
    list[str] | None,
    typer.Option("--node", metavar="NAME", callback=filled, help="Only what is about it; may come again."),
]
Requests = Annotated[
    list[str] | None,
    typer.Option(
        "--request", metavar="ID", callback=filled, help="The same: an id, client/id, or its beginning."
    ),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="NAME", callback=filled, help="The same.")
]
Samples = Annotated[
    bool | None,
    typer.Option(
        "--samples/--no-samples", help="Health and empty commits. Default: not where events are followed."
    ),
]


@log_commands.callback()
def log(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    start: Annotated[
        int | None, typer.Option("--from", metavar="POS", min=1, help="First position. Default: the last.")
    ] = None,
    count: Annotated[int | None, typer.Option("-n", min=0, help="So many events. Default: 20.")] = None,
    event: Events = None,
    node: Nodes = None,
    request: Requests = None,
    model: Models = None,
    samples: Samples = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """The log: every sample, decision and outcome. Filters of one kind add up, those of several narrow."""
    if context.invoked_subcommand is None:
        common = CommonOptions(as_json, redis, config)
        return do(
            VIEW,
            follow=follow,
            start=start,
            count=count,
            common=common,
            filters=Filters(event or (), node or (), request or (), model or (), samples),
        )
    rest = (start, count, event, node, request, model, samples, redis, config)
    if follow or as_json or any(each is not None for each in rest):
        raise typer.BadParameter(f"its options go after `{context.invoked_subcommand}`")
    return EXIT_OK


@log_commands.command(epilog=examples_of("log archive /var/backups/orion", "log archive archive --json"))
def archive(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where the files are; it is made.")],
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Write what the log has since the last time to compressed files, chained to those that are there."""
    common = CommonOptions(as_json, redis, config)
    return do("orion_streams.cli.archive_command", folder=folder, common=common)


@log_commands.command(
    epilog=examples_of(
        "log export incident.jsonl.gz",
        "log export incident.jsonl.gz --from 14:00 --to 14:30",
        "log export part.jsonl --from 1000 --to 2000 --file incident.jsonl.gz",
    )
)
def export(
    target: Annotated[str, typer.Argument(metavar="FILE", help="NAME.jsonl or NAME.jsonl.gz.")],
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="MOMENT", help="A position or a time. Default: the beginning."),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="MOMENT", help="The same. Default: the end.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    file: FromFile = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Write a part of the log to one file that can be replayed: with the state before it, the rules, the
    configuration without its URLs, and the running hash. No prompt and no answer is in it."""
    return do(
        "orion_streams.cli.export_command",
        target=target,
        start=start,
        end=end,
        force=force,
        file=file,
        common=CommonOptions(as_json, redis, config),
    )


@log_commands.command(
    "import",
    epilog=examples_of("log import incident.jsonl.gz --prefix incident: --redis redis://127.0.0.1:6379/5"),
)
def bring(
    file: Annotated[str, typer.Argument(metavar="FILE", help="An exported log, or an archive's folder.")],
    prefix: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Of its keys. Default: that of streams.toml.")
    ] = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Put an exported log into a Redis where there is none under that prefix, to be read there."""
    common = CommonOptions(as_json, redis, config)
    return do("orion_streams.cli.import_command", file=file, prefix=prefix, common=common)


@log_commands.command(
    epilog=examples_of("log tail", "log tail -n 100 --samples", "log tail --file incident.jsonl.gz")
)
def tail(
    count: Annotated[int, typer.Option("-n", min=0, max=100_000, help="So many events first.")] = 20,
    event: Events = None,
    node: Nodes = None,
    request: Requests = None,
    model: Models = None,
    samples: Samples = None,
    file: FromFile = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """The last events, and of a live log all that come, one a line."""
    common = CommonOptions(as_json, redis, config)
    return do(
        VIEW,
        follow=True,
        start=None,
        count=count,
        common=common,
        file=file,
        filters=Filters(event or (), node or (), request or (), model or (), samples),
    )
