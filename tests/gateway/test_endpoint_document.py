"""docs/ENDPOINT.md says what the gateway serves, refuses and answers with, and all of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from orion_streams.agents.gateway import Gateway
from orion_streams.agents.gateway_connections import Connections
from orion_streams.agents.gateway_server import Guard, application
from orion_streams.agents.metrics_page import MetricsPage
from orion_streams.agents.page_routes import Page
from orion_streams.agents.recent_listener import RecentListener
from orion_streams.config import parse
from orion_streams.gateway.failures import STATUSES
from orion_streams.gateway.grid_answers import headers_of
from orion_streams.gateway.http_calls import NOT_HERE
from orion_streams.gateway.sessions import BACKGROUND_PRIORITY, SESSION_HEADERS
from orion_streams.protocol.answer_events import Answer
from tests.grids import fails

TEXT = (Path(__file__).parents[2] / "docs" / "ENDPOINT.md").read_text(encoding="utf-8")
PATTERN = re.compile(r"\{(\w+):[^}]*\}")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def served() -> set[str]:
    """Method and path of all that the gateway has, but for what is 501 and for HEAD."""
    config, nobody = parse("[nodes.one]"), cast("Any", None)
    gateway = Gateway(config, nobody, nobody, life="here.b")
    page, metrics = Page(config, nobody, RecentListener(), nobody), MetricsPage(nobody, nobody, nobody)
    app = application(gateway, Guard(config, nobody, insecure=False), Connections(1), metrics, page)
    found = set()
    for route in app.router.routes():
        assert route.resource is not None
        path = PATTERN.sub(r"{\1}", route.resource.canonical)
        if path not in NOT_HERE and route.method != "HEAD":
            found.add(f"{route.method} {path}")
    return found


def below(mark: str, text: str) -> str:
    """What stands between a mark and the next empty line."""
    return text.split(f"<!-- {mark} -->\n")[1].split("\n\n", maxsplit=1)[0]


def names_all_routes(text: str) -> None:
    """Each route has its row, and no row is without one; what is 501 is listed."""
    assert set(re.findall(r"^\| `(\w+ [^`]+)` \|", below("routes", text), re.MULTILINE)) == served()
    assert set(re.findall(r"`([^`]+)`", below("elsewhere", text))) == set(NOT_HERE)


def names_all_statuses(text: str) -> None:
    """Each code stands beside its status."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", below("statuses", text), re.MULTILINE)
    assert {
        code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)
    } == STATUSES


def names_all_headers(text: str) -> None:
    """Each header of an answer has its row; those that name a session are said."""
    values = {field.name: (0 if field.type is int else "") for field in msgspec.structs.fields(Answer)}
    rows = set(re.findall(r"^\| `(X-Orion-[\w-]+)` \|", text, re.MULTILINE))
    assert rows == set(headers_of(Answer(**cast("Any", values))))
    assert all(f"`{name}`" in text for name in SESSION_HEADERS)
    assert f"has {-BACKGROUND_PRIORITY} less" in text


@pytest.mark.parametrize(
    ("law", "known"),
    [
        (names_all_routes, "| `POST /api/chat` |"),
        (names_all_routes, "`/api/push`, "),
        (names_all_statuses, "`expired` "),
        (names_all_headers, "| `X-Orion-Node` |"),
        (names_all_headers, "`X-OpenWebUI-Chat-Id`"),
    ],
)
def test_the_page_names_all_that_there_is(law: Any, known: str) -> None:
    """As the code has it; the control: with one name less it would be seen."""
    law(TEXT)
    assert known in TEXT
    assert fails(law, TEXT.replace(known, ""))


def test_each_recipe_can_be_read_by_its_program() -> None:
    """Blocks are what they say: JSON, TOML, Python; those for streams.toml are taken as they stand."""
    found: dict[str, list[str]] = {}
    for kind, block in BLOCK.findall(TEXT):
        found.setdefault(kind, []).append(block)
    for block in found["python"]:
        compile(block, "ENDPOINT.md", "exec")
    assert all(msgspec.json.decode(block) for block in found["json"])
    tables = [tomllib.loads(block) for block in found["toml"]]
    ours = [block for block, table in zip(found["toml"], tables, strict=True) if "gateway" in table]
    assert len(ours) == 2
    for block in ours:
        parse(f"{block}\n[nodes.one]")
