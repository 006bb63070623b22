"""What a client hears of its request, decoded: where it stands, pieces, a restart, the answer."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Piece(Struct, frozen=True):
    """The next piece of an answer: of its text, of the model's thoughts, or calls of tools."""

    text: str = ""
    attempt: int = 1
    thinking: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    logprobs: tuple[dict[str, Any], ...] = ()


class Accepted(Struct, frozen=True):
    """Where a request stands that was sent with `notify`: see docs/CONTRACT.md."""

    waiting: int = 0
    eta_ms: int = 0
    eta_high_ms: int = 0
    waits_for: str = ""
    position: int = 0


class Restarted(Struct, frozen=True):
    """A new attempt begins: discard all pieces received so far."""

    attempt: int
    node: str = ""


class Answer(Struct, frozen=True):
    """A `done` reply. The fields are those of the contract, with JSON decoded."""

    id: str
    model: str
    text: str
    thinking: str
    tool_calls: list[dict[str, Any]]
    logprobs: list[dict[str, Any]]
    vectors: list[list[float]]
    context: list[int]
    node: str
    engine: str
    attempt: int
    position: int
    prompt_tokens: int
    tokens: int
    warm: bool
    load_ms: int
    prefill_ms: int
    decode_ms: int
    total_ms: int
    first_token_ms: int
    done_reason: str
    ignored: str


AnswerEvent = Accepted | Piece | Restarted | Answer
