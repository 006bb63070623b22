"""The folded table as JSON: nodes, models, queue and runs, health, and what is known of one request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from orion_streams.gateway import grid_state, listings
from orion_streams.gateway.page_day import Day, TimeLine
from orion_streams.gateway.page_queue import Why
from orion_streams.gateway.page_rows import Decision, Doing, Lozenge, NodeCard, Tick, View
from orion_streams.gateway.request_status import RequestStatus, request_status
from orion_streams.gateway.view_models import MOST_ASKED, NodeRow, node_rows
from orion_streams.model.state import Closed, Failure, Grid, Installed, Request, Resident
from orion_streams.model.vocabulary import Blame, Mark, RequestState, WaitKind
from orion_streams.protocol.public_row import SILENT_MS
from tests.gateway.test_listings import DIFFERENCES
from tests.grids import AT_MS, DISK, FENCE, HEAVY, MODEL, edge, grid, holding, loading, node, request

DOCUMENT = (Path(__file__).parents[2] / "docs" / "ENDPOINT.md").read_text(encoding="utf-8")


def one_of_all() -> Grid:
    """A node that runs a request and loads a model, two that wait, and a robot."""
    run = holding(request="brain/a", since_ms=AT_MS - 400, run_ms=2_000, started=True, cold=True)
    busy = node(
        "one", assignments={FENCE: run, "8-0": loading(HEAVY)}, resident={MODEL: Resident("a", 300, 4096)}
    )
    open_requests = {
        "brain/b": request(accepted=2, accepted_ms=AT_MS - 1_000, deferred=WaitKind.BUSY, priority=1),
        "brain/a": request(
            accepted=1, accepted_ms=AT_MS - 900, node="one", work_id=FENCE, attempt=1, started=True
        ),
        "home/c": request(accepted=3, model=HEAVY, deferred=WaitKind.NO_NODE),
    }
    return grid(busy, edge(), open_requests=open_requests, position=9, revision=3)


def shown(some: Grid, silent_ms: int = 0) -> Any:
    """The state as a client reads it."""
    return msgspec.json.decode(msgspec.json.encode(grid_state.state(some, silent_ms)))


def test_everything_is_reached_by_a_simple_path() -> None:
    """As sensors do it: nodes and models by name, the queue in numbers."""
    found = shown(one_of_all())
    assert found["nodes"]["one"]["temp_mc"] == 50_000
    assert (found["nodes"]["one"]["state"], found["nodes"]["one"]["in_hand"]) == ("available", 1)
    assert (found["models"][MODEL]["resident_on"], found["models"][MODEL]["nodes"]) == (["one"], ["one"])
    assert (found["models"][MODEL]["waiting"], found["models"][MODEL]["assigned"]) == (1, 1)
    queue = found["queue"]
    assert (queue["open"], queue["waiting"], queue["assigned"], queue["running"]) == (3, 2, 0, 1)
    assert (queue["oldest_ms"], queue["by_client"]) == (1_000, {"brain": 2, "home": 1})
    assert (found["position"], found["revision"], found["router"]) == (
        9,
        3,
        {"silent_ms": 0, "silent": False},
    )
    assert found["at"] == "1970-01-01T00:16:45.000+00:00"


def test_the_queue_is_listed_the_oldest_first() -> None:
    """With where each request is, for how long it waited, and nothing of what it says."""
    rows = shown(one_of_all())["queue"]["requests"]
    assert [(row["client"], row["id"], row["state"]) for row in rows] == [
        ("brain", "a", "running"), ("brain", "b", "waiting"), ("home", "c", "waiting"),
    ]  # fmt: skip
    assert [row["waited_ms"] for row in rows] == [500, 1_000, 0]
    assert [row["waiting"] for row in rows] == ["", "busy", "no_node"]
    assert (rows[0]["node"], rows[0]["attempt"], rows[1]["priority"]) == ("one", 1, 1)


def test_runs_are_what_nodes_have_in_hand() -> None:
    """Loads too, and what was given up and still takes its slot."""
    some = one_of_all()
    [run, load] = shown(some)["runs"]
    assert (run["node"], run["what"], run["state"], run["client"], run["id"]) == (
        "one", "run", "running", "brain", "a",
    )  # fmt: skip
    assert (run["cold"], run["age_ms"], run["expected_ms"]) == (True, 400, 2_000)
    assert (load["what"], load["model"], load["state"], load["cold"]) == ("load", HEAVY, "loading", True)
    del some.open["brain/a"]
    assert [row["state"] for row in shown(some)["runs"]] == ["given_up", "loading"]


def test_lists_end_and_say_so() -> None:
    """The oldest thousand requests; the numbers count all."""
    requests = {f"c/{n}": request(accepted=n) for n in range(grid_state.MOST, -2, -1)}
    disk = {f"m{n:05}:1b": Installed("a", 1) for n in range(grid_state.MOST + 3)}
    found = shown(grid(node("one", installed=disk), open_requests=requests))
    assert found["left_out"] == {"models": 3, "requests": 2, "runs": 0}
    assert (len(found["queue"]["requests"]), found["queue"]["open"]) == (
        grid_state.MOST,
        grid_state.MOST + 2,
    )
    assert found["queue"]["requests"][0]["id"] == "-1"
    assert len(found["models"]) == grid_state.MOST


def test_models_that_no_node_answers_with_are_not_there() -> None:
    """A robot's are its own."""
    some = grid(node("one", installed={}), edge(installed=DISK))
    assert shown(some)["models"] == {}
    assert shown(some)["nodes"]["orion-edge"]["installed"] == sorted(DISK)


def test_a_grid_that_was_not_heard_of_for_a_while_is_shown_as_it_is_now() -> None:
    """Its clock moves on with the server's, never back."""
    some = grid(node("one"), position=1)
    later = grid_state.moved_on(some, some.server_ms + 60_000)
    assert (later.at_ms, later.server_ms) == (AT_MS + 60_000, AT_MS + 60_000)
    assert node_rows(later)[0].state == "stale"
    assert grid_state.moved_on(some, some.server_ms - 5) == some


def test_a_router_that_is_silent_for_too_long_is_a_sentence() -> None:
    """For longer than 10 s."""
    assert grid_state.router_silent(SILENT_MS) == ""
    assert grid_state.router_silent(12_000) == (
        "the router has been silent for 12 s: until it is back nothing is decided"
    )


HOT: dict[str, Any] = {"temp_mc": 80_000, "backed_off": (Mark.HOT,)}


@pytest.mark.parametrize(
    ("nodes", "silent_ms", "status", "reasons"),
    [
        ((node("one"), edge(heard_ms=None)), 0, "ok", []),
        ((node("one"), node("two", **HOT)), 0, "degraded", ["two: too hot of late"]),
        ((node("one"), node("two", heard_ms=None)), 0, "degraded", ["two: never heard from"]),
        ((node("one"), node("two", installed={})), 0, "degraded", ["two: it has no model on disk"]),
        ((node("one", heard_ms=None),), 0, "down", ["one: never heard from"]),
        ((node("one"),), 11_000, "down", ["the router has been silent for 11 s"]),
        ((edge(),), 0, "down", ["no node answers requests"]),
    ],
)
def test_health_says_what_stands_against_it(
    nodes: tuple[Any, ...], silent_ms: int, status: str, reasons: list[str]
) -> None:
    """ok, degraded while some node answers, else down; and the state says the same."""
    some = grid(*nodes, position=1)
    found = grid_state.health(some, silent_ms)
    assert found.status == status
    assert len(found.reasons) == len(reasons)
    for sentence, begins in zip(found.reasons, reasons, strict=True):
        assert sentence.startswith(begins.removesuffix(" of late"))
    both = grid_state.state(some, silent_ms)
    assert (both.status, both.reasons) == (found.status, found.reasons)


def test_requests_that_no_node_takes_are_told() -> None:
    """And a log that no router has begun."""
    assert grid_state.health(one_of_all(), 0) == grid_state.Health(
        "degraded", ["no node takes 1 of the waiting requests now"]
    )
    assert grid_state.health(Grid(), 0) == grid_state.Health(
        "down", ["no router has run on this Redis yet"]
    )


def test_a_waiting_request_knows_its_place_and_what_it_waits_for() -> None:
    """In the order of service, with the time until its first token."""
    some = one_of_all()
    found = request_status(some, "brain", "b")
    assert found is not None
    assert (found.state, found.waiting, found.waits_for, found.waiting_for) == (
        "waiting",
        0,
        "queue",
        "one",
    )
    assert 1_600 < found.eta_ms < found.eta_high_ms
    assert (found.reasons, found.warm, found.age_ms) == ({"orion-edge": "role"}, None, 1_000)
    some.nodes["one"] = replace(some.nodes["one"], assignments={})
    free = request_status(some, "brain", "b")
    assert free is not None
    assert free.eta_ms < found.eta_ms
    last = request_status(some, "home", "c")
    assert last is not None
    assert last.waiting == 1


def test_a_request_that_runs_knows_where_and_whether_its_model_was_there() -> None:
    """And what is left of the time that was expected."""
    some = one_of_all()
    failed = Failure("two", "ollama_error", Blame.NODE)
    some.open["brain/a"] = replace(some.open["brain/a"], failures=(failed,))
    found = request_status(some, "brain", "a")
    assert found is not None
    assert (found.state, found.node, found.attempt, found.waiting) == ("running", "one", 1, 0)
    assert (found.warm, found.left_ms, found.failures) == (False, 1_600, ["two: ollama_error"])


def test_only_the_client_that_asked_is_told_of_a_request() -> None:
    """Open or closed; what is forgotten, or another's, is the same as what never was."""
    some = one_of_all()
    some.closed = {"brain": {"brain/z": Closed(RequestState.DONE, "1-0", AT_MS - 7)}}
    assert request_status(some, "brain", "z") == RequestStatus(id="z", state="done", ended_ms_ago=7)
    for client, request_id in (("home", "z"), ("home", "a"), ("brain", "nothing"), ("", "brain/a")):
        assert request_status(some, client, request_id) is None


@pytest.mark.parametrize("values", [{"heard_ms": None}, {"ram_total_mb": 100}, {"inventory_known": False}])
def test_with_all_nodes_away_or_all_slots_busy_everything_answers(values: dict[str, Any]) -> None:
    """From the table, whatever state the nodes are in."""
    held = {f"{n}-0": holding(request=f"c/{n}") for n in range(4)}
    waiting: dict[str, Request] = {f"c/{n}": request(accepted=n) for n in range(50)}
    some = grid(
        *(node(f"n{n}", slots=4, assignments=held, **values) for n in range(8)),
        open_requests=waiting, position=1,
    )  # fmt: skip
    assert len(shown(some)["nodes"]) == 8
    assert grid_state.health(some, 0).status == "down"
    assert len(listings.tags(some, {})["models"]) == len(listings.v1_models(some, {})["data"]) == 2
    assert listings.ps(some) == {"models": []}
    assert listings.show(some, MODEL, {}) is not None
    found = request_status(some, "c", "49")
    assert found is not None
    assert found.waiting + 1 == 50


def test_a_node_with_many_models_is_asked_about_few_of_them() -> None:
    """Those in memory and the smallest: a large one that is there shows that it takes requests."""
    tiny = {f"m{n}:1b": Installed(f"d{n}", 5_000 + n) for n in range(MOST_ASKED + 5)}
    large = {"large:1b": Installed("l", 9_000)}
    small: dict[str, Any] = {"ram_total_mb": 4_000, "ram_used_mb": 500}
    [row] = node_rows(grid(node("one", installed={**tiny, **large}, **small)))
    assert (row.state, row.value > 5_000) == ("too_large", True)
    there = {"large:1b": Resident("l", 3_000)}
    [row] = node_rows(grid(node("one", installed={**tiny, **large}, resident=there, **small)))
    assert row.state == "available"


def fields_of(kind: type[msgspec.Struct]) -> list[str]:
    """The keys of an object."""
    return [field.name for field in msgspec.structs.fields(kind)]


@pytest.mark.parametrize(
    "kind",
    [
        grid_state.State, grid_state.RouterState, NodeRow, grid_state.ModelState,
        grid_state.QueueState, grid_state.QueueRow, grid_state.RunRow, RequestStatus,
        View, NodeCard, Doing, Lozenge, Decision, Tick, TimeLine, Why, Day,
    ],
)  # fmt: skip
def test_each_key_is_documented(kind: type[msgspec.Struct]) -> None:
    """docs/ENDPOINT.md has a row for each, below the heading of its object, and for no other."""
    section = DOCUMENT.split(f"<!-- keys: {kind.__name__} -->\n")[1].split("\n\n")[0]
    named = [line.split("`")[1] for line in section.splitlines()[2:]]
    assert named == fields_of(kind)


def test_each_difference_is_documented_with_its_reason() -> None:
    """docs/ENDPOINT.md has the table of tests/gateway/test_listings.py."""
    for where, why in DIFFERENCES.items():
        assert f"| {where} | {why} |" in DOCUMENT
