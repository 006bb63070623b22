"""Who may do what on the server: one least-privilege user per role, as rules of ACL SETUSER. Pure.

Every stream has one writer, so a user is confined by the keys alone. A writer may shorten the stream that
it writes (XADD with MAXLEN), and nobody else's: ACLs limit keys, not arguments. `reset` comes first: to
apply the rules again changes nothing, and a user that could do more is narrowed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

from orion_streams.config import Config
from orion_streams.errors import ConfigError

READ, WRITE, BOTH = "%R~", "%W~", "~"
KINDS = ("requests", "replies", "work", "health", "results")
ENTRIES = ("xrange", "xrevrange", "xread")
MEASURES = ("xlen", "type", "memory|usage", "xinfo|groups")
"""How large a stream is and how far its group has read. XINFO STREAM would show two of its entries."""


class Grant(Struct, frozen=True):
    """Commands, and the only keys (patterns with their permission) that they may touch."""

    commands: tuple[str, ...]
    keys: tuple[str, ...] = ()

    @property
    def rules(self) -> tuple[str, ...]:
        """As ACL SETUSER takes them, one after the other."""
        return (*(f"+{command}" for command in self.commands), *self.keys)


class User(Struct, frozen=True):
    """A user of the server. `plain`: commands without keys; each further grant stands by itself."""

    name: str
    role: str
    plain: Grant
    grants: tuple[Grant, ...]

    def rules(self, password_hash: str = "") -> list[str]:
        """The arguments of ACL SETUSER after the name. Without a password nobody can log in."""
        password = (f"#{password_hash}",) if password_hash else ()
        return ["reset", "on", *password, *self.plain.rules, *(selector(each) for each in self.grants)]


def selector(grant: Grant) -> str:
    """A grant as one argument."""
    return f"({' '.join(grant.rules)})"


def hashed(password: str) -> str:
    """A password as the server keeps it."""
    return hashlib.sha256(password.encode()).hexdigest()


def users(config: Config) -> tuple[User, ...]:
    """All users of a grid: its clients, its agents, the router, and two who only read."""
    return (
        *(client(config, name) for name in config.clients.names),
        *(agent(config, name) for name in sorted(config.nodes)),
        router(config),
        reader(config),
        observer(config),
    )


def chosen(config: Config, names: Iterable[str]) -> tuple[User, ...]:
    """The users of these names, or all of them. ConfigError names the known ones."""
    known = {user.name: user for user in users(config)}
    for name in names:
        if name not in known:
            raise ConfigError(f"{name}: no such user of this grid (known: {', '.join(known)})")
    return tuple(known[name] for name in dict.fromkeys(names)) or tuple(known.values())


def client(config: Config, name: str) -> User:
    """Writes its requests and reads its replies."""
    grants = (
        Grant(("xadd",), keys(config, WRITE, f"requests:{name}")),
        Grant(ENTRIES, keys(config, READ, f"replies:{name}")),
    )
    return User(user_name(config, "client", name), f"client {name}", plain(config), grants)


def agent(config: Config, name: str) -> User:
    """Takes its work, writes its health and results. The robot gets no work, so it writes health alone."""
    beats = Grant(("xadd",), keys(config, WRITE, f"health:{name}"))
    works = (
        Grant(("xreadgroup", "xinfo|groups"), keys(config, READ, f"work:{name}")),
        Grant(("xack",), keys(config, WRITE, f"work:{name}")),
        Grant(("xadd",), keys(config, WRITE, f"health:{name}", f"results:{name}")),
    )
    grants = works if config.nodes[name].inference else (beats,)
    return User(user_name(config, "agent", name), f"agent of {name}", plain(config), grants)


def router(config: Config) -> User:
    """Runs the commit script, reads all streams and trims them. A script runs with its caller's rights, so
    no script can do more than this list."""
    outputs = ("work:*", "replies:*")
    bodies = ("requests:*", "results:*")  # copied from: only EVALSHA itself asks for the right to write
    grants = (
        Grant(("evalsha",), keys(config, BOTH, "guard", "log", *bodies, *outputs)),
        Grant(
            ("hgetall", "hmget", *ENTRIES, "xlen", "type", "memory|usage", "xinfo|stream"),
            keys(config, READ, "guard", "log", "snapshots", "health:*", *bodies, *outputs),
        ),
        Grant(("hset", "hdel"), keys(config, WRITE, "guard")),
        Grant(("xadd",), keys(config, WRITE, "log", "snapshots", *outputs)),
        Grant(("xtrim",), keys(config, WRITE, "log", "snapshots", "requests:*", *outputs)),
        Grant(("xgroup|create",), keys(config, WRITE, "work:*")),
    )
    more = ("info", "time", "script|load")
    return User(user_name(config, "router"), "router", plain(config, *more), grants)


def reader(config: Config) -> User:
    """Reads what the log tells and measures the rest: it sees no prompt and no answer."""
    bodies = ("requests:*", "replies:*", "work:*", "results:*")
    told = ("log", "snapshots", "health:*")
    grants = (
        Grant(("hgetall", *MEASURES), keys(config, READ, "guard")),
        Grant((*ENTRIES, *MEASURES, "xinfo|stream"), keys(config, READ, *told)),
        Grant(MEASURES, keys(config, READ, *bodies)),
    )
    what = "reader of the log: nodes, ps, plan, explain, log, replay"
    return User(user_name(config, "reader"), what, plain(config, "info", "time"), grants)


def observer(config: Config) -> User:
    """Reads every stream, prompts and answers, too: XINFO tells a stream's end only with its last entry."""
    streams = ("log", "snapshots", *(f"{kind}:*" for kind in KINDS))
    grants = (
        Grant(("hgetall", *MEASURES), keys(config, READ, "guard")),
        Grant((*ENTRIES, *MEASURES, "xinfo|stream"), keys(config, READ, *streams)),
    )
    what = "observer of all streams: doctor"
    return User(user_name(config, "observer"), what, plain(config, "info", "time"), grants)


def plain(config: Config, *commands: str) -> Grant:
    """What needs no key: to see that one is let in, and to get to the grid's database."""
    return Grant(("ping", *(("select",) if needs_select(config.redis.url) else ()), *commands))


def keys(config: Config, permission: str, *streams: str) -> tuple[str, ...]:
    """Patterns of the grid's keys. Neither prefix nor names can hold a wildcard."""
    return tuple(f"{permission}{config.key(stream)}" for stream in streams)


def user_name(config: Config, *parts: str) -> str:
    """The prefix in letters, then the role: grids that share a server have users of their own."""
    grid = re.sub(r"[^\w-]+", "-", config.prefix).strip("-")
    return "-".join(part for part in (grid, *parts) if part)


def needs_select(url: str) -> bool:
    """Whether the grid lives in another database than 0."""
    parts = urlsplit(url)
    path = "" if parts.scheme.endswith("unix") else parts.path.strip("/")
    if parts.scheme.endswith("+sentinel"):
        path = path.partition("/")[2]  # after the service
    return parse_qs(parts.query).get("db", [path])[0] not in ("", "0")
