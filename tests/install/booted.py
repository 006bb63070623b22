"""A systemd of the test's own: booted in namespaces, on a root whose changes are thrown away.

What it is not: another kernel, a Raspberry Pi, a house with a network. Its thermal zone and vcgencmd are
stand-ins; processes, mounts, credentials, cgroups, device filters and system call filters are real.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.cli.run_cli import ROOT
from tests.helpers import eventually_true

BOOT = r"""
set -e
echo $$ >"$CGROUP/cgroup.procs"
exec unshare -m -p -f -C -u -i -n --kill-child=KILL sh -c '
set -e
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$UP,workdir=$WORK" "$R"
cd "$R"
mount -t proc proc proc
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for each in null zero full random urandom tty; do : >dev/$each; mount --bind /dev/$each dev/$each; done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mknod -m 660 dev/vcio b 7 0 && chown root:video dev/vcio
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p opt/base opt/site opt/checkout
mount --bind "$BASE" opt/base
mount --bind "$SITE" opt/site
mount --bind "$CHECKOUT" opt/checkout
mount -t tmpfs -o mode=755 tmpfs sys/class/thermal
mkdir sys/class/thermal/thermal_zone0
echo cpu-thermal >sys/class/thermal/thermal_zone0/type
echo 51000 >sys/class/thermal/thermal_zone0/temp
wants=lib/systemd/system
rm -rf $wants/sysinit.target.wants/* $wants/local-fs.target.wants/* $wants/basic.target.wants/* \
    $wants/sockets.target.wants/* $wants/timers.target.wants/* $wants/multi-user.target.wants/* \
    etc/systemd/system/*.wants etc/orion opt/orion var/lib/orion-*
: >etc/fstab
ln -sf /lib/systemd/system/systemd-journald.service $wants/sysinit.target.wants/
mount --make-rshared .
exec chroot . env -i container=other PATH=$PATH /lib/systemd/systemd --system --unit=multi-user.target
'
"""
VARIABLES = ("PYTHONPATH=/opt/checkout:/opt/site", "LD_LIBRARY_PATH=/opt/base/lib")
STAMP = """
from orion_streams.cli.install import venv
print(venv.stamp_of(venv.source_of(None), venv.base_python()))
"""
"""What says that the checkout is what is installed: nothing is fetched."""
ORION = """\
#!/bin/sh
LD_LIBRARY_PATH=/opt/base/lib PYTHONPATH=/opt/checkout:/opt/site exec {python} -m orion_streams.cli "$@"
"""


class Booted:
    """A running system; `root` is where its files are seen from outside."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")
        self.python = f"/opt/base/bin/python{sys.version_info[0]}.{sys.version_info[1]}"

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command inside, as root."""
        return subprocess.run(
            self._entered(words), input=stdin, capture_output=True, text=True, check=False, timeout=120
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command inside that goes on."""
        return subprocess.Popen(
            self._entered(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _entered(self, words: tuple[str, ...]) -> list[str]:
        enter = ("nsenter", "-t", str(self.pid), "-m", "-p", "-C", "-u", "-i", "-n", f"--root={self.root}")
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        own = ("env", "-i", path, *VARIABLES, "HOME=/root")
        return [*enter, f"--wd={self.root}", *own, *words]

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file inside."""
        make = f"mkdir -p $(dirname {path}) && cat >{path} && chmod {mode:o} {path}"
        done = self.run("sh", "-c", make, stdin=text)
        assert done.returncode == 0, done.stderr

    def orion(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The installed program."""
        return self.run("/opt/orion/venv/bin/orion", *words)


@contextlib.contextmanager
def booted(folder: Path, host: str = "here") -> Iterator[Booted]:
    """A system that has booted, with the checkout as its /opt/orion/venv."""
    for name in ("up", "work", "root"):
        (folder / name).mkdir()
    cgroup = cgroup_folder() / f"orion-test-{os.getpid()}-{host}"
    cgroup.mkdir()
    env = {
        **os.environ,
        "CGROUP": str(cgroup),
        "UP": str(folder / "up"),
        "WORK": str(folder / "work"),
        "R": str(folder / "root"),
        "BASE": sys.base_prefix,
        "SITE": sysconfig.get_paths()["purelib"],
        "CHECKOUT": str(ROOT),
    }
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        ["sh", "-c", BOOT], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
    )
    try:
        yield ready(process, folder / "log", host)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        log.close()
        eventually_true(lambda: emptied(cgroup), "the system is gone")


def ready(process: subprocess.Popen[bytes], log: Path, host: str) -> Booted:
    """Wait until it has booted."""

    def init() -> int:
        assert process.poll() is None, log.read_text()
        children = psutil.Process(process.pid).children()
        return next((each.pid for each in children if each.name() == "systemd"), 0)

    eventually_true(lambda: bool(init()), "systemd starts")
    system = Booted(init())

    def is_up() -> bool:
        return system.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    eventually_true(is_up, "systemd has booted")
    system.run("hostname", host)
    system.write("/opt/orion/venv/bin/orion", ORION.format(python=system.python), 0o755)
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    place = f"/opt/orion/venv/lib/{minor}"
    system.run("sh", "-c", f"mkdir -p {place} && ln -s /opt/site {place}/site-packages")
    said = system.run(system.python, "-c", STAMP)
    assert said.returncode == 0, said.stderr
    system.write("/opt/orion/venv/.orion-installed", said.stdout.rstrip("\n") + "\n")
    return system


def cgroup_folder() -> Path:
    """Where this process is in the cgroup2 hierarchy."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line for line in lines if line.startswith("0::"))
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place) / own.removeprefix("0::").lstrip("/")
    raise AssertionError("no cgroup2 is mounted")


def emptied(cgroup: Path) -> bool:
    """Remove a cgroup and those below it; whether that was possible."""
    if not cgroup.exists():
        return True
    below = sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True)
    try:
        for each in (*below, cgroup):
            each.rmdir()
    except OSError:
        return False
    return True
