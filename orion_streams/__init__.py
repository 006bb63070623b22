"""Three Raspberry Pis with Ollama that feel like one inference endpoint: what a client of the grid needs.

A name's module is imported when the name is first used, so `import orion_streams` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orion_streams.client.blocking_client import Client
    from orion_streams.client.calls import (
        RequestCancelledError,
        RequestError,
        RequestExpiredError,
        RequestFailedError,
        RequestRejectedError,
        RequestTimeoutError,
    )
    from orion_streams.client.streams_client import AsyncClient
    from orion_streams.errors import BackendError, OrionError
    from orion_streams.protocol.answer_events import Accepted, Answer, Piece, Restarted

__all__ = [
    "Accepted",
    "Answer",
    "AsyncClient",
    "BackendError",
    "Client",
    "OrionError",
    "Piece",
    "RequestCancelledError",
    "RequestError",
    "RequestExpiredError",
    "RequestFailedError",
    "RequestRejectedError",
    "RequestTimeoutError",
    "Restarted",
]

_HOMES = {
    "AsyncClient": "client.streams_client",
    "Client": "client.blocking_client",
    "BackendError": "errors",
    "OrionError": "errors",
    **dict.fromkeys(("Accepted", "Answer", "Piece", "Restarted"), "protocol.answer_events"),
}


def __getattr__(name: str) -> Any:
    """Import the module of a public name. Raises AttributeError for any other name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'client.calls')}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
