"""How much room there is, seen by an agent that may not look everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orion_streams.agents import model_disk
from orion_streams.agents.model_disk import free_below
from orion_streams.config import NodeConfig


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything below /proc, which is a file system of its own, and below /nowhere, which is of `/`."""
    look = os.statvfs

    def seen(place: Path) -> os.statvfs_result:
        if str(place).startswith(("/proc/", "/nowhere")):
            raise PermissionError(place)
        return look(place)

    monkeypatch.setattr(os, "statvfs", seen)


@pytest.mark.usefixtures("hidden")
def test_what_hides_a_home_is_not_the_disk_of_its_models() -> None:
    """It is full at once: unknown, so that the engine itself says whether a pull fits."""
    assert free_below([Path("/proc/models")]) is None
    assert model_disk.free_mb(NodeConfig(ollama_models="/proc/models")) is None
    assert free_below([Path("/proc/models"), Path("/")]) is None


@pytest.mark.usefixtures("hidden")
def test_a_hidden_folder_of_the_same_disk_counts_as_its_parent() -> None:
    """As the home of Ollama's own installer."""
    assert free_below([Path("/nowhere/models")]) == pytest.approx(free_below([Path("/")]), rel=0.1)
