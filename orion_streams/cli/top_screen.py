"""The living screen of `orion top`: draws frames, obeys keys, and leaves the terminal as it was."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from msgspec.structs import replace
from rich.console import ConsoleDimensions
from rich.live import Live
from rich.text import Text

from orion_streams.cli.tables import DIM, make_console
from orion_streams.cli.terminal_keys import GONE, Pressed, keys
from orion_streams.cli.top_sections import NODE_ORDERS, QUEUE_ORDERS
from orion_streams.cli.top_view import Chosen, Frame
from orion_streams.errors import EXIT_OK
from orion_streams.gateway.page_rows import View

ENDS, RESIZED = (signal.SIGTERM, signal.SIGHUP), signal.SIGWINCH
SIGNALLED = 128
"""The exit code after a signal is this and its number, as shells have it."""
STEPS = {"j": 1, "down": 1, "k": -1, "up": -1, "page down": 10, "page up": -10}
QUIT = ("q", "Q", "\x04", GONE)
READING_S = 0.1
USUAL = ConsoleDimensions(80, 24)
"""Of a terminal that does not know its size."""
READING = Text("reading the log …", style=DIM)


async def watch(look: Callable[[], View | None], task: asyncio.Task[None], interval_s: float) -> int:
    """Draw what `look` returns, every `interval_s`, until a person has enough or a signal comes, and return
    the exit code. `task` feeds it: raise what it ends with."""
    console, screen, loop = make_console(), Screen(look), asyncio.get_running_loop()
    due_s = loop.time()
    with (
        keys() as pressed,
        signals(pressed),
        Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live,
    ):
        while True:
            if loop.time() >= due_s:
                is_known = screen.refresh()
                due_s = loop.time() + (interval_s if is_known else READING_S)
            console.size = size_now()
            live.update(screen.frame(console.size.height), refresh=True)
            key = await next_key(task, pressed, max(due_s - loop.time(), 0.0))
            if key in ENDS:
                return SIGNALLED + int(key)
            if key in QUIT:
                return EXIT_OK
            if isinstance(key, str):
                screen.obey(key)


def size_now() -> ConsoleDimensions:
    """Return the terminal's size, whatever the environment says that it was."""
    found = os.get_terminal_size(sys.stdout.fileno())
    return ConsoleDimensions(found.columns or USUAL.width, found.lines or USUAL.height)


async def next_key(
    task: asyncio.Task[None], pressed: Pressed, wait_s: float
) -> str | signal.Signals | None:
    """Wait for a key or signal; return None after `wait_s`. Raise what the task ends with."""
    getting = asyncio.create_task(pressed.get())
    try:
        await asyncio.wait({getting, task}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return getting.result() if getting.done() else None
    finally:
        getting.cancel()


@contextmanager
def signals(pressed: Pressed) -> Iterator[None]:
    """Put signals among the keys while the block runs."""
    loop = asyncio.get_running_loop()

    def came(which: signal.Signals) -> None:
        if pressed.full():
            pressed.get_nowait()
        pressed.put_nowait(which)

    for each in (*ENDS, RESIZED):
        loop.add_signal_handler(each, came, each)
    try:
        yield
    finally:
        for each in (*ENDS, RESIZED):
            loop.remove_signal_handler(each)


class Screen:
    """What is shown: the last view, and what a person chose. `clock`: a monotonic one, in seconds."""

    def __init__(
        self, look: Callable[[], View | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look, self._clock = look, clock
        self._view: View | None = None
        self._paused_s: float | None = None
        self._chosen = Chosen()

    def refresh(self) -> bool:
        """Take a new view, unless it is paused. Return whether there is one."""
        if self._paused_s is None:
            self._view = self._look()
        return self._view is not None

    def frame(self, height: int) -> Frame | Text:
        """Return what to draw now."""
        if self._view is None:
            return READING
        paused_ms = None if self._paused_s is None else round((self._clock() - self._paused_s) * 1000)
        return Frame(self._view, replace(self._chosen, paused_ms=paused_ms), height)

    def obey(self, key: str) -> None:
        """Do what a key stands for; others do nothing."""
        chosen = self._chosen
        match key:
            case " " | "p":
                self._paused_s = (
                    self._clock() if self._paused_s is None and self._view is not None else None
                )
                self.refresh()
            case "s":
                order = following(QUEUE_ORDERS, chosen.queue_order)
                self._chosen = replace(chosen, queue_order=order, offset=0)
            case "n":
                self._chosen = replace(chosen, node_order=following(NODE_ORDERS, chosen.node_order))
            case "?" | "h":
                self._chosen = replace(chosen, help=not chosen.help)
            case "home" | "g":
                self._chosen = replace(chosen, offset=0)
            case _ if key in STEPS and self._view is not None:
                last = max(len(self._view.queue) - 1, 0)
                self._chosen = replace(chosen, offset=min(max(chosen.offset + STEPS[key], 0), last))
            case _:
                pass


def following(names: Iterable[str], name: str) -> str:
    """Return the name after this one, the first after the last."""
    known = list(names)
    return known[(known.index(name) + 1) % len(known)]
