"""Facts of a healthy grid as doctor collects them, and changes that make it sick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from orion_streams.cli.doctor.findings import Facts, Group, Kept, Stream
from orion_streams.config import parse
from orion_streams.model.commit import Guard
from orion_streams.model.policy import DECIDER
from orion_streams.model.state import Node
from orion_streams.model.vocabulary import Mark
from tests.grids import AT_MS, MEMORY, edge, grid, node, request

URL = "redis://house:6379/0"


TOML = """
revision = 3
prefix = "g:"
[retention]
archive_dir = "/srv/archive"
snapshot_events = 100
[nodes.pi]
tiers = [1]
[nodes.pi2]
tiers = [2]
[nodes.orion-edge]
inference = false
ollama = ""
"""


CONFIG = parse(TOML)


NOW = f"{AT_MS}-0"


INFO: dict[str, Any] = {
    "redis_version": "7.0.15",
    "role": "master",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "used_memory": 50_000_000,
    "evicted_keys": 0,
    "loading": 0,
    "db0": {"keys": 17},
}


def pi(name: str, **values: Any) -> Node:
    """A healthy node with a model in memory."""
    return node(name, **{"resident": MEMORY, **values})


def healthy() -> Facts:
    """A grid in which everything is as it should be."""
    names = [f"{kind}:{each}" for each in CONFIG.nodes for kind in ("health", "results", "work")]
    names += [f"{kind}:{each}" for each in CONFIG.clients for kind in ("requests", "parts", "replies")]
    streams = {name: Stream("stream", 10, 1000, NOW) for name in (*names, "log", "snapshots")}
    rules: dict[str, Any] = {
        "revision": 3,
        "policy_id": CONFIG.policy_id(),
        "decider": DECIDER,
        "position": 500,
    }
    return Facts(
        CONFIG,
        URL,
        info=dict(INFO),
        server_ms=AT_MS,
        clock_off_ms=3,
        ping_ms=0.3,
        script_p99_ms=0.4,
        guard=Guard(9, "t", NOW, {"requests:brain": NOW}),
        numbers=(9, 9),
        first=101,
        last=500,
        snapshots=(450, 350),
        streams={**streams, "guard": Stream("hash")},
        groups={"work:pi": Group(0), "work:pi2": Group(1)},
        grid=grid(pi("pi"), pi("pi2"), edge(), **rules),
        silence_ms=300,
        archive=Kept(True, 350),
    )


def info(**values: Any) -> Callable[[Facts], None]:
    """INFO says something else."""
    return lambda facts: facts.info.update(values)


def fact(**values: Any) -> Callable[[Facts], None]:
    """Something else was found out."""

    def change(facts: Facts) -> None:
        for name, value in values.items():
            setattr(facts, name, value)

    return change


def state(**values: Any) -> Callable[[Facts], None]:
    """The node `pi` is otherwise."""

    def change(facts: Facts) -> None:
        assert facts.grid is not None
        facts.grid.nodes["pi"] = pi("pi", **values)

    return change


def gone(**values: Any) -> Callable[[Facts], None]:
    """The same, and its agent is quiet: nothing new in its health stream."""

    def change(facts: Facts) -> None:
        state(**values)(facts)
        facts.streams["health:pi"] = Stream("stream", 10, 1000, "5-0")

    return change


def rules(**values: Any) -> Callable[[Facts], None]:
    """The log's rules are others."""

    def change(facts: Facts) -> None:
        assert facts.grid is not None
        facts.grid = replace(facts.grid, **values)

    return change


def stream(name: str, **values: Any) -> Callable[[Facts], None]:
    """A stream is otherwise."""

    def change(facts: Facts) -> None:
        facts.streams[name] = replace(facts.streams[name], **values)

    return change


def asked(count: int, **values: Any) -> Callable[[Facts], None]:
    """So many open requests of the Brain."""

    def change(facts: Facts) -> None:
        assert facts.grid is not None
        facts.grid.open = {f"brain/q{n}": request(**values) for n in range(count)}

    return change


def all_hot(facts: Facts) -> None:
    """Two open requests, and both nodes are too hot."""
    assert facts.grid is not None
    asked(2)(facts)
    facts.grid.nodes |= {name: pi(name, temp_mc=76_000, backed_off=(Mark.HOT,)) for name in ("pi", "pi2")}
