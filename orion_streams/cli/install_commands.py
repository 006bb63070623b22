"""The commands that set a machine up, with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from orion_streams.cli.options import AsJson, do, examples_of

install_commands = typer.Typer()


@install_commands.command(
    "init",
    epilog=examples_of(
        "init",
        "init --yes --redis redis://orion-master:6379/0",
        "init --node orion-worker=8192 --node orion-edge=4096",
        "init --file /etc/orion/streams.toml --json",
    ),
)
def init(
    file: Annotated[str, typer.Option("--file", metavar="FILE", help="What to write.")] = "streams.toml",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this machine. Default: its host name.")
    ] = None,
    ollama: Annotated[
        str | None, typer.Option(metavar="URL", help="Of its Ollama. Default: on its own loopback.")
    ] = None,
    inference: Annotated[
        bool | None,
        typer.Option("--inference/--no-inference", help="Whether it answers. Default: if Ollama is here."),
    ] = None,
    redis: Annotated[
        str | None, typer.Option(metavar="URL", help="The house's Redis or Valkey. Default: none.")
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MB", help="Another machine and its memory; may come again."),
    ] = None,
    client: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Who may ask; may come again. Default: brain, gateway, cli."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask no questions.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> int:
    """Write a starter streams.toml: looks for Ollama, models, sensor and memory, and says what it found.

    At a terminal it asks for what no flag says."""
    from orion_streams.cli.install.init_command import InitOptions  # noqa: PLC0415 - with httpx and psutil

    options = InitOptions(
        file, name, ollama, inference, redis, tuple(node or ()), tuple(client or ()), yes, force
    )
    return do("orion_streams.cli.install.init_command", options=options, as_json=as_json)
