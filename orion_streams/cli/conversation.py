"""What was said in a conversation, as far as one request can hold it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orion_streams.client.calls import request_entry
from orion_streams.errors import OrionError

Message = dict[str, Any]


class TooLongError(OrionError): ...


class Conversation:
    """The turns so far: each a question and its answer. `system` stands before them all. A request has at
    most `limit_bytes`, names and values of its fields together, as the contract counts."""

    def __init__(self, limit_bytes: int, system: str | None = None) -> None:
        self.limit_bytes, self.system = limit_bytes, system
        self.turns: list[tuple[Message, Message]] = []

    def ask(self, question: str, fields: Mapping[str, Any]) -> tuple[list[Message], int]:
        """Return the messages to send with other fields, and how many of the oldest turns were dropped to
        make room. Raises TooLongError, and drops nothing, if even the question alone is too long."""
        asked = {"role": "user", "content": question}
        if size_of(self._messages(len(self.turns), asked), fields) > self.limit_bytes:
            what = f"this question is too long: a request has at most {self.limit_bytes:,} bytes"
            raise TooLongError(what)
        dropped = 0
        while size_of(self._messages(dropped, asked), fields) > self.limit_bytes:
            dropped += 1
        del self.turns[:dropped]
        return self._messages(0, asked), dropped

    def note(self, question: str, answer: str) -> None:
        """Keep a turn."""
        self.turns.append(({"role": "user", "content": question}, {"role": "assistant", "content": answer}))

    def clear(self) -> None:
        """Forget all turns."""
        self.turns.clear()

    def _messages(self, dropped: int, asked: Message) -> list[Message]:
        begin = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*begin, *(each for turn in self.turns[dropped:] for each in turn), asked]


def size_of(messages: list[Message], fields: Mapping[str, Any]) -> int:
    """Return the bytes of a request's names and values."""
    entry = request_entry({**fields, "messages": messages})
    return sum(len(name.encode()) + len(value.encode()) for name, value in entry.items())
