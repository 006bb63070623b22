"""The end of the worker for the past, wherever it finds a question."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from orion_streams.agents.past_messages import Question
from orion_streams.agents.past_process import PastProcess
from orion_streams.gateway.refusal import Refusal


@pytest.mark.parametrize("steps", range(0, 24, 2))
async def test_one_that_is_being_started_ends_with_its_gateway_as_well(
    steps: int, valkey_url: str, prefix: str
) -> None:
    """Wherever closing finds a question, nothing runs afterwards, and nothing is started."""
    before = set(psutil.Process().children())
    past = PastProcess(valkey_url, prefix)
    asking = asyncio.create_task(past.ask(Question(op="bounds")))
    for _ in range(steps):
        await asyncio.wait({asking}, timeout=0)
    await past.close()
    with pytest.raises(Refusal):
        await asking
    assert past.pid is None
    assert set(psutil.Process().children()) <= before
