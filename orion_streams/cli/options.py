"""What commands share: options, examples, and how they are run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from importlib import import_module
from typing import Annotated, TypeVar

import typer
from msgspec import Struct

from orion_streams.cli.checkout import checkout
from orion_streams.cli.outcome import outcome
from orion_streams.environment import command
from orion_streams.errors import EXIT_OK

RedisUrl = Annotated[
    str | None, typer.Option("--redis", metavar="URL", help="Redis of the grid. Default: the one here.")
]
ConfigFile = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="streams.toml to use. Default: ./streams.toml."),
]
FromFile = Annotated[
    str | None,
    typer.Option("--file", metavar="FILE", help="An exported log or an archive's folder instead of Redis."),
]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="MOMENT", help="As it was: a position (1234) or a time (14:05:30)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Data on stdout, in one line.")]


Given = TypeVar("Given", str | None, list[str] | None)


def filled(given: Given) -> Given:
    """Return the names that were given. Raises BadParameter for an empty one."""
    for name in [given] if isinstance(given, str) else given or []:
        if not name.strip():
            raise typer.BadParameter("it is empty: expected a name")
    return given


class CommonOptions(Struct, frozen=True):
    """The options that nearly every command has: --json, --redis and --config."""

    as_json: bool
    redis_url: str | None
    config_path: str | None


class Wishes(Struct, frozen=True):
    """The options that ask a model has, once or in a conversation. `options`: texts NAME=VALUE; `form`:
    "json", or the path of a schema."""

    model: str | None
    system: str | None
    session: str | None
    tier: int
    priority: int
    client: str | None
    options: tuple[str, ...]
    form: str | None
    think: bool | None
    timeout_s: float


class Filters(Struct, frozen=True):
    """What `orion log` shows; an empty filter lets everything through. `samples`: None stands for the
    default."""

    events: Sequence[str] = ()
    nodes: Sequence[str] = ()
    requests: Sequence[str] = ()
    models: Sequence[str] = ()
    samples: bool | None = None


def do(module: str, **options: object) -> int:
    """Import `module`, call its `run`, on an event loop if it is a coroutine, and return the exit code."""

    def work() -> int:
        answer = import_module(module).run(**options)
        if isinstance(answer, Coroutine):
            answer = asyncio.run(answer)
        sys.stdout.flush()
        return int(answer or EXIT_OK)

    return outcome(work)


def do_in_checkout(command: str, module: str, **options: object) -> int:
    """Run a module of the tests, as `do` does; only a git checkout has them."""

    def work() -> int:
        sys.path.insert(0, str(checkout(command)))
        return EXIT_OK

    return outcome(work) or do(module, **options)


def examples_of(*examples: str) -> str:
    """Format the examples at the end of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  {command()} {each}" for each in examples)])
