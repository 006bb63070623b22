"""What systemd is told of a process: one datagram to a socket each (sd_notify(3)); nothing elsewhere.

READY once it serves, or waits for a Redis that is away: the start-up of a machine must not wait for that.
WATCHDOG from the event loop, so that whoever waits is alive, and a loop that is stuck is not.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from orion_streams import environment

log = logging.getLogger("orion")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUS_MAX = 200
FEEDS = 3
"""Times that the watchdog hears of us in its interval."""


class ServiceManager:
    """The service manager of this process, if it has one. A socket that cannot be reached is said once."""

    def __init__(self) -> None:
        self._address = environment.notify_socket()
        self._watchdog_s = environment.watchdog_s()
        self._status = ""
        self._is_ready = self._failed = False

    def ready(self, status: str) -> None:
        """Say once that the start-up is over, and what the process does now."""
        if self._is_ready:
            self.status(status)
            return
        self._is_ready, self._status = True, status
        self._send("READY=1", f"STATUS={in_a_line(status)}")

    def status(self, status: str) -> None:
        """Say what the process does, when that has changed."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={in_a_line(status)}")

    def waiting(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """Return what says for what the process waits, with `say` and here: its start-up is over."""

        def both(line: str) -> None:
            say(line)
            self.ready(line)

        return both

    def stopping(self) -> None:
        """Say that the process ends, as it was asked to."""
        self._send("STOPPING=1", "STATUS=stopping")

    def end_on_signals(self) -> None:
        """Let a signal cancel the current task, and say that it does."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is called in one

        def end() -> None:
            self.stopping()
            task.cancel()

        for each in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(each, end)

    async def feed(self) -> None:
        """Feed the watchdog until cancelled; return at once where there is none."""
        while self._watchdog_s and self._address:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / FEEDS)

    async def hold(self, status: str, for_s: float) -> None:
        """Go on for so long, saying why, before what ends for a reason that lasts is started anew; return
        at once where there is no service manager."""
        if self._address:
            self.status(status)
            async with self.fed():
                await asyncio.sleep(for_s)

    @asynccontextmanager
    async def fed(self) -> AsyncIterator[None]:
        """Feed the watchdog for the duration of the block."""
        feeding = asyncio.create_task(self.feed())
        try:
            yield
        finally:
            feeding.cancel()

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            if not self._failed:
                log.warning("the service manager does not hear: %s: %s", self._address, error)
            self._failed = True


def in_a_line(text: str) -> str:
    """Return a text without what would begin another assignment, cut."""
    return " ".join(text.split())[:STATUS_MAX]
