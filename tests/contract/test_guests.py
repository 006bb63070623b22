"""Guests: clients that the gateway adds and removes while the grid runs."""

from __future__ import annotations

import asyncio
import json

import pytest

from orion_streams import AsyncClient, RequestCancelledError, RequestRejectedError
from orion_streams.model import events as ev
from orion_streams.model.policy import GUEST_PREFIX, MAX_GUESTS, ClientRules, Policy
from orion_streams.model.snapshot import decode_grid, encode_grid
from orion_streams.model.state import Grid
from orion_streams.projections import evolve, fold
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry, Taken
from orion_streams.protocol.public_row import read_row
from tests.contract.contract_grid import MODEL, Run, running
from tests.grids import LIMITS, grid, node
from tests.helpers import eventually

ANNA = "key-anna"
HOUSE = """
[clients.gateway]
[clients.key-cellar]
max_open = 1
"""


def sent(some: Grid, client: str = "gateway", **fields: str) -> Taken:
    """What an entry about guests comes to."""
    raw = {name.encode(): value.encode() for name, value in {"id": "x", **fields}.items()}
    return take(some, Entry("requests", client, "5-0", raw), **LIMITS)


def refusal(taken: Taken) -> str:
    """Why an entry was refused; "" if it was not."""
    [event] = taken.events
    return f"{event.code}: {taken.message}" if isinstance(event, ev.InputRejected) else ""


def house(**rules: ClientRules) -> Grid:
    """A grid with guests."""
    return grid(node("n"), guests={f"{GUEST_PREFIX}{name}": row for name, row in rules.items()})


def test_the_gateway_adds_and_removes_guests() -> None:
    """What it says stands in the log and in the grid; the table itself is never changed in place."""
    before = house()
    [added] = sent(before, guest=ANNA, rules='{"max_priority": 3, "max_open": 2}').events
    assert added == ev.ClientAdded(ANNA, ClientRules(max_open=2, max_priority=3))
    after = evolve(before, added)
    assert after.guests == {ANNA: ClientRules(max_open=2, max_priority=3)}
    assert before.guests == {}
    [removed] = sent(after, remove_guest=ANNA).events
    assert removed == ev.ClientRemoved(ANNA)
    assert evolve(after, removed).guests == {}
    assert after.guests != {}


def test_the_same_guest_again_gets_other_rules() -> None:
    """So the gateway may say it once more after a lost connection."""
    some = house(anna=ClientRules(max_open=1))
    [event] = sent(some, guest=ANNA).events
    assert evolve(some, event).guests == {ANNA: ClientRules()}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"guest": "anna"}, "bad_field: guest: expected key-"),
        ({"guest": "key-"}, ""),
        ({"guest": "key-Anna"}, "bad_field: guest: expected key-"),
        ({"guest": "key-a/b"}, "bad_field: guest: expected key-"),
        ({"guest": "key-*"}, "bad_field: guest: expected key-"),
        ({"guest": f"key-{'a' * 59}"}, ""),
        ({"guest": f"key-{'a' * 60}"}, "bad_field: guest: expected key-"),
        ({"guest": "key-cellar"}, r"bad_field: guest: streams.toml has [clients.key-cellar]"),
        ({"guest": ANNA, "rules": '{"operator": true}'}, "bad_field: rules: operator, known: max_open"),
        ({"guest": ANNA, "rules": '{"max_priority": 10}'}, "bad_field: rules: Expected `int` <= 9"),
        ({"guest": ANNA, "rules": '{"max_open": "1"}'}, "bad_field: rules: Expected `int`"),
        ({"guest": ANNA, "rules": "[]"}, "bad_field: rules: expected max_open"),
        ({"guest": ANNA, "rules": "{"}, "bad_json: rules: "),
        ({"guest": ANNA, "rules": "[" * 9_000}, "bad_json: rules: "),
    ],
)
def test_a_bad_guest_is_refused_with_one_sentence(fields: dict[str, str], why: str) -> None:
    """By field; nothing stands in the grid of it. The controls: the shortest and the longest name."""
    some = grid(node("n"), clients={"key-cellar": ClientRules()})
    said = refusal(sent(some, **fields))
    assert said.startswith(why)
    assert bool(said) is bool(why)


@pytest.mark.parametrize("fields", [{"guest": ANNA}, {"remove_guest": ANNA}])
@pytest.mark.parametrize("client", ["brain", "cli", ANNA, "house"])
def test_nobody_else_has_guests(client: str, fields: dict[str, str]) -> None:
    """Neither other clients, nor guests, nor an operator."""
    some = grid(node("n"), clients={"house": ClientRules(operator=True)}, guests={ANNA: ClientRules()})
    assert refusal(sent(some, client, **fields)).startswith("not_allowed: ")
    assert refusal(sent(some, **fields)) == ""


def test_guests_have_a_limit() -> None:
    """One more is refused, and one that is there already is not."""
    full = house(**{str(n): ClientRules() for n in range(MAX_GUESTS)})
    assert "at most 1000 guests" in refusal(sent(full, guest=ANNA))
    assert refusal(sent(full, guest=f"{GUEST_PREFIX}7")) == ""
    assert refusal(sent(full, remove_guest=f"{GUEST_PREFIX}7")) == ""


def test_the_rules_of_a_guest_hold_and_streams_toml_goes_first() -> None:
    """Its own limit; for a name in both tables that of the file."""
    some = grid(
        node("n"),
        clients={"key-cellar": ClientRules(max_priority=5)},
        guests={ANNA: ClientRules(max_priority=3), "key-cellar": ClientRules(max_priority=1)},
    )
    limits = [some.rules_of(name).max_priority for name in (ANNA, "key-cellar", "key-nobody")]
    assert limits == [3, 5, 9]
    for priority, why in (("3", ""), ("4", "clients.key-anna.max_priority")):
        assert why in refusal(sent(some, ANNA, model=MODEL, prompt="p", priority=priority))


def test_guests_survive_other_rules_and_a_snapshot() -> None:
    """And a snapshot of before there were guests has none."""
    changed = ev.PolicyChanged(2, "p", Policy(), (), clients={"brain": ClientRules()}, decider=9)
    some = fold(house(), [ev.ClientAdded(ANNA, ClientRules(max_open=2)), changed])
    assert some.guests == {ANNA: ClientRules(max_open=2)}
    assert decode_grid(encode_grid(some)) == some
    assert decode_grid(encode_grid(house())).guests == {}


async def test_a_guest_is_read_at_once_until_it_is_removed(valkey_url: str, prefix: str) -> None:
    """Without a restart, by the very next entry, and the public row names it before anybody is told."""

    async def row_names() -> tuple[str, ...]:
        row = read_row(await some.redis.hgetall(f"{prefix}grid"))
        assert row is not None
        return row.clients

    async with (
        running(valkey_url, prefix, policy=HOUSE) as some,
        AsyncClient(valkey_url, "gateway", prefix=prefix) as gateway,
        AsyncClient(valkey_url, ANNA, prefix=prefix) as anna,
        AsyncClient(valkey_url, ANNA, prefix=prefix) as later,
        AsyncClient(valkey_url, "key-cellar", prefix=prefix) as cellar,
    ):
        with pytest.raises(RequestRejectedError, match="not_allowed"):
            await cellar.add_guest(ANNA)
        for _ in range(2):
            await gateway.add_guest(ANNA, ClientRules(max_priority=3))
        assert ANNA in await row_names()
        assert (await anna.generate(MODEL, "Why?", priority=3)).text == "Why?"
        with pytest.raises(RequestRejectedError, match=r"at most 3 .clients.key-anna.max_priority"):
            await anna.generate(MODEL, "Why?", priority=4)
        with pytest.raises(RequestRejectedError, match=r"streams.toml has .clients.key-cellar."):
            await gateway.add_guest("key-cellar")
        await gateway.remove_guest(ANNA)
        assert ANNA not in await row_names()
        with pytest.raises(RequestRejectedError, match="key-anna is no client"):
            await later.generate(MODEL, "Still there?")
        assert f"requests:{ANNA}" not in some.router.streams()


async def test_a_router_that_starts_anew_knows_the_guests_of_the_log(valkey_url: str, prefix: str) -> None:
    """It reads what they wrote meanwhile."""
    async with (
        running(valkey_url, prefix, policy=HOUSE),
        AsyncClient(valkey_url, "gateway", prefix=prefix) as gateway,
    ):
        await gateway.add_guest(ANNA)
    async with running(valkey_url, prefix, policy=HOUSE) as again:
        await again.redis.xadd(
            f"{prefix}requests:{ANNA}", {"id": "q", "model": MODEL, "messages": json.dumps(MESSAGES)}
        )

        async def answered() -> bool:
            rows = await again.redis.xrange(f"{prefix}replies:{ANNA}")
            return any(fields[b"kind"] == b"done" for _, fields in rows)

        await eventually(answered, "an answer")


MESSAGES = [{"role": "user", "content": "Why?"}]


async def test_the_streams_of_guests_are_trimmed(valkey_url: str, prefix: str) -> None:
    """As those of others, and once it is removed for as long as its ends are remembered."""
    async with (
        running(valkey_url, prefix, policy=HOUSE) as some,
        AsyncClient(valkey_url, "gateway", prefix=prefix) as gateway,
        AsyncClient(valkey_url, ANNA, prefix=prefix) as anna,
    ):
        for name in (ANNA, "key-ben"):
            await gateway.add_guest(name)
        await anna.generate(MODEL, "Why?")
        await gateway.remove_guest(ANNA)
        trimmed = []

        async def note(stream: str, floor: str) -> None:
            trimmed.append(stream)

        some.router.store.trim = note  # type: ignore[assignment, method-assign]
        await some.router.retention.keep(some.router.state, some.router.guard)
        assert {f"requests:{ANNA}", f"replies:{ANNA}", "requests:key-ben"} <= {*trimmed}


async def test_what_a_removed_guest_has_open_comes_to_its_end(valkey_url: str, prefix: str) -> None:
    """It is answered, or cancelled by what was sent before."""
    may_end = asyncio.Event()

    async def patient(run: Run) -> None:
        await run.started()
        waits = [asyncio.ensure_future(each.wait()) for each in (may_end, run.cancelled)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        if may_end.is_set():
            await run.done("whole", tokens=1)

    async with (
        running(valkey_url, prefix, patient, policy=HOUSE) as some,
        AsyncClient(valkey_url, "gateway", prefix=prefix) as gateway,
        AsyncClient(valkey_url, ANNA, prefix=prefix) as anna,
    ):
        await gateway.add_guest(ANNA)
        asked = [asyncio.create_task(anna.generate(MODEL, "Why?", id=name)) for name in ("one", "two")]

        async def both_run() -> bool:
            return len(some.runs) == 2

        await eventually(both_run, "two runs")
        await anna.cancel("two")
        await gateway.remove_guest(ANNA)
        with pytest.raises(RequestCancelledError):
            await asked[1]
        may_end.set()
        assert (await asked[0]).text == "whole"
