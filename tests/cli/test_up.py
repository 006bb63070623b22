"""`orion up`: a grid of real processes, from the first line to the clean end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from orion_streams.cli import up_command
from orion_streams.cli.local_grid import LocalRoles, choose
from orion_streams.config import Config, parse
from orion_streams.demo.simulated_grid import GEMMA, SimulatedGrid, SimulatedNode
from orion_streams.errors import ConfigError
from orion_streams.model.vocabulary import Mark
from orion_streams.runtime.embedded_server import EmbeddedServer, free_port
from orion_streams.runtime.supervisor import Child
from orion_streams.simulation.machine_spec import NodeSpec
from tests.cli.run_cli import MODEL, TOML, descendants, finish, gone, run, start, words_of
from tests.helpers import WAIT_S, eventually_true


class Up:
    """A running `orion up`, what it announced, and its processes."""

    def __init__(self, home: Path, *words: str, **more: str) -> None:
        self.home = home
        self.process: subprocess.Popen[str] = start(home, "up", *words, "--json", **more)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.ready: dict[str, Any] = msgspec.json.decode(line)
        self.below = descendants(self.process.pid)

    def read(self, *words: str) -> Any:
        """The data of another command, which finds the grid by itself."""
        code, out, err = run(self.home, *words, "--json")
        assert code == 0, err
        return msgspec.json.decode(out)

    def named(self, *words: str) -> psutil.Process:
        """The process with these words in its command line."""
        [found] = [each for each in self.below if set(words) <= set(words_of(each))]
        return found

    def end(self, how: signal.Signals) -> tuple[int, str, str]:
        """Send a signal, wait for the end: exit code, the rest of stdout, stderr. No process is left."""
        below = descendants(self.process.pid)
        self.process.send_signal(how)
        ended = finish(self.process)
        eventually_true(gone(below), "the end of all processes")
        return ended


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`orion up --simulated --json` for the module."""
    grid = Up(tmp_path_factory.mktemp("up"), "--simulated")
    yield grid
    if grid.process.poll() is None:
        grid.end(signal.SIGTERM)


def test_it_announces_itself_in_one_line(up: Up) -> None:
    """When everything is ready: redis_url, that it is simulated, models and nodes."""
    assert up.ready["redis_url"].startswith("redis://127.0.0.1:")
    assert up.ready["redis_url"].endswith("/0")
    assert up.ready["simulated"] is True
    assert MODEL in up.ready["models"]
    assert {node["engine"] for node in up.ready["nodes"]} == {"synthetic"}


def test_everything_is_ready_when_it_says_so(up: Up) -> None:
    """Two nodes are available, the edge takes nothing, and both have the small model."""
    states = {row["node"]: row["state"] for row in up.read("nodes")}
    assert states == {
        "orion-edge": "no_inference",
        "orion-master": "available",
        "orion-worker": "available",
    }
    rows = [row["node"] for row in up.read("models") if row["model"] == MODEL and row["installed"]]
    assert rows == ["orion-master", "orion-worker"]


def test_a_simulated_grid_tells_nobody(up: Up) -> None:
    """It has router, gateway and agents, and no process that sends alerts."""
    assert up.named("gateway")
    assert not [each for each in up.below if "alerts" in words_of(each)]


def test_an_answer_comes_to_the_terminal(up: Up) -> None:
    """`orion ask` writes the answer on stdout, and who made it, by which engine, on stderr."""
    code, out, err = run(up.home, "ask", "Why is the sky blue?", "--redis", up.ready["redis_url"])
    assert code == 0
    assert len(out.strip()) > 0
    assert f"orion: asking {MODEL}\n" in err
    assert "simulated (synthetic)" in err
    assert " tokens · " in err


def test_an_answer_comes_as_data(up: Up) -> None:
    """`orion ask --json` is one line with the answer's fields."""
    answer = up.read("ask", "Why?", "--model", MODEL, "--tier", "1")
    assert answer["node"] in ("orion-master", "orion-worker")
    assert answer["tokens"] > 0
    assert answer["text"]


@pytest.mark.parametrize("how", [(), ("--json",), ("--no-stream",)])
def test_a_rejected_question_exits_1_with_its_code(up: Up, how: tuple[str, ...]) -> None:
    """An unknown model: exit 1, one line with the stable code, nothing on stdout."""
    code, out, err = run(up.home, "ask", "Why?", "--model", "nobody:has-it", *how)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "unknown_model" in err


def test_a_crashed_agent_is_started_again(up: Up) -> None:
    """kill -9 of an agent: another one takes its place, and its node is heard of again."""
    before = up.named("agent", "orion-worker")
    before.kill()

    def back() -> bool:
        found = [each for each in descendants(up.process.pid) if "orion-worker" in words_of(each)]
        return bool(found) and found[0].pid != before.pid

    eventually_true(back, "a second agent")


def test_ctrl_c_stops_everything_in_order(up: Up) -> None:
    """SIGINT: exit 0, no process, no folder and no note is left, and no traceback is shown."""
    code, out, err = up.end(signal.SIGINT)
    assert (code, out) == (0, "")
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if "starting it again" not in line] == []
    assert list(up.home.glob("orion-grid-*")) == []
    assert list(up.home.glob("**/up.json")) == []
    assert run(up.home, "nodes")[0] == 69


def test_an_early_signal_leaves_nothing(tmp_path: Path) -> None:
    """A signal while the grid is still starting ends it cleanly too."""
    process = start(tmp_path, "up", "--simulated")
    eventually_true(lambda: bool(descendants(process.pid)), "the first process")
    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert (code, out, err) == (0, "", "")
    eventually_true(gone(below), "the end of all processes")


LOCAL = """
[redis]
block_ms = 100
[nodes.here]
ollama = "echo://"
temperature_sensor = false
[nodes.there]
"""


def test_the_roles_of_this_machine_run_without_simulation(tmp_path: Path) -> None:
    """Embedded server, router and this machine's agent: a command finds them, SIGTERM ends them."""
    (tmp_path / "streams.toml").write_text(LOCAL)
    grid = Up(tmp_path, "--roles", "router,agent:here")
    assert grid.ready["simulated"] is False
    assert grid.ready["roles"] == ["router", "agent:here"]
    states = {row["node"]: row["heard_ms_ago"] is not None for row in grid.read("nodes")}
    assert states == {"here": True, "there": False}
    code, _, err = grid.end(signal.SIGTERM)
    assert code == 0
    assert "Traceback" not in err


class Slow:
    """A grid whose stop takes until it has ended, of itself or hurried."""

    def __init__(self) -> None:
        self.ended, self.is_hurried = asyncio.Event(), False

    async def stop(self) -> None:
        await self.ended.wait()

    def hurry(self) -> None:
        self.is_hurried = True
        self.ended.set()


@pytest.mark.parametrize("again", [True, False])
async def test_only_a_further_signal_hurries_the_stop(again: bool) -> None:
    """Without one, agents drain for as long as they may."""
    grid: Any = Slow()
    signalled = asyncio.Event()
    (signalled if again else grid.ended).set()
    await up_command.stop(grid, signalled)
    assert grid.is_hurried is again


def test_nothing_outlives_a_kill(tmp_path: Path) -> None:
    """kill -9 of `orion up` ends all that it started, and its note no longer counts."""
    (tmp_path / "streams.toml").write_text(LOCAL)
    grid = Up(tmp_path, "--roles", "router,agent:here")
    assert len(grid.below) >= 3
    grid.process.kill()
    finish(grid.process)
    eventually_true(gone(grid.below), "the end of all processes")
    assert run(tmp_path, "nodes")[0] == 69


def test_a_role_that_cannot_run_ends_it(tmp_path: Path, valkey_url: str, log_prefix: str) -> None:
    """A policy that the log refuses: `orion up` says the router's own words and exits 78."""
    text = TOML.format(prefix=log_prefix, url=valkey_url).replace("[policy]", "[policy]\nspill_ms = 1")
    (tmp_path / "streams.toml").write_text(text)
    code, _, err = run(tmp_path, "up", "--roles", "router,agent:master")
    assert code == 78
    assert "router cannot run" in err.splitlines()[-1]
    assert "set revision = 2" in err.splitlines()[-1]


def test_a_role_that_cannot_run_ends_it_however_late(
    tmp_path: Path, valkey_url: str, log_prefix: str
) -> None:
    """Also after it was said that the grid is up: no agent was waited for, and no role is left."""
    text = TOML.format(prefix=log_prefix, url=valkey_url).replace("[policy]", "[policy]\nspill_ms = 1")
    (tmp_path / "streams.toml").write_text(text)
    code, out, err = run(tmp_path, "up", "--roles", "router")
    assert (code, out.splitlines()[0]) == (78, "Up on this machine: router.")
    assert "router cannot run" in err.splitlines()[-1]


@pytest.fixture
def house() -> Config:
    """Two nodes and no Redis of the house's own."""
    return parse("[nodes.one]\n[nodes.two]\n")


def test_the_roles_of_a_machine_follow_from_its_name(house: Config) -> None:
    """Its agent; and where no Redis is named, the router as well, with a gateway."""
    assert choose(house, None, "two") == ["router", "gateway", "agent:two"]
    with_redis = parse('[redis]\nurl = "redis://x:1/0"\n[nodes.one]\n')
    assert choose(with_redis, None, "one") == ["agent:one"]
    assert choose(with_redis, "router, agent:one", "elsewhere") == ["router", "agent:one"]
    assert choose(with_redis, "gateway", "elsewhere") == ["gateway"]


@pytest.mark.parametrize(
    ("gave_up", "missing", "ends"),
    [
        ("router", ["one"], "router"),
        ("agent:one", ["one"], "agent:one"),
        ("gateway", ["one"], ""),
        ("router", [], ""),
        ("gateway router agent:one", [], "gateway"),
        ("alerts", ["one"], ""),
    ],
)
def test_which_role_that_cannot_run_ends_the_others(gave_up: str, missing: list[str], ends: str) -> None:
    """One that the grid still waits for, or all of them; a grid that answers goes on with less."""
    house = parse('[redis]\nurl = "redis://x:1/0"\n[nodes.one]\n')
    local = LocalRoles(house, "", roles="gateway,router,agent:one", port=0, say=lambda *_: None)
    for name in (*local.roles, "alerts"):
        local._children[name] = child = Child(name, ())
        child.gave_up = name in gave_up.split()
    local._missing = missing
    with pytest.raises(ConfigError, match=f"{ends} cannot run") if ends else nullcontext():
        local.check()


@pytest.mark.parametrize("roles", ["nonsense", "agent:nobody", "router,", ""])
def test_a_role_that_does_not_exist_is_refused(house: Config, roles: str) -> None:
    """Wrong roles are named."""
    with pytest.raises(ConfigError):
        choose(house, roles, "one")


async def test_heat_and_a_killed_agent_are_seen(tmp_path: Path) -> None:
    """A pushed temperature backs the node off, and a new agent takes a killed one's place."""
    spec = NodeSpec("solo", models=(GEMMA,), ambient_mc=45_000)
    async with SimulatedGrid([SimulatedNode("solo", "all of it", spec)], folder=tmp_path) as grid:
        await grid.push("solo", temp_mc=90_000)
        await grid.wait_for(lambda seen: seen.nodes["solo"].backed_off == (Mark.HOT,), WAIT_S)
        agent = grid.agents["solo"]
        boot = (await grid.wait_for(lambda seen: True, WAIT_S)).nodes["solo"].boot
        pid = agent.pid
        await grid.kill_agent("solo")
        assert agent.pid is None
        await grid.start_agent("solo")
        assert agent.pid != pid
        await grid.wait_for(lambda seen: seen.nodes["solo"].boot != boot, WAIT_S)
        children = [agent, *grid.ollamas.values(), *grid.routers]
        below = [psutil.Process(child.pid) for child in children if child.pid is not None]
    assert len(below) == 3
    assert gone(below)()


def test_a_dead_server_ends_the_grid(tmp_path: Path) -> None:
    """When the embedded server is killed, `orion up` says so, stops everything and exits 69."""
    grid = Up(tmp_path, "--simulated")
    [server] = [each for each in grid.below if "valkey-server" in each.name()]
    server.kill()
    code, _, said = finish(grid.process)
    assert code == 69
    assert "the embedded server ended" in said
    eventually_true(gone(grid.below), "the end of all processes")


@pytest.mark.parametrize("comes", [True, False])
def test_a_configured_server_that_is_away_is_waited_for(tmp_path: Path, comes: bool) -> None:
    """It says so, and starts when the server does; a Ctrl-C before that ends it with 0."""
    port = free_port()
    waiting = start(tmp_path, "up", "--roles", "router", "--redis", f"redis://127.0.0.1:{port}/0", "--json")
    assert waiting.stdout is not None
    assert waiting.stderr is not None
    line = waiting.stderr.readline()
    assert line.endswith("waiting for it\n"), line
    with EmbeddedServer(tmp_path / "server", port=port) if comes else nullcontext():
        if comes:
            assert msgspec.json.decode(waiting.stdout.readline())["roles"] == ["router"]
        waiting.send_signal(signal.SIGINT)
        code, _, err = finish(waiting)
    assert code == 0
    assert "Traceback" not in err


def test_a_grid_runs_without_its_sender_of_alerts(tmp_path: Path) -> None:
    """A token that cannot be read: alerts say which key names it, and everything else is up."""
    target = '[alerts_to.phone]\nwebhook = "http://127.0.0.1:9/x"\ntoken_file = "/nowhere/token"\n'
    (tmp_path / "streams.toml").write_text(LOCAL + target)
    grid = Up(tmp_path, "--roles", "router,alerts,agent:here")
    try:
        states = {row["node"]: row["state"] for row in grid.read("nodes")}
        assert states["here"] != states["there"] == "silent"
    finally:
        code, _, err = grid.end(signal.SIGTERM)
    assert code == 0
    assert "alerts_to.phone.token_file: /nowhere/token: cannot be read" in err


def test_the_sender_of_alerts_runs_beside_the_router(tmp_path: Path) -> None:
    """As a role of its own, which `alerts list` finds."""
    target = '[alerts_to.phone]\ncommand = ["/bin/true"]\n'
    (tmp_path / "streams.toml").write_text(f"[nodes.pi]\n{target}")
    grid = Up(tmp_path, "--roles", "router,alerts")
    try:
        assert grid.ready["roles"] == ["router", "alerts"]
        grid.named("alerts", "run")

        def sends() -> bool:
            code, out, _ = run(tmp_path, "alerts", "list", "--json")
            return code == 0 and bool(msgspec.json.decode(out)["sending"])

        eventually_true(sends, "the sender")
    finally:
        code, _, err = grid.end(signal.SIGTERM)
    assert (code, "Traceback" in err) == (0, False)
