"""Wishes and folders that stand for machines."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from msgspec import structs

from orion_streams.cli.install.plan import ROLES, Plan, Wish, passwords_of, plan_of
from orion_streams.cli.install.server_files import ServerWish
from orion_streams.config import Config, parse
from tests.cli.run_cli import run

TOML = """
revision = 1
[redis]
url = "redis://orion-master:6379/0"
[nodes.orion-master]
tiers = [1]
[nodes.orion-worker]
tiers = [2]
"""
URL = "redis://192.168.1.10:6379/0"


def config() -> Config:
    """A house of two."""
    return parse(TOML)


def wish(**changes: Any) -> Wish:
    """Everything on one machine, with passwords for all."""
    made = Wish(
        ROLES,
        config(),
        TOML,
        "orion-master",
        URL,
        valkey="/usr/bin/valkey-server",
        server=ServerWish(("192.168.1.10", "127.0.0.1")),
        hashes=dict.fromkeys(passwords_of(config()), "a" * 64),
        has_video_group=True,
    )
    return structs.replace(made, **changes)


def plan(**changes: Any) -> Plan:
    """The plan of it."""
    return plan_of(wish(**changes))


def text(of: Plan, path: str) -> str:
    """The text of a file in a plan."""
    [found] = [each.text for each in of.files if each.path == path]
    return found


def machine(folder: Path) -> Path:
    """A folder that stands for a machine with a group `video`."""
    root = folder / "machine"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nvideo:x:44:\n")
    return root


def orion(root: Path, *words: str) -> tuple[int, str, str]:
    """`orion WORDS` for that folder."""
    return run(root.parent, *words, "--root", str(root))


def systemd_analyze(*words: str) -> subprocess.CompletedProcess[str]:
    """systemd's own judgement."""
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)
