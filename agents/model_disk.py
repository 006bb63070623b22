"""How much room there is where a node's Ollama keeps its models."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from orion_streams.config import NodeConfig
from orion_streams.model.gateway_rules import is_loopback

MB = 1_000_000
SERVICE_HOME = Path("/usr/share/ollama")
"""Where Ollama's own installer puts the user that it runs as."""


def free_mb(node: NodeConfig) -> int | None:
    """Return the free disk for models, in MB; None if nobody here can know it: Ollama runs elsewhere or
    is simulated, or no folder of models is there."""
    if node.ollama_models:
        return free_below([Path(node.ollama_models).expanduser()])
    if node.simulated or not is_loopback(urlsplit(node.ollama).hostname or ""):
        return None
    return free_below([each / ".ollama" / "models" for each in (SERVICE_HOME, Path.home())])


def free_below(folders: Iterable[Path]) -> int | None:
    """Return the free disk of the first folder that is there. One that others may not look into counts as
    its nearest parent that can be seen, if that is on the disk of `/`; else nobody can know: what
    hides a home (ProtectHome=) shows a small file system of its own there."""
    for folder in folders:
        for place in (folder, *folder.parents):
            try:
                stat = os.statvfs(place)
                if place != folder and place.stat().st_dev != Path("/").stat().st_dev:
                    return None
            except PermissionError:
                continue
            except OSError:
                break
            return stat.f_bavail * stat.f_frsize // MB
    return None
