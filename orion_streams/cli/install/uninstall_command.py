"""`orion uninstall`: take the services away."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from msgspec import Struct

from orion_streams.cli.install.apply import PENDING, Changes, Target, root_option
from orion_streams.cli.install.plan import HOME, ROLES, SYSUSERS, UNITS, VENV
from orion_streams.cli.outcome import tell, write, write_json
from orion_streams.environment import command
from orion_streams.errors import EXIT_OK, ConfigError


class Removed(Struct, frozen=True):
    """What was taken away, and what is still there: files, and users of the machine."""

    changes: Changes
    kept: list[str]
    users: list[str]


def run(*, purge: bool, dry: bool, root: str, as_json: bool) -> int:
    """Stop and remove the services and the venv; data, configuration, what people have added to the units
    (drop-ins) and the services' users only with `purge`. Raises ConfigError."""
    if not dry and os.geteuid() != 0:
        raise ConfigError(
            f"this removes what root made: sudo {command()} uninstall (look first: --dry-run)"
        )
    say = tell if as_json else write
    target = Target(root, dry, say)
    units = installed(target)
    if units and target.is_machine:
        target.run("systemctl", "disable", "--now", *units)
    elif units:
        target.run("systemctl", *root_option(target), "disable", *units)
    data = [HOME, *(f"/var/lib/orion-{role}" for role in ROLES)]
    own = [f"{UNITS}/orion-{role}.service.d" for role in ROLES]
    more = (*data, *own) if purge else ()
    gone = [*(f"{UNITS}/{unit}" for unit in units), SYSUSERS, VENV, PENDING, *more]
    for path in gone:
        remove(target, path)
    remove_empty(target, str(Path(VENV).parent))
    if units and target.is_machine:
        target.run("systemctl", "daemon-reload")
    users = [f"orion-{role}" for role in ROLES if target.has_user(f"orion-{role}")]
    if purge:
        remove_users(target, users)
    left = [path for path in (*data, *own, str(Path(VENV).parent)) if path not in gone]
    kept = [path for path in left if target.path(path).exists() and path not in target.changes.files]
    if as_json:
        write_json(Removed(target.changes, kept, [] if purge else users))
        return EXIT_OK
    write("" if target.changes.files or target.changes.commands else "nothing of it was installed")
    if kept or (users and not purge):
        what = ", ".join([*kept, *(f"the user {name}" for name in users if not purge)])
        write(f"kept: {what} (--purge removes what is ours of it, with all keys, passwords and the log)")
    return EXIT_OK


def remove_users(target: Target, names: list[str]) -> None:
    """Remove users of the machine, with their groups."""
    within = () if target.is_machine else ("--prefix", str(target.root))
    for name in names:
        target.run("userdel", *within, name)
        if f"\n{name}:" in f"\n{target.read('/etc/group')}":
            target.run("groupdel", *within, name)


def remove_empty(target: Target, of: str) -> None:
    """Remove a folder that holds nothing, or would hold nothing."""
    path = target.path(of)
    going = [target.path(VENV)] if target.dry else []
    if path.is_dir() and not [each for each in path.iterdir() if each not in going]:
        remove(target, of)


def installed(target: Target) -> list[str]:
    """List the units that are there."""
    names = (f"orion-{role}.service" for role in ROLES)
    return [unit for unit in names if target.path(f"{UNITS}/{unit}").is_file()]


def remove(target: Target, of: str) -> None:
    """Remove a file or folder, if it is there."""
    path = target.path(of)
    if not path.exists():
        return
    target.changes.files.append(of)
    target.say(f"remove   {of}")
    if target.dry:
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
