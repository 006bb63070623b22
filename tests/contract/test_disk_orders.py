"""Operators pull and remove models: what is refused, and how it ends."""

from __future__ import annotations

import pytest
from msgspec import structs
from msgspec.structs import replace

from orion_streams.decider.filters import first_filter
from orion_streams.decider.placement import candidates
from orion_streams.gateway.listings import nodes_to_change
from orion_streams.model import events as ev
from orion_streams.model.names import host_of
from orion_streams.model.policy import ClientRules, ModelRules
from orion_streams.model.state import DiskWork, Grid, Load, Node, Resident
from orion_streams.model.vocabulary import Filter
from orion_streams.projections import evolve
from orion_streams.protocol import agent_entries
from orion_streams.protocol.disk_entries import LATER_MS, overdue_disks
from orion_streams.protocol.emit import deliver
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry, Taken
from tests.grids import AT_MS, LIMITS, MODEL, edge, grid, node, request

REGISTRY = "registry.ollama.ai"
NEW = "new:1b"
ORDERED = ev.DiskOrdered("a", "pull", NEW, "house", "house/x", "7-0")


def sent(some: Grid, client: str = "house", **fields: str) -> Taken:
    """What an operator's entry comes to, where models may come from one registry."""
    raw = {name.encode(): value.encode() for name, value in {"id": "x", "node": "a", **fields}.items()}
    return take(some, Entry("requests", client, "5-0", raw), **{**LIMITS, "pull_from": (REGISTRY,)})


def two(*nodes: Node) -> Grid:
    """A grid with an operator, the node `a`, and others."""
    rules = {"house": ClientRules(operator=True), "brain": ClientRules()}
    return grid(node("b"), edge(), *(nodes or (node("a"),)), clients=rules)


def refusal(taken: Taken) -> str:
    """Why an entry was refused; "" if it was not."""
    [event] = taken.events
    return f"{event.code}: {taken.message}" if isinstance(event, ev.InputRejected) else ""


def pulling() -> Grid:
    """The node `a` pulls."""
    return evolve(two(), ORDERED)


def test_a_pull_is_work_for_the_node() -> None:
    """It is an event, an entry for the agent, and a first word to who asked; a resend starts nothing."""
    [ordered] = sent(two(), pull="new:1b").events
    assert ordered == replace(ORDERED, work_id="")
    work, told = deliver(two(), ordered, 9, None)
    assert agent_entries.decode_work(work.fields["head"]) == agent_entries.WorkHead("pull", model=NEW)
    assert (work.stream, work.stamp, told.stream) == ("work:a", "work_id", "replies:house")
    assert (told.fields["kind"], told.fields["status"], told.fields["node"]) == ("progress", "ordered", "a")
    assert pulling().nodes["a"].disk == DiskWork("pull", NEW, "house/x", "7-0", AT_MS)
    assert sent(pulling(), pull=NEW).events == ()


def held(model: str = MODEL) -> Node:
    """The node `a` with work on the model."""
    return replace(node("a"), assignments={"1-0": Load(model=model, run_ms=0, since_ms=0)})


@pytest.mark.parametrize(
    ("some", "client", "fields", "why"),
    [
        (two(), "house", {"pull": NEW}, ""),
        (two(), "house", {"remove": MODEL}, ""),
        (two(), "house", {"remove": MODEL.upper()}, ""),
        (two(), "brain", {"pull": NEW}, "not_allowed: clients.brain: Only an operator"),
        (two(), "brain", {"remove": MODEL}, "not_allowed: clients.brain: Only an operator"),
        (two(), "house", {"pull": NEW, "node": "nobody"}, "unknown_node: "),
        (two(), "house", {"pull": NEW, "node": ""}, "unknown_node: "),
        (two(), "house", {"pull": NEW, "node": "orion-edge"}, "unknown_node: "),
        (two(), "house", {"pull": ""}, "bad_field: pull: expected a model's name"),
        (two(), "house", {"remove": "a b"}, "bad_field: remove: expected a model's name"),
        (two(), "house", {"pull": "hf.co/some/model"}, "pull_off: hf.co is not in pull_from of the "
         f"router's streams.toml: {REGISTRY}."),
        (two(), "house", {"pull": "big:1t-cloud"}, "pull_off: Ollama would ask big:1t-cloud out"),
        (two(), "house", {"remove": NEW}, f"unknown_model: a does not have {NEW}."),
        (two(held()), "house", {"remove": MODEL}, f"model_busy: a is at work with {MODEL}: a load."),
        (two(held("another:1b")), "house", {"remove": MODEL}, ""),
        (two(replace(node("a"), heard_ms=None)), "house", {"pull": NEW}, "node_away: a does not answer"),
        (pulling(), "house", {"id": "y", "pull": "more:1b"}, f"disk_busy: a pulls {NEW} just now"),
        (pulling(), "house", {"id": "y", "pull": "more:1b", "node": "b"}, ""),
    ],
)  # fmt: skip
def test_who_may_pull_and_remove_what(some: Grid, client: str, fields: dict[str, str], why: str) -> None:
    """One reason each; beside it the same that is allowed."""
    found = refusal(sent(some, client, **fields))
    assert found.startswith(why) if why else not found


def test_what_is_pinned_stays_where_it_is_pinned() -> None:
    """Elsewhere it may go."""
    some = two()
    some.models = {MODEL: ModelRules(resident_on=("a",))}
    assert refusal(sent(some, remove=MODEL)).startswith(
        f"model_busy: {MODEL} is pinned to a: take a out of"
    )
    assert not refusal(sent(some, remove=MODEL, node="b"))


def test_the_last_copy_of_what_is_asked_for_stays() -> None:
    """Where another node has it, it may go; and where nobody asks."""
    for others_have, is_asked, why in (
        (False, True, f"model_busy: no other node has {MODEL}, which is asked for: brain/q1."),
        (True, True, ""),
        (False, False, ""),
    ):
        some = two(node("a"), *(() if others_have else (node("b", installed={}),)))
        some.open = {"brain/q1": request(model=MODEL)} if is_asked else {}
        assert refusal(sent(some, remove=MODEL)) == why


@pytest.mark.parametrize(
    ("other", "last", "stays"),
    [
        (node("b"), "0", False),
        (node("b", installed={}), "0", True),
        (node("b", installed={}), "nonsense", True),
        (node("b", installed={}), "1", False),
        (node("b", installed={}), "", False),
        (node("b", heard_ms=None), "0", True),
        (replace(node("b"), disk=DiskWork("remove", MODEL, "house/y", "6-0", AT_MS)), "0", True),
    ],
)
def test_the_last_copy_stays_where_that_was_said(other: Node, last: str, stays: bool) -> None:
    """One that is being removed elsewhere counts as gone, and so does one of a node that nobody hears; who
    says nothing removes it."""
    found = refusal(sent(two(node("a"), other), remove=MODEL, **({"last": last} if last else {})))
    assert found == (f"last_copy: a has the house's last copy of {MODEL}." if stays else "")


def test_nothing_is_pulled_by_default() -> None:
    """One sentence says what to set; a removal needs no registry."""
    fields = {b"id": b"x", b"node": b"a", b"pull": NEW.encode()}
    taken = take(two(), Entry("requests", "house", "5-0", fields), **LIMITS)
    assert refusal(taken) == (
        'pull_off: No model is pulled here: set pull_from = ["registry.ollama.ai"] in the router\'s '
        "streams.toml."
    )
    fields = {b"id": b"x", b"node": b"a", b"remove": MODEL.encode()}
    assert not refusal(take(two(), Entry("requests", "house", "5-0", fields), **LIMITS))


@pytest.mark.parametrize(
    ("model", "host"),
    [
        ("gemma3:4b", REGISTRY), ("library/gemma3", REGISTRY),
        ("registry.ollama.ai/library/gemma3", REGISTRY),
        ("someone/gemma3:4b", REGISTRY), ("HF.co/a/b:q4", "hf.co"), ("https://hf.co/a/b", "hf.co"),
        ("registry.ollama.ai:443/library/gemma3", "registry.ollama.ai:443"),
        ("registry.ollama.ai.evil.example/a/b", "registry.ollama.ai.evil.example"), ("a/b/c/d", "a"),
    ],
)  # fmt: skip
def test_the_registry_of_a_name(model: str, host: str) -> None:
    """As Ollama reads it."""
    assert host_of(model) == host


def test_no_request_is_sent_to_a_node_for_what_is_about_to_go() -> None:
    """A pull of it changes nothing, and another model is asked for all the same."""
    for op, model, kept in (("remove", MODEL, False), ("pull", MODEL, True), ("remove", NEW, True)):
        some = evolve(two(), ev.DiskOrdered("a", op, model, "house", "house/x", "7-0"))
        found = first_filter(some, some.nodes["a"], request())
        assert (found is None or found.filter != Filter.NOT_INSTALLED) is kept
        assert first_filter(some, some.nodes["b"], request()) is None


def test_what_is_about_to_go_is_not_planned_into_memory() -> None:
    """However much it is asked for; a pull of it changes nothing."""
    for op, planned in (("remove", set()), ("pull", {MODEL})):
        some = evolve(two(), ev.DiskOrdered("a", op, MODEL, "house", "house/x", "7-0"))
        found = candidates(some, {"a": 8_000}, {MODEL: 1_000})
        assert {each.model for each in found} & {MODEL} == planned


def test_ends_are_the_orders_own() -> None:
    """A result with another fence, or of another node, ends nothing."""
    head = agent_entries.ResultHead("completed", "", 0, "7-0")

    def result(owner: str, what: agent_entries.ResultHead) -> Taken:
        raw = {b"head": agent_entries.encode_head(what), b"status": b"pulling"}
        return take(pulling(), Entry("results", owner, "8-0", raw), **LIMITS)

    [ended] = result("a", head).events
    assert ended == ev.DiskEnded("a", "pull", NEW, "house/x", "7-0")
    assert evolve(pulling(), ended).nodes["a"].disk is None
    failed = structs.replace(head, op="failed", code="no_space")
    assert result("a", failed).events == (replace(ended, code="no_space", source="8-0"),)
    assert result("b", head).events == ()
    assert result("a", structs.replace(head, work_id="6-0")).events == ()
    progress = structs.replace(head, op="progress")
    passed = result("a", progress)
    assert (passed.events, passed.progress is not None) == ((), True)
    assert result("a", structs.replace(progress, work_id="6-0")).progress is None
    assert result("b", progress).progress is None


@pytest.mark.parametrize(
    ("op", "code", "there"), [("remove", "", False), ("remove", "remove_failed", True), ("pull", "", True)]
)
def test_what_is_removed_is_gone_at_once(op: str, code: str, there: bool) -> None:
    """From disk and memory, before the node's next list says so, and only there; what failed changes
    nothing."""
    has_it = replace(node("a"), resident={MODEL: Resident("a", 500, 4_096)})
    some = evolve(two(has_it), ev.DiskOrdered("a", op, MODEL, "house", "house/x", "7-0"))
    after = evolve(some, ev.DiskEnded("a", op, MODEL, "house/x", "7-0", code))
    row = after.nodes["a"]
    assert (row.disk, MODEL in row.installed, MODEL in row.resident) == (None, there, there)
    assert MODEL in after.nodes["b"].installed


def health(work_read: str, in_hand: tuple[str, ...] = (), **changes: bool) -> list[ev.DiskEnded]:
    """What ends with a health entry of the node, which pulls as 7-0."""
    head = agent_entries.HealthHead(
        boot="b", sampled_ms=1, temp_mc=50_000, ram_used_mb=1, ram_total_mb=8_192, cpu_permille=0,
        in_hand=in_hand, work_read=work_read, results_written="9-0",
    )  # fmt: skip
    goodbye, settled = changes.get("goodbye", False), changes.get("settled", True)
    raw = {b"head": agent_entries.encode_head(structs.replace(head, goodbye=goodbye))}
    limits = {**LIMITS, "results_cursor": "9-0" if settled else "8-0"}
    taken = take(pulling(), Entry("health", "a", "9-0", raw), **limits)
    return [each for each in taken.events if isinstance(each, ev.DiskEnded)]


def test_an_order_that_the_agent_lost_or_never_knew_ends() -> None:
    """Once it has read it and does not hold it, and all it had written is taken; not a moment sooner. Its
    agent is told to stop, in case it comes back to it."""
    [lost] = health("7-0")
    assert lost == ev.DiskEnded("a", "pull", NEW, "house/x", "7-0", "gone")
    assert health("6-9") == health("7-0", ("7-0",)) == health("7-0", settled=False) == []
    told, work = deliver(pulling(), lost, 9, None)
    assert (told.fields["kind"], told.fields["code"]) == ("error", "gone")
    assert agent_entries.decode_work(work.fields["head"]) == agent_entries.WorkHead("cancel", work_id="7-0")


def test_who_says_goodbye_before_it_reads_an_order_ends_it() -> None:
    """One that has read it says itself what became of it."""
    assert [each.code for each in health("6-9", goodbye=True)] == ["gone"]
    assert [each.code for each in health("6-9", goodbye=True, settled=False)] == ["gone"]
    assert health("7-0", goodbye=True, settled=False) == []


@pytest.mark.parametrize(("op", "limit_ms"), [("pull", 9_000), ("remove", 1_000)])
def test_a_node_that_never_ends_is_not_waited_for(op: str, limit_ms: int) -> None:
    """Its agent is told to stop, in case it comes back; to the millisecond, each by its own limit."""
    some = evolve(two(), replace(ORDERED, op=op))
    some.at_ms = AT_MS + limit_ms + LATER_MS
    assert overdue_disks(some, 9_000, 1_000) == []
    some.at_ms += 1
    [ended] = overdue_disks(some, 9_000, 1_000)
    told, work = deliver(some, ended, 9, None)
    assert (told.fields["kind"], told.fields["code"]) == ("error", "overdue")
    assert agent_entries.decode_work(work.fields["head"]) == agent_entries.WorkHead("cancel", work_id="7-0")


def test_which_nodes_are_meant_where_none_is_named() -> None:
    """Those that lack it, and those that have it; never one without inference."""
    without = replace(node("a"), installed={})
    assert nodes_to_change(two(without), "pull", MODEL) == ["a"]
    assert nodes_to_change(two(without), "remove", MODEL.upper()) == ["b"]
    assert nodes_to_change(two(), "pull", NEW) == ["a", "b"]
    unknown = replace(without, inventory_known=False)
    assert nodes_to_change(two(unknown), "pull", MODEL) == [], "as `orion models` tells it"


# a real grid
