"""The commands of `orion log` with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from orion_streams.cli.options import AsJson, CommonOptions, ConfigFile, FromFile, RedisUrl, do, examples_of
from orion_streams.errors import EXIT_OK

log_commands = typer.Typer(invoke_without_command=True)
EXAMPLES = examples_of("log", "log --follow", "log --from 1 -n 100 --json", "log export incident.jsonl.gz")


@log_commands.callback()
def log(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    start: Annotated[
        int | None, typer.Option("--from", metavar="POS", min=1, help="First position. Default: the last.")
    ] = None,
    count: Annotated[int | None, typer.Option("-n", min=0, help="So many events. Default: 20.")] = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """The log: every sample, decision and outcome."""
    if context.invoked_subcommand is None:
        common = CommonOptions(as_json, redis, config)
        return do("orion_streams.cli.log_view", follow=follow, start=start, count=count, common=common)
    if follow or as_json or any(each is not None for each in (start, count, redis, config)):
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
    epilog=examples_of("log tail", "log tail -n 100", "log tail --file incident.jsonl.gz")
)
def tail(
    count: Annotated[int, typer.Option("-n", min=0, max=100_000, help="So many events first.")] = 20,
    file: FromFile = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """The last events, and of a live log all that come, one a line."""
    common = CommonOptions(as_json, redis, config)
    return do("orion_streams.cli.log_view", follow=True, start=None, count=count, common=common, file=file)
