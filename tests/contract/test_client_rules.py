"""What streams.toml allows each client: how much at a time, at which priority, and who looks after
others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orion_streams import AsyncClient, RequestCancelledError, RequestRejectedError
from orion_streams.config import parse
from orion_streams.model import events as ev
from orion_streams.model.policy import ClientRules, Policy
from orion_streams.model.state import Grid, Request
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry, Taken
from tests.contract.contract_grid import MODEL, running, silence
from tests.grids import LIMITS, grid, node, request, under
from tests.helpers import eventually

HOUSE = """
[clients.house]
operator = true
[clients.guest]
max_open = 1
max_priority = 0
"""


def sent(some: Grid, client: str = "guest", **fields: str) -> Taken:
    """What a client's entry comes to."""
    values = {"id": "q", "model": MODEL, "prompt": "p", **fields}
    raw = {name.encode(): value.encode() for name, value in values.items()}
    return take(some, Entry("requests", client, "5-0", raw), **LIMITS)


def house(opened: dict[str, Request] | None = None, **rules: Any) -> Grid:
    """A grid in which a guest has rules, and maybe requests."""
    return grid(node("n"), open_requests=opened, clients={"guest": ClientRules(**rules)})


def code_of(taken: Taken) -> str:
    """Why it was not accepted; "" if it was."""
    [event] = taken.events
    return event.code if isinstance(event, ev.RequestRejected | ev.InputRejected) else ""


@pytest.mark.parametrize(("priority", "code"), [("0", ""), ("-9", ""), ("1", "bad_field")])
def test_a_priority_has_a_limit(priority: str, code: str) -> None:
    """Above it the request is rejected, by the name of the rule; other clients have their own."""
    taken = sent(house(max_priority=0), priority=priority)
    assert code_of(taken) == code
    assert not code or "clients.guest.max_priority" in taken.message
    assert code_of(sent(house(max_priority=0), "brain", priority=priority)) == ""


@pytest.mark.parametrize(("number", "code"), [(1, ""), (2, "queue_full")])
def test_requests_at_a_time_have_a_limit(number: int, code: str) -> None:
    """The client's own, else the policy's; what others have open does not count."""
    opened = {f"guest/{n}": request() for n in range(number)}
    others = {f"brain/{n}": request() for n in range(9)}
    assert code_of(sent(house({**opened, **others}, max_open=2))) == code
    assert code_of(sent(under(house({**opened, **others}), Policy(max_open=2)))) == code


@pytest.mark.parametrize(("size", "code"), [(974, ""), (975, "queue_full")])
def test_bytes_at_a_time_have_a_limit(size: int, code: str) -> None:
    """All entries of the client together, this one with them."""
    assert code_of(sent(house(max_open_bytes=25))) == "too_large"
    taken = sent(house({"guest/1": request(body_bytes=size)}, max_open_bytes=1_000))
    assert code_of(taken) == code
    assert not code or f"{size} of 1000 bytes" in taken.message


def test_fields_that_do_not_exist_are_named_at_the_end() -> None:
    """The first few, cut; the request is accepted all the same."""
    [accepted] = sent(house(), stop="x", **{"temperature" * 9: "1"}).events
    assert isinstance(accepted, ev.RequestAccepted)
    assert accepted.ignored == ("stop", ("temperature" * 9)[:64])
    many = {f"x{n}": "1" for n in range(20)}
    [accepted] = sent(house(), **many).events
    assert isinstance(accepted, ev.RequestAccepted)
    assert accepted.ignored == tuple(many)[:8]
    assert sent(house(), priority="much", modle="x").ignored == ("modle",)


def test_the_list_of_names_still_holds() -> None:
    """Each name is a table without rules; a table beside it adds to it. `names` may be a client, too."""
    text = "[nodes.pi]\n"
    assert parse(text + '[clients]\nnames = ["a", "b"]').clients == {"a": ClientRules(), "b": ClientRules()}
    both = '[clients]\nnames = ["a", "b"]\n[clients.b]\nmax_open = 3\n[clients.c]\n'
    assert parse(text + both).clients == {"a": ClientRules(), "b": ClientRules(3), "c": ClientRules()}
    assert parse(text + "[clients.names]\n").clients == {"names": ClientRules()}


async def test_an_operator_lists_and_cancels_what_others_asked(valkey_url: str, prefix: str) -> None:
    """Whoever asked is told who cancelled it. The controls: nobody else may, and an unknown id is said."""
    async with (
        running(valkey_url, prefix, silence, HOUSE) as some,
        AsyncClient(valkey_url, "house", prefix=prefix) as operator,
        AsyncClient(valkey_url, "guest", prefix=prefix) as guest,
    ):
        await some.ask("q1")

        async def runs() -> bool:
            return [each["state"] for each in await operator.open_requests()] == ["running"]

        await eventually(runs, "a run")
        [row] = await operator.open_requests()
        assert (row["client"], row["id"], row["model"]) == ("brain", "q1", MODEL)
        for refused in (guest.open_requests(), guest.cancel_of("brain", "q1")):
            with pytest.raises(RequestRejectedError, match="not_allowed"):
                await refused
        with pytest.raises(RequestRejectedError, match="unknown_id"):
            await operator.cancel_of("brain", "q2")
        await operator.cancel_of("brain", "q1")
        own = asyncio.create_task(operator.generate(MODEL, "Why?", id="own"))
        await eventually(runs, "its own run")
        await operator.cancel_of("house", "own")
        with pytest.raises(RequestCancelledError):
            await own
        [end] = await some.ends("q1")
        assert (end["kind"], end["message"]) == ("cancelled", "house cancelled it.")
        assert await operator.open_requests() == []
        ends = [each for each in await some.events() if isinstance(each, ev.RequestCancelled)]
        assert [(each.request, each.by) for each in ends] == [("brain/q1", "house"), ("house/own", "house")]


async def test_limits_hold_on_a_real_grid(valkey_url: str, prefix: str) -> None:
    """A guest's second request at a time is refused; the first one goes on."""
    async with (
        running(valkey_url, prefix, silence, HOUSE) as some,
        AsyncClient(valkey_url, "guest", prefix=prefix) as guest,
    ):
        first = asyncio.create_task(guest.generate(MODEL, "Tell me.", id="one"))

        async def runs() -> bool:
            return bool(some.runs)

        await eventually(runs, "the first run")
        with pytest.raises(RequestRejectedError, match="It has 1 of 1"):
            await guest.generate(MODEL, "Another.")
        await guest.cancel("one")
        with pytest.raises(RequestCancelledError):
            await first
