"""`orion` at a terminal of a given size, and what the terminal is like before and after."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cli.run_cli import environment
from tests.helpers import WAIT_S

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])")
IN, OUT = "\x1b[?1049h", "\x1b[?1049l"
"""To the alternate screen, and back."""
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
"""The cursor."""


class Terminal:
    """A process at a terminal, and all that it has written. Its environment has another size, as one that
    was exported before the window was made larger."""

    def __init__(self, home: Path, rows: int, columns: int, *words: str, stdin: bool = True) -> None:
        self.master, self.slave = os.openpty()
        termios.tcsetwinsize(self.slave, (rows, columns))
        self.before = self.modes()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orion_streams.cli", *words],
            cwd=home,
            env=environment(home, TERM="xterm-256color", COLUMNS="70", LINES="20"),
            stdin=self.slave if stdin else subprocess.DEVNULL,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )
        self.raw = ""

    def modes(self) -> list[Any]:
        """How the terminal treats what is typed."""
        return termios.tcgetattr(self.slave)

    @property
    def text(self) -> str:
        """All that was written, without escape sequences."""
        return ESCAPES.sub("", self.raw)

    def until(self, text: str, begin: int = 0) -> int:
        """Read until a text has come behind the place `begin`; the place behind it."""
        deadline = time.monotonic() + WAIT_S
        while (found := self.text.find(text, begin)) < 0:
            assert time.monotonic() < deadline, f"{text!r} has not come: {self.text[-3000:]}"
            assert self.process.poll() is None or self._read(), f"it ended without {text!r}: {self.text}"
            self._read()
        return found + len(text)

    def _read(self) -> bool:
        ready, _, _ = select.select([self.master], [], [], 0.05)
        if not ready:
            return False
        self.raw += os.read(self.master, 65_536).decode(errors="replace")
        return True

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self.master, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Change the terminal's size."""
        termios.tcsetwinsize(self.slave, (rows, columns))
        self.process.send_signal(signal.SIGWINCH)

    def end(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.text[-2000:]}"
            self._read()
        while self._read():
            pass
        return self.process.wait()

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was: what is typed, the screen, the cursor."""
        is_back = self.raw.rfind(OUT) > self.raw.rfind(IN) >= 0
        return is_back and self.raw.rfind(SHOW) > self.raw.rfind(HIDE) and self.modes() == self.before


@contextmanager
def at_terminal(
    home: Path, *words: str, rows: int = 24, columns: int = 80, stdin: bool = True
) -> Iterator[Terminal]:
    """Run `orion WORDS` at a terminal during the block."""
    terminal = Terminal(home, rows, columns, *words, stdin=stdin)
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
        os.close(terminal.master)
        os.close(terminal.slave)
