"""The units are pure texts that systemd itself finds valid and well confined."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import structs

from orion_streams.agents.alert_targets import targets_of
from orion_streams.cli.install import units
from orion_streams.cli.install.plan import ROLES, UNITS, Plan, plan_of, service_of, shut_out
from orion_streams.cli.install.server_files import ADMIN, ServerWish, acl_file, meaning
from orion_streams.cli.install.units import Service, argument, held, quoted, text_of
from orion_streams.config import Config
from orion_streams.errors import ConfigError
from orion_streams.model.alert_rules import AlertTarget
from orion_streams.runtime import acl
from tests.install.houses import config, plan, systemd_analyze, text, wish
from tests.needs import SYSTEMD_ANALYZE

EXPOSURE_MAX = 3.0
EVERYWHERE = (
    "Restart=always", "TimeoutStartSec=infinity", "StartLimitIntervalSec=0", "NoNewPrivileges=yes",
    "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "RestrictNamespaces=yes",
    "SystemCallFilter=@system-service", "MemoryDenyWriteExecute=yes", "ConfigurationDirectory=orion",
)  # fmt: skip


def unit(role: str, of: Plan | None = None) -> str:
    """The text of a role's unit."""
    return text(of or plan(), f"{UNITS}/orion-{role}.service")


def on_disk(folder: Path, role: str, words: str | None = None) -> Path:
    """The unit as a file, with a program that is there instead of its own."""
    path = folder / f"orion-{role}.service"
    path.write_text(re.sub("^ExecStart=[^ ]+", "ExecStart=/bin/true", words or unit(role), flags=re.M))
    return path


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.everything(where=SYSTEMD_ANALYZE is not None)
def test_systemd_finds_the_unit_valid(tmp_path: Path, role: str) -> None:
    """Not one warning."""
    done = systemd_analyze("verify", "--man=no", str(on_disk(tmp_path, role)))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.everything(where=SYSTEMD_ANALYZE is not None)
def test_an_invalid_unit_would_be_seen(tmp_path: Path) -> None:
    """The control: a key that systemd does not know."""
    words = unit("router").replace("RemoveIPC", "RemoveEverything")
    assert (
        "RemoveEverything"
        in systemd_analyze("verify", "--man=no", str(on_disk(tmp_path, "router", words))).stderr
    )


def exposure(path: Path) -> float:
    """What systemd thinks of a unit's confinement: 0 is none left, 10 is all."""
    done = systemd_analyze("security", "--offline=true", str(path))
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    return float(found[1])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.everything(where=SYSTEMD_ANALYZE is not None)
def test_each_service_is_well_confined(tmp_path: Path, role: str) -> None:
    """By systemd's own measure."""
    assert exposure(on_disk(tmp_path, role)) <= EXPOSURE_MAX


@pytest.mark.everything(where=SYSTEMD_ANALYZE is not None)
def test_without_its_confinement_a_service_is_exposed(tmp_path: Path) -> None:
    """The control."""
    bare = unit("router").replace(units.HARDENED, "")
    assert exposure(on_disk(tmp_path, "router", bare)) > EXPOSURE_MAX


@pytest.mark.parametrize("role", ROLES)
def test_what_every_unit_says(role: str) -> None:
    """Each has its own user and state, starts for ever, and waits for nobody."""
    words = unit(role)
    assert [each for each in EVERYWHERE if each not in words.splitlines()] == []
    assert f"User=orion-{role}\n" in words and f"StateDirectory=orion-{role}\n" in words
    assert not re.search("^(Requires|BindsTo|Wants|Requisite)=", words, re.M)
    assert ("Type=notify" in words) == ("WatchdogSec" in words) == (role != "server")


def test_the_agent_sees_what_its_sensors_need() -> None:
    """The device of vcgencmd, which PrivateDevices would hide; other users' processes; nobody else does."""
    agent = unit("agent")
    assert "DeviceAllow=/dev/vcio rw" in agent and "SupplementaryGroups=video" in agent
    assert "PrivateDevices" not in agent and "ProtectProc" not in agent and "ProcSubset" not in agent
    assert "SupplementaryGroups" not in unit("agent", plan(has_video_group=False))
    for role in ("server", "router", "gateway", "alerts"):
        assert "PrivateDevices=yes" in unit(role) and "ProtectProc=invisible" in unit(role)


def test_a_password_is_a_credential_and_never_in_a_unit() -> None:
    """Each role's own, by its user's name; without one it connects without a user."""
    for role in ROLES[1:]:
        made = service_of(wish(), role)
        [(name, path)] = made.credentials
        url = dict(made.environment)["ORION_REDIS_URL"]
        assert name == "redis-password" and url == f"redis://{Path(path).name}@192.168.1.10:6379/0"
    alone = service_of(wish(hashes={}), "router")
    assert (
        alone.credentials == ()
        and dict(alone.environment)["ORION_REDIS_URL"] == "redis://192.168.1.10:6379/0"
    )


@pytest.mark.parametrize(
    ("url", "held", "expected"),
    [
        ("redis://h", "/etc/orion/redis-password", ("redis://h", "/etc/orion/redis-password")),
        ("redis://me@h", "/etc/orion/redis-password", ("redis://me@h", "/etc/orion/redis-password")),
        ("redis://orion-owner@h", "/etc/orion/passwords/orion-owner", ("redis://h", None)),
        ("redis://h", "/etc/orion/passwords/orion-owner", ("redis://h", None)),
    ],
)
def test_a_password_that_all_share_is_each_role_s(
    url: str, held: str, expected: tuple[str, str | None]
) -> None:
    """It is root's file, and systemd shows it to each; that of the owner is no service's."""
    redis = structs.replace(config().redis, url=url, password_file=held)
    own = wish(hashes={}, url=url, config=structs.replace(config(), redis=redis))
    for role in ROLES[1:]:
        made = service_of(own, role)
        assert (
            dict(made.environment)["ORION_REDIS_URL"],
            dict(made.credentials).get("redis-password"),
        ) == expected


def test_the_secrets_of_alerts_are_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of that service alone; it reads what systemd shows it, whatever the mode says there."""
    phone = AlertTarget(form="ntfy", webhook="http://ntfy.lan/orion", token_file="/etc/orion/ntfy.token")
    own = {"phone": phone, "home": AlertTarget(webhook_file="/etc/orion/home.url")}
    house = structs.replace(config(), alerts_to=own)
    made = plan(config=house)
    lines = [
        "LoadCredential=alerts.home.webhook_file:/etc/orion/home.url",
        "LoadCredential=alerts.phone.token_file:/etc/orion/ntfy.token",
    ]
    assert [line for line in unit("alerts", made).splitlines() if "Credential=alerts" in line] == lines
    assert not any("Credential=alerts" in unit(role, made) for role in ROLES if role != "alerts")
    (tmp_path / "alerts.home.webhook_file").write_text("http://ha.lan/api/webhook/ID\n")
    (tmp_path / "alerts.phone.token_file").write_text("tk_1\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        targets_of(house)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    home, phoned = targets_of(house)
    assert (home.webhook, phoned.token) == ("http://ha.lan/api/webhook/ID", "tk_1")


def test_places_of_streams_toml_are_writable() -> None:
    """An archive, keys and alerts elsewhere than usual; nothing else is."""
    assert "ReadWritePaths" not in "".join(unit(role) for role in ROLES)
    keep = structs.replace(config().retention, archive_dir="/srv/orion log")
    gate = structs.replace(config().gateway, keys_file="/srv/keys/keys.json")
    own = structs.replace(config(), retention=keep, gateway=gate, alerts_file="/srv/alerts/a.json")
    made = plan(config=own)
    assert 'ReadWritePaths="-/srv/orion log"\n' in unit("router", made)
    assert "ReadWritePaths=-/srv/keys\n" in unit("gateway", made)
    assert "ReadWritePaths=-/srv/alerts\n" in unit("alerts", made)


def test_an_agent_may_take_its_time_to_hand_its_work_back() -> None:
    """Longer than it drains."""
    limits = structs.replace(config().limits, drain_ms=90_000)
    assert "TimeoutStopSec=110\n" in unit("agent", plan(config=structs.replace(config(), limits=limits)))


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ("50%", "50%%"),
        ("$HOME", "$HOME"),
        ('a"b', '"a\\"b"'),
        ("%d/server.key", "%%d/server.key"),
        ("", '""'),
    ],
)
def test_nothing_in_a_word_is_expanded(word: str, shown: str) -> None:
    """On a command line no variable either; nothing but the folder of the credentials, where we say so."""
    assert quoted(word) == shown
    assert argument(word) == shown.replace("$", "$$")


def test_a_dollar_is_a_dollar_wherever_it_stands() -> None:
    """In a command it would begin a variable, in a variable and in a path it is none."""
    made = Service("x", "a", ("/bin/true", "$a"), environment=(("ORION_X", "$b"),), writable=("/srv/$c",))
    words = text_of(structs.replace(made, command=(*made.command, held("key"))))
    assert "ExecStart=/bin/true $$a %d/key\n" in words
    assert "Environment=ORION_X=$b\n" in words and "ReadWritePaths=-/srv/$c\n" in words


def test_a_description_is_one_line() -> None:
    """A line break would begin another setting."""
    assert "Description=a User=root 100%%\n" in text_of(Service("x", "a\nUser=root 100%", ("/bin/true",)))


def test_the_server_keeps_what_it_is_given_and_knows_its_users() -> None:
    """In the LAN and on loopback; with TLS nowhere without it, and its key is shown to it alone."""
    made = plan()
    plainly = text(made, "/etc/orion/server.conf").splitlines()
    for line in (
        "bind 192.168.1.10 127.0.0.1",
        "appendonly yes",
        "maxmemory-policy noeviction",
        "port 6379",
    ):
        assert line in plainly
    server = ServerWish(("192.168.1.10",), tls=True)
    files = {"server.pem": "c", "server.key": "k", "ca.pem": "a"}
    safe = plan(server=server, certificates=files, has_ca=True, url="rediss://192.168.1.10:6379/0")
    conf = text(safe, "/etc/orion/server.conf").splitlines()
    assert "port 0" in conf and "tls-port 6379" in conf
    assert "--tls-key-file %d/server.key" in unit("server", safe)
    assert "LoadCredential=server.key:/etc/orion/tls/server.key" in unit("server", safe)
    assert "rediss://orion-router@192.168.1.10:6379/0?ssl_ca_certs=/etc/orion/tls/ca.pem" in unit(
        "router", safe
    )
    modes = {each.path: each.mode for each in safe.files}
    assert (modes["/etc/orion/tls/server.key"], modes["/etc/orion/tls/server.pem"]) == (0o600, 0o644)


def hashes(of: Config) -> dict[str, str]:
    """A hash for each user."""
    return dict.fromkeys((*(user.name for user in acl.users(of)), ADMIN), "b" * 64)


def users_file(before: str = "", of: Config | None = None, **other: str) -> str:
    """The file of users of a house."""
    house = of or config()
    passwords = hashes(house) | {name.replace("_", "-"): each for name, each in other.items()}
    return acl_file(acl.users(house), passwords, before, acl.of_clients_and_nodes(house))


def test_the_file_of_users_stays_while_nothing_changes() -> None:
    """Whatever the server makes of it: who was added stays, and a changed password or right is written."""
    first = users_file()
    saved = (
        first.replace(" reset on ", " on sanitize-payload resetchannels -@all ") + "user guest on ~x +get\n"
    )
    assert users_file(saved) == saved
    other = users_file(saved, orion_router="c" * 64)
    assert "c" * 64 in other and "user guest on ~x +get" in other
    widened = saved.replace("user orion-reader ", "user orion-reader +flushall ")
    assert "flushall" not in users_file(widened)
    assert "default reset off" in first


def test_a_node_that_is_gone_is_shut_out() -> None:
    """And a client; who is none of ours stays, and so does the file once it is so."""
    before = users_file() + "user guest on ~x +get\nuser other-agent-x on ~x +get\n"
    nodes = {name: node for name, node in config().nodes.items() if name != "orion-worker"}
    clients = {name: each for name, each in config().clients.items() if name != "brain"}
    house = structs.replace(config(), nodes=nodes, clients=clients)
    gone = ["orion-client-brain", "orion-agent-orion-worker"]
    smaller = wish(config=house, users_before=before, hashes=hashes(house))
    assert sorted(shut_out(smaller)) == sorted(gone)
    after = text(plan_of(smaller), "/var/lib/orion-server/users.acl")
    for name in gone:
        assert f"user {name} reset off\n" in after
    assert "user guest on ~x +get" in after and "user other-agent-x on" in after
    saved = after.replace(" reset off", " off sanitize-payload resetchannels -@all")
    again = structs.replace(smaller, users_before=saved)
    assert text(plan_of(again), "/var/lib/orion-server/users.acl") == saved
    assert shut_out(again) == []
    back = users_file(saved)
    assert "user orion-agent-orion-worker reset on" in back


def test_two_ways_of_writing_a_user_mean_the_same() -> None:
    """And two different rights do not."""
    assert meaning("user a on ~* +@all") == meaning("user a +@all on allkeys")
    assert meaning("user a on (%R~x +get)") != meaning("user a on (%W~x +get)")
    assert meaning("user a on (%R~x +get)") != meaning("user a on %R~x +get")
