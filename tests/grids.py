"""Grids for tests of the pure core: a builder for one, and Hypothesis strategies for many."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from orion_streams.config import NodeRules, Policy
from orion_streams.state import Grid, Holding, Installed, Node, Request, Resident

POLICY = Policy()
MODEL = "gemma3:270m"
HEAVY = "llama3.2:3b"
AT_MS = 100_000
DISK = {MODEL: Installed("a", 253), HEAVY: Installed("b", 2019)}
MEMORY = {name: Resident(row.digest, row.size_mb) for name, row in DISK.items()}


def node(name: str, *, tiers: tuple[int, ...] = (), slots: int = 1, **values: Any) -> Node:
    """A healthy node with both models on disk; `values` replace what is said of it."""
    healthy: dict[str, Any] = {
        "heard_ms": AT_MS - 500,
        "temp_mc": 50_000,
        "ram_used_mb": 2_000,
        "ram_total_mb": 8_000,
        "inventory_known": True,
        "installed": DISK,
    }
    return Node(NodeRules(name, tiers=tiers, slots=slots), **{**healthy, **values})


def edge() -> Node:
    """A healthy robot."""
    return Node(
        NodeRules("orion-edge", inference=False),
        heard_ms=AT_MS,
        temp_mc=40_000,
        ram_total_mb=4_000,
        inventory_known=True,
        installed=DISK,
        resident=MEMORY,
    )


def grid(*nodes: Node, open_requests: dict[str, Request] | None = None) -> Grid:
    """A grid of these nodes."""
    return Grid(
        number=1,
        at_ms=AT_MS,
        server_ms=AT_MS,
        policy=POLICY,
        nodes={each.rules.name: each for each in nodes},
        open=open_requests or {},
    )


def request(**values: Any) -> Request:
    """A waiting request; `values` replace what is said of it."""
    usual: dict[str, Any] = {
        "entry_id": "1-0",
        "kind": "generate",
        "model": MODEL,
        "tier": 0,
        "priority": 0,
        "stream": True,
        "session": "",
        "accepted": 1,
        "accepted_ms": AT_MS,
        "deadline_ms": AT_MS + 60_000,
        "body_bytes": 100,
        "prompt_tokens": 20,
        "num_predict": 0,
    }
    return Request(**{**usual, **values})


def holding(model: str = MODEL, run_ms: int = 1_000, **values: Any) -> Holding:
    """An attempt that a node holds."""
    usual: dict[str, Any] = {"request": "brain/other", "attempt": 1, "since_ms": AT_MS}
    return Holding(model=model, run_ms=run_ms, **{**usual, **values})


def nodes(name: str) -> st.SearchStrategy[Node]:
    """Nodes in every condition, the marks included."""
    return st.builds(
        Node,
        rules=st.builds(
            NodeRules,
            name=st.just(name),
            inference=st.booleans(),
            tiers=st.sampled_from([(), (1,), (2,), (1, 2)]),
            slots=st.integers(1, 3),
            temperature_sensor=st.booleans(),
        ),
        heard_ms=st.one_of(st.none(), st.integers(AT_MS - 6_000, AT_MS)),
        temp_mc=st.one_of(st.none(), st.integers(40_000, 90_000), st.sampled_from([75_000, 75_001])),
        ram_used_mb=st.one_of(st.integers(0, 1_000), st.sampled_from([900, 901])),
        ram_total_mb=st.just(1_000),
        backed_off=st.sampled_from(["", "", "hot", "ram"]),
        two_agents_ms=st.one_of(st.none(), st.integers(AT_MS - 60_000, AT_MS)),
        inventory_known=st.booleans(),
        installed=st.sampled_from([{}, {MODEL: DISK[MODEL]}, DISK, DISK]),
        resident=st.sampled_from([{}, {}, {MODEL: MEMORY[MODEL]}, MEMORY]),
        holdings=st.dictionaries(
            st.sampled_from(["5-0", "6-0", "7-0"]),
            st.builds(
                holding,
                model=st.sampled_from([MODEL, HEAVY]),
                run_ms=st.integers(0, 100_000),
                since_ms=st.integers(AT_MS - 5_000, AT_MS),
                started=st.booleans(),
            ),
            max_size=3,
        ),
    )


def grids() -> st.SearchStrategy[Grid]:
    """Grids of one to four nodes in every condition."""
    names = ["orion-edge", "orion-master", "orion-spare", "orion-worker"]
    chosen = st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True)
    return chosen.flatmap(lambda some: st.tuples(*(nodes(name) for name in some))).map(
        lambda rows: grid(*rows)
    )


def requests() -> st.SearchStrategy[Request]:
    """Waiting requests."""
    return st.builds(
        request,
        model=st.sampled_from([MODEL, HEAVY, "nobody:has-it"]),
        kind=st.sampled_from(["generate", "chat", "embed"]),
        tier=st.sampled_from([0, 1, 2, 3]),
        prompt_tokens=st.integers(0, 10_000),
        num_predict=st.integers(0, 5_000),
    )
