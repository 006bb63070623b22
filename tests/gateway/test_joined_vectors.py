"""The parts of a request of vectors as one answer."""

from __future__ import annotations

from typing import Any

import pytest

from orion_streams.gateway.grid_answers import joined
from orion_streams.gateway.refusal import Refusal
from orion_streams.protocol.answer_events import Answer


def part(name: str, **said: Any) -> Answer:
    """What the grid says of some texts."""
    words = dict.fromkeys(("model", "text", "thinking", "node", "engine", "done_reason", "ignored"), "")
    lists: dict[str, Any] = {"tool_calls": [], "logprobs": [], "context": []}
    counts = ("attempt", "position", "prompt_tokens", "tokens", "load_ms", "prefill_ms", "decode_ms")
    numbers = dict.fromkeys((*counts, "total_ms", "first_token_ms"), 0)
    return Answer(**{"id": name, "warm": False, "vectors": [], **words, **lists, **numbers, **said})


def test_parts_are_one_answer() -> None:
    """By the name of the first, in order; what they took is counted together."""
    first = part(
        "q1", vectors=[[1.0], [2.0]], prompt_tokens=3, load_ms=5, prefill_ms=2, total_ms=9, node="a"
    )
    found = joined(
        [first, part("q2", vectors=[[3.0]], prompt_tokens=4, prefill_ms=1, total_ms=2, node="b")]
    )
    assert (found.id, found.vectors) == ("q1", [[1.0], [2.0], [3.0]])
    assert (found.prompt_tokens, found.load_ms, found.prefill_ms, found.total_ms) == (7, 5, 3, 11)
    assert joined([first]) == first


def test_vectors_of_two_lengths_are_none() -> None:
    """Nobody could compare them."""
    with pytest.raises(Refusal, match="of 1 and 2 numbers") as caught:
        joined([part("q1", vectors=[[1.0]]), part("q2", vectors=[[1.0, 2.0]])])
    assert caught.value.status == 502
