"""`orion init`: write a starter streams.toml for this machine."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, structs

from orion_streams import config as configuration
from orion_streams.cli.install import machine as machines
from orion_streams.cli.install.machine import Machine
from orion_streams.cli.install.starter import CLIENTS, NodeWish, Wishes, starter, told, why_not, wish_of
from orion_streams.cli.outcome import tell, write, write_json
from orion_streams.environment import command
from orion_streams.errors import ConfigError
from orion_streams.model import server_urls
from orion_streams.model.policy import ROBOT

Ask = Callable[[str, str], str]
"""A question and its default answer; returns the answer."""


class InitOptions(Struct, frozen=True):
    """The flags. None: not said, so asked at a terminal, or found."""

    file: str
    name: str | None = None
    ollama: str | None = None
    inference: bool | None = None
    redis: str | None = None
    others: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    yes: bool = False
    force: bool = False


class Written(Struct, frozen=True):
    """What was found, and what was written."""

    file: str
    found: Machine
    nodes: tuple[NodeWish, ...]
    redis_url: str


def run(*, options: InitOptions, as_json: bool) -> int:
    """Look, ask, write and judge. Raises ConfigError if the file exists, or would not be valid."""
    path = Path(options.file)
    if (path.exists() or path.is_symlink()) and not options.force:
        raise ConfigError(f"{path} exists: --force replaces it, --file NAME writes another")
    asks = not options.yes and not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    found = machines.look(options.ollama or machines.OLLAMA)
    say = tell if as_json else write
    for line in told(found):
        say(line)
    wishes = wishes_of(options, found, at_terminal if asks else lambda _, default: default)
    text = judged(starter(wishes), path)
    put(path, text)
    if as_json:
        write_json(Written(str(path), found, wishes.nodes, wishes.redis_url))
    else:
        for line in ending(wishes, path):
            write(line)
    return 0


def at_terminal(question: str, default: str) -> str:
    """Ask a person; an empty answer is the default. Raises ConfigError at the end of the input."""
    try:
        return input(f"{question} [{default}]: ").strip() or default
    except EOFError:
        raise ConfigError("the questions were not answered, nothing is written: --yes asks none") from None


def wishes_of(options: InitOptions, found: Machine, ask: Ask) -> Wishes:
    """Return what to write, by flags, answers and what was found. Raises ConfigError where nobody could
    answer a request."""
    name = options.name or ask("name of this machine in the grid", found.name)
    redis = options.redis
    if redis is None:
        redis = ask("URL of the house's Redis or Valkey (none: a server of this machine alone)", "none")
    redis = "" if redis == "none" else redis
    if server_urls.has_password(redis):
        raise ConfigError("--redis: a password belongs into ORION_REDIS_PASSWORD, or redis.password_file")
    nodes = wish_of(found, name, options.inference), *(other(each) for each in options.others)
    leader = next((node for node in nodes if node.inference), None)
    if leader is None:
        raise ConfigError(
            f"nobody could answer a request: {why_not(found, name)}; or name where Ollama is "
            "(--ollama URL), or say that this machine answers (--inference), or name the one that does "
            "(--node orion-master=16384)"
        )
    led = tuple(structs.replace(node, router=node is leader) for node in nodes)
    return Wishes(led, options.clients or CLIENTS, redis)


def other(words: str) -> NodeWish:
    """Return another machine, as `NAME=MB`, with Ollama on its own loopback. Raises ConfigError."""
    name, _, memory = words.partition("=")
    if not memory.isdigit() or not 0 < int(memory) < 10_000_000:
        raise ConfigError(f"--node {words}: expected NAME=MB, its memory, e.g. orion-worker=8192")
    return NodeWish(name, int(memory), name != ROBOT, machines.OLLAMA)


def judged(text: str, path: Path) -> str:
    """Return the text if it is a good streams.toml. Raises ConfigError that says what is not."""
    for complaint in configuration.complaints_of(configuration.tree_of(text, str(path))):
        raise ConfigError(f"{complaint} (nothing is written)")
    return text


def put(path: Path, text: str) -> None:
    """Write the file whole or not at all; what it replaces stays beside it. Raises ConfigError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.with_name(f"{path.name}.before").write_bytes(path.read_bytes())
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def ending(wishes: Wishes, path: Path) -> tuple[str, ...]:
    """Say what was written, and what to do with it: it is named where it would not be found by itself."""
    is_found = path.resolve() == configuration.chosen_file().resolve()
    file = "" if is_found else f" {shlex.quote(str(path))}"
    given = file and f" --config{file}"
    up, ask, install = (f"{command()} {word}{given}" for word in ("up", "ask", "install"))
    roles = "server,router,agent,gateway"
    return (
        "",
        f"{path} is written; `{command()} check{file}` finds nothing wrong in it.",
        f"Next, on each machine, with this file: {up}, or sudo {install} --role agent"
        if wishes.redis_url
        else f"Next: {up}, and beside it {ask}; or for good: sudo {install} --role {roles}",
    )
