"""A server of the test's own on which every role has its user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orion_streams.config import Config, parse
from orion_streams.runtime import acl
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.conftest import STREAMS_TOML
from tests.needs import REDIS_SERVER

ADMIN = ADMIN_PASSWORD = "admin"
ADMIN_RULES = ("reset", "on", f">{ADMIN_PASSWORD}", "~*", "&*", "+@all")


def binary(kind: str) -> Path | None:
    """The server's program; None is the embedded Valkey."""
    return Path(str(REDIS_SERVER)) if kind == "redis" else None


def the_config() -> Config:
    """The repository's own streams.toml."""
    return parse(STREAMS_TOML.read_text(encoding="utf-8"), str(STREAMS_TOML))


def log_in(server: EmbeddedServer, name: str, password: str) -> Any:
    """A client as that user, which gives up at once."""
    return redis.Redis(
        port=server.port,
        username=name,
        password=password,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
    )


class Guarded:
    """Users on a real server. Passwords are the users' names: here they keep nobody away."""

    def __init__(self, server: EmbeddedServer, config: Config) -> None:
        self.server, self.config = server, config
        self.users = {user.name: user for user in acl.users(config)}
        self._clients: list[Any] = []
        self.admin = self.login("default", "")
        self.admin.execute_command("ACL", "SETUSER", ADMIN, *ADMIN_RULES)

    def login(self, name: str, password: str | None = None) -> Any:
        """A client as that user, whose answers stay as the server gives them."""
        client = log_in(self.server, name, name if password is None else password)
        client.response_callbacks.clear()
        self._clients.append(client)
        return client

    def url(self, name: str) -> str:
        """Where that user connects to."""
        return f"redis://{name}:{name}@127.0.0.1:{self.server.port}/0"

    def set(self, users: Iterable[acl.User]) -> None:
        """Give the server these users."""
        for user in users:
            rules = user.rules(acl.hashed(user.name))
            assert self.admin.execute_command("ACL", "SETUSER", user.name, *rules) == b"OK"

    def close(self) -> None:
        """Let go of it."""
        for client in self._clients:
            client.close()


@contextlib.contextmanager
def guarded(kind: str, folder: Path) -> Iterator[Guarded]:
    """A server with all users of the repository's streams.toml."""
    with EmbeddedServer(folder, binary=binary(kind)) as server:
        held = Guarded(server, the_config())
        with contextlib.closing(held):
            held.set(held.users.values())
            yield held
