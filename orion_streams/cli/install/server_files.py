"""The files of the house's Valkey: its configuration and its users. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from msgspec import Struct

from orion_streams.runtime.acl import User

STATE = "/var/lib/orion-server"
ADMIN = "orion-admin"
"""Who may change users; its password is a file like the others."""


class ServerWish(Struct, frozen=True):
    """Where it listens. `tls`: with certificates, and then without TLS nowhere."""

    addresses: tuple[str, ...]
    port: int = 6379
    tls: bool = False
    fsync: str = "everysec"


def server_conf(wish: ServerWish) -> str:
    """Return its configuration. Without a user nobody gets in, so protected mode has nothing to protect."""
    ports = (
        f"port 0\ntls-port {wish.port}\ntls-auth-clients no\ntls-cert-file /etc/orion/tls/server.pem\n"
        "tls-ca-cert-file /etc/orion/tls/ca.pem\n"
        if wish.tls
        else f"port {wish.port}\n"
    )
    return (
        "# Written by `orion install`, which replaces it.\n"
        f"bind {' '.join(wish.addresses)}\n{ports}"
        "protected-mode no\n"
        "daemonize no\n"
        'logfile ""\n'
        "loglevel notice\n"
        f"dir {STATE}\n"
        f"aclfile {STATE}/users.acl\n"
        "appendonly yes\n"
        f"appendfsync {wish.fsync}\n"
        'save ""\n'
        "maxmemory-policy noeviction\n"
        "proto-max-bulk-len 16mb\n"
        "tcp-keepalive 60\n"
    )


def acl_file(users: Iterable[User], hashes: Mapping[str, str], before: str, ours: tuple[str, ...]) -> str:
    """Return the file of its users: those of the grid and an administrator, by their passwords' hashes, and
    whoever else was in it `before`; of those, who has a name of `ours` (how they begin) is shut out.
    Without a change of any it is the same, though the server has written it anew in its own words."""
    wanted = {
        "default": "user default reset off",
        ADMIN: f"user {ADMIN} reset on #{hashes[ADMIN]} ~* &* +@all",
        **{each.name: f"user {each.name} {' '.join(each.rules(hashes[each.name]))}" for each in users},
    }
    there = lines_of(before)
    wanted |= {name: f"user {name} reset off" for name in strays(before, wanted, ours)}
    if all(meaning(line) == meaning(there.get(name, "")) for name, line in wanted.items()):
        return before
    kept = [line for name, line in there.items() if name not in wanted]
    return "".join(f"{line}\n" for line in (*wanted.values(), *kept))


def strays(before: str, known: Container[str], ours: tuple[str, ...]) -> list[str]:
    """List the users in a file that have a name of `ours` and are not known."""
    return [name for name in lines_of(before) if name not in known and name.startswith(ours)]


def lines_of(text: str) -> dict[str, str]:
    """Return the lines of a file of users by name."""
    return {words[1]: line for line in text.splitlines() if (words := line.split())[:1] == ["user"]}


def is_off(line: str) -> bool:
    """Whether a line of the file lets nobody in."""
    return "on" not in line.split()


NOISE = {"reset", "sanitize-payload", "resetchannels", "resetkeys", "-@all", "user"}
"""What the server adds of itself, or what changes nothing."""
SAME = {"~*": "allkeys", "&*": "allchannels", "+@all": "allcommands"}


def meaning(line: str) -> list[Sequence[str]]:
    """Return what a line of the file grants, however it is written: its own words, then its selectors'."""
    own, *selectors = line.replace("(", "\n").replace(")", "").splitlines() or [""]
    return [words_of(own), *sorted(words_of(each) for each in selectors)]


def words_of(rules: str) -> list[str]:
    """List the rules that grant something, sorted."""
    return sorted(SAME.get(word, word) for word in rules.split() if word not in NOISE)
