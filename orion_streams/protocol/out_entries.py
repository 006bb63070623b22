"""An entry of `work:*` or `replies:*` that an event causes. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from orion_streams.model.commit import Body
from orion_streams.protocol import agent_entries


class Out(Struct, frozen=True):
    """An entry to be written. `stamp` is the field of the causing event that gets the entry's id."""

    stream: str
    fields: dict[str, Any]
    stamp: str = ""
    body: Body | None = None
    bytes: int = 0


def split(request: str) -> tuple[str, str]:
    """Split a request's key into client and id."""
    client, _, request_id = request.partition("/")
    return client, request_id


def cancel_run(node: str, request: str, attempt: int, work_id: str) -> Out:
    """Return a cancel entry for the node's agent."""
    head = agent_entries.WorkHead("cancel", request, attempt, work_id=work_id)
    return Out(f"work:{node}", {"head": agent_entries.encode_head(head)})
