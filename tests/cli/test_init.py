"""`orion init` writes a streams.toml that `orion check` finds good, and never over another."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from msgspec import structs

from orion_streams import config as configuration
from orion_streams.cli.install import machine as machines
from orion_streams.cli.install.init_command import InitOptions, wishes_of
from orion_streams.cli.install.machine import Machine, OllamaFound
from orion_streams.cli.install.starter import starter
from orion_streams.errors import ConfigError
from tests.cli.run_cli import ROOT, run

NOWHERE = "http://127.0.0.1:9"
PI = Machine(
    "orion-worker", 8_192, 51_000, "cpu-thermal", OllamaFound(machines.OLLAMA, "0.24.0", ("gemma3:4b",))
)
ROBOT = structs.replace(
    PI, name="orion-edge", ram_mb=4_096, ollama=OllamaFound(machines.OLLAMA, fault="none")
)
TAGS = {"models": [{"name": "gemma3:4b", "digest": "a" * 64, "size": 3_300_000_000}]}


@pytest.fixture(params=["Ollama", "orion-gateway"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Who answers like Ollama, and where."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = request.param, ""

        def do_GET(self) -> None:
            answer = {"version": "0.24.0"} if self.path == "/api/version" else TAGS
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Gateway(Handler):
        def version_string(self) -> str:
            return str(request.param)

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield request.param, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def wishes(found: Machine, **options: object) -> configuration.Config:
    """The configuration that would be written without a question."""
    text = starter(
        wishes_of(structs.replace(InitOptions("x"), **options), found, lambda _, default: default)
    )
    assert configuration.complaints_of(configuration.tree_of(text, "x")) == []
    return configuration.parse(text)


def test_a_starter_is_good_and_says_what_was_found(tmp_path: Path, served: tuple[str, str]) -> None:
    """An Ollama makes the machine answer; the gateway of a grid is none."""
    who, url = served
    code, out, err = run(tmp_path, "init", "--ollama", url, "--name", "here")
    if who == "orion-gateway":
        assert code == 78 and "gateway of a grid" in err and not (tmp_path / "streams.toml").exists()
        return
    assert code == 0, err
    assert "0.24.0" in out and "1 model: gemma3:4b" in out and "./orion" not in out
    assert run(tmp_path, "check")[:2] == (0, "streams.toml: ok\n")
    node = configuration.load(tmp_path / "streams.toml").node("here")
    assert (node.inference, node.router, node.tiers, node.ollama) == (True, True, (1, 2), url)


def test_the_data_is_one_line_of_json(tmp_path: Path) -> None:
    """And all else goes to stderr."""
    code, out, err = run(tmp_path, "init", "--json", "--inference", "--ollama", NOWHERE, "--name", "a")
    assert code == 0, err
    said = json.loads(out)
    assert said["nodes"][0]["name"] == "a" and said["found"]["ollama"]["fault"] and "sensor" in err


def test_a_file_is_never_replaced_unless_told(tmp_path: Path) -> None:
    """With --force what was there stays beside it."""
    own = tmp_path / "streams.toml"
    own.write_text("mine")
    words = ("init", "--inference", "--ollama", NOWHERE)
    code, _, err = run(tmp_path, *words)
    assert code == 78 and "--force" in err and own.read_text() == "mine"
    assert run(tmp_path, *words, "--force")[0] == 0
    assert own.read_text() != "mine" and (tmp_path / "streams.toml.before").read_text() == "mine"


def test_without_ollama_a_machine_is_a_robot_unless_told() -> None:
    """And somebody must be able to answer."""
    with pytest.raises(ConfigError, match="--node"):
        wishes(ROBOT)
    config = wishes(ROBOT, others=("orion-master=16384",))
    assert not config.node("orion-edge").inference and config.node("orion-master").router
    assert config.node("orion-master").tiers == (1, 2)
    assert wishes(structs.replace(ROBOT, name="other"), inference=True).node("other").inference


def test_memory_decides_who_is_for_which_tier() -> None:
    """A machine too small for any model answers nothing, though it has Ollama."""
    config = wishes(PI, others=("orion-master=16384",))
    assert (config.node("orion-worker").tiers, config.node("orion-master").tiers) == ((2,), (1,))
    tiny = wishes(structs.replace(PI, ram_mb=900), others=("orion-master=16384",))
    assert not tiny.node("orion-worker").inference


def test_a_person_is_an_operator_with_users_and_without() -> None:
    """As whom the command line drains then: `owner`; nobody else is one."""
    clients = wishes(PI).clients
    assert [name for name, rules in clients.items() if rules.operator] == ["owner"]
    assert {"brain", "gateway"} <= set(clients)


def test_what_ollama_was_told_is_written() -> None:
    """Its number of runs and of models at a time."""
    told = structs.replace(PI, ollama=structs.replace(PI.ollama, slots=2, max_models=1))
    node = wishes(told).node("orion-worker")
    assert (node.slots, node.max_models) == (2, 1)


def test_a_machine_without_a_sensor_says_so() -> None:
    """Else without a reading it would take nothing."""
    assert not wishes(structs.replace(PI, temp_mc=None)).node("orion-worker").temperature_sensor
    assert wishes(PI).node("orion-worker").temperature_sensor


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"redis": "redis://me:secret@host"}, "password"),
        ({"others": ("orion-worker",)}, "NAME=MB"),
        ({"others": ("orion-worker=lots",)}, "NAME=MB"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    """With what was expected."""
    with pytest.raises(ConfigError, match=words):
        wishes(structs.replace(PI, name="here"), **options)


def test_a_bad_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """By the rules of `orion check`."""
    code, _, err = run(tmp_path, "init", "--inference", "--name", "Küche", "--ollama", NOWHERE)
    assert code == 78 and "nothing is written" in err and not (tmp_path / "streams.toml").exists()


@pytest.mark.parametrize(("host", "name"), [("Pi-5.local", "pi-5"), ("Küche", "k-che"), ("-", "node")])
def test_a_host_name_becomes_a_node_name(host: str, name: str) -> None:
    """Whatever the machine is called."""
    assert machines.node_name(host) == name


def test_questions_are_answered_or_the_defaults_stand() -> None:
    """Only what no flag says is asked."""
    asked: list[str] = []

    def answer(question: str, default: str) -> str:
        asked.append(question)
        return "redis://orion-master:6379/0" if "Redis" in question else default

    made = wishes_of(InitOptions("x", name="here"), PI, answer)
    assert made.redis_url == "redis://orion-master:6379/0" and len(asked) == 1


def test_advice_calls_the_program_as_it_was_called(tmp_path: Path) -> None:
    """`./orion` says how: in a checkout by its script, elsewhere as a program."""
    words = ("init", "--inference", "--ollama", NOWHERE, "--force")
    assert "`./orion check`" in run(tmp_path, *words, ORION_COMMAND="./orion")[1]
    assert "`orion check`" in run(tmp_path, *words)[1]
    assert "ORION_COMMAND=$0 exec" in (ROOT / "orion").read_text()


def test_the_grids_own_clients_are_there_whoever_else_asks() -> None:
    """`orion ask`, the owner and the gateway work with the file as it is; a person drains as `owner`."""
    for clients in ((), ("anna", "cli")):
        rules = wishes(PI, clients=clients).clients
        assert set(rules) == {*(clients or ("brain",)), "gateway", "cli", "owner"}
        assert [name for name, each in rules.items() if each.operator] == ["owner"]


@pytest.mark.parametrize(
    ("found", "inference", "why"),
    [
        (ROBOT, None, f"no Ollama at {machines.OLLAMA}: none. Install Ollama"),
        (structs.replace(PI, name="orion-edge"), None, "orion-edge is the robot's name"),
        (structs.replace(PI, ram_mb=900), None, "900 MB of memory are too few"),
        (PI, False, "--no-inference was said"),
    ],
)
def test_why_a_machine_would_answer_nothing_is_said(
    found: Machine, inference: bool | None, why: str
) -> None:
    """No Ollama, the robot's name, little memory, or a flag."""
    with pytest.raises(ConfigError, match=f"nobody could answer a request: {why}"):
        wishes(found, inference=inference)


@pytest.mark.parametrize(
    ("tags", "status", "version", "found"),
    [
        (TAGS, 200, b"404 page not found", ("", "")),
        (TAGS, 200, b'{"version":null}', ("", "")),
        (TAGS, 200, b'{"version":"0.24.0"}', ("0.24.0", "")),
        ({"detail": "Not Found"}, 404, b"{}", ("", "what answers there is no Ollama")),
        ([], 200, b"{}", ("", "what answers there is no Ollama")),
    ],
)
def test_an_ollama_is_found_by_its_models(
    monkeypatch: pytest.MonkeyPatch, tags: object, status: int, version: bytes, found: tuple[str, str]
) -> None:
    """Its version is a label; a server of something else is none."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/tags":
            return httpx.Response(status, json=tags)
        return httpx.Response(200, content=version)

    client = functools.partial(httpx.Client, transport=httpx.MockTransport(answer))
    monkeypatch.setattr("orion_streams.cli.install.machine.httpx.Client", client)
    seen = machines.look_for_ollama("http://pi:11434")
    assert (seen.version, seen.fault) == found
    assert bool(seen.models) == (not seen.fault)


@pytest.mark.parametrize(
    ("file", "more"), [("streams.toml", ""), ("my house.toml", " --config 'my house.toml'")]
)
def test_the_next_line_starts_by_the_file_that_was_written(tmp_path: Path, file: str, more: str) -> None:
    """Which is named where it would not be found by itself."""
    code, out, err = run(tmp_path, "init", "--file", file, "--inference", "--ollama", NOWHERE)
    assert code == 0, err
    last = f"Next: orion up{more}, and beside it orion ask{more}; or for good: sudo orion install{more} "
    assert out.splitlines()[-1].startswith(last)
