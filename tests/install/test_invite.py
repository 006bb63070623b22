"""`orion invite` and `orion join`, on a server with users: once, in time, and nothing but that."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from orion_streams import config as configuration
from orion_streams.cli.install.invitation import decode, encode
from orion_streams.demo.ollama import NodeSpec
from orion_streams.runtime.embedded_server import EmbeddedServer, free_port
from tests.helpers import WAIT_S, eventually_true
from tests.install.inviting import House, command_lines, gone, printed_code, says
from tests.security.guarded import log_in

AS_ROOT = os.geteuid() == 0 and shutil.which("systemd-sysusers") is not None
pytestmark = pytest.mark.everything(where=AS_ROOT)
AGENT = "orion-agent-orion-worker"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A Valkey of these tests' own."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What answers like an Ollama."""
    path = tmp_path_factory.mktemp("ollama") / "spec.json"
    path.write_bytes(msgspec.json.encode(NodeSpec()))
    words = [sys.executable, "-m", "orion_streams.demo.ollama", "--spec", str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield str(json.loads(process.stdout.readline())["url"])
        process.terminate()


@pytest.fixture
def house(tmp_path: Path, server: EmbeddedServer, ollama: str) -> Iterator[House]:
    """A house on an empty server."""
    made = House(tmp_path, server, ollama)
    yield made
    made.close()
    with redis.Redis(port=server.port, protocol=2, driver_info=None) as default:
        default.flushall()
        for raw in default.execute_command("ACL", "USERS"):
            if raw != b"default":
                default.execute_command("ACL", "DELUSER", raw)


def test_the_joined_node_reports_and_the_waiting_side_says_it(house: House) -> None:
    """With a real router, and an agent that runs as its unit says, by the password that was brought; which
    stands in no command line, in nothing that was printed, and is readable by nobody else."""
    own = {"ORION_REDIS_URL": f"redis://{house.place}/0", "ORION_REDIS_PASSWORD": ""}
    router = house.start("router", "--config", str(house.toml), more=own)
    waiting = house.start("invite", "orion-worker", root=house.root)
    code, root = printed_code(waiting), house.other("worker")
    assert house.users() == [decode(code).user]
    joined, out, err = house.join(root, code)
    assert joined == 0 and "orion-worker: installed, 2 models, " in out, err
    held = root / f"etc/orion/passwords/{AGENT}"
    assert (stat.S_IMODE(held.stat().st_mode), stat.S_IMODE(held.parent.stat().st_mode)) == (0o600, 0o700)
    words = ("agent", "--node", "orion-worker", "--config", str(root / "etc/orion/streams.toml"))
    agent = house.start(*words, more=unit_of(house, root))
    shown = command_lines([router, waiting, agent])
    said, more = waiting.communicate(timeout=WAIT_S)
    assert waiting.returncode == 0, more
    assert said.strip().splitlines()[-1] == "orion-worker: ready, 2 models, sensor simulated"
    assert f"user={AGENT}".encode() in house.default.execute_command("CLIENT", "LIST")
    secret, once = held.read_text(), decode(code).password
    assert secret == (house.root / f"etc/orion/passwords/{AGENT}").read_text()
    assert not any(each in out + err + said + more + shown for each in (secret, once, house.held))
    assert "invite" in shown and code not in shown
    gone(house)


def unit_of(house: House, root: Path) -> dict[str, str]:
    """The environment that systemd would give the agent's service in that folder."""
    lines = (root / "etc/systemd/system/orion-agent.service").read_text().splitlines()
    [url] = [line.partition("URL=")[2] for line in lines if line.startswith("Environment=ORION_REDIS_URL=")]
    [path] = [line.partition(":")[2] for line in lines if line.startswith("LoadCredential=redis-password:")]
    folder = house.folder / "credentials"
    folder.mkdir()
    shutil.copy(root / path.lstrip("/"), folder / "redis-password")
    return {"ORION_REDIS_URL": url, "CREDENTIALS_DIRECTORY": str(folder)}


def test_a_code_works_once(house: House) -> None:
    """The second one is told so, and what to do; nothing is written there."""
    code, first, second = house.invite(), house.other("first"), house.other("second")
    assert house.join(first, code)[0] == 0
    exit_code, _, err = house.join(second, code)
    assert exit_code == 78 and "used already, or has expired" in err and "orion invite orion-worker" in err
    assert len(err.splitlines()) == 1 and not (second / "etc/orion").exists()
    goes_on = ("install", "--role", "agent", "--node", "orion-worker")
    assert " ".join(goes_on) not in err
    toml = second / "etc/orion/streams.toml"
    toml.parent.mkdir(parents=True)
    toml.write_text("[nodes.another]\n")  # of another house
    assert "used already, or has expired" in house.join(second, code)[2]
    (first / "etc/systemd/system/orion-agent.service").unlink()  # as if it had been killed
    exit_code, _, err = house.join(first, code)
    assert exit_code == 78 and f"used here, sudo orion {' '.join(goes_on)} goes on" in err
    assert house.run(*goes_on, root=first)[0] == 0
    assert (first / "etc/systemd/system/orion-agent.service").exists()


def test_an_expired_code_is_refused(house: House) -> None:
    """By the server, whatever the clocks say; and who waits says that nobody came."""
    waiting = house.start("invite", "orion-worker", "--for", "1s", root=house.root)
    code = printed_code(waiting)
    _, err = waiting.communicate(timeout=WAIT_S)
    assert waiting.returncode == 1 and "has expired" in err and "orion invite orion-worker" in err
    gone(house)
    exit_code, _, err = house.join(house.other("late"), code)
    assert exit_code == 78 and "has expired" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_the_invitation_outlives_who_waits(house: House, kill: signal.Signals) -> None:
    """Used, it leaves a user who can do nothing; the next one sweeps it away, and none that counts."""
    waiting = house.start("invite", "orion-worker", root=house.root)
    code = printed_code(waiting)
    says(waiting, "Ctrl-C")
    waiting.send_signal(kill)
    _, err = waiting.communicate(timeout=WAIT_S)
    assert waiting.returncode == (130 if kill == signal.SIGINT else -kill)
    assert ("all the same" in err) == (kill == signal.SIGINT)
    held = house.invite("orion-other")
    assert house.users() == sorted([decode(code).user, decode(held).user])
    assert house.join(house.other("worker"), code)[0] == 0
    assert house.users() == sorted([decode(code).user, decode(held).user])
    with house.login(decode(code)) as left:
        assert left.execute_command("GETDEL", decode(code).key) is None
    house.invite("orion-third")
    assert decode(code).user not in house.users() and decode(held).user in house.users()


def test_the_one_time_user_may_do_one_thing(house: House) -> None:
    """Take what waits for it; the agent's user that it brings is no more than any agent's."""
    ticket, other = decode(house.invite()), decode(house.invite("orion-other"))
    with house.login(ticket) as once:
        for words in (
            ("GET", ticket.key), ("GETDEL", other.key), ("DEL", ticket.key), ("SET", ticket.key, "x"),
            ("XRANGE", "orion:log", "-", "+"), ("XADD", "orion:requests:brain", "*", "a", "b"),
            ("KEYS", "*"), ("SCAN", "0"), ("ACL", "LIST"), ("CONFIG", "GET", "*"),
            ("EVAL", "return 1", "0"), ("INFO",), ("PUBLISH", "a", "b"),
            ("SELECT", "1"), ("EXISTS", ticket.key),
        ):  # fmt: skip
            with pytest.raises(redis.exceptions.NoPermissionError):
                once.execute_command(*words)
        assert once.ping() and b"toml" in once.execute_command("GETDEL", ticket.key)
        assert once.execute_command("GETDEL", ticket.key) is None


def test_two_are_invited_at_once(house: House) -> None:
    """Both nodes are in the house afterwards, under two revisions, and each code is for its own."""
    names = ("orion-left", "orion-right")
    both = [house.start("invite", name, "--no-wait", "--json", root=house.root) for name in names]
    lines = [json.loads(each.communicate(timeout=WAIT_S)[0])["line"] for each in both]
    config = configuration.parse(house.toml.read_text())
    assert config.revision == 3 and set(names) <= set(config.nodes)
    for name, line in zip(names, lines, strict=True):
        root = house.other(name)
        out = house.join(root, line.split()[1], "--json")
        assert (out[0], "paste the line again" in out[2]) == (78, True), "no Ollama on its loopback here"
        ticket = msgspec.structs.replace(decode(line.split()[1]), ollama="")
        assert house.join(root, encode(ticket))[0] == 0
        assert (root / f"etc/orion/passwords/orion-agent-{name}").exists()


def test_what_fails_before_leaves_the_code_valid(house: House, server: EmbeddedServer) -> None:
    """No server there, no Ollama here, a machine of the house, and a look at what would be done."""
    code = house.invite()
    ticket, root = decode(code), house.other("worker")
    nowhere = f"redis://{socket.gethostbyname('localhost')}:{free_port()}/0"
    for changed, says_so in (
        (msgspec.structs.replace(ticket, url=nowhere), "is not reached from"),
        (msgspec.structs.replace(ticket, ollama="http://127.0.0.1:9"), "Ollama is not here"),
    ):
        exit_code, _, err = house.join(root, encode(changed))
        assert exit_code in (69, 78) and says_so in err and "paste the line again" in err
        assert len(err.splitlines()) == 1 and ticket.password not in err
    exit_code, out, err = house.join(root, code, "--dry-run")
    assert exit_code == 0 and "ExecStart=" in out and "counts still" in out, err
    assert ticket.password not in out + err and not (root / "etc/orion").exists()
    own = root / "etc/systemd/system/orion-server.service"
    own.parent.mkdir(parents=True)
    own.write_text("")
    exit_code, _, err = house.join(root, code)
    assert exit_code == 78 and "orion-server is installed here" in err
    own.unlink()
    assert house.join(root, code)[0] == 0


def test_who_is_there_is_not_invited_by_mistake(house: House) -> None:
    """It takes --again while the node reports; one that is silent or has left may be invited."""
    head = {"head": b'{"boot":"b","sampled_ms":1}'}
    house.default.xadd("orion:health:orion-worker", head)
    exit_code, _, err = house.run("invite", "orion-worker", "--no-wait", root=house.root)
    assert exit_code == 78 and "--again" in err and not house.users()
    assert house.invite("orion-worker", "--again")
    house.default.xadd("orion:health:orion-worker", {"head": b'{"boot":"b","sampled_ms":1,"goodbye":true}'})
    assert house.invite()


def test_who_took_another_s_place_is_shut_out(house: House) -> None:
    """By a password of the node's own that is made anew; with the same one nobody is disturbed."""
    house.invite()
    held = house.root / f"etc/orion/passwords/{AGENT}"
    with log_in(house.server, AGENT, held.read_text()) as thief:
        assert thief.ping()
        assert house.invite() and thief.ping() and clients(house) == 1
        assert house.invite("orion-worker", "--again") and clients(house) == 0, "for another machine"
        held.unlink()
        assert house.invite() and clients(house) == 0
        with pytest.raises(redis.exceptions.AuthenticationError):
            thief.ping()


def clients(house: House) -> int:
    """How many are connected as that node's agent."""
    return int(house.default.execute_command("CLIENT", "LIST").count(f"user={AGENT} ".encode()))


@pytest.mark.parametrize("name", ["a b", "../../x", 'x"]', "-", "x" * 65, "ä", "a\nb", "$(id)", ""])
def test_an_odd_name_changes_nothing(house: House, name: str) -> None:
    """One sentence; no file, no user, no key."""
    before = house.toml.read_text()
    exit_code, _, err = house.run("invite", "--no-wait", "--", name, root=house.root)
    assert exit_code in (2, 78) and "Traceback" not in err
    assert (
        house.toml.read_text() == before and not house.users() and not house.default.keys("orion:invite:*")
    )
    assert [path.name for path in (house.root / "etc/orion/passwords").iterdir()] == ["orion-admin"]


@pytest.mark.parametrize(
    ("words", "says_so"),
    [
        (("--for", "2d"), "--for: expected up to 24h"),
        (("--for", "soon"), "--for: expected up to 24h"),
        (("--ram-mb", "4096"), "nodes.orion-worker is in"),
        (("--redis", "redis://h:1/0"), "Redis does not answer"),
        (("--redis", "redis://me:hidden@h:1/0"), "--redis: a command line is seen"),
    ],
)
def test_what_cannot_be_is_said(house: House, words: tuple[str, ...], says_so: str) -> None:
    """In one line."""
    exit_code, _, err = house.run("invite", "orion-worker", "--no-wait", *words, root=house.root)
    assert exit_code in (69, 78) and says_so in err.replace("\n", " ") and "Traceback" not in err


def test_without_a_house_or_its_administrator_it_says_where(house: House) -> None:
    """And a server that only this machine reaches is no server for another."""
    exit_code, _, err = house.run("invite", "orion-worker", root=house.other("empty"))
    assert exit_code == 78 and "install --role server" in err
    house.toml.write_text(house.toml.read_text().replace(house.place, f"127.0.0.1:{house.server.port}"))
    exit_code, _, err = house.run("invite", "orion-worker", root=house.root)
    assert exit_code == 78 and "--listen ADDRESS" in err
    (house.root / "etc/orion/passwords/orion-admin").unlink()
    exit_code, _, err = house.run("invite", "orion-worker", root=house.root)
    assert exit_code == 78 and "run this on the machine of the server" in err


def test_the_router_is_told_of_a_node_that_a_broken_off_invitation_has_entered(house: House) -> None:
    """By the next one, until the log has the file's revision; then nobody is disturbed."""
    told = "no router is installed here"
    house.toml.write_text(house.toml.read_text().replace("revision = 1", "revision = 2"))
    for _ in range(2):
        code, _, err = house.run("invite", "orion-worker", "--no-wait", root=house.root)
        assert code == 0 and told in err
    own = {"ORION_REDIS_URL": f"redis://{house.place}/0", "ORION_REDIS_PASSWORD": ""}
    house.start("router", "--config", str(house.toml), more=own)
    eventually_true(lambda: bool(house.default.exists("orion:log")), "the router has written")
    code, _, err = house.run("invite", "orion-worker", "--no-wait", root=house.root)
    assert code == 0 and told not in err


def test_a_file_with_a_secret_is_given_to_nobody(house: House) -> None:
    """Whoever takes the invitation reads streams.toml: it is refused before anything is written."""
    before = house.toml.read_text() + '[alerts_to.phone]\nwebhook = "https://example.org/hidden"\n'
    house.toml.write_text(before)
    code, _, err = house.run("invite", "orion-third", "--no-wait", root=house.root)
    assert code == 78 and "alerts_to.phone.webhook" in err and "hidden" not in err
    assert house.toml.read_text() == before and not house.users()
