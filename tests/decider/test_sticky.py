"""Laws 20 and 24: residency is the runner, and a conversation stays where its prefix is cached."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider.route import Route, route
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules, NodeRules
from orion_streams.model.state import Grid, Installed, Request, Resident
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry
from tests.grids import AT_MS, HEAVY, LIMITS, MODEL, fails, grid, holding, node, request, verdict
from tests.properties import strategies as make
from tests.properties.world import World

HERE = Resident("a", 477, 4_096, 4_096)


def test_weights_that_were_pulled_anew_are_not_those_in_memory() -> None:
    """The name on disk means another file now: the runner of the old one serves nobody."""
    pulled = node("n", installed={MODEL: Installed("new", 253)}, resident={MODEL: HERE})
    assert verdict(route(grid(pulled), request(num_ctx=4_096)), "n").load_ms == 4_301


def take_request(some: Grid, options: str) -> ev.RequestAccepted:
    """What a request with these options is accepted as."""
    fields = {b"id": b"q", b"model": MODEL.encode(), b"prompt": b"p", b"options": options.encode()}
    [event] = take(some, Entry("requests", "brain", "5-0", fields), **LIMITS).events
    assert isinstance(event, ev.RequestAccepted)
    return event


@pytest.mark.parametrize(
    ("rules", "options", "expected"),
    [
        ({}, "{}", (4_096, "")),
        ({}, '{"num_ctx": 8192}', (8_192, "")),
        ({}, '{"num_thread": 2}', (4_096, "")),
        ({MODEL: ModelRules(num_ctx=2_048)}, '{"num_ctx": 8192}', (2_048, "")),
        ({MODEL: ModelRules(num_ctx=2_048, num_thread=3)}, '{"num_thread": 2}', (2_048, "num_thread=3")),
        ({MODEL: ModelRules(num_thread=3)}, '{"num_ctx": 8192}', (8_192, "num_thread=3")),
        ({HEAVY: ModelRules(num_ctx=2_048)}, "{}", (4_096, "")),
    ],
)
def test_pinned_options_override_what_a_request_asks_for(
    rules: dict[str, ModelRules], options: str, expected: tuple[int, str]
) -> None:
    """No request reloads a runner by accident: first the pin holds, then the request, then the policy."""
    accepted = take_request(grid(node("n"), models=rules), options)
    assert (accepted.num_ctx, accepted.runner) == expected


@pytest.mark.parametrize("num_ctx", ["true", "-1", "0", "10000001", '"4096"', "1e3"])
def test_a_context_length_that_is_none_is_rejected(num_ctx: str) -> None:
    """Nobody's context is changed silently: what is no length gets one clear reply."""
    fields = {b"model": MODEL.encode(), b"prompt": b"p", b"options": b'{"num_ctx": %s}' % num_ctx.encode()}
    taken = take(grid(node("n")), Entry("requests", "brain", "5-0", fields), **LIMITS)
    [event] = taken.events
    assert isinstance(event, ev.InputRejected)
    assert (event.code, taken.message) == (
        "bad_field",
        "options.num_ctx: expected an integer, 1 to 10000000",
    )


def test_pinned_options_reach_the_node() -> None:
    """The work entry names the runner that was decided on, and a second request finds it warm."""
    world = World((NodeRules("n"),), models={MODEL: ModelRules(num_ctx=2_048, num_thread=3)})
    world.beat()
    world.settle()
    world.ask("q", MODEL, options={"num_ctx": 8_192, "num_thread": 7})
    world.settle()
    [(_, head)] = world.machines["n"].inbox
    assert head.options == {"num_ctx": 2_048, "num_thread": 3}
    world.work_all()
    again = world.ask("again", MODEL, options={"num_ctx": 4_096})
    world.settle()
    assert verdict_of(world, again).load_ms == 0


def verdict_of(world: World, key: str) -> Any:
    """The verdict on the node that the request was sent to."""
    [routed] = [each for each in world.log if isinstance(each, ev.RequestRouted) and each.request == key]
    return next(each for each in routed.verdicts if each.node == routed.node)


# --- conversations ---------------------------------------------------------------------------------

LONG = {"num_ctx": 4_096, "prompt_tokens": 2_000, "session": "s"}
PREFILL_MS = 2_000 * 253 * 16 // 1_000
SAVED_MS = PREFILL_MS * 8 // 10


def two(queue_ms: int = 0, session: str = "s") -> Grid:
    """Two warm nodes; the second one in order of names has the conversation, and so much to do first."""
    held = {"5-0": holding(run_ms=2 * queue_ms, num_ctx=4_096)} if queue_ms else {}
    plain = node("a", slots=2, resident={MODEL: HERE})
    return grid(
        plain, replace(plain, rules=NodeRules("b", slots=2), sessions={MODEL: (session,)}, assignments=held)
    )


def stays(some: Grid, asked: Request, queue_ms: int) -> None:
    """Law 20: it stays as long as the prefix saves more than waiting costs."""
    decision = route(some, asked)
    assert isinstance(decision, Route)
    assert decision.node == ("b" if queue_ms < SAVED_MS else "a")


@make.MANY
@given(st.one_of(st.integers(0, 20_000), st.integers(SAVED_MS - 2, SAVED_MS + 2)))
def test_a_conversation_stays_where_its_prefix_is_unless_waiting_costs_more(queue_ms: int) -> None:
    """80 % of its prefill is what the cached prefix is worth, to the millisecond."""
    stays(two(queue_ms), request(**LONG), queue_ms)


def test_without_its_conversation_a_node_has_no_advantage() -> None:
    """Negative control: another session's prefix, or none, keeps nobody."""
    assert fails(stays, two(session="other"), request(**LONG), 0)
    assert fails(stays, two(), request(**{**LONG, "session": ""}), 0)
    assert verdict(route(two(), request(**LONG)), "b").cached_ms == SAVED_MS


def test_a_prefix_is_worth_nothing_without_its_runner() -> None:
    """Another context length, or a model that goes, and the cache is gone with the runner."""
    some = two()
    larger = verdict(route(some, request(**{**LONG, "num_ctx": 8_192})), "b")
    assert larger.cached_ms == 0
    some.nodes["b"] = replace(some.nodes["b"], unload_ordered_ms={MODEL: AT_MS})
    assert verdict(route(some, request(**LONG)), "b").cached_ms == 0


def test_a_conversation_comes_back_to_its_node() -> None:
    """End to end: of two warm nodes the one that answered before gets the next question."""
    world = World((NodeRules("a"), NodeRules("b")))
    world.beat()
    world.settle()
    for n in range(4):
        world.ask(f"warm{n}", MODEL)
    world.settle()
    for _ in range(4):
        world.work_all()
    for name in ("a", "b"):
        world.machines[name].inbox.clear()
    first = world.ask("first", MODEL, session="s", prompt="x" * 9_000)
    world.settle()
    place = world.request(first).node
    world.work_all()
    world.ask("between", MODEL)
    world.settle()
    world.work_all()
    second = world.ask("second", MODEL, session="s", prompt="x" * 9_000)
    world.settle()
    assert world.request(second).node == place
