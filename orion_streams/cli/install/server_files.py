"""The files of the house's Valkey: its configuration and its users. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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


def acl_file(users: Iterable[User], hashes: Mapping[str, str], before: str = "") -> str:
    """Return the file of its users: those of the grid and an administrator, by their passwords' hashes, and
    whoever else was in it `before`. Without a change of any it is the same, though the server has written
    it anew in its own words."""
    wanted = [
        "user default reset off",
        f"user {ADMIN} reset on #{hashes[ADMIN]} ~* &* +@all",
        *(f"user {each.name} {' '.join(each.rules(hashes[each.name]))}" for each in users),
    ]
    there = {words[1]: line for line in before.splitlines() if (words := line.split())[:1] == ["user"]}
    names = [line.split()[1] for line in wanted]
    if all(meaning(line) == meaning(there.get(name, "")) for name, line in zip(names, wanted, strict=True)):
        return before
    kept = [line for name, line in there.items() if name not in names]
    return "".join(f"{line}\n" for line in (*wanted, *kept))


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
