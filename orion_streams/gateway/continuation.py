"""What a client was sent of an answer, whichever attempts made it. Pure.

Two halves of different answers are never glued: after a restart nothing is sent until the new attempt has
said all that was sent before, and if it says anything else the answer ends in an error.
"""

from __future__ import annotations

from typing import Any

from orion_streams.gateway.refusal import JsonObject, Refusal
from orion_streams.protocol.answer_events import Piece


class Continuation:
    """One answer as it is sent. `text`, `thinking` and `calls` were sent."""

    def __init__(self) -> None:
        self.text = self.thinking = ""
        self.calls: list[JsonObject] = []
        self._again: Piece | None = None

    @property
    def is_behind(self) -> bool:
        """Whether a new attempt has yet to say what was sent before."""
        return self._again is not None

    def restart(self) -> None:
        """Begin to compare: a new attempt begins."""
        self._again = Piece() if self.text or self.thinking or self.calls else None

    def take(self, piece: Piece) -> Piece:
        """Return what of a piece is to be sent; nothing while an attempt repeats what was sent. Raise
        Refusal if it says something else."""
        if self._again is None:
            self._note(piece)
            return piece
        said = joined(self._again, piece)
        if not self._agrees(said):
            raise differs()
        if len(said.text) < len(self.text) or len(said.thinking) < len(self.thinking):
            self._again = said
            return Piece()
        if len(said.tool_calls) < len(self.calls):
            self._again = said
            return Piece()
        rest = Piece(
            said.text[len(self.text) :],
            piece.attempt,
            said.thinking[len(self.thinking) :],
            said.tool_calls[len(self.calls) :],
        )
        self._again = None
        self._note(rest)
        return rest

    def _note(self, piece: Piece) -> None:
        self.text += piece.text
        self.thinking += piece.thinking
        self.calls += piece.tool_calls

    def _agrees(self, said: Piece) -> bool:
        """Whether what an attempt has said, and what was sent, begin alike."""
        calls = zip(map(unnamed, said.tool_calls), map(unnamed, self.calls), strict=False)
        return (
            is_beginning(said.text, self.text)
            and is_beginning(said.thinking, self.thinking)
            and all(one == other for one, other in calls)
        )


def joined(one: Piece, two: Piece) -> Piece:
    """Return two pieces as one, without what their tokens' probabilities were."""
    calls = (*one.tool_calls, *two.tool_calls)
    return Piece(one.text + two.text, two.attempt, one.thinking + two.thinking, calls)


def is_beginning(one: str, other: str) -> bool:
    """Whether one of two texts is the beginning of the other."""
    return one.startswith(other) or other.startswith(one)


def unnamed(call: dict[str, Any]) -> dict[str, Any]:
    """Return a tool call without its id, which each attempt makes anew."""
    return {name: value for name, value in call.items() if name != "id"}


def differs() -> Refusal:
    """Return how an answer ends that cannot go on."""
    what = "the node broke down in the middle of the answer, and another one answers otherwise: ask again"
    return Refusal(502, what)
