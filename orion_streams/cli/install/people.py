"""The people of this machine: whoever called sudo to install gets a copy of the owner's password, in a
folder of their own, so that their commands need no sudo."""

from __future__ import annotations

import subprocess
from pathlib import Path

from msgspec import Struct

from orion_streams.cli.install.apply import Target
from orion_streams.errors import ConfigError

FOLDER = ".config/orion-streams/passwords"
"""In a home; `environment.own_secret` reads it."""
WRITE = (
    'umask 077; mkdir -p "$1" && cat >"$1/.$2.new" && chmod 600 "$1/.$2.new" && mv -f "$1/.$2.new" "$1/$2"'
)
WRITE_S = 30


class Person(Struct, frozen=True):
    """A user of this machine who is a person."""

    name: str
    uid: int
    gid: int
    home: str


def person_of(target: Target, name: str) -> Person | None:
    """Return a person by the machine's own list of users; None for root, or for somebody unknown."""
    for line in target.read("/etc/passwd").splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) > 5 and int(fields[2]) != 0 and fields[5].startswith("/"):
            return Person(name, int(fields[2]), int(fields[3]), fields[5])
    return None


def give_password(target: Target, name: str, user: str, password: str) -> None:
    """Write a copy of a user's password for a person, as that person: what they have put into their home
    leads root nowhere. Raises ConfigError."""
    person = person_of(target, name)
    if person is None or not target.path(person.home).is_dir():
        return
    place = f"{person.home}/{FOLDER}"
    if holds(target.path(place) / user, password, person):
        return
    target.changes.files.append(f"{place}/{user}")
    target.say(f"file     {place}/{user} (600, {name}): so that {name} needs no sudo to look and ask")
    if target.dry:
        return
    words = ("/bin/sh", "-c", WRITE, "sh", str(target.path(place)), user)
    done = subprocess.run(  # noqa: S603 - the words are ours
        words, input=password, user=person.uid, group=person.gid, extra_groups=(), env={}, cwd="/",
        capture_output=True, text=True, timeout=WRITE_S, check=False,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        raise ConfigError(f"{place}/{user} cannot be written as {name}: {said}")


def holds(path: Path, password: str, person: Person) -> bool:
    """Whether a copy is there, as it should be."""
    try:
        seen = path.lstat()
        return (
            seen.st_uid == person.uid
            and seen.st_mode & 0o077 == 0
            and not path.is_symlink()
            and path.read_text(encoding="utf-8").strip() == password
        )
    except (OSError, UnicodeDecodeError):
        return False
