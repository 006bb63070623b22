"""The vocabulary of the tests of the pure core: builders for one grid; strategies stand in properties/."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from orion_streams.decider.route import Decision
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid, Installed, Load, Node, Request, Resident, Run
from orion_streams.model.verdict import Verdict

POLICY = Policy()
MODEL, TWIN = "gemma3:270m", "gemma3:latest"
HEAVY, BIG = "llama3.2:3b", "llama2:13b"
AT_MS = 1_005_000
FENCE = "9-0"
LIMITS: dict[str, Any] = {
    "results_cursor": "0-0", "relayed": {}, "entry_max_bytes": 1_100_000, "answer_max_bytes": 4_000_000,
    "drain_ms": 20_000,
}  # fmt: skip
"""What `ingest.take` is told beside an entry."""
LIBRARY = {
    MODEL: Installed("a", 253),
    TWIN: Installed("a", 253),
    HEAVY: Installed("b", 2_019),
    BIG: Installed("c", 7_366),
}
DISK = {MODEL: LIBRARY[MODEL], HEAVY: LIBRARY[HEAVY]}
MEMORY = {name: Resident(row.digest, row.size_mb) for name, row in DISK.items()}


def node(
    name: str, *, tiers: tuple[int, ...] = (), slots: int = 1, inference: bool = True, **values: Any
) -> Node:
    """A healthy node with two models on disk; `values` replace what is said of it."""
    healthy: dict[str, Any] = {
        "heard_ms": AT_MS - 500,
        "boot": "b",
        "temp_mc": 50_000,
        "ram_used_mb": 2_000,
        "ram_total_mb": 8_000,
        "inventory_known": True,
        "installed": DISK,
    }
    return Node(NodeRules(name, inference=inference, tiers=tiers, slots=slots), **{**healthy, **values})


def edge(**values: Any) -> Node:
    """A healthy robot."""
    robot: dict[str, Any] = {"heard_ms": AT_MS, "temp_mc": 40_000, "ram_total_mb": 4_000}
    return node("orion-edge", **{"inference": False, "resident": MEMORY, **robot, **values})


def grid(*nodes: Node, open_requests: dict[str, Request] | None = None, **values: Any) -> Grid:
    """A grid of these nodes, at a moment when nothing is planned."""
    usual: dict[str, Any] = {"before_ms": AT_MS - 500, "policy": POLICY}
    if "speeds" in values:  # learned just now
        values["speeds"] = {
            key: replace(row, at_ms=row.at_ms or AT_MS) for key, row in values["speeds"].items()
        }
    return Grid(
        number=1,
        at_ms=AT_MS,
        server_ms=AT_MS,
        nodes={each.rules.name: each for each in nodes},
        open=open_requests or {},
        **{**usual, **values},
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


def under(some: Grid, policy: Policy) -> Grid:
    """The same grid under another policy."""
    return replace(some, policy=policy)


def holding(model: str = MODEL, run_ms: int = 1_000, **values: Any) -> Run:
    """An attempt that a node holds."""
    usual: dict[str, Any] = {"request": "brain/other", "attempt": 1, "since_ms": AT_MS}
    return Run(model=model, run_ms=run_ms, **{**usual, **values})


def loading(model: str, run_ms: int = 1_000, **values: Any) -> Load:
    """An ordered load that a node holds."""
    return Load(model=model, run_ms=run_ms, **{"since_ms": AT_MS, **values})


def sample(name: str, **values: Any) -> ev.NodeSampled:
    """A health event of a healthy node; `values` replace what it says."""
    usual: dict[str, Any] = {
        "boot": "b",
        "sampled_ms": 1,
        "temp_mc": 50_000,
        "ram_used_mb": 2_000,
        "ram_total_mb": 8_000,
        "cpu_permille": 10,
        "work_read": FENCE,
    }
    return ev.NodeSampled(name, **{**usual, **values})


def kinds(answers: tuple[ev.AnyEvent, ...]) -> list[str]:
    """What was answered, by the events' tags."""
    return [str(answer.__struct_config__.tag) for answer in answers]


def verdict(decision: Decision, name: str) -> Verdict:
    """One node's verdict."""
    return next(each for each in decision.verdicts if each.node == name)


def fails(law: Any, *args: Any) -> bool:
    """Whether a law does not hold: what a negative control asks of a broken variant."""
    try:
        law(*args)
    except AssertionError:
        return True
    return False
