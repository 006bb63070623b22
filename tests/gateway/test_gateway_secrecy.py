"""No prompt, no answer and no key stands in a log of the gateway, nor in the grid's."""

import logging
from pathlib import Path

import pytest

from orion_streams.gateway import http_calls
from orion_streams.model import events as ev
from tests.contract.contract_grid import Run, Script, echo
from tests.gateway.gateway_stage import CHAT, gateway

SECRET = "the pin is 4711"
TOKEN = "orion-" + "x" * 43
ASKED = {**CHAT, "messages": [{"role": "user", "content": SECRET}]}


def failing(raw: bytes, _: http_calls.Origin) -> http_calls.Call:
    """A defect whose words quote the body."""
    raise RuntimeError(raw.decode())


async def broken(run: Run) -> None:
    """An attempt that ends in words which quote the prompt."""
    await run.started()
    await run.token(SECRET)
    await run.fail("refused", "request", SECRET)


@pytest.mark.parametrize("script", [echo, broken])
async def test_no_prompt_is_logged(
    valkey_url: str,
    prefix: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
) -> None:
    """Answered, refused, malformed, unknown, too large, or when the gateway itself fails, which is said."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setitem(http_calls.CALLS, "/v1/completions", failing)
    async with gateway(valkey_url, prefix, tmp_path, script, max_body_bytes=10_000) as stage:
        for body in (
            ASKED,
            {**ASKED, "stream": False},
            {**ASKED, "model": "nope"},
            {**ASKED, "think": SECRET},
        ):
            await stage.post("/api/chat", body)
        await stage.post("/v1/chat/completions", {**ASKED, "messages": SECRET})
        await stage.post("/api/chat", {**ASKED, "more": SECRET * 1_000})
        await stage.post("/api/chat", ASKED, headers={"Authorization": f"Bearer {TOKEN}"})
        failed = await stage.post("/v1/completions", ASKED)
        log = "".join(str(event) for event in await stage.grid.events())
    said = "".join(record.getMessage() + str(record.exc_text) for record in caplog.records)
    assert failed.status == 500
    assert "POST /v1/completions failed: RuntimeError in failing" in said
    for secret in (SECRET, TOKEN):
        assert secret not in said
        assert secret not in log
    assert ev.RequestAccepted.__name__ in log
