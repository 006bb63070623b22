"""`orion invite`: let another machine become a node of the house, by one line that is pasted there."""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Struct
from redis.exceptions import RedisError

from orion_streams import config as configuration
from orion_streams.cli.acl_command import is_so, password, save
from orion_streams.cli.as_root import become_root
from orion_streams.cli.install import open_secrets
from orion_streams.cli.install.apply import Target, locked
from orion_streams.cli.install.init_command import judged
from orion_streams.cli.install.invitation import Invitation, Ticket, clock, encode, with_node
from orion_streams.cli.install.joining import GRACE_MS, Joined, grid_of, is_alive, now_ms, wait_until_joined
from orion_streams.cli.install.machine import OLLAMA
from orion_streams.cli.install.plan import PASSWORDS, TLS, UNITS, File
from orion_streams.cli.install.server_files import ADMIN
from orion_streams.cli.install.starter import BIG_MB, NodeWish, with_server
from orion_streams.cli.outcome import tell, write, write_json
from orion_streams.config import INSTALLED_TOML, Config
from orion_streams.environment import command
from orion_streams.errors import ConfigError, OrionError
from orion_streams.model import server_urls
from orion_streams.model.policy import ROBOT, Name
from orion_streams.model.text import long
from orion_streams.model.toml_values import duration_ms
from orion_streams.runtime import acl
from orion_streams.runtime.connection import connect, place

LONGEST_MS = 86_400_000
USUAL_MB = 8_192
LOOPBACKS = ("127.0.0.1", "localhost", "::1", None)


class InviteOptions(Struct, frozen=True):
    """The flags. `admin_url`: of whom may set users, where the server was not installed by us; `root`: a
    folder that stands for the machine."""

    node: str
    term: str = "1h"
    ram_mb: int | None = None
    inference: bool | None = None
    ollama: str | None = None
    again: bool = False
    waits: bool = True
    admin_url: str | None = None
    root: str = ""


class Invited(Struct, frozen=True):
    """An invitation as it is printed. `line`: to be pasted, a secret; `until_ms`: when it expires."""

    node: str
    line: str
    redis: str
    user: str
    until_ms: int
    added: bool


async def run(*, options: InviteOptions, as_json: bool) -> int:
    """Invite, and wait for what comes of it. Raises ConfigError, OrionError."""
    configuration.check_open_url(options.admin_url)
    if not options.root:
        become_root(sys.argv[1:], "an invitation adds users to the server, and may add a node to its house")
    for_ms = duration_ms(options.term)
    if for_ms is None or not 1_000 <= for_ms <= LONGEST_MS:
        raise ConfigError(f"--for: expected up to 24h, e.g. 1h or 10m, got {options.term[:80]!a}")
    target = Target(options.root, False, tell)
    config = installed(target)
    redis = connect(admin_url(options, config, target))
    try:
        await may_be_invited(redis, options, config)
        await sweep(redis, config)
        before = (await grid_of(redis, config)).nodes.get(options.node)
        invited, ticket = await invite(redis, options, for_ms, target)
        if as_json:
            write_json(invited)
        else:
            for line in told(invited, ticket, for_ms):
                write(line)
        if not options.waits:
            return 0
        joined = await waited(redis, config, ticket, before.boot if before else "")
        if as_json:
            write_json(joined)
        else:
            write(joined.line)
        return 0
    finally:
        await redis.aclose()


def installed(target: Target) -> Config:
    """Return the house's configuration. Raises ConfigError where nothing is installed."""
    if not (text := target.read(str(INSTALLED_TOML))):
        raise ConfigError(
            f"no house is installed here: run this where its server is, or make one: sudo {command()} "
            "install --role server,router,agent,gateway"
        )
    return configuration.parse(text, str(INSTALLED_TOML))


def admin_url(options: InviteOptions, config: Config, target: Target) -> str:
    """Return where and as whom users are set: by --redis, else as the administrator of `orion install`.
    Raises ConfigError."""
    if options.admin_url:
        return configuration.complete(options.admin_url, configuration.RedisConfig())
    held = target.read(f"{PASSWORDS}/{ADMIN}").strip()
    if not held:
        raise ConfigError(
            f"{ADMIN} has no password in {PASSWORDS}: run this on the machine of the server, or name an "
            "administrator: --redis redis://NAME@HOST:6379/0, with the password in ORION_REDIS_PASSWORD"
        )
    url = server_urls.with_password(server_urls.with_user(config.redis.url, ADMIN), held)
    files = config.redis
    return server_urls.with_tls(url, files.tls_ca_file, files.tls_cert_file, files.tls_key_file)


async def may_be_invited(redis: Any, options: InviteOptions, config: Config) -> None:
    """Raise ConfigError for a name that cannot be, a node that is there, and a server that no other machine
    can reach."""
    try:
        node = msgspec.convert(options.node, Name)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{options.node[:80]!a}: {str(error).partition(' - ')[0]}") from None
    if (
        server_urls.scheme_of(config.redis.url) == "unix"
        or urlsplit(config.redis.url).hostname in LOOPBACKS
    ):
        shown = server_urls.shown(config.redis.url) or "no address"
        raise ConfigError(
            f"the house's server has {shown}, where no other machine can reach it: "
            f"sudo {command()} install --role server --listen ADDRESS gives it one in your network"
        )
    if not options.again and await is_alive(redis, config, node):
        raise ConfigError(
            f"{node} is here and alive: for another machine that takes its place, "
            f"{command()} invite {node} --again"
        )


async def sweep(redis: Any, config: Config) -> None:
    """Remove the one-time users of invitations that were used or have expired while nobody waited."""
    head = acl.user_name(config, acl.INVITED, "")
    for raw in await redis.execute_command("ACL", "USERS"):
        name = raw.decode(errors="replace")
        if name.startswith(f"{head}-"):
            key = config.key(acl.INVITED, name.removeprefix(f"{head}-"))
            if not await redis.exists(key):
                await redis.execute_command("ACL", "DELUSER", name)


async def invite(redis: Any, options: InviteOptions, for_ms: int, target: Target) -> tuple[Invited, Ticket]:
    """Add the node and its agent's user, and leave the invitation at the server. Raises ConfigError."""
    target.path(PASSWORDS).mkdir(mode=0o700, exist_ok=True)
    with locked(target):
        text, added = with_the_node(options, target)
        config = configuration.parse(text, str(INSTALLED_TOML))
        agent = acl.agent(config, options.node)
        is_new = not target.path(f"{PASSWORDS}/{agent.name}").exists()
        held = password(target.path(PASSWORDS), agent.name)
        await set_user(redis, agent, held)
        if is_new or options.again:  # who knew another password, or is another machine, is shut out
            await redis.execute_command("CLIENT", "KILL", "USER", agent.name)
    url, ca = address_of(config, options, target)
    ident, once = secrets.token_hex(8), secrets.token_urlsafe(24)
    user, key = acl.invitation(config, ident), config.key(acl.INVITED, ident)
    told_url = server_urls.with_tls(url, f"{TLS}/ca.pem" if ca else "", "", "")
    people = server_urls.with_user(told_url, acl.user_name(config, acl.OWNER))
    toml = with_server(text, people, "")
    until_ms = await now_ms(redis) + for_ms
    payload = msgspec.json.encode(Invitation(options.node, held, toml))
    await redis.set(key, payload, px=for_ms + GRACE_MS)  # first: a user without a key is swept away
    await set_user(redis, user, once)
    await save(redis)
    if (await grid_of(redis, config)).revision < config.revision:  # also what an earlier one left undone
        tell_the_router(target)
    row = config.nodes[options.node]
    ollama = row.ollama if row.inference else ""
    ticket = Ticket(options.node, url, key, user.name, once, until_ms, ollama, ca)
    line = f"echo {encode(ticket)} | sudo {command()} join"
    return Invited(options.node, line, url, agent.name, until_ms, added), ticket


def with_the_node(options: InviteOptions, target: Target) -> tuple[str, bool]:
    """Return the house's streams.toml with the node, and whether it had to be added. Raises ConfigError."""
    config, text = installed(target), target.read(str(INSTALLED_TOML))
    open_secrets.check(config)  # who takes the invitation reads it
    if options.node in config.nodes:
        if (options.ram_mb, options.inference, options.ollama) != (None, None, None):
            raise ConfigError(f"nodes.{options.node} is in {INSTALLED_TOML} already: change it there")
        return text, False
    ram_mb = options.ram_mb or USUAL_MB
    inference = options.node != ROBOT if options.inference is None else options.inference
    node = NodeWish(options.node, ram_mb, inference, (options.ollama or OLLAMA) if inference else "")
    text = judged(with_node(text, node), INSTALLED_TOML)
    target.file(File(str(INSTALLED_TOML), text))
    if options.ram_mb is None and inference:
        tell(
            f"orion: {options.node} is entered with {USUAL_MB} MB of memory, for tier 2 (from {BIG_MB} on "
            f"for tier 1): if that is not so, change nodes.{options.node} in {INSTALLED_TOML}, raise "
            f"revision there, and give the line of sudo {command()} install once more"
        )
    return text, True


async def set_user(redis: Any, user: acl.User, held: str) -> None:
    """Set a user of the server by the hash of its password. Raises OrionError if it did not become so."""
    rules = user.rules(acl.hashed(held))
    await redis.execute_command("ACL", "SETUSER", user.name, *rules)
    if not is_so(rules, await redis.execute_command("ACL", "GETUSER", user.name)):
        raise OrionError(f"{user.name}: {place(redis)} does not have the rules that it was given")


def address_of(config: Config, options: InviteOptions, target: Target) -> tuple[str, str]:
    """Return the server's URL as the other machine needs it, and who signed its certificate, as PEM."""
    whole = configuration.complete(
        config.redis.url, msgspec.structs.replace(config.redis, password_file="")
    )
    url = server_urls.without_user(whole).partition("?")[0]
    if server_urls.scheme_of(url) not in server_urls.TLS:
        return url, ""
    said = parse_qs(urlsplit(whole).query).get("ssl_ca_certs")
    return url, target.read(said[0] if said else f"{TLS}/ca.pem")


def tell_the_router(target: Target) -> None:
    """Let the router take the new node, or say that it has to be told."""
    if not target.path(f"{UNITS}/orion-router.service").exists():
        tell(f"orion: no router is installed here: copy {INSTALLED_TOML} to its machine, restart it there")
    elif target.is_machine:
        target.run("systemctl", "restart", "--no-block", "orion-router.service")


def told(invited: Invited, ticket: Ticket, for_ms: int) -> list[str]:
    """Say what to do with the invitation, and what is in it."""
    where = "in its clone of orion-streams" if "/" in command() else "where orion-streams is installed, too"
    authority = ", who signed the server's certificate" if ticket.ca else ""
    return [
        f"Paste this line on {invited.node}, {where}:",
        "",
        f" {invited.line}",
        "",
        f"It works once, until {clock(invited.until_ms)} ({long(for_ms)}), and is a secret until then. "
        f"In it: the address {invited.redis}, a one-time password{authority}.",
        f"By it {invited.node} fetches this house's streams.toml and the password of {invited.user}.",
    ]


async def waited(redis: Any, config: Config, ticket: Ticket, old_boot: str) -> Joined:
    """Wait for the node, then remove the one-time user. Raises OrionError if nobody came in time,
    or nothing came of it."""
    tell(f"orion: waiting for {ticket.node}; Ctrl-C ends the waiting, not the invitation")
    try:
        joined = await wait_until_joined(redis, config, ticket, old_boot, tell)
    except (asyncio.CancelledError, RedisError):
        tell(
            f"\norion: the invitation counts until {clock(ticket.until_ms)} all the same: {command()} "
            f"nodes shows {ticket.node} once it is there"
        )
        raise
    except OrionError:
        await sweep(redis, config)
        raise
    await redis.execute_command("ACL", "DELUSER", ticket.user)
    await save(redis)
    if joined is None:
        raise OrionError(
            f"nobody has used the invitation until {clock(ticket.until_ms)}, and it has expired: "
            f"{command()} invite {ticket.node} makes another"
        )
    return joined
