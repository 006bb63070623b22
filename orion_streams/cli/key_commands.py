"""The commands of `orion key` with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from orion_streams.cli.options import AsJson, ConfigFile, do, examples_of

key_commands = typer.Typer(
    no_args_is_help=True, help="Keys for programs that ask the gateway from another machine."
)
EXAMPLES = examples_of("key add anna", "key add chat --for open-webui", "key list", "key rm anna")
WORK = "orion_streams.cli.key_command"
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits, - and _.")]


@key_commands.command(
    epilog=examples_of(
        "key add anna", "key add chat --for open-webui", "key add house --for home-assistant --priority 5",
        "key add wall --view-only --sees-all --json",
    )
)  # fmt: skip
def add(
    name: KeyName,
    priority: Annotated[
        int | None, typer.Option(min=-9, max=9, help="Of its requests, and the most they may ask for.")
    ] = None,
    view_only: Annotated[
        bool, typer.Option("--view-only", help="For listings and the state only.")
    ] = False,
    sees_all: Annotated[
        bool, typer.Option("--sees-all", help="It is told the ids of all clients' requests.")
    ] = False,
    form: Annotated[
        str, typer.Option("--for", metavar="PROGRAM", help="open-webui or home-assistant: what to enter.")
    ] = "none",
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> int:
    """Make a key, and print it once, with the URL: the running gateway takes it within a second. It is a
    client of the grid of its own, key-NAME; limits stand in [clients.key-NAME] if you give it any."""
    if form not in ("open-webui", "home-assistant", "none"):
        raise typer.BadParameter("--for: expected open-webui or home-assistant")
    return do(
        WORK,
        action="add",
        name=name,
        priority=priority,
        view_only=view_only,
        sees_all=sees_all,
        form=form,
        as_json=as_json,
        config_path=config,
    )


@key_commands.command("list", epilog=examples_of("key list", "key list --json"))
def show(as_json: AsJson = False, config: ConfigFile = None) -> int:
    """The keys there are: names, clients, rights. What was printed once is not known any more."""
    return do(WORK, action="list", as_json=as_json, config_path=config)


@key_commands.command("rm", epilog=examples_of("key rm anna"))
def remove(name: KeyName, as_json: AsJson = False, config: ConfigFile = None) -> int:
    """Remove a key: the running gateway refuses it within a second."""
    return do(WORK, action="rm", name=name, as_json=as_json, config_path=config)
