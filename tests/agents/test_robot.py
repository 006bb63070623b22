"""The robot's machine never runs inference, under whatever name its agent is started."""

from __future__ import annotations

import pytest

from orion_streams.agents import apps
from orion_streams.config import parse
from orion_streams.errors import ConfigError

HOUSE = parse(
    '[nodes.orion-worker]\nollama = "http://127.0.0.1:11434"\n[nodes.orion-edge]\ninference = false'
)


@pytest.mark.parametrize(
    ("host", "node", "refused"),
    [
        ("orion-edge", "orion-worker", True),
        ("orion-edge.local", "orion-worker", True),
        ("orion-edge", "orion-edge", False),
        ("orion-worker", "orion-worker", False),
    ],
)
def test_an_agent_with_inference_does_not_start_on_the_robot(
    monkeypatch: pytest.MonkeyPatch, host: str, node: str, refused: bool
) -> None:
    """On the robot's machine another node's agent is refused; its own, and others elsewhere, run."""
    started: list[str] = []
    monkeypatch.setattr("socket.gethostname", lambda: host)
    monkeypatch.setattr(apps, "agent_app", lambda config, name: name)
    monkeypatch.setattr(apps, "run", started.append)
    if refused:
        with pytest.raises(ConfigError, match="the robot: it never runs inference"):
            apps.run_agent(HOUSE, node)
    else:
        apps.run_agent(HOUSE, node)
    assert started == ([] if refused else [node])
