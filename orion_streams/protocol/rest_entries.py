"""Entries of operators that let a node rest, and end its rest. Pure.

    XADD orion:requests:owner * id x1 drain orion-worker for_ms 7200000
    XADD orion:requests:owner * id x2 resume orion-worker

Both are answered by one reply, `noted` or `rejected`; either may be sent again.
"""

from __future__ import annotations

from collections.abc import Mapping

from orion_streams.decider.filters import node_filter
from orion_streams.errors import ContractError
from orion_streams.model import events as ev
from orion_streams.model.marks import is_heard
from orion_streams.model.policy import ROBOT
from orion_streams.model.state import Grid, Node
from orion_streams.model.vocabulary import Filter
from orion_streams.protocol.requests_replies import CODES

MAX_REST_MS = 30 * 86_400_000
NAMED = 60
"""Characters of a name that is none, at most."""
AWAY = (Filter.DRAINED, Filter.QUIET, Filter.LEAVING)
"""Filters of a node that does not come back in a moment."""


def take_rest(
    grid: Grid, operator: str, fields: Mapping[str, str], drain_ms: int
) -> tuple[ev.AnyEvent, ...]:
    """Take `drain` or `resume` of an operator. `drain_ms`: what runs has so long to end. Raises
    ContractError unknown_node, last_node, bad_field."""
    name = fields.get("drain", fields.get("resume", ""))
    node = answering_node(grid, name)
    if "drain" not in fields:
        return (ev.NodeResumed(name, by=operator),)
    for_ms = rest_ms(fields.get("for_ms", "0"))
    if fields.get("last", "0") not in ("1", "true") and not others_answer(grid, node):
        raise ContractError("last_node", CODES["last_node"])
    return (ev.NodeDrained(name, operator, for_ms, drain_ms),)


def answering_node(grid: Grid, name: str) -> Node:
    """Return the node of that name, which answers requests. Raises ContractError unknown_node, which says
    what the name is and which nodes there are."""
    node = grid.nodes.get(name)
    if node is not None and node.rules.takes_inference:
        return node
    what = f"No node is called {name[:NAMED]!a}." if name else "No node is named."
    if name == ROBOT:
        what = f"{name} is the robot, which answers no requests."
    elif node is not None:
        what = f"{name} answers no requests: it only reports its health."
    known = ", ".join(each for each, row in sorted(grid.nodes.items()) if row.rules.takes_inference)
    raise ContractError("unknown_node", f"{what} Those that answer: {known or 'none'}."[:300])


def rest_ms(text: str) -> int:
    """Return for how long a node is to rest; 0: until it is resumed. Raises ContractError bad_field."""
    if text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= MAX_REST_MS:
        return int(text)
    raise ContractError("bad_field", f"for_ms: expected an integer, 0 to {MAX_REST_MS} (30 days)")


def others_answer(grid: Grid, node: Node) -> bool:
    """Whether a node answers that would stay: one that is heard, and neither rests nor leaves. What passes
    by itself, such as heat, does not count."""
    return any(
        each is not node and each.rules.takes_inference and is_heard(grid, each) and not is_away(grid, each)
        for each in grid.nodes.values()
    )


def is_away(grid: Grid, node: Node) -> bool:
    """Whether a node takes nothing, and that was meant."""
    found = node_filter(grid, node)
    return found is not None and found.filter in AWAY
