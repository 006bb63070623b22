"""A real Open WebUI in front of the gateway: conversations stick, and its own work stays behind them.

`.ci/nightly` installs it beside; it takes 2 GB and three minutes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from orion_streams.demo.simulated_grid import SimulatedGrid
from orion_streams.gateway.sessions import BACKGROUND_PRIORITY
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import free_port
from tests.helpers import eventually
from tests.needs import OPEN_WEBUI

pytestmark = pytest.mark.everything(OPEN_WEBUI is not None)
MODEL = "gemma3:270m"
QUESTION = "Why is the sky blue?"
SETTINGS = {
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "true",
    "ENABLE_OPENAI_API": "false",
    "HF_HUB_OFFLINE": "1",
    "OFFLINE_MODE": "true",
    "RAG_EMBEDDING_ENGINE": "ollama",
    "SCARF_NO_ANALYTICS": "true",
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "only for this test",
}
"""Nothing is fetched, and nobody logs in."""


class OpenWebui:
    """Open WebUI as its page uses it. `chat_id`, `last`: the conversation, and its last answer."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http, self.chat_id, self.last = http, "", ""
        self.messages: list[dict[str, str]] = []

    async def is_there(self) -> bool:
        """Whether it answers yet."""
        try:
            return (await self.http.get("/health")).is_success
        except httpx.TransportError:
            return False

    async def enter(self) -> None:
        """Become the one user that there is."""
        found = await self.http.post("/api/v1/auths/signin", json={"email": "", "password": ""})
        self.http.headers["Authorization"] = f"Bearer {found.json()['token']}"

    async def models(self) -> list[str]:
        """What it offers."""
        rows = (await self.http.get("/api/models")).json()["data"]
        return sorted(row["id"] for row in rows)

    def begin(self) -> None:
        """Leave the conversation for a new one."""
        self.chat_id, self.last, self.messages = "", "", []

    async def say(self, text: str) -> None:
        """Ask, as the page does; the first question of a conversation asks for a title too."""
        said, answer, now_s = str(uuid4()), str(uuid4()), int(time.time())
        parent = self.last or None
        message: dict[str, Any] = {"id": said, "parentId": parent, "childrenIds": [], "role": "user"}
        self.messages.append({"role": "user", "content": text})
        body: dict[str, Any] = {
            "model": MODEL,
            "stream": True,
            "id": answer,
            "session_id": "page",
            "parent_id": parent,
            "params": {"function_calling": "legacy", "max_tokens": 20},
            "user_message": {**message, "content": text, "timestamp": now_s, "models": [MODEL]},
            "messages": self.messages,
        }
        if self.chat_id:
            body["chat_id"] = self.chat_id
        else:
            body["background_tasks"] = {"title_generation": True}
        found = await self.http.post("/api/chat/completions", json=body)
        assert found.is_success, found.text
        self.chat_id, self.last = found.json()["chat_id"], answer
        reply = await eventually(self._answer, "its answer")
        self.messages.append({"role": "assistant", "content": reply})

    async def _answer(self) -> str:
        chat = (await self.http.get(f"/api/v1/chats/{self.chat_id}")).json()
        message = chat["chat"]["history"]["messages"][self.last]
        assert not message.get("error"), message
        return str(message.get("content", "")) if message.get("done") else ""


@asynccontextmanager
async def open_webui(gateway_url: str, folder: Path, forwards: bool) -> AsyncIterator[OpenWebui]:
    """Open WebUI on a free port, with data of its own. `forwards`: it sends its chats' ids."""
    port = free_port()
    own = {"HOME": str(folder), "DATA_DIR": str(folder), "ENABLE_FORWARD_USER_INFO_HEADERS": str(forwards)}
    environment = {"PATH": os.environ["PATH"], "OLLAMA_BASE_URL": gateway_url, **own, **SETTINGS}
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(OPEN_WEBUI), "serve", "--host", "127.0.0.1", "--port", str(port),
            cwd=folder, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
            page = OpenWebui(http)
            await eventually(page.is_there, "Open WebUI answers")
            await page.enter()
            yield page
    finally:
        process.terminate()
        await process.wait()


async def accepted(grid: SimulatedGrid) -> list[ev.RequestAccepted]:
    """The requests in the log."""
    redis: Any = connect(grid.redis_url)
    try:
        rows = await redis.xrange(f"{grid.config.prefix}log")
    finally:
        await redis.aclose()
    events = [event_codec.decode(fields[b"event"]) for _, fields in rows]
    return [event for event in events if isinstance(event, ev.RequestAccepted)]


@pytest.mark.parametrize("forwards", [True, False])
async def test_conversations_stick_and_titles_wait(tmp_path: Path, forwards: bool) -> None:
    """Its list is the grid's. Two turns of a chat are one session; another chat with the same words is
    another, so its chat's id arrives, and the same, where it does not send that. The title's request has no
    session and the lower priority."""
    async with (
        SimulatedGrid(gateway=True) as grid,
        open_webui(grid.gateway_url, tmp_path, forwards) as page,
    ):
        assert await page.models() == [MODEL, "llama3.2:3b", "nomic-embed-text:latest"]
        for question in (QUESTION, "And at night?"):
            await page.say(question)
        page.begin()
        await page.say(QUESTION)

        async def all_there() -> list[ev.RequestAccepted]:
            found = await accepted(grid)
            return found if len(found) >= 5 else []

        found: list[ev.RequestAccepted] = await eventually(all_there, "three questions, two titles")
    chats = [each for each in found if each.stream]
    titles = [each for each in found if not each.stream]
    assert (len(chats), len(titles)) == (3, 2)
    assert {each.priority for each in chats} == {0}
    assert chats[0].session == chats[1].session != ""
    assert (chats[2].session != chats[0].session) == forwards
    assert chats[2].session
    assert {(each.session, each.priority) for each in titles} == {("", BACKGROUND_PRIORITY)}
