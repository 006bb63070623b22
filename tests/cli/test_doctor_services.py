"""`orion doctor` on the machine of an installed house."""

from __future__ import annotations

from pathlib import Path

import pytest

from orion_streams import config as configuration
from orion_streams.cli.doctor.collect_facts import is_installed
from orion_streams.cli.doctor.findings import start_agent, start_router
from orion_streams.config import with_url
from tests.cli.doctor_facts import URL, healthy


def test_roles_that_are_services_are_restarted_as_services() -> None:
    """A second agent or router by hand would stand beside the service; elsewhere there is none."""
    facts = healthy()
    by_hand = start_router(facts), start_agent(facts, "pi")
    assert by_hand == (f"orion router --redis {URL}", f"orion agent --node pi --redis {URL}")
    facts.installed = True
    as_services = start_router(facts), start_agent(facts, "pi")
    assert as_services == ("sudo systemctl restart orion-router", "sudo systemctl restart orion-agent")


def test_the_installed_grid_is_known_by_its_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever asks; another grid on the same machine is none of services, nor is one of a broken file."""
    house = tmp_path / "house.toml"
    monkeypatch.setattr(configuration, "INSTALLED_TOML", house)
    config = with_url(healthy().config, "redis://orion-reader@house:6379/0")
    assert not is_installed(config)
    house.write_text('[redis]\nurl = "redis://orion-owner@house:6379/0"\n[nodes.pi]\n')
    assert is_installed(config)
    assert not is_installed(with_url(config, "redis://127.0.0.1:7001/0"))
    house.write_text("[redis")
    assert not is_installed(config)
