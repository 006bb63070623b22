"""The grid's public row, a hash that clients may read: who is read, and when a router last looked.

It is a hint and no part of the contract: nothing is decided by it, and without it everything works.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

SILENT_MS = 10_000
"""A router that has not looked for so long is silent."""
GATEWAY_SERVER = "orion-gateway"
"""How a gateway calls itself in the header `Server`, so that no agent takes it for an Ollama."""


class PublicRow(Struct, frozen=True):
    """Names of the clients that are read, the revision in force, and when a router last looked, by the
    server's clock."""

    clients: tuple[str, ...]
    revision: int
    looked_ms: int

    def fields(self) -> dict[str, str]:
        """Return the row as the hash holds it."""
        return {
            "clients": " ".join(self.clients),
            "revision": str(self.revision),
            "looked_ms": str(self.looked_ms),
        }


def read_row(fields: Mapping[bytes, bytes]) -> PublicRow | None:
    """Return the row that a hash holds; None if there is none, or nobody can read it."""
    try:
        clients = tuple(fields[b"clients"].decode().split())
        return PublicRow(clients, int(fields[b"revision"]), int(fields[b"looked_ms"]))
    except (KeyError, ValueError):
        return None
