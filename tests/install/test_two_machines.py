"""Two machines with systemd and a cable between them: the one is installed, the other invited."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.helpers import WAIT_S
from tests.install.booted import VARIABLES, Booted, booted
from tests.needs import boots_systemd

pytestmark = pytest.mark.everything(where=boots_systemd())

MASTER, WORKER = "192.168.77.1", "192.168.77.2"
INSTALL = ("install", "--role", "server,router,agent,gateway", "--json")
SPEC = {
    "port": 11_434,
    "models": [{"name": "gemma3:270m", "size_mb": 292}, {"name": "gemma3:4b", "size_mb": 3_300}],
}


class House(NamedTuple):
    """The two machines."""

    master: Booted
    worker: Booted


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two machines in a network, an Ollama on each, everything installed on the first by `sudo`."""
    with contextlib.ExitStack() as stack:
        made = House(*(
            stack.enter_context(booted(tmp_path_factory.mktemp(host), host)) for host in ("orion-master", "orion-worker")
        ))  # fmt: skip
        cable(made)
        for each in made:
            has_ollama(each)
        made.master.run("useradd", "--create-home", "pi")
        done = made.master.run("env", "SUDO_USER=pi", "/opt/orion/venv/bin/orion", *INSTALL)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["redis_url"] == f"redis://{MASTER}:6379/0"
        yield made


def cable(house: House) -> None:
    """A network of the two."""
    ends = (("veth-m", house.master, MASTER), ("veth-w", house.worker, WORKER))
    names = (
        "ip",
        "link",
        "add",
        "veth-m",
        "netns",
        str(house.master.pid),
        "type",
        "veth",
        "peer",
        "name",
        "veth-w",
    )
    subprocess.run([*names, "netns", str(house.worker.pid)], check=True)
    for name, system, address in ends:
        for words in (f"link set {name} name eth0", f"addr add {address}/24 dev eth0", "link set eth0 up"):
            assert system.run("ip", *words.split()).returncode == 0


def has_ollama(system: Booted) -> None:
    """What answers like an Ollama with two models."""
    system.write("/opt/spec.json", json.dumps(SPEC))
    words = ("--unit=ollama", "--property=Type=exec", *(f"--setenv={each}" for each in VARIABLES))
    program = (system.python, "-m", "orion_streams.demo.ollama", "--spec", "/opt/spec.json")
    started = system.run("systemd-run", *words, *program)
    assert started.returncode == 0, started.stderr


def test_one_line_makes_the_other_machine_a_node(house: House) -> None:
    """Both sides end with the same words; the waiting side prints what the node itself has reported."""
    waiting = house.master.start("/opt/orion/venv/bin/orion", "invite", "orion-worker")
    assert waiting.stdout is not None
    line = next(each.strip() for each in waiting.stdout if "echo" in each)
    code = line.split()[1]
    print(line)
    joined = house.worker.run("/opt/orion/venv/bin/orion", "join", stdin=code)
    print(joined)
    out, err = waiting.communicate(timeout=WAIT_S)
    print(out, err)
    for words in (
        "doctor",
        "status",
        "key add open-webui --for open-webui",
        "nodes",
        "ask hello",
        "models",
        "drain orion-worker",
        "resume orion-worker",
    ):
        for who in ("pi", "root"):
            print(
                who,
                words,
                house.master.run(
                    "setpriv",
                    "--reuid=pi",
                    "--regid=pi",
                    "--clear-groups",
                    "env",
                    "HOME=/home/pi",
                    *VARIABLES,
                    "/opt/orion/venv/bin/orion",
                    *words.split(),
                )
                if who == "pi"
                else house.master.orion(*words.split()),
            )
    print(house.worker.orion("doctor"), house.worker.orion("status"))
    assert 0
