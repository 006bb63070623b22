"""Requests and replies on the client's side, without I/O: fields to entries, replies to events.

RequestError                 a request without an answer
├── RequestFailedError       the grid cannot answer it; `code` says why
├── RequestRejectedError     the grid did not accept it, and its id stays unused; `code` says why
├── RequestExpiredError      its deadline passed
├── RequestCancelledError    it was cancelled
└── RequestTimeoutError      no reply arrived until well after its deadline: the grid stands still
"""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack

import msgspec

from orion_streams.client.upload import NO_PARTS, Upload
from orion_streams.errors import BackendError, ContractError, OrionError
from orion_streams.protocol import photo_parts
from orion_streams.protocol.answer_events import Accepted, Answer, Piece, Restarted
from orion_streams.protocol.replies import Reply
from orion_streams.protocol.requests_replies import RequestEntry

DEFAULT_TIMEOUT_S = 600.0
PROGRESS_MAX = 100
"""So many steps of a pull are kept for who is slow to read them; the oldest go first."""
_rows = msgspec.json.Decoder(list[dict[str, Any]]).decode


class RequestError(OrionError):
    """A request that got no answer: its `id`, a stable `code`, and a message for a person."""

    _is_unused = False

    def __init__(self, request_id: str, code: str, message: str = "") -> None:
        super().__init__(": ".join(part for part in (request_id, code, message) if part))
        self.id, self.code, self.message = request_id, code, message

    @property
    def told(self) -> str:
        """What a person reads: the sentence first, then its code, and the id of what can be explained."""
        named = (self.code if self.message else "", "" if self._is_unused else f"request {self.id}")
        behind = ", ".join(part for part in named if part)
        return f"{self.message or self.code}{f' ({behind})' if behind else ''}"


class RequestFailedError(RequestError): ...


class RequestRejectedError(RequestError):
    _is_unused = True


class RequestExpiredError(RequestError): ...


class RequestCancelledError(RequestError): ...


class RequestTimeoutError(RequestError): ...


ERRORS: dict[str, type[RequestError]] = {
    "error": RequestFailedError,
    "rejected": RequestRejectedError,
    "expired": RequestExpiredError,
    "cancelled": RequestCancelledError,
}


Messages = Sequence[Mapping[str, Any]]
One = TypeVar("One")
Many = TypeVar("Many")


class Fields(TypedDict, total=False):
    """Optional fields of a request. `timeout_s` (default 600) becomes its deadline, unless it is given as
    `deadline_ms`; docs/CONTRACT.md describes the others."""

    id: str
    timeout_s: float
    deadline_ms: int
    system: str
    tier: int
    options: Mapping[str, Any]
    format: Literal["json"] | Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]]
    images: Sequence[str]
    think: bool | Literal["low", "medium", "high", "max"]
    raw: bool
    suffix: str
    template: str
    context: Sequence[int]
    truncate: bool
    shift: bool
    dimensions: int
    logprobs: bool
    top_logprobs: int
    keep_alive: str | float
    priority: int
    session: str
    notify: bool


class RequestMethods(ABC, Generic[One, Many]):
    """The methods that send a request. All raise a subclass of RequestError, or BackendError if Redis stays
    unreachable."""

    @abstractmethod
    def _answer(self, content: Mapping[str, Any], fields: Fields) -> One: ...

    @abstractmethod
    def _events(self, content: Mapping[str, Any], fields: Fields) -> Many: ...

    def generate(self, model: str, prompt: str, **fields: Unpack[Fields]) -> One:
        """Return the answer to a prompt."""
        return self._answer({"kind": "generate", "model": model, "prompt": prompt}, fields)

    def chat(self, model: str, messages: Messages, **fields: Unpack[Fields]) -> One:
        """Return the next message of a chat."""
        return self._answer({"kind": "chat", "model": model, "messages": messages}, fields)

    def embed(self, model: str, texts: Sequence[str], **fields: Unpack[Fields]) -> One:
        """Return an answer with one of its `vectors` per text."""
        return self._answer({"kind": "embed", "model": model, "input": list(texts)}, fields)

    def stream(self, model: str, ask: str | Messages, **fields: Unpack[Fields]) -> Many:
        """Yield the answer as it is generated: Piece and Restarted events, then the Answer; with `notify`
        also Accepted events."""
        content = {"prompt": ask} if isinstance(ask, str) else {"messages": ask}
        return self._events({"model": model, "stream": True, **content}, fields)

    def send(self, content: Mapping[str, Any], **fields: Unpack[Fields]) -> Many:
        """Yield the answer to a request whose fields stand in `content`, whatever its kind: as `stream`
        does, or with `stream` false only the Answer."""
        return self._events(content, fields)

    def new_id(self) -> str:
        """Return an unused id."""
        return uuid.uuid4().hex


def request_entry(values: Mapping[str, Any]) -> dict[str, str]:
    """Encode fields for the wire, JSON where they are no strings. Raises TypeError for an unknown one."""
    unknown = [name for name in values if name not in RequestEntry.__struct_fields__]
    if unknown:
        raise TypeError(f"a request has no such field: {', '.join(unknown)}")
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in values.items()
        if value is not None
    }


def deadline_ms_of(fields: Fields) -> int:
    """Return the deadline that the fields ask for, in ms from now. Raises TypeError, ValueError."""
    if "timeout_s" in fields and "deadline_ms" in fields:
        raise TypeError("a deadline that is given twice: by timeout_s and by deadline_ms")
    if "deadline_ms" in fields:
        deadline_ms = fields["deadline_ms"]
        if type(deadline_ms) is not int or deadline_ms < 1:
            raise ValueError(f"deadline_ms: expected a whole number of at least 1, got {deadline_ms}")
        return deadline_ms
    timeout_s = fields.get("timeout_s", DEFAULT_TIMEOUT_S)
    if not isfinite(timeout_s):
        raise ValueError(f"timeout_s: expected a number of seconds, got {timeout_s}")
    return max(int(timeout_s * 1000), 1)


def read_reply(fields: Mapping[bytes, bytes]) -> Reply:
    """Decode an entry of the reply stream. Raises BackendError if it is malformed."""
    try:
        values = {name.decode(): value.decode() for name, value in fields.items()}
        return msgspec.convert(values, Reply, strict=False)
    except (UnicodeDecodeError, msgspec.ValidationError) as error:
        raise BackendError(f"a reply that nobody can read: {error}") from error


def conclude(reply: Reply) -> Answer:
    """Return the answer of a terminal reply, or raise the RequestError that it stands for."""
    if reply.kind in ERRORS:
        raise ERRORS[reply.kind](reply.id, reply.code or reply.kind, reply.message)
    values = {name: getattr(reply, name) for name in Answer.__struct_fields__}
    for name in ("tool_calls", "logprobs", "vectors", "context"):
        values[name] = msgspec.json.decode(values[name] or "[]")
    return Answer(**values)


class Call:
    """A request in flight, and the events received for it but not yet taken: news of where it stands, a
    restart, pieces, the end.
    `asks`: it is a request, and no operator's entry. `upload`: the parts of its images."""

    def __init__(self, entry: dict[str, str], asks: bool = True, upload: Upload = NO_PARTS) -> None:
        self.entry, self._asks, self.upload = entry, asks, upload
        self.news = asyncio.Event()
        self.end: Reply | Exception | None = None
        self._attempt, self._seq, self._fence = 1, 0, ""
        self._accepted: Accepted | None = None
        self._restarted: Restarted | None = None
        self.progress: deque[Reply] = deque(maxlen=PROGRESS_MAX)
        """Steps of a pull that nobody has taken yet; of one part only the newest."""
        self._pieces: list[Reply] = []

    def hear(self, reply: Reply) -> None:
        """Process a reply. Tokens out of sequence are dropped: they were resent, or the beginning of
        their attempt was missed. `rejected` with code `unknown_id` is not an end: a cancel overtook its
        request."""
        match reply.kind:
            case "token":
                if reply.seq == 1:
                    self._compare(reply)
                place = (reply.attempt, reply.seq)
                if place == (self._attempt, self._seq + 1) and self._fence in ("", reply.work_id):
                    self._seq, self._fence = reply.seq, reply.work_id
                    self._pieces.append(reply)
                    self.news.set()
            case "restarted":
                self._restart(reply)
            case "progress":
                last = self.progress[-1] if self.progress else None
                if last is not None and (last.status, last.digest) == (reply.status, reply.digest):
                    self.progress.pop()
                self.progress.append(reply)
                self.news.set()
            case "accepted":
                values = {name: getattr(reply, name) for name in Accepted.__struct_fields__}
                self._accepted = Accepted(**values)
                self.news.set()
            case "done":
                self._compare(reply)
                self.finish(reply)
            case "known" | "error" | "expired" | "cancelled" | "listed" | "noted":
                self.finish(reply)
            case "rejected" if reply.code != "unknown_id" or not self._asks:
                self.finish(reply)

    def _compare(self, reply: Reply) -> None:
        """Restart if the work id differs from that of the tokens so far. A server that lost its tail may
        start another attempt without announcing it, under an attempt number that was used before."""
        if self._fence and reply.work_id != self._fence:
            self._restart(reply)

    def _restart(self, reply: Reply) -> None:
        self._attempt, self._seq, self._fence, self._pieces = reply.attempt, 0, "", []
        self._restarted = Restarted(reply.attempt, reply.node)
        self.news.set()

    def finish(self, end: Reply | Exception) -> None:
        """Set the end, unless there is one already."""
        self.end = self.end or end
        self.news.set()

    def take(self) -> Iterator[Accepted | Piece | Restarted]:
        """Yield the new events and remove them."""
        self.news.clear()
        accepted, self._accepted = self._accepted, None
        restarted, self._restarted = self._restarted, None
        pieces, self._pieces = self._pieces, []
        if accepted is not None:
            yield accepted
        if restarted is not None:
            yield restarted
        if pieces:
            yield joined(pieces, self._attempt)


def request_call(values: Mapping[str, Any]) -> Call:
    """Return a request that is to be sent, its large images as parts. Raises TypeError for an unknown
    field, RequestRejectedError for images that are too large."""
    try:
        values, texts = photo_parts.split(values)
    except ContractError as error:
        raise RequestRejectedError(str(values["id"]), error.code, str(error)) from None
    return Call(request_entry(values), upload=Upload(texts))


def joined(replies: Sequence[Reply], attempt: int) -> Piece:
    """Return token replies as one piece."""

    def rows(name: str) -> tuple[dict[str, Any], ...]:
        lists = (getattr(reply, name) for reply in replies)
        return tuple(row for each in lists if each for row in _rows(each))

    return Piece(
        "".join(reply.text for reply in replies),
        attempt,
        "".join(reply.thinking for reply in replies),
        rows("tool_calls"),
        rows("logprobs"),
    )
