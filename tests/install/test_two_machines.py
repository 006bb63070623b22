"""Two machines with systemd and a cable between them: the one is installed, the other invited."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.certificates import make
from tests.helpers import WAIT_S, eventually_true
from tests.install.booted import VARIABLES, Booted, booted
from tests.needs import boots_systemd

pytestmark = pytest.mark.everything(where=boots_systemd())

MASTER, WORKER = "192.168.77.1", "192.168.77.2"
INSTALL = ("install", "--role", "server,router,agent,gateway", "--json")
SPEC = {
    "port": 11_434,
    "models": [{"name": "gemma3:270m", "size_mb": 292}, {"name": "gemma3:4b", "size_mb": 3_300}],
}
ORION = "/opt/orion/venv/bin/orion"
READY = "orion-worker: ready, 2 models, sensor cpu-thermal"
LEFT_BY_OTHERS = "are used and no model is listed"
"""What else runs on the tests' machine takes memory, which the machines inside see."""


class House(NamedTuple):
    """The two machines."""

    master: Booted
    worker: Booted


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two machines in a network, an Ollama on each; everything is installed on the first by `sudo`."""
    with contextlib.ExitStack() as stack:
        hosts = ("orion-master", "orion-worker")
        made = House(*(stack.enter_context(booted(tmp_path_factory.mktemp(each), each)) for each in hosts))
        cable(made)
        for each in made:
            has_ollama(each)
        assert made.master.run("useradd", "--create-home", "pi").returncode == 0
        done = made.master.run("env", "SUDO_USER=pi", ORION, *INSTALL)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["redis_url"] == f"redis://{MASTER}:6379/0"
        yield made


def cable(house: House) -> None:
    """A network of the two."""
    words = ("ip", "link", "add", "veth-m", "netns", str(house.master.pid), "type", "veth")
    peer = ("peer", "name", "veth-w", "netns", str(house.worker.pid))
    subprocess.run([*words, *peer], check=True)
    for name, system, address in (("veth-m", house.master, MASTER), ("veth-w", house.worker, WORKER)):
        for line in (f"link set {name} name eth0", f"addr add {address}/24 dev eth0", "link set eth0 up"):
            assert system.run("ip", *line.split()).returncode == 0


def has_ollama(system: Booted) -> None:
    """What answers like an Ollama with two models."""
    system.write("/opt/spec.json", json.dumps(SPEC))
    words = ("--unit=ollama", "--property=Type=exec", *(f"--setenv={each}" for each in VARIABLES))
    program = (system.python, "-m", "orion_streams.demo.ollama", "--spec", "/opt/spec.json")
    started = system.run("systemd-run", *words, *program)
    assert started.returncode == 0, started.stderr


def as_pi(house: House, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the person who has installed it, without sudo."""
    person = ("setpriv", "--reuid=pi", "--regid=pi", "--clear-groups", "env", "HOME=/home/pi")
    return house.master.run(*person, ORION, *words)


def test_one_line_makes_the_other_machine_a_node(house: House) -> None:
    """It is pasted; both sides end with the same words, the waiting one with what the node has reported."""
    pasted = invited(house)
    again = house.worker.run("sh", "-c", pasted)
    assert again.returncode == 78 and "used already, or has expired" in again.stderr
    assert "orion-invite" not in house.master.run("cat", "/var/lib/orion-server/users.acl").stdout


def invited(house: House, *words: str) -> str:
    """Invite the worker, and paste the line there; the line."""
    waiting = house.master.start(ORION, "invite", "orion-worker", *words)
    assert waiting.stdout is not None
    line = next(each for each in waiting.stdout if each.startswith(" echo "))
    pasted = line.strip().replace("sudo orion", ORION)
    joined = house.worker.run("sh", "-c", pasted)
    assert joined.returncode == 0 and joined.stdout.splitlines()[-1] == READY, joined.stderr
    out, err = waiting.communicate(timeout=WAIT_S)
    assert (waiting.returncode, out.strip().splitlines()[-1]) == (0, READY), err
    return pasted


def test_a_second_installation_leaves_the_new_node_alone(house: House) -> None:
    """On both machines nothing changes: neither its user, nor its table, nor its password."""
    again = house.master.run("env", "SUDO_USER=pi", ORION, *INSTALL)
    assert json.loads(again.stdout)["changes"] == {"files": [], "commands": []}
    words = ("install", "--role", "agent", "--node", "orion-worker", "--json")
    assert json.loads(house.worker.orion(*words).stdout)["changes"] == {"files": [], "commands": []}


def test_who_has_installed_it_needs_no_sudo_to_look_and_to_ask(house: House) -> None:
    """By a copy of the owner's password in their home, for them alone; without it they are told."""
    copy = "/home/pi/.config/orion-streams/passwords/orion-owner"
    assert house.master.run("stat", "-c", "%U %a", copy).stdout == "pi 600\n"
    for words in (("nodes",), ("models",), ("ps",), ("ask", "hello"), ("drain", "orion-worker")):
        done = as_pi(house, *words)
        assert done.returncode == 0, done.stderr
    assert as_pi(house, "resume", "orion-worker").returncode == 0
    found = json.loads(as_pi(house, "doctor", "--json").stdout)["findings"]
    wrong = [each for each in found if each["severity"] != "ok" and LEFT_BY_OTHERS not in each["what"]]
    assert not wrong
    assert house.master.run("rm", copy).returncode == 0
    refused = as_pi(house, "nodes")
    assert refused.returncode == 78 and "sudo orion install" in refused.stderr
    assert house.master.run("env", "SUDO_USER=pi", ORION, *INSTALL).returncode == 0
    assert as_pi(house, "nodes").returncode == 0


def test_what_is_root_s_says_the_line(house: House) -> None:
    """Where sudo can ask nobody: the command behind it; as root it prints what Open WebUI needs."""
    words = ("key", "add", "open-webui", "--for", "open-webui")
    refused = as_pi(house, *words)
    assert refused.returncode == 78 and f"sudo orion {' '.join(words)}" in refused.stderr
    refused = as_pi(house, "invite", "orion-third")
    assert refused.returncode == 78 and "sudo orion invite orion-third" in refused.stderr
    done = house.master.orion(*words)
    assert done.returncode == 0 and "URL  http://orion-master:11435" in done.stdout
    assert "docker run" in done.stdout


def test_a_streams_toml_without_a_server_stands_back(house: House) -> None:
    """As in the folder of `orion init`: the installed house is looked at, its gateway has the keys."""
    house.master.write("/home/pi/house/streams.toml", "[nodes.orion-master]\ntiers = [1]\n")
    there = ("sh", "-c", f"cd /home/pi/house && {ORION} nodes --json && {ORION} key list --json")
    done = house.master.run(*there)
    assert done.returncode == 0 and "51000" in done.stdout, done.stderr
    assert "/var/lib/orion-gateway/keys.json" in done.stdout


def test_over_tls_the_line_brings_who_signed(house: House, tmp_path: Path) -> None:
    """Last of all: the house moves to TLS, and the same line, made anew, takes the worker along."""
    names = ("server.pem", "server.key", "ca.pem")
    certs = make(tmp_path, MASTER)
    for name in names:
        house.master.write(f"/root/tls/{name}", (certs / name).read_text(), 0o600)
    house.master.run("systemctl", "stop", "orion-server", "orion-router")
    house.master.run("rm", "-r", "/var/lib/orion-server/appendonlydir")
    done = house.master.orion(*INSTALL, "--tls", *(f"/root/tls/{name}" for name in names))
    assert done.returncode == 0, done.stderr
    eventually_true(lambda: house.master.orion("nodes").returncode == 0, "the house is there over TLS")
    assert house.worker.run("test", "-e", "/etc/orion/tls/ca.pem").returncode == 1
    invited(house, "--again")
    unit = house.worker.run("cat", "/etc/systemd/system/orion-agent.service").stdout
    assert f"rediss://orion-agent-orion-worker@{MASTER}:6379/0?ssl_ca_certs=/etc/orion/tls/ca.pem" in unit
    assert house.worker.run("cat", "/etc/orion/tls/ca.pem").stdout == (certs / "ca.pem").read_text()
