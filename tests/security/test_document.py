"""docs/SECURITY.md says what the rules are."""

from __future__ import annotations

from msgspec import structs

from orion_streams.model.policy import UNLISTED
from orion_streams.runtime import acl
from tests.security.guarded import the_config
from tests.security.test_no_code_from_data import ROOT


def rows() -> list[str]:
    """A line per role: a client, an agent, the robot's agent, the router, who only reads."""
    config = the_config()
    nodes = {"NODE": config.nodes["orion-worker"], "orion-edge": config.nodes["orion-edge"]}
    some = structs.replace(config, clients={"CLIENT": UNLISTED}, nodes=nodes)
    rules = {user.name: user.rules()[2:] for user in acl.users(some)}
    return [f"- `{name}` {' '.join(f'`{each}`' for each in rules[name])}" for name in rules]


def test_the_list_of_roles_is_the_rules() -> None:
    """Line by line, as they are applied."""
    text = (ROOT / "docs" / "SECURITY.md").read_text(encoding="utf-8")
    found = [line for line in text.splitlines() if line.startswith("- `orion-")]
    assert found == rows()
