"""What waits in a grid, and what becomes of it in one round."""

from __future__ import annotations

from typing import Any

from orion_streams.decider.decide import decide
from orion_streams.decider.queue import Queue, placements
from orion_streams.model import events as ev
from orion_streams.model.policy import Policy
from orion_streams.model.state import Node, Request, Resident
from tests.grids import MODEL, POLICY, grid, under

HERE = {MODEL: Resident("a", 470, 4_096)}


def answers(
    *rows: Node, opened: dict[str, Request], policy: Policy = POLICY, **values: Any
) -> list[ev.AnyEvent]:
    """What becomes of the waiting requests in one round."""
    return list(decide(under(grid(*rows, open_requests=opened, **values), policy), (placements,)))


def keys(found: list[ev.AnyEvent], kind: Any = ev.RequestRouted) -> list[str]:
    """The requests of one kind of answer, in order."""
    rows: list[Any] = [each for each in found if isinstance(each, kind)]
    return [each.request for each in rows]


def queue_of(*rows: Node, policy: Policy = POLICY, **values: Any) -> Queue:
    """A queue on these nodes."""
    return Queue(under(grid(*rows, **values), policy))
