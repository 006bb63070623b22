"""What clients of OpenAI's API really send becomes a body of the native API."""

import base64
import json
from typing import Any

import pytest

from orion_streams.gateway import asks, openai_requests
from orion_streams.gateway.refusal import JsonObject, Refusal

USER = [{"role": "user", "content": "hi"}]
PIXELS = [base64.b64encode(f"picture {n}".encode()).decode() for n in range(3)]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def native(**body: Any) -> JsonObject:
    """The native body of a chat with the model `m:1b`."""
    sent = {"model": "m:1b", "messages": USER, **body}
    return openai_requests.chat_request(json.dumps(sent).encode())[0]


def messages(*sent: JsonObject) -> list[JsonObject]:
    """What the model reads of a conversation."""
    told: list[JsonObject] = asks.chat_ask(native(messages=list(sent))).fields["messages"]
    return told


def refusal(**body: Any) -> str:
    """Why a chat is refused, with 400."""
    with pytest.raises(Refusal) as refused:
        asks.chat_ask(native(**body))
    assert refused.value.status == 400
    return refused.value.message


def test_the_case_of_keys_does_not_count() -> None:
    """As in Go; the keys of a schema are its own."""
    told = {"Role": "user", "Content": "hi"}
    schema = {"type": "object", "properties": {"City": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    odd = native(messages=[told], Max_Tokens=3, Response_Format=wanted)
    assert odd == native(max_tokens=3, response_format=wanted)
    assert odd["format"] == schema


def test_nulls_mean_nothing() -> None:
    """A field that is null is as one that is not there, wherever it stands."""
    names = (
        "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "seed", "temperature",
        "top_p", "stop", "tools", "tool_choice", "response_format", "reasoning", "reasoning_effort",
        "logprobs", "top_logprobs", "frequency_penalty", "presence_penalty", "user", "metadata",
        "logit_bias",
    )  # fmt: skip
    assert native(**dict.fromkeys(names)) == native()
    inner = {"stream_options": {"include_usage": None}, "reasoning": {"effort": None}}
    assert native(**inner) == native()
    assert native(unknown={"a": 1}) == native()


def test_content_may_be_null_beside_calls() -> None:
    """A turn that only called tools has no content; arguments become an object, ids are kept."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    kept = {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}
    assert messages(turn) == [{"role": "assistant", "content": "", "tool_calls": [kept]}]


def test_parts_of_a_message_become_one_message() -> None:
    """Its texts are joined, its images collected in their order."""
    parts = [
        {"type": "text", "text": "first"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXELS[0]}", "detail": "low"}},
        {"type": "text", "text": "second"},
        {"type": "image_url", "image_url": f"data:image/webp;base64,{PIXELS[1]}"},
        {"type": "image_url", "image_url": {"url": PIXELS[2]}},
    ]
    assert messages({"role": "user", "content": parts}) == [
        {"role": "user", "content": "first\nsecond", "images": PIXELS}
    ]


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}, "none is fetched"),
        ({"type": "image_url", "image_url": {"url": "HTTP://a.b/c.png"}}, "none is fetched"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "invalid image input"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}},
            "must be a text in base64",
        ),
        ({"type": "image_url"}, "invalid message format"),
        ({"type": "text"}, "invalid message format"),
        ({"type": "input_audio", "input_audio": {}}, "'input_audio' is not understood"),
        (5, "invalid message format"),
    ],
)
def test_a_part_that_cannot_be_read_is_refused(part: Any, sentence: str) -> None:
    """Nothing is left out silently, and nothing is fetched."""
    assert sentence in refusal(messages=[{"role": "user", "content": [part]}])


def test_roles_thoughts_and_results() -> None:
    """A developer is the system, thoughts are kept, a result is named after its call."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    told = messages(
        {"role": "developer", "content": "be kind"},
        {"role": "assistant", "content": "a", "reasoning": "r", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "12"},
        {"role": "tool", "tool_call_id": "c9", "name": "g", "content": [{"type": "text", "text": "13"}]},
        {"role": "assistant", "content": "b", "reasoning_content": "s", "tool_calls": None},
        {"role": "user", "content": "c", "reasoning": "no thoughts"},
    )
    kept = {"id": "c1", "function": {"name": "f", "arguments": {}}}
    assert told == [
        {"role": "system", "content": "be kind"},
        {"role": "assistant", "content": "a", "thinking": "r", "tool_calls": [kept]},
        {"role": "tool", "content": "12", "tool_name": "f", "tool_call_id": "c1"},
        {"role": "tool", "content": "13", "tool_name": "g", "tool_call_id": "c9"},
        {"role": "assistant", "content": "b", "thinking": "s"},
        {"role": "user", "content": "c"},
    ]


@pytest.mark.parametrize("arguments", ["{", "[1]", "5", [1]])
def test_arguments_that_are_no_object_are_refused(arguments: Any) -> None:
    """A call in the history has arguments that can be read."""
    call = {"id": "c1", "function": {"name": "f", "arguments": arguments}}
    assert refusal(messages=[{"role": "assistant", "tool_calls": [call]}])


def test_tools_are_offered_unless_none_shall_be_chosen() -> None:
    """tool_choice is heeded where it says `none`; tools that OpenAI itself runs are left out."""
    tools = [TOOL, {"type": "web_search"}]
    for choice in (None, "auto", "required", {"type": "function", "function": {"name": "f"}}):
        assert native(tools=tools, tool_choice=choice)["tools"] == [TOOL]
    assert native(tools=tools, tool_choice="none")["tools"] == []


@pytest.mark.parametrize(
    ("given", "think"),
    [
        ("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"),
        ("xhigh", "max"), ("max", "max"),
    ],
)  # fmt: skip
def test_effort_is_thinking(given: str, think: bool | str) -> None:
    """Both places for the effort are read, and every level that clients know."""
    assert native(reasoning_effort=given)["think"] == think
    assert native(reasoning={"effort": given})["think"] == think
    assert "think" not in native()


def test_an_unknown_effort_is_refused() -> None:
    """The sentence names the levels."""
    assert "'huge' (must be one of \"none\"" in refusal(reasoning_effort="huge")
    assert refusal(reasoning_effort=["low"])


def test_options_have_their_native_names() -> None:
    """Lengths, seeds and stops are options; whole numbers may be written as floats."""
    assert native()["options"] == {"temperature": 1.0, "top_p": 1.0}
    said = {"max_tokens": 4.0, "seed": 7.0, "temperature": 0, "frequency_penalty": 1, "stop": "a"}
    assert native(**said)["options"] == {
        "num_predict": 4,
        "seed": 7,
        "temperature": 0,
        "top_p": 1.0,
        "frequency_penalty": 1,
        "stop": ["a"],
    }
    assert native(max_completion_tokens=9, max_tokens=4)["options"]["num_predict"] == 9
    assert native(stop=["a", None, "b"])["options"]["stop"] == ["a", "b"]
    assert "max_tokens of type int" in refusal(max_tokens=1.5)


def test_formats() -> None:
    """JSON of any form, or of a schema; a schema that is none is refused, not forgotten."""
    schema = {"type": "object"}
    assert native(response_format={"type": "json_object"})["format"] == "json"
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert native(response_format=wanted)["format"] == schema
    assert "format" not in native(response_format={"type": "text"})
    assert "must be an object" in refusal(response_format={"type": "json_schema", "json_schema": {}})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"messages": []}, "[] is too short - 'messages'"),
        ({"messages": None}, "[] is too short - 'messages'"),
        ({"messages": ["hi"]}, "invalid message format"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid message content type: float64"),
        ({"messages": [{"role": 5, "content": "x"}]}, "invalid message format"),
        ({"n": 2}, "n must be 1"),
        ({"model": ""}, "model is required"),
        ({"tools": [5]}, "json: cannot unmarshal number into Go value of type api.Tool"),
        ({"stream_options": []}, "json: cannot unmarshal array into Go struct field"),
    ],
)
def test_what_cannot_be_read_is_refused(body: JsonObject, sentence: str) -> None:
    """With 400 and a sentence."""
    assert refusal(**body).startswith(sentence)


def completion(**body: Any) -> JsonObject:
    """The native body of a text completion."""
    sent = {"model": "m:1b", "prompt": "x", **body}
    return openai_requests.completion_request(json.dumps(sent).encode())[0]


def test_completions() -> None:
    """One prompt, also in a list; a suffix is filled in before; echo and nulls are ignored."""
    assert completion(prompt=["x"], suffix=None, echo=True, best_of=1) == completion()
    assert completion(suffix="end")["suffix"] == "end"
    assert (completion(logprobs=2)["logprobs"], completion(logprobs=2)["top_logprobs"]) == (True, 2)
    assert asks.generate_ask(completion(prompt=None)).only == "load"
    for several in (["x", "y"], [1, 2], [], [[1]]):
        with pytest.raises(Refusal, match="prompt must be one text"):
            completion(prompt=several)
    with pytest.raises(Refusal, match="of type string"):
        completion(prompt=5)


def embeddings(**body: Any) -> tuple[JsonObject, bool]:
    """The native body of an embeddings request, and whether vectors are packed."""
    return openai_requests.embeddings_request(json.dumps({"model": "m:1b", **body}).encode())


def test_embeddings() -> None:
    """One text or several, of so many dimensions, as numbers or packed; tokens are refused."""
    assert embeddings(input="x", dimensions=8)[0]["dimensions"] == 8
    assert embeddings(input=["x", "y"])[0]["input"] == ["x", "y"]
    assert embeddings(input="")[0]["input"] == [""]
    packed = [embeddings(input="x", encoding_format=form)[1] for form in (None, "float", "base64")]
    assert packed == [False, False, True]
    for tokens in ([1, 2], [[1, 2]], ["x", 1]):
        with pytest.raises(Refusal, match="not of tokens"):
            embeddings(input=tokens)
    no_texts: tuple[Any, ...] = (None, [], 5, {})
    for nothing in no_texts:
        with pytest.raises(Refusal, match="invalid input"):
            embeddings(input=nothing)
    with pytest.raises(Refusal, match="encoding_format"):
        embeddings(input="x", encoding_format="z")
