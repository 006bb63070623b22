"""Law 18: a breaker opens by what different requests suffered, probes once, gives slots back one by one."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider.decide import decide
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import Blame
from orion_streams.projections import evolve, fold
from tests.grids import AT_MS, MEMORY, MODEL, POLICY, fails, grid, kinds, node, request, sample, verdict
from tests.properties import strategies as make
from tests.properties.laws import settle
from tests.properties.world import World

FAULTS = ("stream_cut", "load_failed", "agent_restarted", "gone", "overdue")
NOBODYS = ("ollama_unreachable", "cancelled", "silent", "hot", "ram", "critical", "removed")
IDS = count(1)


def attempted(some: Grid, key: str, name: str, end: str, blame: str = "node") -> Grid:
    """The request runs on the node and fails so, or is answered; the router says what it has to say."""
    work_id = f"{next(IDS)}-0"
    row = some.open.get(key, request())
    assigned = replace(row, node=name, work_id=work_id, attempt=row.attempt + 1, started=True)
    some = replace(some, open={**some.open, key: assigned})
    if end == "answered":
        ended: ev.AnyEvent = ev.RequestCompleted(key, assigned.attempt, name, work_id, 9, 9, 0, 9, 9, 9)
    else:
        ended = ev.AttemptFailed(key, assigned.attempt, name, work_id, end, Blame(blame))
    after = evolve(some, ended)
    return fold(after, [each for each in decide(after) if "breaker" in kinds((each,))[0]])


def is_open(some: Grid, name: str = "n") -> bool:
    """Whether the node's breaker is open."""
    return some.nodes[name].opened_ms is not None


def one_node(**values: Any) -> Grid:
    """A grid of one warm node with three slots."""
    return grid(node("n", **{"slots": 3, "resident": MEMORY, **values}))


ATTEMPTS = make.pick(
    key=("brain/a", "brain/b", "brain/c", "brain/d"),
    end=(*FAULTS, *FAULTS, "ollama_error", "ollama_unreachable", "cancelled", "answered"),
    blame=("node", "node", "request", "ours"),
)


def opens_only_by_different_requests(attempts: list[dict[str, str]], policy: Policy) -> None:
    """Law 18: no breaker opens before three different requests have failed on its node by the node's own
    fault, with no answer since."""
    some, blamed = replace(one_node(), policy=policy), set[str]()
    for each in attempts:
        some = attempted(some, each["key"], "n", each["end"], each["blame"])
        if each["end"] == "answered":
            blamed.clear()
        elif each["blame"] == "node" and each["end"] not in NOBODYS:
            blamed.add(each["key"])
        if is_open(some):
            assert len(blamed) >= 3
            return


@make.MANY
@given(st.lists(ATTEMPTS, max_size=9))
def test_a_breaker_opens_only_by_different_requests(attempts: list[dict[str, str]]) -> None:
    """Whatever fails in whatever order."""
    opens_only_by_different_requests(attempts, POLICY)


def test_a_breaker_that_opens_sooner_breaks_the_law() -> None:
    """Negative control: two failures that open it are noticed."""
    two = [{"key": key, "end": "stream_cut", "blame": "node"} for key in ("brain/a", "brain/b")]
    opens_only_by_different_requests(two, POLICY)
    assert fails(opens_only_by_different_requests, two, Policy(breaker_failures=2))


def broken(some: Grid | None = None) -> Grid:
    """Three different requests have failed on `n`."""
    some = some or one_node()
    for n in range(3):
        some = attempted(some, f"brain/failing{n} {some.position}", "n", "stream_cut")
    return some


@pytest.mark.parametrize("code", FAULTS)
def test_three_different_requests_open_it(code: str) -> None:
    """The third one does, not the second."""
    two = attempted(attempted(one_node(), "brain/a", "n", code), "brain/b", "n", code)
    assert not is_open(two)
    third = attempted(two, "brain/c", "n", code)
    assert is_open(third)
    assert third.nodes["n"].open_ms == POLICY.breaker_open_ms


@pytest.mark.parametrize(
    ("code", "blame"),
    [*((code, "node") for code in NOBODYS), ("stream_cut", "request"), ("stream_cut", "ours")],
)
def test_what_is_not_the_nodes_fault_opens_nothing(code: str, blame: str) -> None:
    """Neither what has a filter of its own (heat, silence, an Ollama that is away), nor a cancel, nor a
    request refused for itself, nor our own mistake."""
    some = one_node()
    for n in range(9):
        some = attempted(some, f"brain/{n}", "n", code, blame)
    assert not is_open(some)


def test_an_answer_starts_the_count_again() -> None:
    """Two failures, an answer, two failures: closed; a third one opens it."""
    some = one_node()
    for key, end in (
        ("a", "stream_cut"),
        ("b", "stream_cut"),
        ("c", "answered"),
        ("d", "gone"),
        ("e", "gone"),
    ):
        some = attempted(some, f"brain/{key}", "n", end)
    assert not is_open(some)
    assert is_open(attempted(some, "brain/f", "n", "gone"))


REFUSALS = [("ollama_error", "node", ""), ("bad_option", "request", "refused")]
"""What says nothing of the node: an error that this request alone may bring about ends as the node's, and a
refusal of the request at once."""


@pytest.mark.parametrize(("code", "blame", "end"), REFUSALS)
def test_who_fails_alike_on_two_nodes_is_held_against_neither(code: str, blame: str, end: str) -> None:
    """Two nodes say the same, however many such requests come."""
    some = grid(node("m"), node("n"))
    for n in range(9):
        for name in ("n", "m") if n % 2 else ("m", "n"):
            some = attempted(some, f"brain/{n}", name, code, blame)
            assert not is_open(some, name)
    assert ended(some) == ({f"brain/{n}": end for n in range(9)} if end else {})


@pytest.mark.parametrize(("code", "blame", "end"), REFUSALS)
def test_who_fails_twice_on_the_only_node_is_held_against_nobody(code: str, blame: str, end: str) -> None:
    """With one node only, a second refusal speaks against the request."""
    some = one_node()
    for n in range(9):
        for _ in range(2):
            some = attempted(some, f"brain/{n}", "n", code, blame)
    assert not is_open(some)
    assert ended(some) == ({f"brain/{n}": end for n in range(9)} if end else {})


def test_an_error_of_the_node_ends_when_all_attempts_are_spent() -> None:
    """Whoever else may be to blame: after `max_attempts`."""
    some = one_node()
    for _ in range(POLICY.max_attempts):
        assert ended(some) == {}
        some = attempted(some, "brain/0", "n", "ollama_error")
    assert ended(some) == {"brain/0": "attempts_exhausted"}


def ended(some: Grid) -> dict[str, str]:
    """Which requests the router ends, and how."""
    return {each.request: each.code for each in decide(some) if isinstance(each, ev.RequestFailed)}


def test_a_refusal_counts_once_another_node_has_answered() -> None:
    """An error that may be the request's own fault is the node's once the request is answered elsewhere."""
    some = grid(node("m"), node("n"))
    for n in range(3):
        assert not is_open(some)
        some = attempted(some, f"brain/{n}", "n", "ollama_error")
        some = attempted(some, f"brain/{n}", "m", "answered")
    assert is_open(some)
    assert not is_open(some, "m")


def later(some: Grid, passed_ms: int) -> Grid:
    """So much later, with a fresh sample."""
    moved = replace(some, at_ms=some.at_ms + passed_ms, before_ms=some.at_ms + passed_ms)
    return evolve(moved, sample("n"))


def waiting(some: Grid, number: int) -> Grid:
    """With so many requests that wait, and no others."""
    rows = {f"brain/w{n}": request(accepted=n, deadline_ms=AT_MS + 10**9) for n in range(number)}
    return replace(some, open=rows)


def routed(some: Grid) -> list[str]:
    """Which requests are sent off."""
    return [each.request for each in settle(some)[1] if isinstance(each, ev.RequestRouted)]


def test_an_open_breaker_lets_nothing_through_then_one_probe() -> None:
    """Nothing before open_ms have passed; then one request, though three slots are free."""
    some = waiting(broken(), 5)
    almost = later(some, POLICY.breaker_open_ms - 1)
    assert routed(almost) == []
    [answer] = [each for each in decide(almost) if isinstance(each, ev.RequestDeferred)][:1]
    assert [(each.filter, each.value, each.limit) for each in answer.verdicts] == [
        ("breaker", 14_999, 15_000)
    ]
    assert routed(later(some, POLICY.breaker_open_ms)) == ["brain/w0"]


def test_prefetch_makes_no_second_probe() -> None:
    """A probe is one run, whatever may be sent ahead to a healthy node."""
    policy = Policy(prefetch=1)
    some = replace(waiting(broken(), 5), policy=policy)
    assert routed(later(some, POLICY.breaker_open_ms)) == ["brain/w0"]


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_limit() -> None:
    """Each time in a row doubles the rest, until breaker_open_max_ms."""
    some, rests = broken(), []
    for n in range(7):
        rests.append(some.nodes["n"].open_ms)
        some = attempted(later(some, rests[-1]), f"brain/probe{n}", "n", "stream_cut")
    assert rests == [15_000, 30_000, 60_000, 120_000, 240_000, 240_000, 240_000]


def test_failures_from_before_say_nothing_of_the_probe() -> None:
    """What fails while it rests began before it opened: the rest is no longer for that."""
    some = broken()
    for n in range(5):
        some = attempted(some, f"brain/late{n}", "n", "gone")
    assert (some.nodes["n"].open_ms, some.nodes["n"].trips) == (15_000, 1)
    assert routed(waiting(later(some, 15_000), 1)) == ["brain/w0"]


def test_an_answered_probe_closes_it_and_slots_come_back_one_by_one() -> None:
    """After the probe one run at a time, after the next two, then three; a new rest is short again."""
    some = later(broken(), 15_000)
    slots = []
    for n in range(4):
        some = attempted(some, f"brain/ok{n}", "n", "answered")
        slots.append(len(routed(waiting(some, 5))))
    assert slots == [1, 2, 3, 3]
    assert not is_open(some)
    assert broken(some).nodes["n"].open_ms == 15_000


def test_a_node_that_breaks_is_left_alone_and_comes_back() -> None:
    """End to end: the healthy node answers everybody; the broken one is probed and works again."""
    world = World((NodeRules("bad", tiers=(1,)), NodeRules("good")))
    world.beat()
    world.settle()
    keys = [world.ask(f"q{n}", MODEL, tier=1) for n in range(12)]
    for _ in range(120):
        for name, end in (("bad", "failed"), ("good", "completed")):
            world.read_work(name)
            for work_id in list(world.machines[name].in_hand):
                values = {"code": "stream_cut", "blame": "node"} if end == "failed" else {}
                world.end(name, work_id, end, **values)  # type: ignore[arg-type]
        world.beat()
        world.settle(500)
    assert [world.replies[key] for key in keys] == [["done"]] * 12
    sent = [event for event in world.log if isinstance(event, ev.RequestRouted) and event.node == "bad"]
    assert 3 <= len(sent) <= 3 + 2 + 1
    assert verdict(sent[-1], "bad").filter == ""  # type: ignore[arg-type]
    world.ask("probe", MODEL, tier=1)
    for _ in range(60):
        world.work_all(2_000)
        world.ask(f"more{world.grid.number}", MODEL, tier=1)
    assert "node.breaker_closed" in kinds(tuple(world.log))
