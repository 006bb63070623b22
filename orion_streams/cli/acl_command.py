"""`orion acl`: print or apply one user of the server per role."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from orion_streams import config as configuration
from orion_streams.cli import grid_discovery
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import tell, write, write_json
from orion_streams.config import Config
from orion_streams.errors import ConfigError, OrionError
from orion_streams.model.policy import UNLISTED
from orion_streams.runtime import acl
from orion_streams.runtime.acl import User
from orion_streams.runtime.connection import connect, place

NO_PASSWORDS = "orion: nobody can log in by these rules: --passwords DIR makes a password for each user"
LOCKS_OUT = "orion: the last line shuts out everybody without a user: have an administrator first"
OPEN = "orion: default is as it was: --disable-default shuts out everybody without a user of their own"
FORGETS = (
    "orion: the server forgets its users when it restarts: CONFIG REWRITE puts them into its "
    "configuration file, or give it an aclfile"
)
NO_OWNER = (
    "orion: {user} may look, and ask for nothing: add [clients.owner] with operator = true to "
    "streams.toml, and raise revision"
)
ANOTHER = "name an administrator in the URL (--redis redis://NAME@HOST:PORT/DB)"


class UserRow(Struct, frozen=True):
    """A user, its role, and the arguments of ACL SETUSER after the name."""

    user: str
    role: str
    rules: list[str]


class AclReport(Struct, frozen=True):
    """What was printed or applied. `saved`: the users are in the server's ACL file."""

    users: list[UserRow]
    applied: bool = False
    default_disabled: bool = False
    saved: bool = False


async def run(
    *,
    names: Sequence[str],
    aclfile: bool,
    apply: bool,
    passwords: str | None,
    disable_default: bool,
    common: CommonOptions,
) -> int:
    """Print the rules, or apply them. Raises ConfigError, BackendError, OrionError."""
    config = (
        grid_discovery.find(common.redis_url, common.config_path)
        if apply
        else configuration.load(common.config_path, common.redis_url)
    )
    users = acl.chosen(config, names)
    if acl.owner(config).name in [each.name for each in users]:
        check_owner(config)
    hashes = password_hashes(passwords, users)
    rows = [UserRow(each.name, each.role, each.rules(hashes.get(each.name, ""))) for each in users]
    if apply:
        report = await apply_all(config, rows, disable_default, tell if common.as_json else write)
    else:
        report = AclReport(rows)
        if not hashes:
            tell(NO_PASSWORDS)
    if common.as_json:
        write_json(report)
    elif not apply:
        show(rows, aclfile)
    return 0


def check_owner(config: Config) -> None:
    """Warn if the owner's user may not ask and drain."""
    if not config.clients.get(acl.OWNER, UNLISTED).operator:
        tell(NO_OWNER.format(user=acl.owner(config).name))


def show(rows: list[UserRow], aclfile: bool) -> None:
    """Print lines that redis-cli or an aclfile takes unchanged; the last one disables the default user."""
    for row in rows:
        rules = row.rules if aclfile else [f'"{each}"' if " " in each else each for each in row.rules]
        write(f"{'user' if aclfile else 'ACL SETUSER'} {row.user} {' '.join(rules)}")
    write("user default off" if aclfile else "ACL SETUSER default off")
    tell(LOCKS_OUT)


def password_hashes(directory: str | None, users: Sequence[User]) -> dict[str, str]:
    """Return the hash of each user's password file by name; empty without a folder. Raises ConfigError."""
    if directory is None:
        return {}
    folder = Path(directory).expanduser()
    return {user.name: acl.hashed(password(folder, user.name)) for user in users}


def password(folder: Path, name: str) -> str:
    """Read the password from the user's file, made with a random one if missing. Raises ConfigError."""
    path = folder / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            make(path)
        readable_by_others = path.stat().st_mode & 0o077
        held = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the password in {path} cannot be used: {error}") from error
    if readable_by_others:
        raise ConfigError(f"others may read the password in {path}: chmod 600 {path}")
    if not held:
        raise ConfigError(f"{path} is empty: remove it for a fresh password, or write one")
    return held


def make(path: Path) -> None:
    """Write a fresh password into a file that is not there yet, whole or not at all. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)  # of one that was killed
    opened = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(opened, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(opened)
        with suppress(FileExistsError):  # somebody else was faster: theirs counts
            path.hardlink_to(fresh)
    finally:
        fresh.unlink()


async def apply_all(
    config: Config, rows: list[UserRow], disable_default: bool, say: Callable[[str], None]
) -> AclReport:
    """Set each user and verify it on the server. Nothing is changed if the default user could not be
    enabled again. Raises ConfigError if the server refuses, OrionError if it stores other rules."""
    redis: Any = connect(config.redis.url)
    try:
        await check_rights(redis, [row.user for row in rows], disable_default)
        await name_strays(redis, config)
        for row in rows:
            await redis.execute_command("ACL", "SETUSER", row.user, *row.rules)
            if not is_so(row.rules, await redis.execute_command("ACL", "GETUSER", row.user)):
                raise OrionError(f"{row.user}: the server does not have the rules that it was given")
            say(f"{row.user:<30} {row.role}")
        if disable_default:
            await redis.execute_command("ACL", "SETUSER", "default", "off")
            say("default                        disabled; connections that it has stay open")
        else:
            tell(OPEN)
        saved = await save(redis)
        return AclReport(rows, applied=True, default_disabled=disable_default, saved=saved)
    except (AuthenticationError, NoPermissionError) as error:
        raise ConfigError(
            f"Redis at {place(redis)} lets this user set no ACL ({error}): {ANOTHER}"
        ) from error
    except ResponseError as error:
        raise ConfigError(f"Redis at {place(redis)} takes no such ACL: {error}") from error
    finally:
        await redis.aclose()


async def check_rights(redis: Any, names: list[str], disable_default: bool) -> None:
    """Raise ConfigError if whoever applies the rules would lose the right to do so."""
    me = (await redis.execute_command("ACL", "WHOAMI")).decode()
    if me in names:
        raise ConfigError(f"{me} would take its own rights away: {ANOTHER}")
    if disable_default and not [name async for name in administrators(redis)]:
        raise ConfigError(
            "--disable-default: no other user could undo it. Make an administrator first, in redis-cli: "
            "ACL SETUSER admin on >PASSWORD ~* &* +@all"
        )


async def name_strays(redis: Any, config: Config) -> None:
    """Warn of users of clients and nodes that are no longer in streams.toml: they can still log in."""
    known = {user.name for user in acl.users(config)}
    for raw in await redis.execute_command("ACL", "USERS"):
        if (name := raw.decode()) not in known and name.startswith(acl.of_clients_and_nodes(config)):
            tell(f"orion: {name} is not in streams.toml: redis-cli ACL DELUSER {name}")


async def administrators(redis: Any) -> Any:
    """Yield the users, except default, that can log in and may enable default again."""
    for raw in await redis.execute_command("ACL", "USERS"):
        user = pairs(await redis.execute_command("ACL", "GETUSER", raw))
        may = await redis.acl_dryrun(raw, "ACL", "SETUSER", "default", "on")
        can_log_in = b"on" in user[b"flags"] and (user[b"passwords"] or b"nopass" in user[b"flags"])
        if raw != b"default" and can_log_in and may == b"OK":
            yield raw.decode()


def is_so(rules: list[str], answer: list[Any]) -> bool:
    """Return whether an answer to ACL GETUSER holds exactly these rules: commands, keys and passwords."""
    found = pairs(answer)
    held = [sorted(words(each)) for each in ([*answer], *found[b"selectors"])]
    plain = [each for each in rules if each[0] == "+"]
    wanted = [["-@all", *plain], *(["-@all", *each[1:-1].split()] for each in rules if each[0] == "(")]
    passwords = [f"#{each.decode()}" for each in found[b"passwords"]]
    return (
        b"on" in found[b"flags"]
        and b"nopass" not in found[b"flags"]
        and passwords == [each for each in rules if each[0] == "#"]
        and held == [sorted(each) for each in wanted]
    )


def words(flat: list[Any]) -> list[str]:
    """List the commands and keys of a user or selector."""
    row = pairs(flat)
    return f"{row[b'commands'].decode()} {row[b'keys'].decode()}".split()


def pairs(flat: list[Any]) -> dict[bytes, Any]:
    """Convert a flat list of the server into a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def save(redis: Any) -> bool:
    """Save the users to the server's ACL file and return True; if it has none, warn and return False."""
    try:
        [_, path] = await redis.execute_command("CONFIG", "GET", "aclfile")
        if path:
            await redis.execute_command("ACL", "SAVE")
            return True
    except NoPermissionError:
        pass  # who may set users need not see the configuration
    tell(FORGETS)
    return False
