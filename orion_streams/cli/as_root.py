"""Commands that change what is root's: run again through sudo, which asks the person as it always does."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from orion_streams import environment
from orion_streams.cli.outcome import tell
from orion_streams.errors import ConfigError


def become_root(words: Sequence[str], what: str) -> None:
    """Return if this is root; else replace this process by `sudo orion WORDS`, after saying why. Raises
    ConfigError with that line where sudo could not ask for a password."""
    if os.geteuid() == 0:
        return
    kept = environment.kept()
    options = [f"--preserve-env={','.join(kept)}"] if kept else []
    line = shlex.join(["sudo", *options, environment.command(), *words])
    if not may_ask():
        raise ConfigError(f"{what}: {line}")
    tell(f"orion: {what}, so this goes on as {line}")
    os.execvp("sudo", ["sudo", *options, "--", *this_program(), *words])  # noqa: S606, S607 - the words are ours


def may_ask() -> bool:
    """Whether sudo is here and needs no password, or can ask for it at a terminal."""
    if shutil.which("sudo") is None:
        return False
    if sys.stdin.isatty():
        return True
    free = ("sudo", "-n", "true")
    return subprocess.run(free, check=False, capture_output=True).returncode == 0  # noqa: S603


def this_program() -> list[str]:
    """Return the words by which this program is called."""
    if environment.command() != "orion":
        return [environment.command()]
    own = Path(sys.argv[0])
    is_script = own.name == "orion" and own.is_file()
    return [str(own.resolve())] if is_script else [sys.executable, "-m", "orion_streams.cli"]


def is_forbidden(path: Path) -> bool:
    """Whether a file lies in a folder that this user may not look into."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        pass
    return False
