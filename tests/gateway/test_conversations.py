"""Conversations of `/v1/responses` and `/v1/messages` are those of a chat."""

import json
from typing import Any

import pytest

from orion_streams.gateway import asks, messages_requests, responses_requests
from orion_streams.gateway.refusal import JsonObject, Refusal

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
CALL = {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}
FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}


def responses(**body: Any) -> JsonObject:
    """The fields of the ask for a response of the model `m:1b`."""
    sent = json.dumps({"model": "m:1b", **body}).encode()
    return asks.chat_ask(responses_requests.responses_request(sent)[0]).fields


def anthropic(**body: Any) -> JsonObject:
    """The fields of the ask for a message of the model `m:1b`."""
    sent = json.dumps({"model": "m:1b", "max_tokens": 9, **body}).encode()
    return asks.chat_ask(messages_requests.messages_request(sent)).fields


def test_items_become_messages() -> None:
    """Thoughts, words and calls of one turn are one message, a call's output the result of its tool."""
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "kind"}]},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
        ]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ok"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}', "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c1", "output": "12"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
    ]  # fmt: skip
    assert responses(input=items, instructions="be")["messages"] == [
        {"role": "system", "content": "be"},
        {"role": "system", "content": "kind"},
        {"role": "user", "content": "see", "images": ["AAAA"]},
        {"role": "assistant", "content": "ok", "thinking": "hm", "tool_calls": [CALL]},
        {"role": "tool", "content": "12", "tool_name": "f", "tool_call_id": "c1"},
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
    ]
    assert responses(input="hi")["messages"] == [{"role": "user", "content": "hi"}]


def test_fields_of_a_response() -> None:
    """Tools are functions without a wrapper, the format stands in `text`, the effort in `reasoning`."""
    tool = {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
    wanted = {"type": "json_schema", "name": "n", "schema": SCHEMA}
    fields = responses(
        input="hi",
        tools=[tool, {"type": "web_search"}],
        text={"format": wanted},
        reasoning={"effort": "minimal"},
        max_output_tokens=4.0,
        top_p=0.5,
        stream=True,
        previous_response_id=None,
    )
    assert (fields["tools"], fields["format"], fields["think"]) == ([FUNCTION], SCHEMA, "low")
    assert fields["options"] == {"temperature": 1.0, "top_p": 0.5, "num_predict": 4}
    assert fields["stream"] is True
    assert "tools" not in responses(input="hi", tools=[tool], tool_choice="none")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"input": "x", "previous_response_id": "resp_1"}, "nothing is kept here"),
        ({"input": 5}, "input must be a string or array"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "'item_reference' is not understood"),
        ({"input": [5]}, "is not understood"),
        ({"input": "x", "tools": [5]}, "a tool must be an object"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "invalid tool call"),
    ],
)
def test_what_a_response_cannot_hold_is_refused(body: JsonObject, sentence: str) -> None:
    """With 400 and a sentence: nothing is answered without what was meant to be read."""
    with pytest.raises(Refusal, match=sentence) as refused:
        responses(**body)
    assert refused.value.status == 400


def test_blocks_become_messages() -> None:
    """Results of tools stand before what the user says with them; system, images and thoughts are kept."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, image]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "ok"},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "12"}]},
            {"type": "text", "text": "go on", "cache_control": {"type": "ephemeral"}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": None}]},
    ]  # fmt: skip
    system = [{"type": "text", "text": "be"}, {"type": "text", "text": "kind"}]
    assert anthropic(messages=messages, system=system)["messages"] == [
        {"role": "system", "content": "be\nkind"},
        {"role": "user", "content": "see", "images": ["AAAA"]},
        {"role": "assistant", "content": "ok", "thinking": "hm", "tool_calls": [CALL]},
        {"role": "tool", "content": "12", "tool_name": "f", "tool_call_id": "c1"},
        {"role": "user", "content": "go on"},
        {"role": "tool", "content": "", "tool_name": "f", "tool_call_id": "c1"},
    ]


def test_fields_of_a_message() -> None:
    """Tools have their schema under another name; thinking is on, off or not said."""
    hi = [{"role": "user", "content": "hi"}]
    tool = {"name": "f", "description": "d", "input_schema": SCHEMA}
    fields = anthropic(
        messages=hi,
        tools=[tool, {"type": "web_search_20250305", "name": "web_search"}],
        stop_sequences=["x"],
        top_k=4,
        thinking={"type": "enabled", "budget_tokens": 1024},
        metadata={"user_id": "u"},
    )
    assert (fields["tools"], fields["think"], fields["stream"]) == ([FUNCTION], True, False)
    assert fields["options"] == {"num_predict": 9, "top_k": 4, "stop": ["x"]}
    assert anthropic(messages=hi, thinking={"type": "disabled"})["think"] is False
    assert "think" not in anthropic(messages=hi, thinking=None)
    assert "tools" not in anthropic(messages=hi, tools=[tool], tool_choice={"type": "none"})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "messages is required"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens is required"),
        ({"model": "", "messages": [{"role": "user", "content": "x"}]}, "model is required"),
        ({"messages": ["x"]}, "invalid message format"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "'document' is not"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [5]}, "a tool must be an object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]},
            "none is fetched",
        ),
    ],
)
def test_what_a_message_cannot_hold_is_refused(body: JsonObject, sentence: str) -> None:
    """With 400 and a sentence."""
    with pytest.raises(Refusal, match=sentence) as refused:
        anthropic(**body)
    assert refused.value.status == 400


def test_tokens_are_a_quarter_of_the_bytes() -> None:
    """Longer conversations and tools count for more, images for nothing, and no max_tokens is needed."""

    def counted(content: Any, **more: Any) -> int:
        sent = {"model": "m:1b", "messages": [{"role": "user", "content": content}], **more}
        return messages_requests.count_tokens(json.dumps(sent).encode())

    image = {"type": "image", "source": {"type": "base64", "data": "AAAA" * 1000}}
    few = counted("hi")
    assert counted("hi" + "x" * 400) == few + 100
    assert counted([{"type": "text", "text": "hi"}, image]) == few
    assert counted("hi", tools=[{"name": "f", "input_schema": SCHEMA}]) > few + 10
