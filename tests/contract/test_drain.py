"""Operators let nodes rest: the entries, what is refused, and a real grid in which work moves."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from orion_streams import AsyncClient, RequestRejectedError
from orion_streams.model import events as ev
from orion_streams.model.policy import ClientRules
from orion_streams.model.state import Grid, Node, Rest
from orion_streams.projections import evolve
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry, Taken
from orion_streams.protocol.rest_entries import MAX_REST_MS
from tests.contract.contract_grid import MODEL, running, silence
from tests.contract.contract_grid import Grid as Running
from tests.grids import AT_MS, LIMITS, edge, grid, node
from tests.helpers import eventually

HOUSE = """
[clients.house]
operator = true
"""


def sent(some: Grid, client: str = "house", **fields: str) -> Taken:
    """What an operator's entry comes to."""
    raw = {name.encode(): value.encode() for name, value in {"id": "x", **fields}.items()}
    return take(some, Entry("requests", client, "5-0", raw), **LIMITS)


def two(*nodes: Node) -> Grid:
    """A grid with an operator, the node `a`, and others."""
    rules = {"house": ClientRules(operator=True), "brain": ClientRules()}
    return grid(node("a"), edge(), *(nodes or (node("b"),)), clients=rules)


def refusal(taken: Taken) -> str:
    """Why an entry was refused; "" if it was not."""
    [event] = taken.events
    return f"{event.code}: {taken.message}" if isinstance(event, ev.InputRejected) else ""


def test_an_operator_drains_and_resumes() -> None:
    """With the time it asked for, and the grid's own for what runs; again it begins anew."""
    [drained] = sent(two(), drain="a", for_ms="7200000").events
    assert drained == ev.NodeDrained("a", "house", 7_200_000, 20_000)
    some = evolve(two(), drained)
    assert some.nodes["a"].rest == Rest("house", AT_MS, 7_200_000, 20_000)
    assert sent(some, drain="a").events == (ev.NodeDrained("a", "house", 0, 20_000),)
    [resumed] = sent(some, resume="a").events
    assert resumed == ev.NodeResumed("a", "house")
    assert evolve(some, resumed).nodes["a"].rest is None
    assert evolve(two(), resumed).nodes == two().nodes


@pytest.mark.parametrize(
    ("client", "fields", "why"),
    [
        ("house", {"drain": "a"}, ""),
        ("brain", {"drain": "a"}, "not_allowed: clients.brain: Only an operator"),
        ("brain", {"resume": "a"}, "not_allowed: clients.brain: Only an operator"),
        (
            "house",
            {"drain": "nobody"},
            "unknown_node: No node is called 'nobody'. Those that answer: a, b.",
        ),
        ("house", {"drain": ""}, "unknown_node: No node is named. Those that answer: a, b."),
        ("house", {"drain": "x" * 70 + "\n"}, f"unknown_node: No node is called '{'x' * 60}'."),
        ("house", {"drain": "\x1b[2Jé"}, "unknown_node: No node is called '\\x1b[2J\\xe9'."),
        ("house", {"resume": "nobody"}, "unknown_node: "),
        (
            "house",
            {"drain": "orion-edge"},
            "unknown_node: orion-edge is the robot, which answers no requests. Those that answer: a, b.",
        ),
        ("house", {"drain": "a", "for_ms": "2h"}, "bad_field: for_ms: expected an integer, 0 to"),
        ("house", {"drain": "a", "for_ms": "-1"}, "bad_field: for_ms"),
        ("house", {"drain": "a", "for_ms": "²"}, "bad_field: for_ms"),
        ("house", {"drain": "a", "for_ms": str(MAX_REST_MS)}, ""),
        (
            "house",
            {"drain": "a", "for_ms": str(MAX_REST_MS + 1)},
            "bad_field: for_ms: expected an integer, 0 to 2592000000 (30 days)",
        ),
        ("house", {"drain": "a", "for_ms": "9" * 5_000}, "bad_field: for_ms"),
    ],
)
def test_what_is_refused(client: str, fields: dict[str, str], why: str) -> None:
    """Each with one sentence, and nothing happens. The controls: what is not."""
    taken = sent(two(), client, **fields)
    assert refusal(taken).startswith(why)
    assert bool(why) == isinstance(taken.events[0], ev.InputRejected)


QUIET = replace(node("b"), rules=replace(node("b").rules, quiet="00:00-23:59"))


@pytest.mark.parametrize(
    ("other", "is_last"),
    [
        (node("b"), False),
        (node("b", temp_mc=80_000), False),
        (node("b", opened_ms=AT_MS, open_ms=9_000), False),
        (node("b", heard_ms=None), True),
        (node("b", heard_ms=AT_MS - 9_000), True),
        (node("b", leaving=True), True),
        (node("b", leaving=True, left=True), True),
        (node("b", rest=Rest("house", AT_MS)), True),
        (QUIET, True),
        (node("b", inference=False), True),
        (edge(), True),
    ],
)
def test_the_last_node_that_answers_needs_a_word(other: Node, is_last: bool) -> None:
    """One that only cools down, or whose breaker is open, is back in a moment; one that rests is not."""
    some = two(other)
    assert refusal(sent(some, drain="a")).startswith("last_node: No other node answers") == is_last
    for yes in ("1", "true"):
        assert refusal(sent(some, drain="a", last=yes)) == ""
    assert refusal(sent(some, drain="a", last="0")).startswith("last_node") == is_last
    assert refusal(sent(some, resume="a")) == ""


def attempts(some: Running, request: str) -> list[str]:
    """The nodes that were given a request, in order."""
    runs = sorted(some.runs, key=lambda run: run.head.attempt)
    return [run.agent.name for run in runs if run.head.request == request]


async def test_a_real_grid_moves_what_a_drained_node_has(valkey_url: str, prefix: str) -> None:
    """What runs there moves once its time is over; what is asked then goes elsewhere, and after the resume
    the node takes requests again. Nothing of it counts as a failure."""
    async with (
        running(valkey_url, prefix, silence, HOUSE + "[limits]\ndrain_ms = 0\n") as some,
        AsyncClient(valkey_url, "house", prefix=prefix) as operator,
        AsyncClient(valkey_url, "brain", prefix=prefix) as guest,
    ):
        await some.ask("q1")

        async def runs() -> bool:
            return len(attempts(some, "brain/q1")) == 1

        await eventually(runs, "a run")
        [first] = attempts(some, "brain/q1")
        other = "two" if first == "one" else "one"
        for refused in (guest.drain(first), guest.resume(first)):
            with pytest.raises(RequestRejectedError, match="not_allowed"):
                await refused
        with pytest.raises(RequestRejectedError, match="unknown_node"):
            await operator.drain("nobody")
        await operator.drain(first)

        async def moved() -> bool:
            return attempts(some, "brain/q1") == [first, other]

        await eventually(moved, "the move")
        before = next(run for run in some.runs if run.agent.name == first)
        await asyncio.wait_for(before.cancelled.wait(), 60)
        with pytest.raises(RequestRejectedError, match="last_node"):
            await operator.drain(other)
        await operator.resume(first)
        await operator.drain(other, 3_600_000)

        async def back() -> bool:
            return attempts(some, "brain/q1") == [first, other, first]

        await eventually(back, "the move back")
        request = some.router.state.grid.open["brain/q1"]
        assert [each.code for each in request.failures] == ["drained", "drained"]
        told = [each for each in await some.events() if isinstance(each, ev.NodeDrained | ev.NodeResumed)]
        assert [(type(each), each.node, each.by) for each in told] == [
            (ev.NodeDrained, first, "house"),
            (ev.NodeResumed, first, "house"),
            (ev.NodeDrained, other, "house"),
        ]
        assert all(each.reply_id for each in told)
        assert not any(row.suspects for row in some.router.state.grid.nodes.values())


async def test_by_hand(valkey_url: str, prefix: str) -> None:
    """As the document writes it: one entry, one reply."""
    async with running(valkey_url, prefix, silence, HOUSE) as some:

        async def heard() -> bool:
            nodes = some.router.state.grid.nodes
            return len(nodes) == 3 and all(nodes[name].inventory_known for name in ("one", "two"))

        await eventually(heard, "health")
        key = f"{prefix}requests:house"
        await some.redis.xadd(key, {"id": "x1", "drain": "one", "for_ms": "7200000"})
        await some.redis.xadd(key, {"id": "x2", "resume": "one"})

        async def replies() -> list[tuple[bytes, bytes]]:
            rows = await some.redis.xrange(f"{prefix}replies:house")
            found = [(fields[b"id"], fields[b"kind"]) for _, fields in rows]
            return found if len(found) == 2 else []

        assert await eventually(replies, "both replies") == [(b"x1", b"noted"), (b"x2", b"noted")]
        assert MODEL in some.router.state.grid.nodes["one"].installed
