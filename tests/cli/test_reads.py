"""`orion nodes`, `models`, `ps` and `log` on a prepared log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from orion_streams.cli import read_commands, tables
from orion_streams.cli.log_lines import COLOURS, Line, as_data, as_text
from orion_streams.config import Config
from orion_streams.decider.route import route
from orion_streams.gateway import view_models
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules
from orion_streams.model.state import Node
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Mark, UnloadReason
from orion_streams.protocol.admission import runner_options
from tests.cli.conftest import Orion
from tests.cli.run_cli import MODEL, OTHER
from tests.cli.run_cli import run as run_orion
from tests.grids import AT_MS, DISK, HEAVY, MEMORY, edge, holding, loading, node, request
from tests.grids import grid as grid_of

Read = Callable[..., Any]
NODE_KEYS = {
    "node", "inference", "state", "value", "limit", "tiers", "temp_mc", "forecast_mc", "derated",
    "ram_used_mb", "ram_total_mb", "committed_mb", "capacity_mb", "cpu_permille", "throttled", "slots",
    "open_slots", "in_hand", "breaker", "breaker_left_ms", "resident", "loading", "installed",
    "heard_ms_ago", "engine", "drained_by",
}  # fmt: skip


def test_nodes_have_stable_keys_in_the_order_of_names(read: Read) -> None:
    """`orion nodes --json` is a list of objects with the same keys, by name."""
    found = read("nodes")
    assert [row["node"] for row in found] == ["edge", "master", "never", "worker"]
    assert all(set(row) == NODE_KEYS for row in found)


def test_a_node_shows_its_state_its_sample_its_slots_and_its_memory(read: Read) -> None:
    """The state as the filters have it, what health said last, attempts, and models in memory."""
    states = {row["node"]: row for row in read("nodes")}
    assert states["master"]["state"] == "available"
    assert (states["worker"]["state"], states["worker"]["value"]) == ("hot", 76_100)
    assert states["never"]["state"] == "silent"
    assert states["never"]["heard_ms_ago"] is None
    assert states["edge"]["state"] == "no_inference"
    master = states["master"]
    assert (master["temp_mc"], master["ram_used_mb"], master["ram_total_mb"]) == (50_000, 2000, 8192)
    assert (master["slots"], master["in_hand"], master["resident"]) == (1, 1, [MODEL])
    assert master["heard_ms_ago"] >= 0


def test_a_grid_that_stands_still_grows_stale() -> None:
    """A node's sample ages by the server's clock, whether or not a router still commits."""
    grid = grid_of(node("one", heard_ms=AT_MS))
    assert view_models.node_rows(grid)[0].state == "available"
    grid.at_ms += grid.policy.stale_ms + 1
    [late] = view_models.node_rows(grid)
    assert (late.state, late.value, late.limit) == ("stale", grid.policy.stale_ms + 1, grid.policy.stale_ms)


CONDITIONS = st.builds(
    node,
    st.just("one"),
    slots=st.integers(1, 3),
    heard_ms=st.sampled_from([None, AT_MS, AT_MS - 5_000, AT_MS - 5_001]),
    temp_mc=st.sampled_from([None, 50_000, 75_000, 75_001]),
    forecast_mc=st.sampled_from([0, 73_000, 80_000]),
    ram_used_mb=st.sampled_from([500, 2_000, 7_200, 7_201]),
    ram_total_mb=st.sampled_from([1_000, 2_000, 8_000]),
    backed_off=st.sampled_from(["", "", "", "hot", "ram"]),
    inventory_known=st.sampled_from([True, True, False]),
    installed=st.sampled_from([{}, {MODEL: DISK[MODEL]}, {HEAVY: DISK[HEAVY]}, DISK, DISK]),
    resident=st.sampled_from([{}, {MODEL: MEMORY[MODEL]}, MEMORY]),
    assignments=st.sampled_from([{}, {"5-0": holding(HEAVY, reserve_mb=2_400)}]),
    opened_ms=st.sampled_from([None, None, AT_MS - 1_000, AT_MS - 15_000]),
    open_ms=st.just(15_000),
    ramp=st.sampled_from([None, 0]),
)
"""Nodes in every condition, at the marks and one beyond them."""


@given(CONDITIONS)
@example(node("one", ram_used_mb=500, ram_total_mb=2_000))  # room for the smaller model only
def test_available_means_that_routing_takes_something(one: Node) -> None:
    """A node is shown as available exactly where some model's requests pass every filter of routing."""
    grid = grid_of(one)
    [row] = view_models.node_rows(grid)
    passed = []
    for model in row.installed:
        num_ctx, runner = runner_options(grid, model, {})
        asked = request(model=model, num_ctx=num_ctx, runner=runner)
        passed += [not each.filter for each in route(grid, asked).verdicts]
    assert (row.state == "available") == any(passed)


def test_a_node_that_serves_only_what_it_has_in_memory_is_available() -> None:
    """No room for the smaller model, as the bigger one is pinned: requests for that one go through."""
    full = node("one", ram_used_mb=2_500, ram_total_mb=2_900, resident={HEAVY: MEMORY[HEAVY]})
    grid = grid_of(full)
    grid.models = {HEAVY: ModelRules(resident_on=("one",))}
    assert route(grid, request()).verdicts[0].filter == "memory"
    assert view_models.node_rows(grid)[0].state == "available"


def test_the_robot_is_never_available() -> None:
    """Whatever a configuration says, orion-edge is shown without inference, and without slots."""
    robot = edge()
    [row] = view_models.node_rows(grid_of(replace(robot, rules=replace(robot.rules, inference=True))))
    assert (row.state, row.inference, row.slots, row.open_slots) == ("no_inference", False, 0, 0)


def test_a_node_too_small_for_all_its_models_is_not_available() -> None:
    """Where no installed model fits, the smallest one's need and the room for it are shown."""
    [row] = view_models.node_rows(grid_of(node("one", ram_used_mb=600, ram_total_mb=1_000)))
    assert (row.state, row.limit) == ("too_large", 380)
    assert row.value > 380
    assert shown([row]).startswith(f"too small: {row.value} MB > 380 MB")


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({"ram_used_mb": 600, "ram_total_mb": 1_000, "temp_mc": 76_100}, "hot"),
        ({"installed": {}, "inventory_known": False}, "inventory_unknown"),
        ({"installed": {}}, "no_models"),
        ({"installed": {}, "heard_ms": AT_MS - 5_001}, "stale"),
    ],
)
def test_what_holds_back_the_node_is_shown_before_its_models(values: dict[str, Any], state: str) -> None:
    """Of several reasons, the one that has nothing to do with what is asked."""
    [row] = view_models.node_rows(grid_of(node("one", **values)))
    assert row.state == state


@pytest.mark.parametrize(
    ("values", "state", "breaker", "words"),
    [
        ({}, "available", "closed", "available"),
        ({"opened_ms": AT_MS - 5_000, "open_ms": 15_000}, "breaker", "open", "breaker: open, 10 s left"),
        ({"opened_ms": AT_MS - 15_000, "open_ms": 15_000}, "available", "probing", "available: breaker pr"),
        ({"ramp": 0}, "available", "ramp", "available: slots reopening"),
    ],
)
def test_the_breaker_of_a_node_is_shown(
    values: dict[str, Any], state: str, breaker: str, words: str
) -> None:
    """Open with the time that is left, probing, or opening its slots one by one."""
    [row] = view_models.node_rows(grid_of(node("one", slots=2, **values)))
    assert (row.state, row.breaker) == (state, breaker)
    assert row.breaker_left_ms == (10_000 if breaker == "open" else 0)
    assert row.open_slots == (2 if breaker == "closed" else 1)
    assert shown([row]).startswith(words)


def test_a_rising_temperature_is_shown_before_the_mark_is_passed() -> None:
    """A node that nears the mark says what it rises to, and counts as derated."""
    [row] = view_models.node_rows(grid_of(node("one", temp_mc=68_000, forecast_mc=73_100)))
    assert (row.state, row.forecast_mc, row.derated) == ("available", 73_100, True)
    assert shown([row]).startswith("available: rising to 73.1 °C")


def test_memory_and_ordered_loads_are_counted() -> None:
    """What is promised counts as committed; an ordered load takes memory and no slot."""
    load = loading(HEAVY, reserve_mb=2_400)
    [row] = view_models.node_rows(grid_of(node("one", assignments={"5-0": load})))
    assert (row.in_hand, row.loading) == (0, [HEAVY])
    assert (row.committed_mb, row.capacity_mb) == (2_000 + 2_400, 8_000 * 88 // 100 - 500)
    grid = grid_of(node("one", assignments={"5-0": load}, resident={HEAVY: MEMORY[HEAVY]}))
    assert view_models.ps_rows(grid).resident[0].running == 0


def shown(found: list[view_models.NodeRow]) -> str:
    """What the table says of the first node's state."""
    return tables.node_state(found[0]).plain


def test_a_name_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """What a client calls its request is no markup for the terminal."""
    grid = grid_of(node("one"), open_requests={"brain/[/bold] :smile:": request()})
    tables.show("ps", view_models.ps_rows(grid), Config())
    assert "[/bold] :smile:" in capsys.readouterr().out


def test_the_tables_fit_a_narrow_terminal() -> None:
    """At 80 columns node names and figures stay whole, and no line is longer."""
    hot = node("orion-worker", temp_mc=76_100, resident={MODEL: MEMORY[MODEL], HEAVY: MEMORY[HEAVY]})
    console = Console(width=80)
    found = view_models.node_rows(grid_of(node("orion-master"), hot))
    with console.capture() as capture:
        console.print(tables.nodes_table(found, {}))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    for words in ("orion-master", "orion-worker", "76.1 °C", "2.0/7.8 GB", "hot: 76.1 °C", MODEL, HEAVY):
        assert any(words in line for line in lines), words


def test_old_data_is_called_old(orion: Orion, grid_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the router has committed nothing for a while, stderr says so and stdout stays pure."""
    monkeypatch.setattr(read_commands, "QUIET_MS", -1)
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
        "num_ctx": 0,
        "can": [],
        "lacked_by": [],
    }
    assert not found[1]["resident"]
    assert found[2]["lacked_by"] == ["master"], "not `never`, whose list is unknown, nor the robot"


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


@pytest.mark.parametrize("command", ["nodes", "models", "ps", "plan"])
def test_tables_show_the_same_for_a_person(orion: Orion, grid_toml: Path, command: str) -> None:
    """Without --json a table comes, with names and units."""
    code, out, _ = orion(command)
    expected = {
        "nodes": ["hot: 76.1 °C > 75.0 °C", "never", "1 of 1"],
        "models": ["478 MB", OTHER, f"{OTHER} is not on master: ollama pull {OTHER} on master"],
        "ps": ["waiting for master", "worker: hot", "running"],
        "plan": [" GB for models are planned; ", "requests of late, by model"],
    }
    assert code == 0
    assert [word for word in expected[command] if word not in out] == []


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


def test_a_position_beyond_the_end_is_refused(orion: Orion, grid_toml: Path) -> None:
    """One line says where the log ends."""
    code, out, err = orion("log", "--from", "999999")
    assert (code, out, err.count("\n")) == (78, "", 1)
    assert "nothing from position 999999 on: the log ends at position " in err


def test_any_terminal_gets_the_text(grid_toml: Path) -> None:
    """Letters that it does not have are replaced, and nothing breaks off."""
    home = grid_toml.parent
    whole = run_orion(home, "explain", "runs", PYTHONIOENCODING="utf-8")
    plain = run_orion(home, "explain", "runs", PYTHONIOENCODING="ascii")
    assert (whole[0], plain[0]) == (0, 0)
    assert "Traceback" not in plain[2]
    assert not whole[1].isascii()
    assert plain[1].isascii()
    assert len(plain[1].splitlines()) == len(whole[1].splitlines())


def test_a_line_of_the_log_tells_the_decision(orion: Orion, grid_toml: Path) -> None:
    """For a person each event is a line: position, time, kind, and a decision with all its verdicts."""
    _, out, _ = orion("log", "--from", "1")
    [routed] = [line for line in out.splitlines() if "request.routed" in line]
    assert "brain/runs attempt 1 to master" in routed
    assert "worker: hot" in routed
    assert "edge: role" in routed


def test_every_event_has_a_line() -> None:
    """Each kind of event can be shown, as data and as text."""
    values: dict[str, Any] = {"temp_mc": 50_000, "verdicts": (Verdict(node="one", cost_ms=5),)}
    shown = []
    for kind in ev.AnyEvent.__args__:
        fields = {name: values.get(name, 1) for name in kind.__struct_fields__}
        fields |= {name: () for name in ("in_hand", "nodes") if name in fields}
        event: Any = kind(**fields)
        shown.append(as_text(Line(1, 1, event), coloured=True))
        if not isinstance(event, ev.PolicyChanged):
            assert f'"event":"{kind.__struct_config__.tag}"' in as_data(Line(1, 1, event))
    assert all(line.startswith("      1  ") for line in shown)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (ev.BreakerOpened("one", 3, 15_000), "node.breaker_opened  one for 15 s, after 3 failed requests"),
        (ev.BreakerClosed("one"), "node.breaker_closed  node=one"),
        (ev.UnloadOrdered("one", MODEL, UnloadReason.ROOM), f"model.unload_ordered one {MODEL}, for room"),
        (
            ev.LoadOrdered("one", MODEL, 4096, "", 4_300, 478),
            f"model.load_ordered   one {MODEL}, num_ctx 4096, 478 MB, expected in 4.3 s",
        ),
        (
            ev.LoadEnded("one", MODEL, "1-0", ok=True, load_ms=676, alone=True),
            f"model.load_ended     one {MODEL} loaded in 676 ms, alone",
        ),
        (
            ev.LoadEnded("one", MODEL, "1-0", ok=False),
            f"model.load_ended     one {MODEL} failed to load",
        ),
        (
            ev.NodeDrained("one", "cli", 7_500_000, 20_000),
            "node.drained         one by cli, for 2 h 5 min",
        ),
        (ev.NodeDrained("one", "cli"), "node.drained         one by cli, until it is resumed"),
        (ev.NodeResumed("one"), "node.resumed         one by itself"),
        (
            ev.DiskOrdered("one", "pull", MODEL, "cli", "cli/1"),
            f"disk.ordered         one pull {MODEL}, by cli",
        ),
        (
            ev.DiskEnded("one", "pull", MODEL, "cli/1", "1-0"),
            f"disk.ended           one pull {MODEL}: done",
        ),
        (
            ev.DiskEnded("one", "remove", MODEL, "cli/1", "1-0", "overdue"),
            f"disk.ended           one remove {MODEL}: overdue",
        ),
        (ev.NodeResumed("one", "cli"), "node.resumed         one by cli"),
        (ev.ZoneChanged(-12_600), "zone.changed         local time is UTC-210 min"),
        (
            ev.NodeBackedOff("one", Mark.HOT, 76_100, 75_000),
            "node.backed_off      one hot: 76.1 °C > 75.0 °C",
        ),
        (
            ev.NodeBackedOff("one", Mark.RAM, 912, 900),
            "node.backed_off      one ram: 91.2 % RAM > 90.0 % RAM",
        ),
    ],
)
def test_what_happens_to_a_node_is_a_line_with_units(event: ev.AnyEvent, words: str) -> None:
    """Breakers, ordered loads and unloads, and backoffs say what they mean."""
    assert as_text(Line(1, 1, event), coloured=False).endswith(words)


def test_only_events_have_colours() -> None:
    """Each colour belongs to an event that exists, or to a family of them."""
    tags = {str(kind.__struct_config__.tag) for kind in ev.AnyEvent.__args__}
    assert set(COLOURS) <= tags | {each.partition(".")[0] for each in tags}


def test_what_is_simulated_says_so(orion: Orion, read: Callable[..., Any], grid_toml: Path) -> None:
    """Under every screen that shows what nodes do; not where none is."""
    asked = next(row["request"] for row in read("log", "--from", "1", "-n", "100000") if "request" in row)
    screens = [("nodes",), ("models",), ("ps",), ("plan",), ("explain", asked)]
    assert not any("simulated" in orion(*words)[1] for words in screens)
    grid_toml.write_text(f"{grid_toml.read_text()}simulated = true\n")  # the last table: [nodes.never]
    for words in screens:
        assert orion(*words)[1].splitlines()[-1] == "simulated: never", words
