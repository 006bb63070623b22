"""The server's users: one with least privilege per role, as rules of ACL SETUSER.

Every stream has one writer, so the keys alone confine a user. ACLs limit keys, not arguments, so a writer
may also shorten its own stream (XADD with MAXLEN). The rules begin with `reset`: applying them again
changes nothing, and a user with further rights loses them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

from orion_streams.config import Config
from orion_streams.errors import ConfigError
from orion_streams.model.commit import PUBLIC
from orion_streams.model.policy import GATEWAY, GUEST_PREFIX
from orion_streams.model.server_urls import user_of

READ, WRITE, BOTH = "%R~", "%W~", "~"
KINDS = ("requests", "replies", "work", "health", "results")
ENTRIES = ("xrange", "xrevrange", "xread")
OWNER, COMMAND_LINE = "owner", "cli"
"""The clients of the owner and of `orion ask`."""
INVITED = "invite"
"""Begins the names of one-time users, and of their keys."""
MEASURES = ("xlen", "type", "memory|usage", "xinfo|groups")
"""Commands for a stream's size and its group's progress. XINFO STREAM would show two entries."""


class Grant(Struct, frozen=True):
    """Commands, and the keys (patterns with a permission) that they are limited to."""

    commands: tuple[str, ...]
    keys: tuple[str, ...] = ()

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules for ACL SETUSER."""
        return (*(f"+{command}" for command in self.commands), *self.keys)


class User(Struct, frozen=True):
    """A user of the server. `plain` grants commands without keys; each of `grants` is one selector."""

    name: str
    role: str
    plain: Grant
    grants: tuple[Grant, ...]

    def rules(self, password_hash: str = "") -> list[str]:
        """Return the arguments of ACL SETUSER after the name. Without a password nobody can log in."""
        password = (f"#{password_hash}",) if password_hash else ()
        return ["reset", "on", *password, *self.plain.rules, *(selector(each) for each in self.grants)]


def selector(grant: Grant) -> str:
    """Return a grant as one argument of ACL SETUSER."""
    return f"({' '.join(grant.rules)})"


def hashed(password: str) -> str:
    """Return a password's hash as ACL SETUSER takes it."""
    return hashlib.sha256(password.encode()).hexdigest()


def users(config: Config) -> tuple[User, ...]:
    """Return all users of a grid: clients, agents, the router, the gateway, a reader, an observer and the
    owner, who is the only writer of its client's streams."""
    return (
        *(client(config, name) for name in config.clients if name != OWNER),
        *(agent(config, name) for name in sorted(config.nodes)),
        router(config),
        gateway(config),
        reader(config),
        observer(config),
        owner(config),
    )


def chosen(config: Config, names: Iterable[str]) -> tuple[User, ...]:
    """Return the users of these names, or all if there are none. Raise ConfigError for an unknown name."""
    known = {user.name: user for user in users(config)}
    for name in names:
        if name not in known:
            raise ConfigError(f"{name}: no such user of this grid (known: {', '.join(known)})")
    return tuple(known[name] for name in dict.fromkeys(names)) or tuple(known.values())


def client(config: Config, name: str) -> User:
    """Return the user of a client: it writes its requests and their parts, and reads its replies."""
    grants = (
        *asking(config, name),
        Grant(ENTRIES, keys(config, READ, [f"replies:{name}"])),
        Grant(("hgetall",), keys(config, READ, [PUBLIC])),
    )
    return User(user_name(config, "client", name), f"client {name}", plain(config, "time"), grants)


def asking(config: Config, name: str) -> tuple[Grant, ...]:
    """Return what a client needs to send a request and its parts."""
    return (
        Grant(("xadd",), keys(config, WRITE, [f"requests:{name}", f"parts:{name}"])),
        Grant(("xrange",), keys(config, READ, [f"parts:{name}"])),  # are they still there?
    )


def agent(config: Config, name: str) -> User:
    """Return the user of an agent: it reads its work and writes health and results. A node without
    inference gets no work, so its agent writes health only."""
    beats = Grant(("xadd",), keys(config, WRITE, [f"health:{name}"]))
    works = (
        Grant(("xreadgroup", "xinfo|groups"), keys(config, READ, [f"work:{name}"])),
        Grant(("xrange",), keys(config, READ, ["parts:*"])),
        Grant(("xack",), keys(config, WRITE, [f"work:{name}"])),
        Grant(("xadd",), keys(config, WRITE, [f"health:{name}", f"results:{name}"])),
    )
    grants = works if config.nodes[name].inference else (beats,)
    return User(user_name(config, "agent", name), f"agent of {name}", plain(config), grants)


def router(config: Config) -> User:
    """Return the user of the router: it runs the commit script, reads all streams but the parts of images,
    and trims them. A script runs with its caller's rights, so none can do more than this."""
    outputs = ("work:*", "replies:*")
    bodies = ("requests:*", "results:*")  # only copied from, but EVALSHA requires write permission
    grants = (
        Grant(("evalsha",), keys(config, BOTH, ["guard", "log", *bodies, *outputs])),
        Grant(
            ("hgetall", "hmget", *ENTRIES, "xlen", "type", "memory|usage", "xinfo|stream"),
            keys(config, READ, ["guard", "log", "snapshots", "health:*", *bodies, *outputs]),
        ),
        Grant(("hset", "hdel"), keys(config, WRITE, ["guard", PUBLIC])),
        Grant(("xadd",), keys(config, WRITE, ["log", "snapshots", *outputs])),
        Grant(("xtrim",), keys(config, WRITE, ["log", "snapshots", "requests:*", *outputs])),
        Grant(("xgroup|create",), keys(config, WRITE, ["work:*"])),
        Grant(("xlen", "memory|usage"), keys(config, READ, ["parts:*"])),  # never read
        Grant(("xdel", "xtrim"), keys(config, WRITE, ["parts:*"])),
    )
    more = ("info", "time", "script|load")
    return User(user_name(config, "router"), "router", plain(config, *more), grants)


def gateway(config: Config) -> User:
    """Return the user of the gateway: it writes requests, with their parts, and reads replies of clients
    that it stands for, its own, its guests and those of its addresses, and follows log and snapshots."""
    names = dict.fromkeys((GATEWAY, f"{GUEST_PREFIX}*", *sorted(config.gateway.addresses.values())))
    parts = [f"parts:{name}" for name in names]
    grants = (
        Grant(("xadd",), keys(config, WRITE, [*(f"requests:{name}" for name in names), *parts])),
        Grant(("xrange",), keys(config, READ, parts)),
        Grant(ENTRIES, keys(config, READ, [*(f"replies:{name}" for name in names), "log", "snapshots"])),
        Grant(("hgetall",), keys(config, READ, ["guard", PUBLIC])),
    )
    return User(user_name(config, "gateway"), "gateway", plain(config, "info", "time"), grants)


def reader(config: Config) -> User:
    """Return a user that reads the log and measures the other streams, without prompts and answers."""
    bodies = ("requests:*", "parts:*", "replies:*", "work:*", "results:*")
    told = ("log", "snapshots", "health:*")
    grants = (
        Grant(("hgetall", *MEASURES), keys(config, READ, ["guard"])),
        Grant((*ENTRIES, *MEASURES, "xinfo|stream"), keys(config, READ, told)),
        Grant(MEASURES, keys(config, READ, bodies)),
        Grant(("hgetall",), keys(config, READ, [PUBLIC])),
    )
    what = "reader of the log: top, nodes, ps, plan, requests, explain, log, replay"
    return User(user_name(config, "reader"), what, plain(config, "info", "time"), grants)


def observer(config: Config) -> User:
    """Return a user that reads every stream but the parts of images, with prompts and answers: XINFO STREAM
    shows a stream's end only together with its last entry."""
    what = "observer of all streams: doctor"
    return User(user_name(config, "observer"), what, plain(config, "info", "time"), observing(config))


def observing(config: Config) -> tuple[Grant, ...]:
    """Return what `orion doctor` needs."""
    streams = ("log", "snapshots", *(f"{kind}:*" for kind in KINDS))
    return (
        Grant(("hgetall", *MEASURES), keys(config, READ, ["guard"])),
        Grant((*ENTRIES, *MEASURES, "xinfo|stream"), keys(config, READ, streams)),
        Grant(MEASURES, keys(config, READ, ["parts:*"])),
    )


def owner(config: Config) -> User:
    """Return the user of the person whose house it is: every command of a person, and no forging. It sees
    what the observer sees and the names of all keys, and asks as a client of its own, an operator."""
    sees_who_is_read = Grant(("hgetall",), keys(config, READ, [PUBLIC]))
    grants = (*observing(config), *asking(config, OWNER), sees_who_is_read)
    what = "owner: every command of a person"
    return User(user_name(config, OWNER), what, plain(config, "info", "time", "scan"), grants)


def invitation(config: Config, ident: str) -> User:
    """Return the one-time user of an invitation: it takes what waits under one key, and nothing else. It is
    none of the grid's users: `orion invite` makes it, and removes it."""
    grants = (Grant(("getdel",), keys(config, BOTH, [f"invite:{ident}"])),)
    return User(user_name(config, INVITED, ident), "invitation", plain(config), grants)


def client_of(config: Config) -> str:
    """Return the client that the user in the URL of the server stands for; COMMAND_LINE if it is none's."""
    user = user_of(config.redis.url)
    if user == user_name(config, OWNER):
        return OWNER
    client_user = user_name(config, "client", "")
    return user.removeprefix(f"{client_user}-") if user.startswith(f"{client_user}-") else COMMAND_LINE


def may(user: User, command: str, key: str) -> bool:
    """Return whether a user may run a command, named as in a rule, on a key; "" for a command without."""
    if not key:
        return command in user.plain.commands
    return any(
        command in grant.commands and any(fnmatchcase(key, each.partition("~")[2]) for each in grant.keys)
        for grant in user.grants
    )


def plain(config: Config, *commands: str) -> Grant:
    """Return the commands without keys: PING, and SELECT if the grid is not in database 0."""
    return Grant(("ping", *(("select",) if needs_select(config.redis.url) else ()), *commands))


def keys(config: Config, permission: str, streams: Iterable[str]) -> tuple[str, ...]:
    """Return patterns of the grid's keys. Neither the prefix nor a name can hold a wildcard."""
    return tuple(f"{permission}{config.key(stream)}" for stream in streams)


def user_name(config: Config, *parts: str) -> str:
    """Return a name from the prefix and these parts: grids on one server have users of their own."""
    grid = re.sub(r"[^\w-]+", "-", config.prefix).strip("-")
    return "-".join(part for part in (grid, *parts) if part)


def needs_select(url: str) -> bool:
    """Whether the grid is in another database than 0."""
    parts = urlsplit(url)
    path = "" if parts.scheme.endswith("unix") else parts.path.strip("/")
    if parts.scheme.endswith("+sentinel"):
        path = path.partition("/")[2]  # after the service
    return parse_qs(parts.query).get("db", [path])[0] not in ("", "0")
