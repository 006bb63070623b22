"""The environment: variables of this process. Nothing else reads them, and there are no others."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

HOUSE = ("ORION_CONFIG", "ORION_REDIS_URL", "ORION_REDIS_PASSWORD", "ORION_SENTINEL_PASSWORD")


def config_file() -> str | None:
    """Return the path of streams.toml, ORION_CONFIG; None if there is none."""
    return os.environ.get("ORION_CONFIG") or None


def redis_url() -> str | None:
    """Return the URL of the server, ORION_REDIS_URL; None if there is none."""
    return os.environ.get("ORION_REDIS_URL") or None


def redis_password() -> str | None:
    """Return the password for the server, ORION_REDIS_PASSWORD; None if the variable is not set."""
    return os.environ.get("ORION_REDIS_PASSWORD")


def sentinel_password() -> str | None:
    """Return the password of the sentinels, ORION_SENTINEL_PASSWORD; None if there is none."""
    return os.environ.get("ORION_SENTINEL_PASSWORD") or None


def alert_secret(what: Literal["WEBHOOK", "TOKEN"], target: str) -> str | None:
    """Return a target's secret from the environment, ORION_ALERT_TOKEN_MY_PHONE of `my-phone`; None if
    there is none."""
    return os.environ.get(f"ORION_ALERT_{what}_{target.upper().replace('-', '_')}") or None


def log_level() -> str:
    """Return the log level of the processes of a grid: ORION_LOG, by default info."""
    return os.environ.get("ORION_LOG", "info")


def child_environment(own: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment of a child process: this process's, with variables of its own."""
    return {**os.environ, **(own or {})}


def user_folder(variable: str, default: str | Path) -> Path:
    """Return the folder for our files that an XDG variable names, else the one in `default`."""
    return Path(os.environ.get(variable) or default).expanduser() / "orion-streams"


def command() -> str:
    """Return how this program was called, for advice: `./orion` in a checkout, whose script says so in
    ORION_COMMAND; else `orion`."""
    return os.environ.get("ORION_COMMAND") or "orion"


def as_called(advice: str) -> str:
    """Return advice that names `orion COMMAND` as this program was called."""
    return re.sub(r"(?<![\w./@-])orion (?=[a-z])", lambda _: f"{command()} ", advice)


def credential(name: str) -> Path | None:
    """Return the file of a secret that systemd holds for this service (LoadCredential); None if it holds
    none of that name."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder or "/nowhere") / name
    try:
        return path if path.is_file() else None
    except PermissionError:
        return path  # whoever reads it says so


def notify_socket() -> str:
    """Return where the service manager listens, NOTIFY_SOCKET; "" where none does."""
    return os.environ.get("NOTIFY_SOCKET", "")


def watchdog_s() -> float:
    """Return how often the service manager wants to hear of this process, WATCHDOG_USEC, in seconds; 0
    if it does not, or means another process (WATCHDOG_PID)."""
    wanted, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    return int(wanted) / 1e6 if wanted.isdigit() and pid in ("", str(os.getpid())) else 0.0


def kept() -> list[str]:
    """Return the names of the set variables that say which house is meant, and hold its passwords: what
    goes on through sudo needs them."""
    return [name for name in HOUSE if name in os.environ]


def sudo_user() -> str:
    """Return who called sudo; "" if nobody did."""
    return os.environ.get("SUDO_USER", "")


def own_secret(path: Path) -> Path:
    """Return a file with a secret, or, if it is there and this user may not read it, their own copy of it:
    a file of the same name in ~/.config/orion-streams/passwords, where there is one."""
    try:
        path.stat()
        if os.access(path, os.R_OK):
            return path
    except PermissionError:
        pass  # in a folder that they may not look into
    except OSError:
        return path  # whoever reads it says what is wrong with it
    copy = secrets_folder() / path.name
    return copy if copy.is_file() else path


def for_a_copy() -> str:
    """Say how one gets a copy of a secret that one may not read."""
    return f" (as root it can; sudo {command()} install, once more, gives whoever calls it a copy)"


def secrets_folder() -> Path:
    """Return the folder in which this user has copies of passwords."""
    return user_folder("XDG_CONFIG_HOME", "~/.config") / "passwords"
