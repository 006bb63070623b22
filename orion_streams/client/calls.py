"""What can be asked and what is heard of it, without I/O: fields to entries, replies to events.

RequestError            a request without an answer
├── RequestFailedError       the grid cannot answer it; `code` says why
├── RequestRejectedError     it was never accepted, its id stays unused; `code` says why
├── RequestExpiredError      its deadline passed
├── RequestCancelledError    it was cancelled
└── RequestTimeoutError      nothing was heard though its deadline is long over: the grid stands still
"""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack

import msgspec
from msgspec import Struct

from orion_streams.errors import BackendError, OrionError
from orion_streams.protocol.requests_replies import Reply, RequestEntry


class RequestError(OrionError):
    """A request without an answer: its `id`, a stable `code` and a sentence."""

    def __init__(self, request_id: str, code: str, message: str = "") -> None:
        super().__init__(": ".join(part for part in (request_id, code, message) if part))
        self.id, self.code, self.message = request_id, code, message


class RequestFailedError(RequestError): ...


class RequestRejectedError(RequestError): ...


class RequestExpiredError(RequestError): ...


class RequestCancelledError(RequestError): ...


class RequestTimeoutError(RequestError): ...


ERRORS: dict[str, type[RequestError]] = {
    "error": RequestFailedError,
    "rejected": RequestRejectedError,
    "expired": RequestExpiredError,
    "cancelled": RequestCancelledError,
}


class Piece(Struct, frozen=True):
    """The next text of an answer in the making."""

    text: str
    attempt: int = 1


class Restarted(Struct, frozen=True):
    """Another attempt begins: all pieces so far are void."""

    attempt: int
    node: str = ""


class Answer(Struct, frozen=True):
    """A done reply; its fields are those of the contract, JSON decoded."""

    id: str
    text: str
    thinking: str
    tool_calls: list[dict[str, Any]]
    vectors: list[list[float]]
    node: str
    engine: str
    attempt: int
    position: int
    prompt_tokens: int
    tokens: int
    load_ms: int
    prefill_ms: int
    decode_ms: int
    total_ms: int
    done_reason: str


AnswerEvent = Piece | Restarted | Answer
Messages = Sequence[Mapping[str, Any]]
One = TypeVar("One")
Many = TypeVar("Many")


class Fields(TypedDict, total=False):
    """What may go with a request. `timeout_s` (600) becomes its deadline; the rest is the contract's."""

    id: str
    timeout_s: float
    system: str
    tier: int
    options: Mapping[str, Any]
    format: Literal["json"] | Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]]
    images: Sequence[str]
    think: bool | Literal["low", "medium", "high"]
    priority: int
    session: str


class RequestMethods(ABC, Generic[One, Many]):
    """What can be asked. All of it raises RequestError by kind, or BackendError if Redis stays away."""

    @abstractmethod
    def _answer(self, content: Mapping[str, Any], fields: Fields) -> One: ...

    @abstractmethod
    def _events(self, content: Mapping[str, Any], fields: Fields) -> Many: ...

    def generate(self, model: str, prompt: str, **fields: Unpack[Fields]) -> One:
        """The answer to a prompt."""
        return self._answer({"kind": "generate", "model": model, "prompt": prompt}, fields)

    def chat(self, model: str, messages: Messages, **fields: Unpack[Fields]) -> One:
        """The answer in a chat."""
        return self._answer({"kind": "chat", "model": model, "messages": messages}, fields)

    def embed(self, model: str, texts: Sequence[str], **fields: Unpack[Fields]) -> One:
        """An answer with one of `vectors` per text."""
        return self._answer({"kind": "embed", "model": model, "input": list(texts)}, fields)

    def stream(self, model: str, ask: str | Messages, **fields: Unpack[Fields]) -> Many:
        """A prompt's or a chat's answer as it comes: Piece and Restarted, at the end the Answer."""
        content = {"prompt": ask} if isinstance(ask, str) else {"messages": ask}
        return self._events({"model": model, "stream": True, **content}, fields)

    def new_id(self) -> str:
        """An id that nobody else uses."""
        return uuid.uuid4().hex


def request_entry(values: Mapping[str, Any]) -> dict[str, str]:
    """Fields as the wire has them: text as it is, all else as JSON. TypeError for a name that is none."""
    unknown = [name for name in values if name not in RequestEntry.__struct_fields__]
    if unknown:
        raise TypeError(f"a request has no such field: {', '.join(unknown)}")
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in values.items()
        if value is not None
    }


def read_reply(fields: Mapping[bytes, bytes]) -> Reply:
    """An entry of the reply stream. BackendError if it is none."""
    try:
        values = {name.decode(): value.decode() for name, value in fields.items()}
        return msgspec.convert(values, Reply, strict=False)
    except (UnicodeDecodeError, msgspec.ValidationError) as error:
        raise BackendError(f"a reply that nobody can read: {error}") from error


def conclude(reply: Reply) -> Answer:
    """The answer of a terminal reply, or the RequestError that it stands for."""
    if reply.kind in ERRORS:
        raise ERRORS[reply.kind](reply.id, reply.code or reply.kind, reply.message)
    values = {name: getattr(reply, name) for name in Answer.__struct_fields__}
    for name in ("tool_calls", "vectors"):
        values[name] = msgspec.json.decode(values[name] or "[]")
    return Answer(**values)


class Call:
    """A request in flight, and what was heard of it but not taken yet: a restart, a text, the end."""

    def __init__(self, entry: dict[str, str]) -> None:
        self.entry = entry
        self.news = asyncio.Event()
        self.end: Reply | Exception | None = None
        self._attempt, self._seq, self._fence = 1, 0, ""
        self._restarted: Restarted | None = None
        self._texts: list[str] = []

    def hear(self, reply: Reply) -> None:
        """Take a reply in. Tokens out of turn are dropped: resent, or their attempt's beginning was
        missed. A cancel that arrived before its request is no end."""
        match reply.kind:
            case "token":
                if reply.seq == 1:
                    self._compare(reply)
                place = (reply.attempt, reply.seq)
                if place == (self._attempt, self._seq + 1) and self._fence in ("", reply.work_id):
                    self._seq, self._fence = reply.seq, reply.work_id
                    self._texts.append(reply.text)
                    self.news.set()
            case "restarted":
                self._restart(reply)
            case "done":
                self._compare(reply)
                self.finish(reply)
            case "known" | "error" | "expired" | "cancelled":
                self.finish(reply)
            case "rejected" if reply.code != "unknown_id":
                self.finish(reply)

    def _compare(self, reply: Reply) -> None:
        """A server that lost its tail may bring an attempt that nobody announces, under a number that was
        there before: its work id tells that it is another one."""
        if self._fence and reply.work_id != self._fence:
            self._restart(reply)

    def _restart(self, reply: Reply) -> None:
        self._attempt, self._seq, self._fence, self._texts = reply.attempt, 0, "", []
        self._restarted = Restarted(reply.attempt, reply.node)
        self.news.set()

    def finish(self, end: Reply | Exception) -> None:
        """The first end counts."""
        self.end = self.end or end
        self.news.set()

    def take(self) -> Iterator[Piece | Restarted]:
        """What is new."""
        self.news.clear()
        restarted, self._restarted = self._restarted, None
        texts, self._texts = self._texts, []
        if restarted is not None:
            yield restarted
        if texts:
            yield Piece("".join(texts), self._attempt)
