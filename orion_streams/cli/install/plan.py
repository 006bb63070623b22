"""What an installation consists of: users, folders, files, services. Pure: a wish in, a plan out.

`apply` compares a plan with the machine and makes the difference true, so doing it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, structs

from orion_streams.cli.install import units
from orion_streams.cli.install.server_files import (
    ADMIN,
    STATE,
    ServerWish,
    acl_file,
    is_off,
    lines_of,
    server_conf,
    strays,
)
from orion_streams.cli.install.units import Service
from orion_streams.config import ALERTS_FILE, INSTALLED_TOML, KEYS_FILE, Config
from orion_streams.errors import ConfigError
from orion_streams.model import server_urls
from orion_streams.model.alert_rules import SECRET_FILES, credential_of
from orion_streams.runtime import acl
from orion_streams.runtime.acl import User

ROLES = ("server", "router", "agent", "gateway", "alerts")
HOME, VENV, PASSWORDS, TLS = "/etc/orion", "/opt/orion/venv", "/etc/orion/passwords", "/etc/orion/tls"
ORION = f"{VENV}/bin/orion"
UNITS, SYSUSERS = "/etc/systemd/system", "/etc/sysusers.d/orion.conf"
DEVICES = ("/dev/vcio", "/dev/vchiq")
"""What vcgencmd asks the firmware of a Raspberry Pi through, newer and older."""


class Wish(Struct, frozen=True):
    """What was asked for, with the facts that decide how. `toml`: the text of streams.toml; `hashes`: of
    the passwords by user (the server's machine has all); `passwords`: those that are to be made, by user;
    `users_before`: the server's file of users as it
    is; `certificates`: texts of server.pem, server.key and ca.pem by name; `has_ca`: with a ca.pem."""

    roles: tuple[str, ...]
    config: Config
    toml: str
    node: str
    url: str
    valkey: str = ""
    server: ServerWish | None = None
    hashes: Mapping[str, str] = {}
    passwords: Mapping[str, str] = {}
    users_before: str = ""
    certificates: Mapping[str, str] = {}
    has_ca: bool = False
    has_video_group: bool = False


class Folder(Struct, frozen=True):
    """A folder, with its mode and owner."""

    path: str
    mode: int
    owner: str = "root"


class File(Struct, frozen=True):
    """A file, with its mode and owner. `secret`: its text is not shown."""

    path: str
    text: str
    mode: int = 0o644
    owner: str = "root"
    secret: bool = False


class Plan(Struct, frozen=True):
    """All of it, in the order in which it is made. `users`: of the machine, one for each service."""

    users: tuple[str, ...]
    folders: tuple[Folder, ...]
    files: tuple[File, ...]
    services: tuple[Service, ...]


def plan_of(wish: Wish) -> Plan:
    """Return the plan of a wish."""
    services = tuple(service_of(wish, role) for role in ROLES if role in wish.roles)
    folders = [
        Folder(HOME, 0o755),
        Folder(PASSWORDS, 0o700),
        *(Folder(f"/var/lib/{each.name}", 0o700, each.name) for each in services),
    ]
    files = [
        *(File(f"{PASSWORDS}/{name}", text, 0o600, secret=True) for name, text in wish.passwords.items()),
        File(str(INSTALLED_TOML), wish.toml),
        *(File(f"{UNITS}/{each.unit}", units.text_of(each)) for each in services),
    ]
    if wish.server is not None:
        text = acl_file(
            acl.users(wish.config), wish.hashes, wish.users_before, acl.of_clients_and_nodes(wish.config)
        )
        files.append(File(f"{HOME}/server.conf", server_conf(wish.server)))
        files.append(File(f"{STATE}/users.acl", text, 0o600, "orion-server", secret=True))
    if wish.certificates:
        folders.append(Folder(TLS, 0o755))
        for name, text in sorted(wish.certificates.items()):
            is_key = name.endswith(".key")
            files.append(File(f"{TLS}/{name}", text, 0o600 if is_key else 0o644, secret=is_key))
    return Plan(tuple(each.name for each in services), tuple(folders), tuple(files), services)


def service_of(wish: Wish, role: str) -> Service:
    """Return the service of a role."""
    config, options = wish.config, ("--config", str(INSTALLED_TOML))
    match role:
        case "server":
            return server_service(wish)
        case "agent":
            return agent_service(wish, (ORION, "agent", "--node", wish.node, *options))
        case "router":
            words, user = (ORION, "router", *options), acl.router(config)
            archive = config.retention.archive_dir
            return role_service(wish, role, words, user, (archive,) if archive else ())
        case "gateway":
            words, user = (ORION, "gateway", *options), acl.gateway(config)
            return role_service(wish, role, words, user, outside(config.gateway.keys_file, KEYS_FILE))
        case _:
            return alerts_service(wish)


def outside(own: str, usual: str) -> tuple[str, ...]:
    """Return the folder of a file that streams.toml puts elsewhere than usual."""
    return (own.rpartition("/")[0],) if own and own != usual else ()


def alerts_service(wish: Wish) -> Service:
    """Return the service that tells people: systemd shows it the files with its targets' secrets."""
    config = wish.config
    words = (ORION, "alerts", "run", "--config", str(INSTALLED_TOML))
    own = role_service(wish, "alerts", words, acl.reader(config), outside(config.alerts_file, ALERTS_FILE))
    secrets = (
        (credential_of(name, key), path)
        for name, target in sorted(config.alerts_to.items())
        for key in SECRET_FILES
        if (path := getattr(target, key))
    )
    return structs.replace(own, credentials=(*own.credentials, *secrets))


def server_service(wish: Wish) -> Service:
    """Return the service of the house's Valkey. Its key is shown to it by systemd, and to nobody else."""
    with_key = ("--tls-key-file", units.held("server.key")) if wish.server and wish.server.tls else ()
    return Service(
        "orion-server",
        "orion-streams: the house's Valkey",
        (wish.valkey, f"{HOME}/server.conf", *with_key),
        notifies=False,
        stop_s=120,
        credentials=(("server.key", f"{TLS}/server.key"),) if with_key else (),
        open_files=10_032,
    )


def agent_service(wish: Wish, words: tuple[str, ...]) -> Service:
    """Return the service of a node's agent: it sees the processes of Ollama, and what vcgencmd needs."""
    return structs.replace(
        role_service(wish, "agent", words, acl.agent(wish.config, wish.node)),
        what=f"orion-streams: agent of {wish.node}",
        sees_processes=True,
        devices=DEVICES,
        groups=("video",) if wish.has_video_group else (),
        stop_s=wish.config.limits.drain_ms // 1000 + 20,
    )


def role_service(
    wish: Wish, role: str, words: tuple[str, ...], user: User, writable: tuple[str, ...] = ()
) -> Service:
    """Return the service of a role. It connects as its user if there is a password for that, else as
    streams.toml says."""
    url, password_file = access(wish, user)
    if wish.has_ca and server_urls.scheme_of(url) in server_urls.TLS:
        url = server_urls.with_tls(url, f"{TLS}/ca.pem", "", "")
    return Service(
        f"orion-{role}",
        f"orion-streams: {role}",
        words,
        environment=(("ORION_REDIS_URL", url), ("PYTHONDONTWRITEBYTECODE", "1")),
        credentials=(("redis-password", password_file),) if password_file else (),
        writable=writable,
    )


def access(wish: Wish, user: User) -> tuple[str, str]:
    """Return the URL that a role connects to, and the file of its password, "" for none. The password that
    streams.toml names is everybody's, unless it is that of one of the grid's own users."""
    if user.name in wish.hashes:
        return server_urls.with_user(wish.url, user.name), f"{PASSWORDS}/{user.name}"
    held, names = wish.config.redis.password_file, [each.name for each in acl.users(wish.config)]
    if server_urls.user_of(wish.url) in names or Path(held).name in names:
        return server_urls.without_user(wish.url), ""
    return wish.url, held


def causes(service: Service) -> set[str]:
    """Return the files whose change takes a restart of a service."""
    own = {f"{UNITS}/{service.unit}", f"{TLS}/ca.pem"}
    if service.name == "orion-server":
        return own | {f"{HOME}/server.conf", f"{STATE}/users.acl", f"{TLS}/server.pem", f"{TLS}/server.key"}
    return own | {str(INSTALLED_TOML)}


def chosen_roles(words: str) -> tuple[str, ...]:
    """Return the roles of a list with commas, in the order of ROLES. Raises ConfigError."""
    said = [each.strip() for each in words.split(",") if each.strip()]
    for each in said:
        if each not in ROLES:
            raise ConfigError(f"--role: expected some of {', '.join(ROLES)}, got {each[:40]!r}")
    if not said:
        raise ConfigError(f"--role: expected some of {', '.join(ROLES)}")
    return tuple(each for each in ROLES if each in said)


def passwords_of(config: Config) -> tuple[str, ...]:
    """Return the users that the server's machine has passwords for."""
    return (*(user.name for user in acl.users(config)), ADMIN)


def shut_out(wish: Wish) -> list[str]:
    """List the users of nodes and clients that streams.toml has no more and that could still log in."""
    found = strays(wish.users_before, passwords_of(wish.config), acl.of_clients_and_nodes(wish.config))
    return [name for name in found if not is_off(lines_of(wish.users_before)[name])]
