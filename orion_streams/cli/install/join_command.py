"""`orion join`: make this machine a node of a house, by the code of its invitation."""

from __future__ import annotations

import asyncio
import getpass
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, structs
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orion_streams import config as configuration
from orion_streams.cli.install import install_command, open_secrets, venv
from orion_streams.cli.install import machine as machines
from orion_streams.cli.install.apply import Target, locked
from orion_streams.cli.install.install_command import InstallOptions, check_machine
from orion_streams.cli.install.invitation import (
    MAX_CODE,
    Invitation,
    Ticket,
    accepted,
    clock,
    decode,
    ready_line,
)
from orion_streams.cli.install.machine import Machine
from orion_streams.cli.install.plan import PASSWORDS, TLS, UNITS, File, Folder
from orion_streams.cli.install.starter import NodeWish, Wishes, starter, told
from orion_streams.cli.install.status_command import row_of
from orion_streams.cli.outcome import tell, write, write_json
from orion_streams.config import INSTALLED_TOML
from orion_streams.environment import command
from orion_streams.errors import BackendError, ConfigError, OrionError
from orion_streams.model import server_urls
from orion_streams.runtime import acl
from orion_streams.runtime.connection import connect, is_untrusted, not_answering

START_S, LOOK_S, WORKING = 60.0, 0.5, "working"
REACH_S = 5.0


class JoinOptions(Struct, frozen=True):
    """The flags. `root`: a folder that stands for the machine."""

    source: str | None = None
    dry: bool = False
    root: str = ""


class JoinedHere(Struct, frozen=True):
    """What this machine is now. `line`: in words, as the house says it, too."""

    node: str
    redis: str
    found: Machine
    line: str


class OverError(ConfigError):
    """The invitation counts no more."""


def run(*, options: JoinOptions, as_json: bool) -> int:
    """Check all that can be checked, take what waits, and install the agent. Raises ConfigError,
    BackendError, OrionError."""
    say = tell if as_json else write
    target = Target(options.root, options.dry, say)
    check_machine(target, "join")
    code = read_code()
    ticket = decode(code)
    try:
        found = check_here(ticket, target)
        for line in told(found):
            say(line)
        ask(ticket, "PING")
        target.begin(("orion-agent.service",))
        with locked(target):
            fresh = venv.install(target, options.source)  # may fail, so before the code is used
        if fresh and not options.dry:
            venv.go_on(code)  # not later: by then the code is used up
        invitation = stand_in(ticket, found) if options.dry else take(ticket)
    except OverError as error:
        if is_here(ticket, target):
            again = f"sudo {command()} install --role agent --node {ticket.node}"
            what = f"if it was used here, {again} goes on by what it has brought"
            raise OverError(f"{error}; {what}; if it was not, somebody else used it") from None
        raise
    except OrionError as error:
        raise type(error)(f"{error} (the code counts still: paste the line again then)") from error
    put(invitation, ticket, target)
    words = InstallOptions("agent", invitation.node, source=options.source)
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as toml:
            if options.dry:  # nothing was written, so it is nowhere else
                toml.write(invitation.toml)
                toml.flush()
                words = structs.replace(words, config=toml.name)
            install_command.set_up(words, target, found)
    except ConfigError as error:
        again = f"sudo {command()} install --role agent --node {invitation.node}"
        raise ConfigError(f"{error} (what the invitation brought is here, so then: {again})") from error
    finish(ticket, found, target, as_json)
    return 0


def read_code() -> str:
    """Return the code from stdin, asked for at a terminal: a command line would be seen by everybody here.
    Raises ConfigError without any."""
    try:
        text = (
            getpass.getpass("code of the invitation: ")
            if sys.stdin.isatty()
            else sys.stdin.read(MAX_CODE * 2)
        )
    except (EOFError, UnicodeDecodeError):
        text = ""
    words = text.replace("|", " ").split()
    return next((word for word in words if word.startswith("orion")), "".join(words))


def check_here(ticket: Ticket, target: Target) -> Machine:
    """Look at this machine. Raises ConfigError for what a node needs and is not here."""
    for name in ("orion-server", "orion-router"):
        if target.path(f"{UNITS}/{name}.service").exists():
            raise ConfigError(f"{name} is installed here: the line is for another machine, {ticket.node}")
    venv.base_python()
    found = machines.look(ticket.ollama or machines.OLLAMA)
    if ticket.ollama and found.ollama.fault:
        raise ConfigError(
            f"Ollama is not here, {found.ollama.fault} at {ticket.ollama}: install it "
            "(ollama.com/download), or start it: sudo systemctl start ollama"
        )
    return found


def take(ticket: Ticket) -> Invitation:
    """Take the invitation: it is gone then. Raises ConfigError, BackendError."""
    raw = ask(ticket, "GETDEL", ticket.key)
    if raw is None:
        raise OverError(is_over(ticket))
    return accepted(raw, ticket)


def ask(ticket: Ticket, *words: str) -> Any:
    """Ask the house's server as the one-time user. Raises BackendError if it is not reached from here,
    ConfigError if it refuses."""
    return asyncio.run(asked(ticket, words))


async def asked(ticket: Ticket, words: Sequence[str]) -> Any:
    """Ask it in an event loop."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as ca:
        ca.write(ticket.ca)
        ca.flush()
        url = server_urls.with_user(ticket.url, ticket.user)
        url = server_urls.with_password(url, ticket.password)
        redis: Any = connect(server_urls.with_tls(url, ca.name if ticket.ca else "", "", ""), REACH_S)
        try:
            return await redis.execute_command(*words)
        except AuthenticationError:
            raise OverError(is_over(ticket)) from None
        except (RedisConnectionError, RedisTimeoutError) as error:
            if is_untrusted(error):
                raise ConfigError(f"{ticket.url}: {not_answering(error)}") from None
            raise BackendError(
                f"{ticket.url} is not reached from {socket.gethostname()} ({not_answering(error)}): both "
                "have to be in one network, and the house's server has to run"
            ) from None
        except RedisError as error:
            raise ConfigError(f"{ticket.url} refuses: {not_answering(error)}") from None
        finally:
            await redis.aclose()


def is_here(ticket: Ticket, target: Target) -> bool:
    """Whether an invitation for this node was taken on this machine: the line was pasted twice, or what it
    had begun broke off."""
    try:
        config = configuration.parse(target.read(str(INSTALLED_TOML)))
    except ConfigError:
        return False
    if ticket.node not in config.nodes:
        return False
    held = acl.agent(config, ticket.node).name
    return target.path(f"{PASSWORDS}/{held}").is_file()


def is_over(ticket: Ticket) -> str:
    """Say that an invitation counts no more."""
    return (
        "this invitation was used already, or has expired (it works once, until "
        f"{clock(ticket.until_ms)}): on the machine of the house's server, "
        f"orion invite {ticket.node} makes another"
    )


def stand_in(ticket: Ticket, found: Machine) -> Invitation:
    """Return what stands for an invitation with --dry-run, which must not use it up."""
    tell("orion: --dry-run takes nothing: the streams.toml shown stands for the house's own")
    node = NodeWish(ticket.node, found.ram_mb, True, ticket.ollama or machines.OLLAMA)
    toml = starter(Wishes((node,), redis_url=ticket.url))
    return Invitation(ticket.node, "", toml)


def put(invitation: Invitation, ticket: Ticket, target: Target) -> None:
    """Write what the invitation brought, before anything else can fail. Raises ConfigError, and writes
    nothing, for a streams.toml that is not good."""
    config = configuration.parse(invitation.toml, f"the house's {INSTALLED_TOML}")
    open_secrets.check(config)
    held = f"{PASSWORDS}/{acl.agent(config, invitation.node).name}"
    with locked(target):
        target.folder(Folder(PASSWORDS, 0o700))
        target.file(File(held, invitation.password, 0o600, secret=True))
        if ticket.ca:
            target.folder(Folder(TLS, 0o755))
            target.file(File(f"{TLS}/ca.pem", ticket.ca))
        before = target.read(str(INSTALLED_TOML))
        if before not in ("", invitation.toml):
            target.file(File(f"{INSTALLED_TOML}.before", before))
        target.file(File(str(INSTALLED_TOML), invitation.toml))


def finish(ticket: Ticket, found: Machine, target: Target, as_json: bool) -> None:
    """Wait until the agent works, and say what this machine is. Raises OrionError if it does not."""
    if target.dry:
        write("\nThat is what would be done; nothing was changed, and the invitation counts still.")
        return
    state = "installed"
    if target.is_machine:
        if not works():
            raise OrionError("the agent is installed, but does not work yet: journalctl -u orion-agent")
        state = "ready"
    models = len(found.ollama.models) if ticket.ollama else None
    line = ready_line(ticket.node, state, models, found.temp_mc, found.sensor)
    if as_json:
        write_json(JoinedHere(ticket.node, ticket.url, found, line))
    else:
        write(f"\n{line}")


def works() -> bool:
    """Whether the agent's service runs within START_S seconds, and says that it works."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        row = row_of("orion-agent.service", True)
        if row.state == "active" and row.said == WORKING:
            return True
        time.sleep(LOOK_S)
    return False
