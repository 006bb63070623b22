"""`orion status`: the services of this machine."""

from __future__ import annotations

import os
import subprocess

from msgspec import Struct

from orion_streams.cli.install.apply import Target
from orion_streams.cli.install.plan import PASSWORDS
from orion_streams.cli.install.uninstall_command import installed
from orion_streams.cli.install.venv import STAMP
from orion_streams.cli.outcome import tell, write, write_json
from orion_streams.config import INSTALLED_TOML
from orion_streams.environment import command
from orion_streams.errors import EXIT_DEGRADED, EXIT_OK

FACTS = ("ActiveState", "StatusText", "NRestarts", "ExecMainStatus")


class ServiceRow(Struct, frozen=True):
    """One service as systemd sees it. `state` is "unknown" where systemd does not run."""

    unit: str
    state: str
    said: str = ""
    restarts: int = 0


class Status(Struct, frozen=True):
    """What is installed here. `version`: of the venv, with the hash of its source; "" without one."""

    services: list[ServiceRow]
    config: str
    version: str
    passwords: list[str]


def run(*, root: str, as_json: bool) -> int:
    """Print what is installed and how it is. Exit 3 if a service does not run."""
    target = Target(root, True, tell)
    rows = [row_of(unit, target.is_machine) for unit in installed(target)]
    names = sorted(path.name for path in target.path(PASSWORDS).glob("[!.]*"))
    config = str(INSTALLED_TOML) if target.path(str(INSTALLED_TOML)).exists() else ""
    found = Status(rows, config, target.read(STAMP).strip(), names)
    if as_json:
        write_json(found)
    elif rows:
        for row in rows:
            again = f", restarted {row.restarts} times" if row.restarts else ""
            write(f"{row.unit:<24} {row.state:<10} {row.said}{again}")
        write(f"configuration            {config}\ninstalled                {found.version or 'no venv'}")
        if target.is_machine and os.geteuid() != 0 and any(row.state == "unknown" for row in rows):
            tell(f"orion: systemd tells this user nothing: sudo {command()} status")
    else:
        orion = command()
        all_roles = "server,router,agent,gateway"
        write(
            f"nothing is installed here. A house's first machine: sudo {orion} install --role {all_roles}"
        )
        write(f"Another one: {orion} invite NODE on the first, then paste its line here")
    return EXIT_DEGRADED if any(row.state not in ("active", "unknown") for row in rows) else EXIT_OK


def row_of(unit: str, asks: bool) -> ServiceRow:
    """Ask systemd for a service, if it `asks`."""
    if not asks:
        return ServiceRow(unit, "unknown")
    words = ("systemctl", "show", unit, *(f"--property={each}" for each in FACTS))
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ServiceRow(unit, "unknown")
    if done.returncode:
        return ServiceRow(unit, "unknown")
    facts = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    code = facts.get("ExecMainStatus", "0")
    said = facts.get("StatusText") or (f"exit code {code}" if code not in ("0", "") else "")
    restarts = facts.get("NRestarts", "")
    return ServiceRow(unit, facts.get("ActiveState", "unknown"), said, int(restarts or 0))
