"""Three Raspberry Pis with Ollama that feel like one inference endpoint.

What the Brain needs is here: see `orion_streams.client`. To import this package alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orion_streams.asking import (
        Answer,
        Piece,
        RequestCancelled,
        RequestError,
        RequestExpired,
        RequestFailed,
        RequestRejected,
        RequestTimeout,
        Restarted,
    )
    from orion_streams.client import AsyncClient, Client
    from orion_streams.errors import BackendError, OrionError

__all__ = [
    "Answer",
    "AsyncClient",
    "BackendError",
    "Client",
    "OrionError",
    "Piece",
    "RequestCancelled",
    "RequestError",
    "RequestExpired",
    "RequestFailed",
    "RequestRejected",
    "RequestTimeout",
    "Restarted",
]

_HOMES = {"AsyncClient": "client", "Client": "client", "BackendError": "errors", "OrionError": "errors"}


def __getattr__(name: str) -> Any:
    """Load a name's module when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'asking')}"), name)
