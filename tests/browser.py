"""A headless Chromium, driven over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.helpers import WAIT_S, eventually
from tests.needs import CHROMIUM

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio",
    "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-port=0",
)  # fmt: skip
MAX_MESSAGE = 100_000_000
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
"""What Windows calls the keys, without which the browser does nothing of its own on them."""


class Page:
    """One tab. `complaints`: errors and exceptions in its console; `requests`: what it asked for;
    `dialogs`: what it opened, which is agreed to."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._loaded = asyncio.Event()
        self._answers: set[asyncio.Task[dict[str, Any]]] = set()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.dialogs: list[str] = []

    async def listen(self) -> None:
        """Take what the browser says, until it closes."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._calls.pop(said["id"]).set_result(said)
            else:
                self._hear(said["method"], said["params"])

    def _hear(self, method: str, said: dict[str, Any]) -> None:
        match method:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Page.javascriptDialogOpening":
                self.dialogs.append(said["message"])
                self._answers.add(
                    asyncio.ensure_future(self.call("Page.handleJavaScriptDialog", accept=True))
                )
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])
            case "Runtime.exceptionThrown":
                details = said["exceptionDetails"]
                self.complaints.append(str(details.get("exception", details).get("description", details)))
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(said["args"]))
            case "Log.entryAdded" if said["entry"]["level"] in ("error", "warning"):
                self.complaints.append(said["entry"]["text"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol; AssertionError when the browser refuses it."""
        self._number += 1
        answer = self._calls[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        said = await asyncio.wait_for(answer, WAIT_S)
        assert "error" not in said, f"{method}: {said['error']}"
        return dict(said["result"])

    async def open(
        self, where: Path | str, *, width: int, height: int = 900, dark: bool = False, scale: int = 2
    ) -> None:
        """Show a file or an address in a window of that size."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
            mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme, calm])
        self._loaded.clear()
        await self.call("Page.navigate", url=where if isinstance(where, str) else where.as_uri())
        await asyncio.wait_for(self._loaded.wait(), WAIT_S)
        await self.settled()

    async def settled(self) -> None:
        """Two frames later everything that was asked for is drawn."""
        await self.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    async def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        said = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def point(self, x: float, y: float) -> None:
        """Move the pointer there."""
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def click(self, selector: str) -> None:
        """Scroll to an element and click in its middle."""
        box = await self.ask(
            f"(e => (e.scrollIntoView({{block: 'center'}}), e.getBoundingClientRect().toJSON()))"
            f"(document.querySelector({selector!r}))"
        )
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
        await self.settled()

    async def press(self, key: str) -> None:
        """A key, as a keyboard gives it."""
        code = KEYS.get(key, 0)
        said = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = "\r" if key == "Enter" else ""
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **said)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **said)
        await self.settled()

    async def type(self, selector: str, text: str) -> None:
        """Focus a field and write into it."""
        await self.ask(f"document.querySelector({selector!r}).focus()")
        await self.call("Input.insertText", text=text)
        await self.settled()

    async def until(self, expression: str, what: str = "") -> None:
        """Wait until an expression is true in the page."""
        await eventually(lambda: self.ask(f"Boolean({expression})"), what or expression)

    async def leads(self, expression: str) -> None:
        """Evaluate what loads a page, and wait until that is there."""
        self._loaded.clear()
        await self.call("Runtime.evaluate", expression=expression)
        await asyncio.wait_for(self._loaded.wait(), WAIT_S)

    async def first(self, script: str) -> None:
        """Run a script in each document before its own."""
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    async def picture(self, whole: bool = False) -> bytes:
        """A screenshot as PNG: of the window, or of the whole page."""
        said = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(said["data"])


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    """A browser of its own, with nothing in it; gone at the end."""
    assert CHROMIUM is not None, "chromium is not installed: mark the test `everything`"
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = await devtools_port(folder / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                targets = await answer.json()
            url = next(each["webSocketDebuggerUrl"] for each in targets if each["type"] == "page")
            async with session.ws_connect(url, max_msg_size=MAX_MESSAGE) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                try:
                    yield page
                finally:
                    listening.cancel()
                    with suppress(asyncio.CancelledError):
                        await listening
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), WAIT_S)


async def devtools_port(path: Path) -> int:
    """Where the browser listens, as soon as it says so."""

    async def is_there() -> bool:
        return "\n" in written(path)

    await eventually(is_there, "the browser listens")
    return int(written(path).partition("\n")[0])


def written(path: Path) -> str:
    """A file's text so far."""
    return path.read_text() if path.exists() else ""
