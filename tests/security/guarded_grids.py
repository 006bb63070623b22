"""A grid of real processes in which every role has its own user and `default` is disabled."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from msgspec import structs

from orion_streams.demo.simulated_grid import SimulatedGrid, SimulatedNode, three_nodes, toml_table
from orion_streams.runtime import acl
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import EmbeddedServer
from orion_streams.runtime.supervisor import Child
from tests.security.guarded import ADMIN, ADMIN_RULES, binary, the_config


def quick_nodes() -> tuple[SimulatedNode, ...]:
    """The house's three machines, which answer at once."""
    at_once = {"disk_mb_per_s": 0, "prefill_tokens_per_s": 0, "decode_tokens_per_s": 0, "unload_ms": 0}
    return tuple(
        structs.replace(node, spec=structs.replace(node.spec, **at_once)) for node in three_nodes()
    )


class GuardedGrid(SimulatedGrid):
    """Passwords are the users' names. `redis_url` is the reader's: a test looks at the grid as that."""

    def __init__(self, kind: str, folder: Path, **options: Any) -> None:
        super().__init__(options.pop("nodes", quick_nodes()), folder=folder, **options)
        self._kind = kind

    def url(self, user: str) -> str:
        """Where that user connects to."""
        assert self._server is not None
        return f"redis://{user}:{user}@127.0.0.1:{self._server.port}/0"

    def _toml(self) -> str:
        named = the_config().clients
        tables = (
            toml_table(f"clients.{name}", {"operator": rules.operator}) for name, rules in named.items()
        )
        return super()._toml() + "".join(tables)

    async def as_admin(self, *command: str) -> Any:
        """The answer to a command of the administrator."""
        redis: Any = connect(self.url(ADMIN))
        async with redis:
            return await redis.execute_command(*command)

    async def _start_server(self) -> str:
        self._server = EmbeddedServer(self.folder / "redis", binary=binary(self._kind))
        url = await asyncio.to_thread(self._server.start)
        redis: Any = connect(url)
        await redis.execute_command("ACL", "SETUSER", ADMIN, *ADMIN_RULES)
        for user in acl.users(the_config()):
            await redis.execute_command("ACL", "SETUSER", user.name, *user.rules(acl.hashed(user.name)))
        await redis.execute_command("ACL", "SETUSER", "default", "off")
        await redis.aclose()
        return self.url("orion-reader")

    def _role(self, name: str, *arguments: str, announces: bool = False) -> Child:
        reader = self.redis_url
        self.redis_url = self.url("-".join(("orion", *name.split())))
        try:
            return super()._role(name, *arguments, announces=announces)
        finally:
            self.redis_url = reader
