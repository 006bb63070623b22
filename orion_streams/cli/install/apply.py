"""Make a plan true: compare it with the machine, write what differs, run what that takes.

Under another root (`--root`) files and owners are those of that folder's own /etc/passwd, and nothing
is started: systemctl and systemd-sysusers know such folders.
"""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from orion_streams.cli.install.plan import (
    HOME,
    PASSWORDS,
    SYSUSERS,
    UNITS,
    VENV,
    File,
    Folder,
    Plan,
    causes,
)
from orion_streams.cli.install.units import sysusers_line
from orion_streams.cli.outcome import tell
from orion_streams.errors import ConfigError

Say = Callable[[str], None]
BOOTED = Path("/run/systemd/system")
"""There where systemd runs the machine (sd_booted(3))."""
COMMAND_S = 900
PENDING = f"{HOME}/.restart"
"""Services that a run has changed, or was about to, and has not restarted: a line each."""


class Changes(Struct):
    """What was done, or would be with --dry-run: files and commands, in order."""

    files: list[str]
    commands: list[list[str]]


class Target:
    """The machine, or a folder that stands for one. `dry`: nothing is changed."""

    def __init__(self, root: str, dry: bool, say: Say) -> None:
        self.root, self.dry, self.say = Path(root or "/"), dry, say
        self.is_machine = self.root == Path("/")
        self.changes = Changes([], [])
        self.units: set[str] = set()
        self.owed: set[str] = set()

    def begin(self, units: Iterable[str]) -> None:
        """Say which services have to be restarted if anything changes from here on: that is noted before
        the first change, so that what breaks off is known to whoever comes next (`owed`)."""
        self.units, self.owed = set(units), set(self.read(PENDING).split())

    def settle(self) -> None:
        """Say that they were restarted."""
        if self.is_machine and not self.dry and (noted := set(self.read(PENDING).split())):
            self._note(noted - self.units)

    def _changes(self) -> None:
        if self.is_machine and not self.dry and self.units:
            self._note(self.owed | self.units)

    def _note(self, units: set[str]) -> None:
        path = self.path(PENDING)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if units:
            path.write_text("".join(f"{each}\n" for each in sorted(units)), encoding="utf-8")
        else:
            path.unlink()

    def path(self, of: str) -> Path:
        """Return where a path of the plan is."""
        return self.root / of.lstrip("/")

    def read(self, of: str) -> str:
        """Return the text of a file; "" if there is none."""
        try:
            return self.path(of).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ConfigError(f"{self.path(of)}: cannot be read: {error.strerror or error}") from error

    def run(self, *words: str) -> None:
        """Run a command. Raises ConfigError with its last line if it fails."""
        self._changes()
        self.changes.commands.append(list(words))
        self.say(f"run      {' '.join(words)}")
        if self.dry:
            return
        try:
            done = subprocess.run(  # noqa: S603 - the words are ours
                words, capture_output=True, text=True, timeout=COMMAND_S, check=False, umask=0o022
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"{' '.join(words)}: {error}") from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip().rpartition("\n")[2]
            raise ConfigError(f"{' '.join(words)}: {said or f'exit code {done.returncode}'}")

    def folder(self, wanted: Folder) -> bool:
        """Make a folder, with mode and owner. Return whether that changed anything."""
        path = self.path(wanted.path)
        if path.is_dir() and self._is_as(path.stat(), wanted):
            return False
        self._tell(f"folder   {wanted.path} ({wanted.mode:o}, {wanted.owner})", wanted.path)
        if not self.dry:
            path.mkdir(mode=wanted.mode, parents=True, exist_ok=True)
            opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._own(opened, wanted.mode, wanted.owner)
            finally:
                os.close(opened)
        return True

    def file(self, wanted: File) -> bool:
        """Write a file whole or not at all, with mode and owner. Return whether that changed anything.

        Where a service owns the folder, it may put another file in this one's place at any moment: so what
        is judged, written and given away is what was opened, and no link is followed."""
        path = self.path(wanted.path)
        if self._holds(wanted):
            return False
        self._tell(f"file     {wanted.path} ({wanted.mode:o}, {wanted.owner})", wanted.path)
        if self.dry:
            if not wanted.secret:
                self.say("".join(f"    {line}\n" for line in wanted.text.splitlines()).rstrip("\n"))
            return True
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        with suppress(FileNotFoundError):
            fresh.unlink()
        opened = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(opened, "w", encoding="utf-8") as out:
            out.write(wanted.text)
            out.flush()
            self._own(out.fileno(), wanted.mode, wanted.owner)
            os.fsync(out.fileno())
        fresh.replace(path)
        return True

    def read_own(self, of: str) -> str:
        """Return the text of a file in a service's folder; "" if there is none, or a link or pipe."""
        return (self._opened(of) or ("", None))[0]

    def _holds(self, wanted: File) -> bool:
        found = self._opened(wanted.path)
        return found is not None and found[0] == wanted.text and self._is_as(found[1], wanted)

    def _opened(self, of: str) -> tuple[str, os.stat_result] | None:
        try:
            opened = os.open(self.path(of), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with os.fdopen(opened, encoding="utf-8", errors="replace") as file:
            seen = os.fstat(opened)
            return (file.read(), seen) if stat.S_ISREG(seen.st_mode) else None

    def _tell(self, line: str, path: str) -> None:
        self._changes()
        self.changes.files.append(path)
        self.say(line)

    def _is_as(self, seen: os.stat_result, wanted: File | Folder) -> bool:
        return seen.st_mode & 0o7777 == wanted.mode and seen.st_uid == self._ids(wanted.owner)[0]

    def _own(self, opened: int, mode: int, owner: str) -> None:
        os.fchown(opened, *self._ids(owner))
        os.fchmod(opened, mode)

    def has_user(self, name: str) -> bool:
        """Whether that root has a user of this name."""
        return self._ids(name) != (-1, -1)

    def _ids(self, owner: str) -> tuple[int, int]:
        """Return the ids of a user of that root; those of nobody for one that does not exist yet."""
        if owner == "root":
            return 0, 0
        for line in self.read("/etc/passwd").splitlines():
            fields = line.split(":")
            if fields[0] == owner:
                return int(fields[2]), int(fields[3])
        return -1, -1


@contextmanager
def locked(target: Target) -> Iterator[None]:
    """Change what is installed one at a time: what another one is about to write is not overwritten. The
    lock is on a folder that root alone may open; before it is there, nothing is locked."""
    folder = target.path(PASSWORDS)
    if target.dry or not folder.is_dir():
        yield
        return
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("orion: another `orion install`, `invite` or `join` is at work here: waiting for its end")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def apply(plan: Plan, target: Target, venv_changed: bool) -> Changes:
    """Make the plan true, and start what it changed."""
    missing = [name for name in plan.users if not target.has_user(name)]
    target.folder(Folder("/etc/sysusers.d", 0o755))
    if target.file(merged(plan.users, target)) or missing:
        target.run("systemd-sysusers", *root_option(target), str(target.path(SYSUSERS)))
    for folder in plan.folders:
        target.folder(folder)
    changed = {each.path for each in plan.files if target.file(each)}
    start(plan, target, changed, venv_changed)
    target.settle()
    return target.changes


def merged(users: Iterable[str], target: Target) -> File:
    """Return the file of users, with those of roles that were installed before."""
    before = target.read(SYSUSERS).splitlines()
    lines = sorted({*before, *map(sysusers_line, users)})
    return File(SYSUSERS, "".join(f"{line}\n" for line in lines))


def start(plan: Plan, target: Target, changed: set[str], venv_changed: bool) -> None:
    """Enable the services, and restart those of which anything changed; start the others if they do not
    run."""
    units = {each.unit: f"{UNITS}/{each.unit}" for each in plan.services}
    owed = target.owed & set(units)
    if target.is_machine and (owed or any(path in changed for path in units.values())):
        target.run("systemctl", "daemon-reload")
    wants = target.path(f"{UNITS}/multi-user.target.wants")
    if fresh := [unit for unit in units if not (wants / unit).is_symlink()]:
        target.run("systemctl", *root_option(target), "enable", *fresh)
    if not target.is_machine:
        return
    again = [
        each.unit
        for each in plan.services
        if each.unit in owed
        or changed & causes(each)
        or (venv_changed and each.command[0].startswith(VENV))
    ]
    idle = [unit for unit in units if unit not in again and not is_active(unit)]
    if again:
        target.run("systemctl", "restart", "--no-block", *again)
    if idle:
        target.run("systemctl", "start", "--no-block", *idle)


def root_option(target: Target) -> Sequence[str]:
    """Return the option by which systemd's tools work in a folder."""
    return () if target.is_machine else (f"--root={target.root}",)


def is_active(unit: str) -> bool:
    """Whether a unit runs or starts."""
    words = ("systemctl", "is-active", "--quiet", unit)
    try:
        return subprocess.run(words, check=False, timeout=30, capture_output=True).returncode == 0  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False
