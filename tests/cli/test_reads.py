"""`orion nodes`, `models`, `ps` and `log` on a prepared log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orion_streams import events as ev
from orion_streams.cli import reads, rows
from orion_streams.cli.logview import Line, as_data, as_text
from orion_streams.config import NodeRules
from orion_streams.state import Grid, Installed, Node
from tests.cli.conftest import Orion
from tests.cli.running import MODEL, OTHER

Read = Callable[..., Any]
NODE_KEYS = {
    "node", "inference", "state", "value", "limit", "tiers", "temp_mc", "ram_used_mb", "ram_total_mb",
    "cpu_permille", "throttled", "slots", "in_hand", "resident", "installed", "heard_ms_ago",
}  # fmt: skip


def test_nodes_have_stable_keys_in_the_order_of_names(read: Read) -> None:
    """`orion nodes --json` is a list of objects with the same keys, by name."""
    found = read("nodes")
    assert [row["node"] for row in found] == ["edge", "master", "never", "worker"]
    assert all(set(row) == NODE_KEYS for row in found)


def test_the_state_of_a_node_is_what_routing_says(read: Read) -> None:
    """Available, hot with value and limit, never heard of, without inference: as the filters have it."""
    states = {row["node"]: row for row in read("nodes")}
    assert states["master"]["state"] == "available"
    assert (states["worker"]["state"], states["worker"]["value"]) == ("hot", 76_100)
    assert states["never"]["state"] == "silent"
    assert states["never"]["heard_ms_ago"] is None
    assert states["edge"]["state"] == "no_inference"


def test_a_node_shows_its_sample_its_slots_and_its_memory(read: Read) -> None:
    """What health said last, how many attempts it holds, and what is in its memory."""
    master = next(row for row in read("nodes") if row["node"] == "master")
    assert (master["temp_mc"], master["ram_used_mb"], master["ram_total_mb"]) == (50_000, 2000, 8192)
    assert (master["slots"], master["in_hand"], master["resident"]) == (1, 1, [MODEL])
    assert master["heard_ms_ago"] >= 0


def test_a_grid_that_stands_still_grows_stale() -> None:
    """A node's sample ages by the server's clock, whether or not a router still commits."""
    node = Node(NodeRules("one"), heard_ms=1000, inventory_known=True, installed={MODEL: Installed("d", 1)})
    grid = Grid(at_ms=1000, nodes={"one": replace(node, temp_mc=1, ram_total_mb=1)})
    assert rows.node_rows(grid)[0].state == "available"
    grid.at_ms += grid.policy.stale_ms + 1
    [late] = rows.node_rows(grid)
    assert (late.state, late.value, late.limit) == ("stale", grid.policy.stale_ms + 1, grid.policy.stale_ms)


def test_old_data_is_called_old(orion: Orion, grid_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the router has committed nothing for a while, stderr says so and stdout stays pure."""
    monkeypatch.setattr(reads, "QUIET_MS", -1)
    code, out, err = orion("models", "--json")
    assert code == 0
    assert out.startswith("[")
    assert "the router has committed nothing for" in err


def test_models_are_listed_per_node(read: Read) -> None:
    """One row per (model, node): on disk, in memory, size, digest, context length."""
    found = read("models")
    assert [(row["model"], row["node"]) for row in found] == [
        (MODEL, "master"), (MODEL, "worker"), (OTHER, "worker"),
    ]  # fmt: skip
    assert found[0] == {
        "model": MODEL,
        "node": "master",
        "installed": True,
        "resident": True,
        "size_mb": 2000,
        "resident_mb": 478,
        "digest": f"digest of {MODEL}",
        "context_length": 4096,
    }
    assert not found[1]["resident"]


def test_ps_says_what_runs_and_what_waits_for_what(read: Read) -> None:
    """A running request names its node, a waiting one the node that it waits for or why none takes it."""
    found = read("ps")
    by_id = {row["id"]: row for row in found["requests"]}
    assert [row["id"] for row in found["requests"]] == ["runs", "queued", "cooling"]
    assert (by_id["runs"]["client"], by_id["runs"]["state"], by_id["runs"]["node"]) == (
        "brain", "running", "master",
    )  # fmt: skip
    assert (by_id["queued"]["state"], by_id["queued"]["waiting_for"]) == ("waiting", "master")
    assert (by_id["cooling"]["waiting"], by_id["cooling"]["reasons"]["worker"]) == ("no_node", "hot")
    assert found["resident"] == [
        {"node": "master", "model": MODEL, "resident_mb": 478, "context_length": 4096, "running": 1}
    ]


@pytest.mark.parametrize("command", ["nodes", "models", "ps"])
def test_tables_show_the_same_for_a_person(orion: Orion, grid_toml: Path, command: str) -> None:
    """Without --json a table comes, with names and units."""
    code, out, _ = orion(command)
    expected = {"nodes": ["hot: 76.1 °C > 75.0 °C", "never", "1 of 1"], "models": ["478 MB", OTHER]}
    words = expected.get(command, ["waiting for master", "worker: hot", "running"])
    assert code == 0
    assert [word for word in words if word not in out] == []


def test_the_log_comes_as_one_list(read: Read) -> None:
    """`orion log --json` is a list of events with gapless positions and the server's time."""
    found = read("log", "--from", "1", "-n", "4")
    assert [row["position"] for row in found] == [1, 2, 3, 4]
    assert [row["event"] for row in found][:2] == ["committed", "policy.changed"]
    assert all(row["server_ms"] > 1_600_000_000_000 for row in found)


def test_the_last_events_come_by_default(read: Read) -> None:
    """-n N without --from are the last N, and each knows the time of its commit."""
    whole, last = read("log", "--from", "1"), read("log", "-n", "3")
    assert last == whole[-3:]
    assert read("log", "-n", "0") == []


def test_no_prompt_is_in_the_log(read: Read, orion: Orion) -> None:
    """Neither form of `orion log` shows a prompt, for the log has none."""
    assert "secret" not in str(read("log", "--from", "1"))
    assert "secret" not in orion("log", "--from", "1")[1]


def test_a_line_of_the_log_tells_the_decision(orion: Orion, grid_toml: Path) -> None:
    """For a person each event is a line: position, time, kind, and a decision with all its verdicts."""
    _, out, _ = orion("log", "--from", "1")
    [routed] = [line for line in out.splitlines() if "request.routed" in line]
    assert "brain/runs attempt 1 to master" in routed
    assert "worker: hot" in routed
    assert "edge: role" in routed


def test_every_event_has_a_line() -> None:
    """Each kind of event can be shown, as data and as text."""
    values: dict[str, Any] = {"temp_mc": 50_000, "verdicts": (ev.Verdict("one", cost_ms=5),)}
    shown = []
    for kind in ev.AnyEvent.__args__:
        fields = {name: values.get(name, 1) for name in kind.__struct_fields__}
        fields |= {name: () for name in ("in_hand", "nodes") if name in fields}
        event: Any = kind(**fields)
        shown.append(as_text(Line(1, 1, event), coloured=True))
        if not isinstance(event, ev.PolicyChanged):
            assert f'"event":"{kind.__struct_config__.tag}"' in as_data(Line(1, 1, event))
    assert all(line.startswith("      1  ") for line in shown)
