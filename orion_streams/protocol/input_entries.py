"""Entries of the input streams, and what one means: events, a token to pass on, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from orion_streams.model import events as ev

Fields = Mapping[bytes, bytes]


class Entry(Struct, frozen=True):
    """An input entry: `source` is requests, health or results, `owner` the client or node.
    `age_ms`: how old it was when it was read, by the server's clock."""

    source: str
    owner: str
    id: str
    fields: dict[bytes, bytes]
    age_ms: int = 0

    @property
    def stream(self) -> str:
        """Return the stream's name without prefix."""
        return f"{self.source}:{self.owner}"


class Token(Struct, frozen=True):
    """A piece of an answer, to be passed on without an event: `fields` are those of PIECE_FIELDS."""

    request: str
    attempt: int
    work_id: str
    seq: int
    fields: Fields


class Progress(Struct, frozen=True):
    """How far a pull is, to be passed on without an event: `fields` are those of PROGRESS_FIELDS."""

    request: str
    fields: Fields


class Taken(Struct, frozen=True):
    """What an entry means: events in order, a token, or progress. `reply_to` and `message` belong to
    a reply that an event does not hold: the client's request id, its model, a sentence; `ignored`: fields
    that did not count. `answer`: body fields of a result. `parts`: those of a request that was rejected."""

    events: tuple[ev.AnyEvent, ...] = ()
    token: Token | None = None
    reply_to: str = ""
    model: str = ""
    message: str = ""
    ignored: tuple[str, ...] = ()
    answer: Fields = {}
    parts: tuple[str, ...] = ()
    progress: Progress | None = None


NOTHING = Taken()


def size_of(entry: Entry) -> int:
    """Return the bytes of an entry's names and values."""
    return sum(len(name) + len(value) for name, value in entry.fields.items())


def unreadable(entry: Entry, code: str = "unreadable") -> Taken:
    """Reject an agent's entry that cannot be read."""
    return Taken((ev.InputRejected(stream=entry.stream, entry_id=entry.id, code=code),))
