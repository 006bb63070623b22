"""What an answer took is believed as far as it can be true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from orion_streams.agents.answer import PROMPT_MARGIN, plausible
from orion_streams.agents.backend import Chunk
from orion_streams.agents.ollama_answers import chunk
from orion_streams.model.measured import Usage
from tests.agents.agent_bench import Bench, running

DAYS_NS = 6 * 24 * 3600 * 10**9
FULL = Usage(5, 11, load_ms=100, prefill_ms=200, decode_ms=300, total_ms=700, done_reason="stop")


def judged(usage: Usage, **changes: int) -> Usage:
    """What is left of it: waited 700 ms for at most 10 tokens, and the prompt had 20 bytes."""
    return plausible(structs.replace(usage, **changes), waited_ms=700, tokens_max=10, prompt_bytes=20)


def test_what_can_be_stays() -> None:
    """At the bounds, too."""
    assert judged(FULL) == FULL
    edge = {"tokens": 10, "prompt_tokens": 20 + PROMPT_MARGIN, "decode_ms": 700}
    assert judged(FULL, **edge) == structs.replace(FULL, **edge)


@pytest.mark.parametrize("name", ["load_ms", "prefill_ms", "decode_ms", "total_ms"])
def test_nothing_took_longer_than_the_agent_waited(name: str) -> None:
    """It is unknown then; the rest is believed."""
    assert judged(FULL, **{name: 701}) == structs.replace(FULL, **{name: 0})


def test_no_more_tokens_than_there_can_be() -> None:
    """Of an answer those that were allowed, of a prompt its bytes and some more."""
    assert judged(FULL, tokens=11) == structs.replace(FULL, tokens=0)
    assert judged(FULL, prompt_tokens=21 + PROMPT_MARGIN) == structs.replace(FULL, prompt_tokens=0)


@given(st.builds(Usage, *(st.integers(0, 2**36) for _ in range(6)), st.just(""), st.integers(0, 2**36)))
def test_it_only_ever_takes_away(usage: Usage) -> None:
    """Each figure stays or is unknown."""
    found = judged(usage)
    for name in usage.__struct_fields__:
        assert getattr(found, name) in (getattr(usage, name), 0)
    assert (
        max(found.load_ms, found.prefill_ms, found.decode_ms, found.total_ms, found.first_token_ms) <= 700
    )


async def test_a_decode_of_six_days_is_not_passed_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's own clock saw how long the run took."""

    def days(raw: bytes, with_context: bool) -> Chunk:
        odd = raw.replace(b'"eval_duration":', b'"eval_duration":%d,"was":' % DAYS_NS)
        return chunk(odd, with_context)

    monkeypatch.setattr("orion_streams.agents.ollama_backend.chunk", days)
    async with running(bench.config):
        head = (await bench.ended(await bench.run())).head
    assert (head.op, head.decode_ms) == ("completed", 0)
    assert head.tokens > 0  # the rest is believed
