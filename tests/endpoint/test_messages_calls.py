"""Anthropic's `/v1/messages` through the grid, as Claude Code asks it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.endpoint.client_requests import HELLO
from tests.endpoint.running_endpoint import PLAIN, SKILLED, RunningEndpoint

THINKING = {"type": "enabled", "budget_tokens": 1_024}


def asked(endpoint: RunningEndpoint, path: str, **body: Any) -> httpx.Response:
    """Post a request of a conversation."""
    return httpx.post(f"{endpoint.v1}{path}", json={"messages": HELLO, **body}, timeout=60)


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_cannot_think_answers_without_thoughts(
    endpoint: RunningEndpoint, stream: bool
) -> None:
    """Claude Code asks every model for thoughts; one that has them gives them."""
    body = {"max_tokens": 20, "thinking": THINKING, "stream": stream}
    plain = asked(endpoint, "/messages", model=PLAIN.name, **body)
    skilled = asked(endpoint, "/messages", model=SKILLED.name, **body)
    assert (plain.status_code, skilled.status_code) == (200, 200)
    assert ("thinking" in plain.text, "thinking" in skilled.text) == (False, True)


def test_the_other_apis_say_that_a_model_cannot_think(endpoint: RunningEndpoint) -> None:
    """As Ollama does."""
    answer = asked(endpoint, "/chat/completions", model=PLAIN.name, reasoning_effort="low")
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        f'"{PLAIN.name}" does not support thinking',
    )
