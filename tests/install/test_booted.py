"""The services on a systemd that really runs: they start, stay as they are, and see what they must."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import make
from tests.helpers import eventually_true
from tests.install.booted import VARIABLES, Booted, booted
from tests.needs import boots_systemd

pytestmark = pytest.mark.everything(where=boots_systemd())

TOML = """
[gateway]
listen = "127.0.0.1:21435"
[clients.brain]
[clients.owner]
operator = true
[nodes.here]
tiers = [1]
"""
MODELS = {"port": 11_434, "models": [{"name": "gemma3:270m", "size_mb": 292}]}
RUNNING = {
    "orion-server.service": "active",
    "orion-router.service": "active working",
    "orion-agent.service": "active working",
    "orion-gateway.service": "active serving at http://127.0.0.1:21435",
}
INSTALL = ("install", "--role", "server,router,agent,gateway", "--node", "here", "--listen", "127.0.0.1",
           "--port", "16379", "--json")  # fmt: skip
LOOK = """
import asyncio, json, sys
from orion_streams.agents.sensors import LocalSensors, mapped, ollama_processes
sensors = LocalSensors()
sample = asyncio.run(sensors.sample())
found = ollama_processes()
out = {"temp_mc": sample.temp_mc, "throttled": sample.throttled, "ram_total_mb": sample.ram_total_mb,
       "sensor": sensors.sensor, "runners": len(found), "mapped": mapped(found)}
open(sys.argv[1], "w").write(json.dumps(out))
"""
RUNNER = """
import mmap, signal, sys
held = open(sys.argv[1], "r+b")
pages = mmap.mmap(held.fileno(), 0)
sum(pages[i] for i in range(0, len(pages), 4096))
signal.pause()
"""
VCGENCMD = "#!/bin/sh\nhead -c 0 </dev/vcio && echo throttled=0x50005\n"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A system with everything installed, and a runner of Ollama's that holds 32 MB of a model."""
    with booted(tmp_path_factory.mktemp("booted")) as made:
        made.write("/etc/orion/streams.toml", TOML)
        made.write("/usr/bin/vcgencmd", VCGENCMD, 0o755)
        made.write("/opt/runner.py", RUNNER)
        made.write("/opt/look.py", LOOK)
        made.run("sh", "-c", "head -c 33554432 /dev/zero >/opt/model && chmod 666 /opt/model")
        done = made.orion(*INSTALL)
        assert done.returncode == 0, done.stderr
        words = (
            "--unit=ollama",
            "--uid=games",
            "--property=Type=exec",
            "--setenv=PYTHONHOME=/opt/base",
            "--setenv=LD_LIBRARY_PATH=/opt/base/lib",
        )
        made.run("cp", "-L", made.python, "/opt/ollama")
        started = made.run("systemd-run", *words, "/opt/ollama", "/opt/runner.py", "/opt/model")
        assert started.returncode == 0, started.stderr
        yield made


def status(system: Booted) -> dict[str, str]:
    """What `orion status` says of each service."""
    said = json.loads(system.orion("status", "--json").stdout)
    return {row["unit"]: f"{row['state']} {row['said']}".strip() for row in said["services"]}


def test_all_services_run_in_their_sandboxes(system: Booted) -> None:
    """With their users and passwords, under every restriction, and have told systemd so."""
    eventually_true(lambda: status(system) == RUNNING, "all services run")
    nodes = system.orion("nodes", "--json")
    assert nodes.returncode == 0 and "51000" in nodes.stdout, nodes.stderr


def test_a_person_asks_and_drains(system: Booted) -> None:
    """As root, by nothing but the commands: they speak as the owner."""
    system.write("/opt/models.json", json.dumps(MODELS))
    words = ("--unit=answers", "--property=Type=exec", *(f"--setenv={each}" for each in VARIABLES))
    program = (system.python, "-m", "orion_streams.demo.ollama", "--spec", "/opt/models.json")
    assert system.run("systemd-run", *words, *program).returncode == 0
    eventually_true(lambda: system.orion("ask", "hi").returncode == 0, "a person is answered")
    rests = system.orion("drain", "here", "--yes")
    assert rests.returncode == 0, rests.stderr
    goes_on = system.orion("resume", "here")
    assert goes_on.returncode == 0, goes_on.stderr


def test_a_second_installation_changes_nothing(system: Booted) -> None:
    """Though the server may have written its file of users anew."""
    said = json.loads(system.orion(*INSTALL).stdout)
    assert said["changes"] == {"files": [], "commands": []}


def test_a_key_that_root_adds_is_the_gateway_s(system: Booted) -> None:
    """Its file belongs to the user of the gateway."""
    assert system.orion("key", "add", "kitchen").returncode == 0
    owner = system.run("stat", "-c", "%U %a", "/var/lib/orion-gateway/keys.json").stdout.strip()
    assert owner == "orion-gateway 600"


def look(system: Booted, name: str, *more: str) -> dict[str, Any]:
    """What the sensors see in the sandbox of the agent's own unit, with further settings."""
    unit = system.run("cat", "/etc/systemd/system/orion-agent.service").stdout
    left_out = ("Type", "Watchdog", "ExecStart", "Restart")
    kept = [line for line in unit.splitlines() if not line.startswith(left_out)]
    place = kept.index("[Install]")
    program = f"ExecStart={system.python} /opt/look.py /var/lib/orion-agent/{name}"
    own = ["Type=oneshot", program, *(f"Environment={each}" for each in VARIABLES), *more]
    at = kept.index("[Service]") + 1
    made = "\n".join([*kept[:at], *kept[at:place], *own])
    system.write(f"/etc/systemd/system/look-{name}.service", made + "\n")
    system.run("systemctl", "daemon-reload")
    done = system.run("systemctl", "start", f"look-{name}")
    assert done.returncode == 0, system.run("journalctl", "-u", f"look-{name}").stdout + done.stderr
    return seen(system, f"/var/lib/orion-agent/{name}")


def seen(system: Booted, path: str) -> dict[str, Any]:
    """What was written there."""
    found: dict[str, Any] = json.loads(system.run("cat", path).stdout)
    return found


def test_the_agent_s_sensors_see_the_same_inside_and_outside(system: Booted) -> None:
    """Temperature, memory, vcgencmd and the runners of another user."""
    done = system.run(system.python, "/opt/look.py", "/tmp/outside")
    assert done.returncode == 0, done.stderr
    outside = seen(system, "/tmp/outside")
    assert outside["temp_mc"] == 51_000 and outside["throttled"] == 0x50005
    assert outside["runners"] == 1 and outside["mapped"] >= 32 * 1024 * 1024
    assert look(system, "agent") == outside


@pytest.mark.parametrize(
    ("setting", "blind"),
    [("PrivateDevices=yes", {"throttled": 0}), ("ProtectProc=invisible", {"runners": 0, "mapped": 0})],
)
def test_a_tighter_sandbox_would_blind_them(system: Booted, setting: str, blind: dict[str, Any]) -> None:
    """The controls: each of the two that the agent goes without."""
    found = look(system, setting.partition("=")[0].lower(), setting)
    assert {name: found[name] for name in blind} == blind


def test_a_stuck_service_is_started_anew(system: Booted) -> None:
    """The watchdog of systemd ends it; the others stay as they are."""
    quick = "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\nRestartSec=0\n"
    system.write("/etc/systemd/system/orion-router.service.d/quick.conf", quick)
    system.run("systemctl", "daemon-reload")
    system.run("systemctl", "restart", "orion-router")
    eventually_true(lambda: status(system)["orion-router.service"] == "active working", "the router runs")
    assert restarts(system, "orion-router") == 0
    assert system.run("systemctl", "kill", "--signal=STOP", "orion-router").returncode == 0
    eventually_true(lambda: restarts(system, "orion-router") == 1, "the watchdog starts it anew")
    eventually_true(lambda: status(system)["orion-router.service"] == "active working", "it runs again")
    assert restarts(system, "orion-gateway") == 0


def restarts(system: Booted, unit: str) -> int:
    """How often systemd has restarted a unit by itself."""
    return int(system.run("systemctl", "show", unit, "--property=NRestarts", "--value").stdout)


def test_with_certificates_all_of_them_meet_over_tls(system: Booted, tmp_path: Path) -> None:
    """On Debian's server, whose key systemd shows to it alone; people's commands find it there."""
    certs = make(tmp_path)
    for name in ("server.pem", "server.key", "ca.pem"):
        system.write(f"/root/tls/{name}", (certs / name).read_text(), 0o600)
    files = ("/root/tls/server.pem", "/root/tls/server.key", "/root/tls/ca.pem")
    refused = system.orion(*INSTALL, "--tls", *files)
    assert refused.returncode == 78 and "appendonlydir" in refused.stderr
    system.run("systemctl", "stop", "orion-server", "orion-router")
    system.run("rm", "-r", "/var/lib/orion-server/appendonlydir")
    done = system.orion(*INSTALL, "--tls", *files)
    assert done.returncode == 0, done.stderr
    eventually_true(lambda: set(status(system).values()) == set(RUNNING.values()), "all run again")
    nodes = system.orion("nodes", "--json")
    assert nodes.returncode == 0 and "51000" in nodes.stdout, nodes.stderr
    assert 'url = "rediss://' in system.run("cat", "/etc/orion/streams.toml").stdout
    assert json.loads(system.orion(*INSTALL).stdout)["changed"] is False


def test_they_are_taken_away(system: Booted) -> None:
    """Last of all: stopped, disabled, gone; what people made stays."""
    done = system.orion("uninstall", "--json")
    assert done.returncode == 0, done.stderr
    assert "/etc/orion" in json.loads(done.stdout)["kept"]
    assert system.run("systemctl", "is-active", "orion-router").stdout.strip() in ("inactive", "failed")
    assert not Path(system.root, "opt/orion/venv").exists()
