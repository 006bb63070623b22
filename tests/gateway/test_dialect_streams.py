"""Answers in the forms of their APIs: what clients add up is what was said, and how it ended."""

import base64
import json
import struct
from typing import Any

import pytest

from orion_streams.gateway import http_calls
from orion_streams.gateway.answers import Dialect, Line
from orion_streams.gateway.messages_answers import MessagesDialect, counted_tokens
from orion_streams.gateway.native_answers import NativeDialect, embedded, embedded_one
from orion_streams.gateway.openai_answers import OpenAIDialect, embedding_list
from orion_streams.gateway.refusal import Refusal
from orion_streams.gateway.responses_answers import ResponsesDialect
from tests.gateway.written import CALLS, END, METRICS, NOW_NS, SPOKEN, WHOLE, data, events, streamed

GROWING = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
GONE = Refusal(404, "model 'x' not found")
LOST = Refusal(502, "the node went away")


def chat(*, usage: bool = False) -> OpenAIDialect:
    """A chat completion."""
    return OpenAIDialect("m:1b", "chatcmpl-1", 5, chat=True, usage=usage)


def text(*, usage: bool = False) -> OpenAIDialect:
    """A text completion."""
    return OpenAIDialect("m:1b", "cmpl-1", 5, chat=False, usage=usage)


def all_dialects() -> dict[str, Dialect]:
    """One of each."""
    return {
        "generate": NativeDialect("generate", "m:1b"),
        "chat": NativeDialect("chat", "m:1b"),
        "v1/chat": chat(),
        "v1/completions": text(),
        "v1/responses": ResponsesDialect({"model": "m:1b"}, "7", 5),
        "v1/messages": MessagesDialect("m:1b", "7"),
    }


NAMES = list(all_dialects())


def whole(dialect: Dialect, line: Line = WHOLE) -> Any:
    """A whole answer, decoded."""
    answer = dialect.whole(line)
    assert answer.status == 200
    return json.loads(answer.body)


def test_a_chat_chunk_says_only_what_is_new() -> None:
    """The role comes once, then thoughts, text and numbered calls; the end has an empty delta."""
    *chunks, last = data(streamed(chat()))
    first, second = (
        {"index": at, "type": "function", "id": made, "function": {"name": name, "arguments": arguments}}
        for at, made, name, arguments in (
            (0, "c1", "f", '{"a":"\\u003c1\\u003e"}'),
            (1, "call_chatcmpl-1-1", "g", "{}"),
        )
    )
    assert last == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "reasoning": "hm "},
        {"reasoning": "so"},
        {"content": "Hel"},
        {"content": "lo"},
        {"tool_calls": [first]},
        {"tool_calls": [second]},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * 6 + ["tool_calls"]
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        ("chatcmpl-1", 5, "m:1b")
    }
    assert chunks[-1]["orion"] == {"node": "pi1"}


def test_the_usage_comes_when_it_is_asked_for() -> None:
    """In a chunk of its own without choices, before the end; else nowhere."""
    counts = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    for dialect in (chat(usage=True), text(usage=True)):
        *chunks, told, last = data(streamed(dialect))
        assert (told["choices"], told["usage"], last) == ([], counts, "[DONE]")
        assert not any("usage" in chunk for chunk in chunks)
    assert "usage" not in streamed(chat()) + streamed(text())
    assert whole(chat())["usage"] == counts


@pytest.mark.parametrize(
    ("reason", "shown"), [("stop", "stop"), ("length", "length"), ("load", "stop"), ("", "stop")]
)
def test_an_answer_ends_for_a_reason_that_openai_knows(reason: str, shown: str) -> None:
    """What is no reason there is a stop; an empty answer still has a role and a content."""
    end = Line(NOW_NS, done=True, done_reason=reason)
    begun, ended = data(streamed(chat(), [end]))[:2]
    assert begun["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert ended["choices"][0]["finish_reason"] == shown
    assert whole(text(), end)["choices"] == [{"text": "", "index": 0, "finish_reason": shown}]


def test_a_last_line_that_says_something_is_told() -> None:
    """Text beside the end stands in a chunk before it."""
    end = Line(NOW_NS, text="all", done=True, done_reason="stop")
    said, ended = [chunk["choices"][0]["delta"] for chunk in data(streamed(chat(), [end]))[:2]]
    assert (said, ended) == ({"role": "assistant", "content": "all"}, {})


def test_log_probabilities() -> None:
    """A chat has them by token, a text completion in lists, with the place of each in the text."""
    odds = [
        {"token": token, "logprob": -0.5, "top_logprobs": [{"token": "x", "logprob": -1}]} for token in "ab"
    ]
    line = Line(NOW_NS, text="ab", logprobs=odds)
    (told,) = data(streamed(chat(), [line]))
    assert told["choices"][0]["logprobs"]["content"][1] == {"bytes": None, **odds[1]}
    both = data(streamed(text(), [line, line]))
    assert both[1]["choices"][0]["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"x": -1}, {"x": -1}],
        "text_offset": [2, 3],
    }


def test_a_response_grows_item_by_item() -> None:
    """Each item is added, grows and is done before the next, and the end repeats them all."""
    stream = events(streamed(ResponsesDialect({"model": "m:1b", "instructions": "be"}, "7", 5)))
    assert [name for name, _ in stream] == [value["type"] for _, value in stream]
    assert [value["sequence_number"] for _, value in stream] == list(range(len(stream)))
    steps = [name.removeprefix("response.") for name, _ in stream]
    thoughts = ["reasoning_summary_text.delta"] * 2 + ["reasoning_summary_text.done"]
    words = ["output_text.delta"] * 2 + ["output_text.done"]
    call = ["function_call_arguments.delta", "function_call_arguments.done"]
    added, done = "output_item.added", "output_item.done"
    assert steps == [
        "created", "in_progress",
        added, "reasoning_summary_part.added", *thoughts, "reasoning_summary_part.done", done,
        added, "content_part.added", *words, "content_part.done", done,
        added, *call, done,
        added, *call, done,
        "completed",
    ]  # fmt: skip
    items = [value["item"] for name, value in stream if name == "response.output_item.done"]
    completed = stream[-1][1]["response"]
    assert completed["output"] == items == whole(ResponsesDialect({"model": "m:1b"}, "7", 5))["output"]
    assert [item["type"] for item in items] == ["reasoning", "message", "function_call", "function_call"]
    assert items[1]["content"][0]["text"] == "Hello"
    assert (items[2]["call_id"], items[2]["name"]) == ("c1", "f")
    assert json.loads(items[2]["arguments"]) == {"a": "<1>"}
    assert (completed["status"], completed["instructions"]) == ("completed", "be")
    assert completed["usage"]["total_tokens"] == 12


def test_an_empty_response_still_has_a_message() -> None:
    """A client that looks for the text finds one, also when nothing was said."""
    (item,) = whole(ResponsesDialect({}, "7", 5), END)["output"]
    assert (item["content"][0]["text"], item["status"]) == ("", "completed")
    done = data(streamed(ResponsesDialect({}, "7", 5), [END]))[-1]["response"]
    assert done["output"] == [item]


def test_a_message_grows_block_by_block() -> None:
    """Blocks are started, grow and are stopped one after the other; the end says why and how long."""
    stream = events(streamed(MessagesDialect("m:1b", "7", 3)))
    assert [name for name, _ in stream] == [value["type"] for _, value in stream]
    assert stream[0][1]["message"]["usage"] == {"input_tokens": 3, "output_tokens": 0}
    blocks: list[dict[str, Any]] = []
    open_at = -1
    for name, value in stream[1:-2]:
        if name == "content_block_start":
            assert (open_at, value["index"]) == (-1, len(blocks))
            open_at = value["index"]
            blocks.append({**value["content_block"], "partial_json": ""})
        elif name == "content_block_delta":
            assert value["index"] == open_at
            key = GROWING[value["delta"]["type"]]
            blocks[-1][key] += value["delta"][key]
        else:
            assert (name, value["index"]) == ("content_block_stop", open_at)
            open_at = -1
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert (blocks[0]["thinking"], blocks[1]["text"]) == ("hm so", "Hello")
    assert json.loads(blocks[2]["partial_json"]) == CALLS[0]["function"]["arguments"]
    assert [name for name, _ in stream[-2:]] == ["message_delta", "message_stop"]
    assert stream[-2][1]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert stream[-2][1]["usage"] == {"input_tokens": 7, "output_tokens": 5}
    content = whole(MessagesDialect("m:1b", "7"))["content"]
    assert [block["type"] for block in content] == [block["type"] for block in blocks]
    assert content[2]["input"] == CALLS[0]["function"]["arguments"]
    assert json.loads(counted_tokens(9).body) == {"input_tokens": 9}


@pytest.mark.parametrize("name", NAMES)
def test_a_heartbeat_says_nothing(name: str) -> None:
    """What a client adds up is the same with and without signs of life."""
    quiet = b"".join(map(all_dialects()[name].part, SPOKEN)).decode()
    waiting = streamed(all_dialects()[name])
    assert waiting != quiet
    if name.startswith("v1"):
        assert events(waiting) == events(quiet)
        return
    beat = json.loads(all_dialects()[name].heartbeat(NOW_NS))
    said = beat.pop("response", "") + beat.pop("message", {"content": ""})["content"]
    assert (said, beat) == (
        "",
        {"model": "m:1b", "created_at": "2026-11-23T08:32:26Z", "done": False},
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_breaks_off_ends_with_an_error(name: str) -> None:
    """After the headers an error is the last thing in the stream, and no end in good order comes."""
    dialect = all_dialects()[name]
    begun = dialect.part(SPOKEN[0])
    last = (begun + dialect.broken(LOST)).decode()
    if not name.startswith("v1"):
        assert json.loads(last.splitlines()[-1]) == {"error": "the node went away"}
        return
    kind, value = events(last)[-1]
    assert value["error"]["message"] == "the node went away"
    assert kind == ("" if name in ("v1/chat", "v1/completions") else "error")
    assert not any(end in last for end in ("[DONE]", "message_stop", "response.completed"))


@pytest.mark.parametrize("path", http_calls.CALLS)
def test_a_refusal_has_the_form_of_its_api(path: str) -> None:
    """The status is the refusal's, the body the API's own error; who is to ask again later is told when."""
    answer = http_calls.refused(path, GONE, "7")
    error = json.loads(answer.body)["error"]
    assert (answer.status, answer.headers) == (404, {})
    if path.startswith("/v1"):
        assert (error["message"], error["type"]) == (GONE.message, "not_found_error")
    else:
        assert error == GONE.message
    later = http_calls.refused(path, Refusal(503, "the queue is full", retry_after_s=7), "7")
    assert later.headers == {"Retry-After": "7"}


def test_vectors() -> None:
    """Plain or packed, the numbers are the same; each API has its own frame."""
    vectors = [[0.5, -0.25], [1.0, 0.0]]
    plain, packed = (
        json.loads(embedding_list("m:1b", vectors, 3, packed=form).body) for form in (False, True)
    )
    assert [entry["embedding"] for entry in plain["data"]] == vectors
    assert [entry["index"] for entry in plain["data"]] == [0, 1]
    unpacked = [struct.unpack("<2f", base64.b64decode(entry["embedding"])) for entry in packed["data"]]
    assert [list(vector) for vector in unpacked] == vectors
    assert plain["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    native = json.loads(embedded("m:1b", vectors, METRICS).body)
    assert (native["embeddings"], native["prompt_eval_count"]) == (vectors, 7)
    assert json.loads(embedded_one(vectors[0]).body) == {"embedding": vectors[0]}
