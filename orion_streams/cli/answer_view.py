"""An answer as a terminal shows it: the text on stdout, and on stderr all that is said about it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

from orion_streams import Accepted, Answer, Piece, Restarted
from orion_streams.cli.outcome import tell
from orion_streams.errors import OrionError
from orion_streams.protocol.answer_events import AnswerEvent

PATIENCE_S = 1.0
"""After so long without a piece it is said what an answer waits for."""
ERASE = "\r\x1b[K"
REASONS = {
    "load": "its model is being loaded",
    "heat": "a node must cool down first",
    "quiet": "it is in quiet hours, and no node takes it before they end",
    "node": "no node for it is there now",
}


class AnswerView:
    """Shows one answer. `begun`: a piece of it came; `thoughts`: they are shown, dimmed, on stderr."""

    def __init__(self, *, thoughts: bool = False) -> None:
        self.begun = False
        self.accepted: Accepted | None = None
        self._thoughts = thoughts
        self._thinking = self._open_line = self._noted = self._late = False

    async def show(self, events: AsyncGenerator[AnswerEvent, None]) -> Answer:
        """Show the events as they come, and return the answer. What goes wrong is raised, and what was
        begun ends with its line."""
        timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._be_late)
        answer: Answer | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    self._take(event)
                    answer = event if isinstance(event, Answer) else answer
        finally:
            timer.cancel()
            self._erase()
            self._end_lines()
        if answer is None:
            raise OrionError("the answer ended without its last reply")
        return answer

    def _take(self, event: AnswerEvent) -> None:
        match event:
            case Accepted():
                self.accepted = event
                self._note()
            case Piece():
                self._begin()
                self._write(event.thinking, event.text)
            case Restarted():
                self._begin()
                self._end_lines()
                tell(dim(f"from the beginning, attempt {event.attempt} on {event.node}"))
            case Answer():
                self._begin()

    def _begin(self) -> None:
        self._erase()
        self.begun = True

    def _write(self, thinking: str, text: str) -> None:
        if thinking and self._thoughts:
            sys.stderr.write(dim(thinking))
            sys.stderr.flush()
            self._thinking = True
        if text:
            if self._thinking:
                tell("")
                self._thinking = False
            sys.stdout.write(text)
            sys.stdout.flush()
            self._open_line = True

    def _end_lines(self) -> None:
        if self._thinking:
            tell("")
        if self._open_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._thinking = self._open_line = False

    def _be_late(self) -> None:
        self._late = True
        self._note()

    def _note(self) -> None:
        """Say on a terminal what it waits for; the line is erased when the answer begins."""
        if self._late and not self.begun and sys.stderr.isatty():
            sys.stderr.write(ERASE + dim(waiting_note(self.accepted)))
            sys.stderr.flush()
            self._noted = True

    def _erase(self) -> None:
        if self._noted:
            sys.stderr.write(ERASE)
            sys.stderr.flush()
            self._noted = False


def waiting_note(accepted: Accepted | None) -> str:
    """Return what a request waits for, and for how long, as far as the grid has told."""
    if accepted is None:
        return "no router has taken it yet"
    before = f"{accepted.waiting} before it" if accepted.waiting else ""
    reason = REASONS.get(accepted.waits_for, "" if before else "the answer is being prepared")
    time = f"about {seconds(accepted.eta_ms)} s" if accepted.eta_ms else ""
    return ", ".join(part for part in (before, reason, time) if part)


def seconds(ms: int) -> int:
    """Return whole seconds, at least one, rounded as one would say them: 7, 40, 120."""
    whole = max(round(ms / 1000), 1)
    return whole if whole < 10 else round(whole, -1)


def dim(text: str) -> str:
    """Dim a text if stderr is a terminal."""
    return f"\x1b[2m{text}\x1b[0m" if sys.stderr.isatty() else text
