"""What of a request reaches Ollama."""

from typing import Any

import msgspec
import pytest

from orion_streams.agents.answer import Answer
from orion_streams.agents.backend import Chunk
from orion_streams.agents.ollama_answers import chunk
from orion_streams.agents.ollama_requests import request_body
from orion_streams.model.measured import Usage
from orion_streams.protocol.agent_entries import WorkHead
from orion_streams.protocol.requests_replies import FOREVER_MS, RequestEntry, keep_alive_ms, parse_request
from tests.agents.agent_bench import MODEL

HOUR_MS = 3_600_000
CAPPED = WorkHead("run", keep_alive_max_ms=HOUR_MS)


def sent(entry: RequestEntry, head: WorkHead = CAPPED, own: str | float = "5m") -> dict[str, Any]:
    """The body for Ollama."""
    return msgspec.json.decode(request_body(entry, head, own, 9), type=dict[str, Any])


@pytest.mark.parametrize(
    ("asked", "own", "kept"),
    [
        (None, "5m", "5m"),
        ("10m", "5m", 600.0),
        ("1m", "5m", "5m"),
        ("0", "5m", "5m"),
        ("600", 300, 600.0),
        ("2h", "5m", 3600.0),
        ("-1", "5m", 3600.0),
        ("-1s", "90m", "90m"),
        ("10m", "-1s", "-1s"),
        ("10m", -1, -1),
    ],
)
def test_a_request_only_makes_a_stay_longer(asked: str | None, own: str | float, kept: str | float) -> None:
    """The longer of the node's time and the request's counts, the request's up to its client's limit."""
    assert sent(RequestEntry(model=MODEL, prompt="x", keep_alive=asked), own=own)["keep_alive"] == kept


def test_a_router_that_names_no_limit_allows_no_longer_stay() -> None:
    """An older router's work says nothing about it: the node's own time holds."""
    entry = RequestEntry(model=MODEL, prompt="x", keep_alive="10m")
    assert sent(entry, WorkHead("run"))["keep_alive"] == "5m"


@pytest.mark.parametrize("content", [{"prompt": ""}, {"messages": []}])
def test_nothing_asked_with_0_lets_the_model_go(content: dict[str, Any]) -> None:
    """An empty prompt with keep_alive 0 unloads; with a prompt it changes nothing."""
    assert sent(RequestEntry(model=MODEL, keep_alive="0", **content))["keep_alive"] == 0


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [("5m", 300_000), ("300", 300_000), ("1.5", 1_500), ("-1", FOREVER_MS), ("-5m", FOREVER_MS), ("0", 0)],
)
def test_a_keep_alive_is_a_duration_or_seconds(text: str, expected_ms: int) -> None:
    """As Ollama takes it; a negative one is for ever."""
    assert keep_alive_ms(text) == expected_ms


@pytest.mark.parametrize("text", ["soon", "5 m", "", "1e3", "m5"])
def test_what_is_no_duration_is_none(text: str) -> None:
    """Nothing is guessed."""
    assert keep_alive_ms(text) is None


def test_every_further_field_is_passed_on() -> None:
    """What Ollama takes beside prompt and options reaches it under the same name, as it was written."""
    fields = {
        **{"raw": "1", "suffix": "}", "template": "{{ .Prompt }}", "context": "[1,2]", "truncate": "0"},
        **{"shift": "0", "logprobs": "1", "top_logprobs": "3", "think": "max"},
    }
    body = sent(parse_request({"model": MODEL, "prompt": "x", **fields}))
    assert {name: body[name] for name in fields} == {
        **{"raw": True, "suffix": "}", "template": "{{ .Prompt }}", "context": [1, 2], "truncate": False},
        **{"shift": False, "logprobs": True, "top_logprobs": 3, "think": "max"},
    }
    embed = sent(parse_request({"model": MODEL, "input": '["x"]', "dimensions": "8", "truncate": "0"}))
    assert (embed["dimensions"], embed["truncate"]) == (8, False)


def test_calls_without_an_id_get_one_and_others_keep_theirs() -> None:
    """Ids are distinct within the grid, as a work id is; calls are counted over all pieces."""
    answer = Answer("7-0")
    answer.add(
        Chunk(tool_calls=({"function": {"name": "look"}}, {"id": "own", "function": {"name": "go"}}))
    )
    answer.add(Chunk(tool_calls=({"function": {"name": "stop"}},)))
    answer.add(Chunk(usage=Usage()))
    calls = msgspec.json.decode(answer.body()["tool_calls"], type=list[dict[str, Any]])
    assert [call["id"] for call in calls] == ["call_7-0_0", "own", "call_7-0_2"]
    assert [call["function"]["index"] for call in calls] == [0, 1, 2]


def test_a_piece_holds_what_came_since_the_last_one() -> None:
    """Text, thoughts and calls; vectors and context come with the end only."""
    answer = Answer()
    answer.add(Chunk(thinking="hm"))
    assert answer.unsent() == {"thinking": b"hm"}
    answer.add(Chunk(text="a"))
    answer.add(Chunk(text="b", context=(1, 2), usage=Usage()))
    assert answer.unsent() == {"text": b"ab"}
    assert answer.unsent() == {}
    assert answer.body() == {"text": b"ab", "thinking": b"hm", "context": b"[1,2]"}


def test_a_context_is_kept_only_if_it_was_asked_for() -> None:
    """It is as long as the prompt."""
    line = b'{"response":"","done":true,"context":[1,2,3]}'
    assert chunk(line).context == ()
    assert chunk(line, with_context=True).context == (1, 2, 3)
