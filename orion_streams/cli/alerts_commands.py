"""The commands of `orion alerts` with their options."""

from __future__ import annotations

import typer

from orion_streams.cli.options import AsJson, ConfigFile, do, examples_of
from orion_streams.errors import EXIT_USAGE

alerts_commands = typer.Typer(
    no_args_is_help=True, help="Tell people what is wrong: who is told, and what is open."
)
EXAMPLES = examples_of("alerts test", "alerts list", "alerts run", "replay alerts incident.jsonl.gz")
WORK = "orion_streams.cli.alerts_command"


@alerts_commands.command("list", epilog=examples_of("alerts list", "alerts list --json"))
def show(as_json: AsJson = False, config: ConfigFile = None) -> int:
    """Which alerts are open, since when, as the process on this machine that sends has noted it."""
    return do(WORK, action="list", as_json=as_json, config_path=config)


@alerts_commands.command(epilog=examples_of("alerts test", "alerts test --json"))
def test(as_json: AsJson = False, config: ConfigFile = None) -> int:
    """Send each target a test message, and say what came back; exit 69 if one was not told."""
    return do(WORK, action="test", as_json=as_json, config_path=config)


@alerts_commands.command("run")
def run() -> int:
    """Follow the log and tell the targets: the process that sends."""
    return EXIT_USAGE  # `cli.main` runs it before it imports this module
