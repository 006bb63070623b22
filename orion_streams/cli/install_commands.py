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
        typer.Option(metavar="NAME", help="Who may ask; may come again. Default: brain."),
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


Root = Annotated[str, typer.Option("--root", hidden=True, help="A folder that stands for the machine.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print each file and command, and change nothing.")]


@install_commands.command(
    "install",
    epilog=examples_of(
        "install --role server,router,agent,gateway",
        "install --role agent --redis redis://orion-master:6379/0 --dry-run",
        "install --role server --listen 192.168.1.10 --tls server.pem server.key ca.pem",
        "install --role agent --node orion-worker --from /media/usb/bundle",
    ),
)
def install(
    role: Annotated[
        str,
        typer.Option("--role", metavar="LIST", help="Of server, router, agent, gateway, alerts."),
    ],
    node: Annotated[
        str | None, typer.Option(metavar="NAME", help="The agent's node. Default: the host name.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(metavar="URL", help="The house's server. Default: the one installed here.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="streams.toml to install. Default: the installed one, ./streams.toml, a starter.",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Of the server. Default: that in the LAN."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of the server. Default: 6379.")
    ] = None,
    tls: Annotated[
        tuple[str, str, str] | None,
        typer.Option(metavar="CERT KEY CA", help="The server speaks TLS only, with these files."),
    ] = None,
    ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="Who signed the server's certificate, for the roles.")
    ] = None,
    valkey: Annotated[
        str | None, typer.Option(metavar="PATH", help="The server's program. Default: ours, else Debian's.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="PATH", help="A wheel, a checkout, or a folder of wheels."),
    ] = None,
    ollama: Annotated[
        str | None, typer.Option(metavar="URL", help="Where Ollama is, for a starter.")
    ] = None,
    dry_run: DryRun = False,
    root: Root = "",
    as_json: AsJson = False,
) -> int:
    """Set this machine's roles up as services of systemd; a second time it changes nothing.

    Users, folders, credentials and units are made, the program is installed into /opt/orion/venv."""
    from orion_streams.cli.install.install_command import InstallOptions  # noqa: PLC0415 - with psutil

    options = InstallOptions(
        role, node, redis, config, listen, port, tls, ca, valkey, source, ollama, dry_run, root
    )
    return do("orion_streams.cli.install.install_command", options=options, as_json=as_json)


@install_commands.command("uninstall", epilog=examples_of("uninstall --dry-run", "uninstall --purge"))
def uninstall(
    purge: Annotated[
        bool, typer.Option("--purge", help="Also configuration, passwords, keys and the server's data.")
    ] = False,
    dry_run: DryRun = False,
    root: Root = "",
    as_json: AsJson = False,
) -> int:
    """Stop and remove the services of this machine; configuration and data stay."""
    return do(
        "orion_streams.cli.install.uninstall_command", purge=purge, dry=dry_run, root=root, as_json=as_json
    )


@install_commands.command(
    "invite",
    epilog=examples_of(
        "invite orion-worker",
        "invite orion-worker --ram-mb 16384 --for 10m --no-wait",
        "invite orion-edge --no-inference",
        "invite orion-worker --again",
    ),
)
def invite(
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its name in the house.")],
    term: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long the invitation counts.")
    ] = "1h",
    ram_mb: Annotated[
        int | None,
        typer.Option("--ram-mb", metavar="MB", min=1, help="Memory of a new node. Default: 8192."),
    ] = None,
    inference: Annotated[
        bool | None,
        typer.Option("--inference/--no-inference", help="Whether a new node answers. Default: it does."),
    ] = None,
    ollama: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Of a new node's Ollama. Default: on its own loopback."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Though the node is here: for a machine that takes its place.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the line, and do not wait.")] = False,
    redis: Annotated[
        str | None,
        typer.Option(
            "--redis", metavar="URL", help="Who may set users, on a server that was not installed here."
        ),
    ] = None,
    root: Root = "",
    as_json: AsJson = False,
) -> int:
    """Print one line that makes another machine a node, and wait for what it reports.

    The line works once; it is a secret until then. With --json one line for the invitation, one for the
    node."""
    from orion_streams.cli.install.invite_command import InviteOptions  # noqa: PLC0415 - with rich

    options = InviteOptions(node, term, ram_mb, inference, ollama, again, not no_wait, redis, root)
    return do("orion_streams.cli.install.invite_command", options=options, as_json=as_json)


@install_commands.command(
    "join", epilog=examples_of("join", "join --dry-run", "join --from /media/usb/bundle")
)
def join(
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="PATH", help="A wheel, a checkout, or a folder of wheels."),
    ] = None,
    dry_run: DryRun = False,
    root: Root = "",
    as_json: AsJson = False,
) -> int:
    """Make this machine a node of a house: asks for the code that `orion invite` printed there, or reads
    it from stdin."""
    from orion_streams.cli.install.join_command import JoinOptions  # noqa: PLC0415 - with httpx and psutil

    options = JoinOptions(source, dry_run, root)
    return do("orion_streams.cli.install.join_command", options=options, as_json=as_json)


@install_commands.command("status", epilog=examples_of("status", "status --json"))
def status(root: Root = "", as_json: AsJson = False) -> int:
    """The services of this machine: whether they run, and what they say; exit 3 if one does not."""
    return do("orion_streams.cli.install.status_command", root=root, as_json=as_json)
