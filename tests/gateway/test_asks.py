"""A native body becomes a request of the grid's contract, without what it does not say."""

import base64
import binascii
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orion_streams.client.calls import request_entry
from orion_streams.errors import ContractError
from orion_streams.gateway import asks, native_requests
from orion_streams.gateway.asks import Ask
from orion_streams.gateway.refusal import Refusal
from orion_streams.protocol.requests_replies import parse_request

USER = [{"role": "user", "content": "hi"}]
BROKEN_CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a'}}]}
PIXEL = base64.b64encode(b"a picture").decode()
CHECKS = {
    "generate": (native_requests.generate_request, asks.generate_ask),
    "chat": (native_requests.chat_request, asks.chat_ask),
    "embed": (native_requests.embed_request, asks.embed_ask),
    "embeddings": (native_requests.embedding_request, asks.embedding_ask),
}


def asked(route: str, **body: Any) -> Ask:
    """The ask of a body for the model `m:1b`."""
    check, convert = CHECKS[route]
    return convert(check(native_requests.read(msgspec.json.encode({"model": "m:1b", **body}))))


def fields(route: str, **body: Any) -> dict[str, Any]:
    """The fields of an ask that are not the same for all."""
    return {
        key: value
        for key, value in asked(route, **body).fields.items()
        if key not in ("kind", "model", "stream")
    }


def refusal(route: str, **body: Any) -> tuple[int, str]:
    """How a body is refused."""
    with pytest.raises(Refusal) as refused:
        asked(route, **body)
    return refused.value.status, refused.value.message


def test_what_is_not_said_is_left_out() -> None:
    """Nulls, and what is empty or off as by default, are no fields."""
    nothing = {"options": None, "format": None, "keep_alive": None, "think": None, "stream": None}
    empty = {"tools": [], "options": {"seed": None}, "logprobs": False, "top_logprobs": 0, "format": ""}
    assert asked("chat", messages=USER, **nothing) == asked("chat", messages=USER, **empty)
    assert asked("chat", messages=USER, **nothing) == Ask(
        "chat",
        "m:1b",
        {"kind": "chat", "model": "m:1b", "stream": True, "messages": USER},
        stream=True,
    )
    off = {"system": "", "suffix": "", "template": "", "context": [], "raw": False, "images": []}
    assert fields("generate", prompt="x", **off) == {"prompt": "x", "context": []}


def test_what_ollama_does_not_know_in_a_chat_is_not_passed_on() -> None:
    """A raw chat there is none: whatever stands there is ignored, as any unknown member."""
    more = {"raw": "x", "suffix": 7, "system": [], "context": "x", "dimensions": {}}
    assert fields("chat", messages=USER, **more) == {"messages": USER}


def test_what_is_said_is_kept_also_when_it_is_zero() -> None:
    """A zero that is no default is told: thinking off, no truncation, no delay."""
    said = {"think": False, "truncate": False, "shift": False, "keep_alive": "0"}
    assert fields("chat", messages=USER, **{**said, "keep_alive": 0}) == {"messages": USER, **said}
    more = {"system": "s", "suffix": "e", "template": "t", "think": "max", "keep_alive": "5m"}
    assert fields("generate", prompt="x", **more, context=[1]) == {"prompt": "x", **more, "context": [1]}
    scored = {"logprobs": True, "top_logprobs": 3}
    assert fields("generate", prompt="x", raw=True, **scored) == {"prompt": "x", "raw": True, **scored}
    assert fields("embed", input="x", dimensions=8, truncate=True) == {
        "input": ["x"],
        "dimensions": 8,
        "truncate": True,
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("5m", "5m"), ("-1m", "-1m"), (300, "300"), (300.0, "300"), (0.5, "0.5"), (1e-9, "0"), (-1, "-1"),
        (-0.5, "-1"), (1e10, "-1"), ("999999h", "999999h"),
    ],
)  # fmt: skip
def test_how_long_a_model_stays_is_told_as_the_contract_reads_it(given: Any, told: str) -> None:
    """A number is of seconds; what is negative or longer than any clock is for ever."""
    ask = asked("generate", prompt="x", keep_alive=given)
    assert ask.fields["keep_alive"] == told
    assert parse_request(request_entry(ask.fields)).keep_alive == told


def test_an_answer_has_a_context_where_ollama_gives_one() -> None:
    """A context to go on from is asked for, but not for a raw prompt nor where the API has no place."""
    assert fields("generate", prompt="x")["context"] == []
    assert "context" not in fields("generate", prompt="x", raw=True)
    body = native_requests.generate_request({"model": "m:1b", "prompt": "x"})
    assert "context" not in asks.generate_ask(body, with_context=False).fields
    assert fields("generate", prompt="x", context=[1, 2.0])["context"] == [1, 2]


def test_whole_numbers_may_be_written_with_a_fraction() -> None:
    """Home Assistant sends num_ctx as 8192.0; a number that is not whole is no integer."""
    options = {"num_ctx": 8192.0, "temperature": 1, "stop": ["a"], "use_mmap": True}
    (said,) = [fields("generate", prompt="x", options=options)["options"]]
    assert said == options
    assert type(said["num_ctx"]) is int
    assert fields("chat", messages=USER, logprobs=True, top_logprobs=2.0)["top_logprobs"] == 2
    assert refusal("chat", messages=USER, top_logprobs=2.5)[0] == 400


def test_unknown_options_never_fail() -> None:
    """What Ollama ignores is passed on if the contract can carry it, else left out."""
    options = {"colour": "red", "deep": {"a": 1}, "mixed": [1, "a"], "num_ctx": 1}
    assert fields("generate", prompt="x", options=options)["options"] == {"colour": "red", "num_ctx": 4}
    assert refusal("generate", prompt="x", options={"num_predict": "many"}) == (
        400,
        'option "num_predict" must be of type integer',
    )


@pytest.mark.parametrize(
    ("route", "body"),
    [("generate", {}), ("generate", {"prompt": None}), ("chat", {"messages": []}), ("chat", {})],
)
def test_nothing_to_answer_loads_or_unloads(route: str, body: dict[str, Any]) -> None:
    """Without a prompt or a message the model is loaded; with keep_alive 0 it is unloaded."""
    loading = asked(route, **body, keep_alive="5m", options={"num_ctx": 512})
    assert (loading.only, loading.stream) == ("load", True)
    assert loading.fields == {
        "kind": "generate",
        "model": "m:1b",
        "stream": False,
        "prompt": "",
        "keep_alive": "5m",
        "options": {"num_ctx": 512},
    }
    assert [asked(route, **body, keep_alive=zero).only for zero in (0, "0s", "0")] == ["unload"] * 3
    assert asked(route, **body, keep_alive=-1).only == "load"


def test_an_embed_without_texts_loads() -> None:
    """Both embedding calls load by nothing to embed; the older has one prompt. An unload is the same for
    all."""
    ask = asked("embed", input="", keep_alive=0)
    assert (ask.only, ask.fields["prompt"], ask.fields["keep_alive"]) == ("unload", "", "0")
    assert (asked("embed", input=[]).only, asked("embeddings", prompt="").only) == ("load", "load")
    assert fields("embeddings", prompt="one", options={"num_ctx": 64}) == {
        "input": ["one"],
        "options": {"num_ctx": 64},
    }
    assert refusal("embed", input=[1, 2]) == (400, "invalid input type")


def test_messages_are_reduced_to_what_the_contract_knows() -> None:
    """Unknown members go, roles that Ollama drops are dropped, arguments become objects."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}', "x": 0}}
    messages = [
        {"role": "System", "content": None, "name": "me"},
        {"role": "robot", "content": "beep"},
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "12", "tool_name": "f", "tool_call_id": "c1", "more": {}},
        {"role": "user", "content": "see", "images": [PIXEL], "tool_calls": None},
    ]
    assert fields("chat", messages=messages)["messages"] == [
        {"role": "system", "content": ""},
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "12", "tool_name": "f", "tool_call_id": "c1"},
        {"role": "user", "content": "see", "images": [PIXEL]},
    ]


def test_a_chat_of_unknown_speakers_is_answered_all_the_same() -> None:
    """Dropping every message does not make a request a load, as with the real server."""
    ask = asked("chat", messages=[{"role": "robot", "content": "x"}, {}])
    assert (ask.only, ask.fields["messages"]) == ("", [{"role": "user", "content": ""}])


@example(text="0000=")
@given(
    text=st.text("AZaz09+/=-_ é", max_size=9)
    | st.binary(max_size=9).map(lambda b: base64.b64encode(b).decode())
)
def test_an_image_is_what_a_strict_decoder_decodes(text: str) -> None:
    """The quick check and the decoder of the standard library are of one mind, but for padding that pads
    nothing: Python 3.11 takes it, later ones and Go do not."""
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        decoded = b""
    if len(text) % 4:
        decoded = b""
    try:
        asked("generate", prompt="x", images=[text])
    except Refusal:
        assert decoded == b""
    else:
        assert decoded


@pytest.mark.parametrize("image", ["", "no base64!", "data:image/png;base64," + PIXEL, PIXEL + "A", 5])
def test_an_image_that_is_none_is_refused(image: Any) -> None:
    """An image is base64, in a chat and in a generate request."""
    messages = [{"role": "user", "images": [image]}]
    assert refusal("chat", messages=messages)[0] == 400
    assert refusal("generate", prompt="x", images=[image])[0] == 400
    assert fields("generate", prompt="x", images=[PIXEL])["images"] == [PIXEL]


def test_an_image_may_have_line_breaks() -> None:
    """As `base64` writes it, and Python's encodebytes."""
    raw = bytes(range(200))
    image, lines = base64.b64encode(raw).decode(), base64.encodebytes(raw).decode()
    assert "\n" in lines.strip()
    for text in (lines, lines.replace("\n", "\r\n")):
        assert fields("generate", prompt="x", images=[text])["images"] == [image]
    assert refusal("generate", prompt="x", images=["\n"])[0] == 400


def test_null_in_a_list_is_an_empty_object() -> None:
    """As Go reads it: a message of no known speaker, which is dropped, and a tool without anything."""
    assert asked("chat", messages=[None, *USER]) == asked("chat", messages=[{}, *USER])
    assert fields("chat", messages=USER, tools=[None])["tools"] == [{}]


def test_the_case_of_keys_does_not_count() -> None:
    """As in Go: programs in .NET write the names of their properties. Of two the usual one counts."""
    call = {"Function": {"Name": "f", "Arguments": {"City": "x"}}, "Id": "1"}
    odd = {"Role": "assistant", "Content": "hi", "Tool_Calls": [call]}
    told = [{"id": "1", "function": {"name": "f", "arguments": {"City": "x"}}}]
    usual = {"role": "assistant", "content": "hi", "tool_calls": told}
    assert fields("chat", Messages=[odd], Think="low") == fields("chat", messages=[usual], think="low")
    assert fields("generate", Prompt="b", prompt="a", PROMPT="c", Options={"Seed": 1}) == {
        **fields("generate", prompt="a"),
        "options": {"Seed": 1},
    }


@pytest.mark.parametrize(
    ("route", "body", "status", "sentence"),
    [
        ("generate", {"model": "", "prompt": "x"}, 404, "model '' not found"),
        ("generate", {"model": None, "prompt": "x"}, 404, "model '' not found"),
        ("chat", {"model": "", "messages": USER}, 400, "model is required"),
        ("embed", {"model": "", "input": "x"}, 404, "model '' not found"),
        ("embeddings", {"model": "", "prompt": "x"}, 400, "model is required"),
        ("chat", {"messages": USER, "top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        ("chat", {"messages": USER, "format": "xml"}, 400, "invalid format"),
        ("chat", {"messages": USER, "keep_alive": "soon"}, 400, "time: invalid duration"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, 400, "invalid tool call"),
        ("chat", {"messages": [BROKEN_CALL]}, 400, "invalid tool call arguments"),
        ("generate", {"prompt": "x", "raw": True, "system": "s"}, 400, "raw mode does not support"),
    ],
)
def test_what_ollama_refuses_is_refused(
    route: str, body: dict[str, Any], status: int, sentence: str
) -> None:
    """The recorded sentences, and never a status that blames the server."""
    got, message = refusal(route, **body)
    assert (got, message[: len(sentence)]) == (status, sentence)


def test_the_contract_takes_what_an_ask_says() -> None:
    """An ask's fields are an entry that the router accepts and understands in the same way."""
    tool = {"type": "function", "function": {"name": "f"}}
    ask = asked("chat", messages=USER, tools=[tool], think="low", format="json", options={"seed": 1})
    entry = parse_request(request_entry(ask.fields))
    assert (entry.kind, entry.stream, entry.tools, entry.think) == ("chat", True, [tool], "low")
    assert (entry.format, entry.options) == ("json", {"seed": 1})


def test_numbers_beyond_any_type_break_nothing() -> None:
    """A number of hundreds of digits is as large as its type can be, or refused by the contract."""
    huge = 10**400
    body = {"model": "m:1b", "prompt": "x", "keep_alive": huge, "options": {"top_p": huge, "min_p": -huge}}
    ask = asks.generate_ask(native_requests.generate_request(body))
    assert ask.fields["options"] == {"top_p": 3.4e38, "min_p": -3.4e38}
    assert ask.fields["keep_alive"] == "-1"
    seed = {**body, "keep_alive": -huge, "options": {"seed": huge}}
    fields = asks.generate_ask(native_requests.generate_request(seed)).fields
    with pytest.raises(ContractError, match="too large"):
        parse_request(request_entry({key: fields[key] for key in ("model", "prompt", "options")}))
