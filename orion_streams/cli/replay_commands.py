"""The commands of `orion replay` with their options."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from orion_streams.cli.options import AsJson, At, CommonOptions, ConfigFile, RedisUrl, do, examples_of


class VerifyByDefault(TyperGroup):
    """A group that takes `orion replay FILE` for `orion replay verify FILE`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        word = args[0] if args else ""
        misspelt = get_close_matches(word, self.commands) and not Path(word).exists()
        if not misspelt and word not in (*self.commands, *ctx.help_option_names):
            args = ["verify", *args]
        return super().parse_args(ctx, args)


replay_commands = typer.Typer(
    cls=VerifyByDefault, help="Recompute, step through, compare, vary and report what a log says."
)
EXAMPLES = examples_of(
    "replay", "replay incident.jsonl.gz --json", "replay step incident.jsonl.gz",
    "replay diff 14:00 14:05 incident.jsonl.gz",
    "replay whatif incident.jsonl.gz --set policy.temp_max_mc=70000",
    "replay alerts incident.jsonl.gz", "replay report incident.jsonl.gz -o incident.html",
)  # fmt: skip
File = Annotated[
    str | None,
    typer.Argument(metavar="FILE", help="An exported log or an archive's folder. Default: the live log."),
]


@replay_commands.command(epilog=examples_of("replay", "replay --json", "replay incident.jsonl.gz"))
def verify(
    file: File = None, as_json: AsJson = False, redis: RedisUrl = None, config: ConfigFile = None
) -> int:
    """Recompute every decision and every snapshot; exit 4 where one differs from what was recorded. It is
    what `orion replay` does without a word."""
    return do("orion_streams.cli.verify_command", file=file, common=CommonOptions(as_json, redis, config))


@replay_commands.command(epilog=examples_of("replay step", "replay step incident.jsonl.gz --at 14:05"))
def step(file: File = None, at: At = None, redis: RedisUrl = None, config: ConfigFile = None) -> int:
    """Through a log commit by commit, forwards and backwards, with the grid as it was there."""
    common = CommonOptions(False, redis, config)
    return do("orion_streams.cli.step_command", at=at, file=file, common=common)


@replay_commands.command(
    epilog=examples_of(
        "replay report incident.jsonl.gz -o incident.html", "replay report -o now.html --force"
    )
)
def report(
    file: File = None,
    target: Annotated[
        str, typer.Option("--output", "-o", metavar="HTML", help="The page.")
    ] = "incident.html",
    force: Annotated[bool, typer.Option("--force", help="Replace a page that is there.")] = False,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """One page of a log that opens offline: heat, memory, models, attempts, decisions with their verdicts,
    what is out of the ordinary, percentiles, and the slowest requests with what they waited for."""
    common = CommonOptions(as_json, redis, config)
    return do("orion_streams.cli.report_command", file=file, target=target, force=force, common=common)


@replay_commands.command(
    epilog=examples_of(
        "replay whatif incident.jsonl.gz --set policy.temp_max_mc=70000",
        "replay whatif incident.jsonl.gz --without orion-worker --json",
        "replay whatif incident.jsonl.gz --policy other.toml --no-simulate",
    )
)
def whatif(
    file: File = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As in streams.toml; repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="It takes no request; repeatable.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="TOML", help="Rules, nodes and models of another streams.toml.")
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate/--no-simulate", help="Run the workload again, SIMULATED, too.")
    ] = True,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Other rules over a recorded log: the decisions that would change, with the term that turned them,
    and the same workload run again in the simulator, before and after."""
    return do(
        "orion_streams.cli.whatif_command",
        file=file,
        settings=settings or [],
        without=without or [],
        policy=policy,
        simulate=simulate,
        common=CommonOptions(as_json, redis, config),
    )


@replay_commands.command(
    epilog=examples_of(
        "replay alerts incident.jsonl.gz",
        "replay alerts incident.jsonl.gz --set alerts.hot.for_ms=60000 --set policy.temp_max_mc=70000",
        "replay alerts --config streams.toml --json",
    )
)
def alerts(
    file: File = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="alerts.NAME.KEY, or as in streams.toml; repeatable."
        ),
    ] = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Who would have been told what, and when: by the [[alerts]] of --config, else the file's own, else
    those of streams.toml."""
    common = CommonOptions(as_json, redis, config)
    return do("orion_streams.cli.replay_alerts_command", file=file, settings=settings or [], common=common)


@replay_commands.command(
    epilog=examples_of("replay diff 14:00 14:30", "replay diff 1000 2000 incident.jsonl.gz --json")
)
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A position or a time.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    file: File = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """What is not the same in the grid at two moments, in words; --json has every value."""
    common = CommonOptions(as_json, redis, config)
    return do("orion_streams.cli.diff_command", before=before, after=after, file=file, common=common)
