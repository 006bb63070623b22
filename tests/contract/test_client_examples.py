"""The examples of docs/CLIENT.md run, and print what stands below them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams.client import calls
from orion_streams.protocol.answer_events import Answer
from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.contract.contract_grid import MODEL, Grid, Run, running

DOCUMENT = Path(__file__).parents[2] / "docs" / "CLIENT.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
EXAMPLES = [match.groups() for match in EXAMPLE.finditer(TEXT)]
PLACE = "redis://orion-master:6379/0"
OTHER_MODELS = re.compile(r'"(qwen3:1\.7b|gemma3:4b|nomic-embed-text)"')
"""The stand-ins have one model."""
BLUE = "Blue light is scattered most."


async def house(run: Run) -> None:
    """Answers what the examples ask."""
    await run.started()
    fields = {name: value for name, value in run.fields.items() if name != "head"}
    messages = msgspec.json.decode(fields.get("messages", "[]"), type=list[dict[str, Any]])
    asked = messages[-1]["content"] if messages else run.prompt
    if "input" in fields:
        await run.done(body={"vectors": [[0.5, 1.0], [1.0, 0.5]]})
    elif "tools" in fields:
        await with_tools(run, messages)
    elif "images" in fields.get("messages", "") or "images" in fields:
        await run.done("A cat.")
    elif "without end" in asked:
        await run.token("Once")
        await run.cancelled.wait()
    elif "format" in fields:
        await run.done('{"colour": "blue"}')
    else:
        thoughts = {"thinking": "Something with light."} if fields.get("think") == "true" else {}
        text = "No light, no colour." if "night" in asked else BLUE
        if thoughts:
            await run.piece(**thoughts)
        await run.token(text)
        await run.done(text, thoughts, tokens=5)


async def with_tools(run: Run, messages: list[dict[str, Any]]) -> None:
    """Asks for two calls; then tells what came of them, each by its call's id."""
    if len(messages) == 1:
        towns = {"call_1": "Oslo", "call_2": "Rome"}
        wanted = [
            {"id": each, "function": {"name": "weather", "arguments": {"town": town}}}
            for each, town in towns.items()
        ]
        await run.done(body={"tool_calls": wanted})
        return
    came = {row["tool_call_id"]: row["content"] for row in messages if row["role"] == "tool"}
    towns = {call["id"]: call["function"]["arguments"]["town"] for call in messages[1]["tool_calls"]}
    await run.done(" ".join(f"{towns[each]}: {came[each]}." for each in sorted(came)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of its own: the examples use the usual prefix."""
    server = EmbeddedServer(tmp_path_factory.mktemp("examples"), "everysec", 0)
    yield server.start()
    server.stop()


@pytest.fixture
async def grid(place: str) -> AsyncIterator[Grid]:
    """The stand-ins that the examples ask."""
    async with running(place, "orion:", house) as found:
        yield found


def printed(code: str, place: str) -> str:
    """What an example prints."""
    code = OTHER_MODELS.sub(f'"{MODEL}"', code.replace(PLACE, place))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, str(DOCUMENT), "exec"), {"__name__": "example"})
    return out.getvalue()


@pytest.mark.parametrize(("code", "expected"), EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
async def test_an_example_prints_what_the_page_says(
    code: str, expected: str | None, grid: Grid, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own it would do the same: nothing but the server's place, and models, differ."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(b"a cat")
    found = await asyncio.to_thread(printed, code, place)
    assert PLACE in code
    if expected is None:
        assert BLUE in found
    else:
        assert re.sub(r" on (one|two)$", " on one", found, flags=re.MULTILINE) == expected


async def test_an_example_that_prints_something_else_would_be_seen(grid: Grid, place: str) -> None:
    """The control: the first example with another question prints something else than the page says."""
    code, expected = EXAMPLES[0]
    code = code.replace("Why is the sky blue?", "And at night?")
    assert await asyncio.to_thread(printed, code, place) != expected


def test_the_page_names_everything_that_an_answer_and_an_error_are() -> None:
    """Each field of an Answer, each class of error, and each form of asking has its place in the page."""
    named = set(re.findall(r"`(\w+)`", TEXT))
    assert set(Answer.__struct_fields__) - {"id", "position"} <= named
    assert {each.__name__ for each in calls.ERRORS.values()} | {
        "RequestTimeoutError",
        "BackendError",
    } <= named
    code = "".join(each for each, _ in EXAMPLES)
    for form in ("generate", "chat", "embed", "stream", "cancel", "new_id"):
        assert f"client.{form}(" in code
    assert len(EXAMPLES) == TEXT.count("```python")
