"""`orion uninstall` for a folder that stands for a machine: what goes, and what stays."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from orion_streams.cli.install.plan import ROLES
from tests.install.houses import TOML, machine, orion

AS_ROOT = os.geteuid() == 0 and shutil.which("systemd-sysusers") is not None
WORDS = ("install", "--role", ",".join(ROLES), "--node", "orion-master", "--listen", "192.168.1.10")
as_root = pytest.mark.everything(where=AS_ROOT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine, and beside it the streams.toml of the house."""
    (tmp_path / "streams.toml").write_text(TOML.replace("redis://orion-master:6379/0", ""))
    return machine(tmp_path)


@as_root
def test_it_is_taken_away_and_the_data_stay_unless_purged(root: Path) -> None:
    """What uninstall leaves is what people made, and it is named; a second time there is nothing."""
    assert orion(root, *WORDS)[0] == 0
    assert orion(root, "status")[1].count("orion-") == len(ROLES)
    own = root / "etc/systemd/system/orion-agent.service.d/own.conf"
    for path in (own, root / "opt/orion/venv/bin/orion"):
        path.parent.mkdir(parents=True)
        path.write_text("")
    looked = orion(root, "uninstall", "--dry-run")[1]
    assert (
        "remove   /etc/systemd/system/orion-agent.service" in looked and "remove   /opt/orion\n" in looked
    )
    assert "/opt/orion" not in looked.partition("kept: ")[2], "it is not kept, it would be removed"
    assert (root / "etc/systemd/system/orion-agent.service").exists()
    code, out, err = orion(root, "uninstall")
    assert code == 0 and "--purge" in out, err
    assert not list((root / "etc/systemd/system").rglob("orion-*.service"))
    assert (root / "var/lib/orion-server/users.acl").exists() and not (root / "opt/orion").exists()
    kept = out.partition("kept: ")[2]
    for each in ("/etc/orion", "/etc/systemd/system/orion-agent.service.d", "the user orion-router"):
        assert each in kept
    assert own.exists()
    assert "nothing of it was installed" in orion(root, "uninstall")[1]
    assert orion(root, "uninstall", "--purge")[0] == 0
    assert not (root / "etc/orion").exists() and not list((root / "var/lib").iterdir())
    assert list(root.rglob("*orion*")) == []
    assert "orion" not in (root / "etc/passwd").read_text() + (root / "etc/group").read_text()
    assert "kept" not in orion(root, "uninstall")[1]


@as_root
def test_a_folder_that_holds_more_is_kept(root: Path) -> None:
    """What a person has put beside the venv."""
    (root / "opt/orion/venv").mkdir(parents=True)
    (root / "opt/orion/notes").write_text("mine")
    said = json.loads(orion(root, "uninstall", "--json")[1])
    assert said["kept"] == ["/opt/orion"] and (root / "opt/orion/notes").exists()
