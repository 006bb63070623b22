"""What the grid says of a request, as the lines of an answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from orion_streams.gateway.answers import Line, Metrics
from orion_streams.gateway.refusal import JsonObject, Refusal
from orion_streams.protocol.answer_events import Answer, Piece

NS_PER_MS = 1_000_000


def line_of(piece: Piece, now_ns: int) -> Line:
    """Return a piece as a line."""
    calls, logprobs = list(piece.tool_calls), list(piece.logprobs)
    return Line(now_ns, piece.text, piece.thinking, calls, logprobs)


def is_empty(piece: Piece) -> bool:
    """Whether a piece says nothing."""
    return not (piece.text or piece.thinking or piece.tool_calls or piece.logprobs)


def end_of(answer: Answer, now_ns: int, waited_ms: int) -> Line:
    """Return the last line of a streamed answer. `waited_ms`: from the request to the answer, in all."""
    return Line(
        now_ns,
        done=True,
        done_reason=answer.done_reason,
        context=answer.context or None,
        metrics=metrics_of(answer),
        orion=orion_of(answer, waited_ms),
    )


def whole_of(answer: Answer, now_ns: int, waited_ms: int) -> Line:
    """Return an answer as one line."""
    end = end_of(answer, now_ns, waited_ms)
    end.text, end.thinking = answer.text, answer.thinking
    end.tool_calls, end.logprobs = list(answer.tool_calls), list(answer.logprobs)
    return end


def metrics_of(answer: Answer) -> Metrics:
    """Return what an answer took, in Ollama's units."""
    return Metrics(
        total_duration=answer.total_ms * NS_PER_MS,
        load_duration=answer.load_ms * NS_PER_MS,
        prompt_eval_count=answer.prompt_tokens,
        prompt_eval_duration=answer.prefill_ms * NS_PER_MS,
        eval_count=answer.tokens,
        eval_duration=answer.decode_ms * NS_PER_MS,
    )


def orion_of(answer: Answer, took_ms: int) -> JsonObject:
    """Return what is known only at the end: where it ran, at which attempt, how it went."""
    found: dict[str, Any] = {
        "id": answer.id,
        "node": answer.node,
        "engine": answer.engine,
        "attempt": answer.attempt,
        "position": answer.position,
        "warm": answer.warm,
        "load_ms": answer.load_ms,
        "first_token_ms": answer.first_token_ms,
        "waited_ms": max(took_ms - answer.total_ms, 0),
    }
    return found | ({"ignored": answer.ignored} if answer.ignored else {})


def joined(answers: Sequence[Answer]) -> Answer:
    """Return the vectors of the parts of a request as those of its first part, with what all of them took.
    Raise Refusal 502 for vectors of two lengths: nodes have other models under that name."""
    vectors = [row for each in answers for row in each.vectors]
    if len(lengths := sorted({len(row) for row in vectors})) > 1:
        what = (
            f"nodes give vectors of {lengths[0]} and {lengths[-1]} numbers: their copies are not one model"
        )
        raise Refusal(502, what)
    return structs.replace(
        answers[0],
        vectors=vectors,
        prompt_tokens=sum(each.prompt_tokens for each in answers),
        load_ms=sum(each.load_ms for each in answers),
        prefill_ms=sum(each.prefill_ms for each in answers),
        total_ms=sum(each.total_ms for each in answers),
    )


def headers_of(answer: Answer) -> dict[str, str]:
    """Return the same as headers, where they are not sent yet."""
    return {
        "X-Orion-Id": answer.id,
        "X-Orion-Node": answer.node,
        "X-Orion-Engine": answer.engine,
        "X-Orion-Attempt": str(answer.attempt),
        "X-Orion-Position": str(answer.position),
        "X-Orion-Warm": "1" if answer.warm else "0",
        "X-Orion-Load-Ms": str(answer.load_ms),
    }
