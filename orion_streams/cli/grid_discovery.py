"""Find the grid of a command: --redis, ORION_REDIS_URL, [redis] url, or the one that runs on this machine.

`orion up` notes the address of its server in a file that only its user can read, and removes it at its end.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from orion_streams import config as configuration
from orion_streams import environment
from orion_streams.config import Config, with_url
from orion_streams.environment import command, user_folder
from orion_streams.errors import BackendError, ConfigError
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import server_urls
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import data_dir, is_alive

NONE_HERE = "no grid is running here: start one with `{} up --simulated` or name one with --redis URL"


class Running(Struct, frozen=True):
    """The note of a running `orion up`."""

    pid: int
    redis_url: str
    config: str
    simulated: bool


def find(redis_url: str | None, config_path: str | None) -> Config:
    """Return the configuration with a Redis URL. Raises ConfigError, BackendError if there is no grid."""
    running = running_here()
    if running is not None and only_the_house_is_meant(redis_url, config_path):
        return with_url(configuration.load(running.config or None), running.redis_url)
    config = configuration.load(config_path, redis_url)
    is_house = only_the_house_is_meant(redis_url, config_path)
    if running is None and not config.redis.url and is_installed(config_path):
        config, is_house = configuration.load(configuration.INSTALLED_TOML), True
    if config.redis.url:
        if is_house:
            check_password(config)
        return config
    if running is None:
        raise BackendError(NONE_HERE.format(command()))
    if config_path is None and running.config:
        config = configuration.load(running.config)
    return with_url(config, running.redis_url)


def check_password(config: Config) -> None:
    """Raise ConfigError on a machine that was invited: it has its agent's password, and no person's."""
    url = config.redis.url
    if (user := server_urls.user_of(url)) and not server_urls.has_password(url):
        place = server_urls.without_user(url).partition("?")[0]
        raise ConfigError(
            f"this machine is a node of the house at {place}, and has its agent's password only: give this "
            f"line on the machine of that server, or put the password of {user} into ORION_REDIS_PASSWORD "
            f"({command()} status says how this node is)"
        )


def only_the_house_is_meant(redis_url: str | None, config_path: str | None) -> bool:
    """Whether nothing names a grid but the streams.toml of the installed services: one that this user
    started here is nearer."""
    named = redis_url or environment.redis_url() or config_path or environment.config_file()
    return not named and configuration.chosen_file() == configuration.INSTALLED_TOML


def is_installed(config_path: str | None) -> bool:
    """Whether the services of this machine have a streams.toml that names a server, and no other was asked
    for: one that names none, as in the folder of `orion init`, stands back."""
    if config_path is not None or environment.config_file() or not configuration.INSTALLED_TOML.exists():
        return False
    return bool(configuration.read(configuration.INSTALLED_TOML).redis.url)


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[RedisLog]:
    """Open the log of the grid for the duration of the block."""
    redis = connect(config.redis.url)
    try:
        yield RedisLog(redis, config.prefix)
    finally:
        await redis.aclose()


def note_path() -> Path:
    """Return the path of the note: in $XDG_RUNTIME_DIR, else in the data folder."""
    return user_folder("XDG_RUNTIME_DIR", data_dir("").parent) / "up.json"


def running_here() -> Running | None:
    """Return the note of the grid that runs on this machine; None if none does."""
    try:
        running = msgspec.json.decode(note_path().read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
    return running if is_alive(str(running.pid)) else None


@contextmanager
def noted(running: Running) -> Iterator[None]:
    """Keep a note of the grid during the block; at its end leave or restore that of another grid."""
    before = running_here()
    path = note_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{running.pid}")
    write_privately(fresh, running)
    fresh.replace(path)
    try:
        yield
    finally:
        if running_here() == running:
            if before is not None and is_alive(str(before.pid)):
                write_privately(path, before)
            else:
                path.unlink(missing_ok=True)


def write_privately(path: Path, running: Running) -> None:
    """Write the note readable by its owner only from the beginning: its URL may hold a password."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(running))
