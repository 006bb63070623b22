"""Keys from a terminal, one by one, while a screen is drawn; the terminal is put back whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

READ_BYTES, MOST_KEYS = 64, 64
"""Keys beyond that which nobody has taken yet are dropped."""
ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1b[5~": "page up", "\x1b[6~": "page down", "\x1b[H": "home"}
ARROWS |= {f"\x1bO{each[-1]}": name for each, name in ARROWS.items() if each[-1] in "ABH"}
Pressed = asyncio.Queue[str | signal.Signals]
GONE = "gone"
"""Comes when the terminal was closed."""


def keys_in(text: str) -> Iterator[str]:
    """Yield the keys in what a terminal sent: letters, and the names of ARROWS; other sequences are left
    out."""
    while text:
        name = next((each for each in ARROWS if text.startswith(each)), "")
        if name:
            yield ARROWS[name]
            text = text[len(name) :]
        elif text[0] == "\x1b":
            text = text[1:].lstrip("[O").lstrip("0123456789;")[1:]
        else:
            yield text[0]
            text = text[1:]


@contextmanager
def keys() -> Iterator[Pressed]:
    """Read keys from stdin as they are pressed while the block runs; where it is no terminal none come."""
    pressed: Pressed = asyncio.Queue(MOST_KEYS)
    if not sys.stdin.isatty():
        yield pressed
        return
    loop, fd = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def read() -> None:
        found = os.read(fd, READ_BYTES)
        if not found:
            loop.remove_reader(fd)
        for key in keys_in(found.decode(errors="replace")) if found else (GONE,):
            if not pressed.full():
                pressed.put_nowait(key)

    try:
        tty.setcbreak(fd, termios.TCSANOW)
        without_suspending(fd)
        loop.add_reader(fd, read)
        yield pressed
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def without_suspending(fd: int) -> None:
    """Let Ctrl-Z do nothing: it would leave the terminal as it is."""
    now = termios.tcgetattr(fd)
    now[6][termios.VSUSP] = b"\x00"
    termios.tcsetattr(fd, termios.TCSANOW, now)
