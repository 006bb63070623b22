"""Whatever a client sends is an ask of the grid, or a refusal that blames the body."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orion_streams.client.calls import request_entry
from orion_streams.errors import ContractError
from orion_streams.gateway import golang, messages_requests
from orion_streams.gateway.asks import Ask
from orion_streams.gateway.http_calls import CALLS, Origin
from orion_streams.gateway.refusal import Refusal
from orion_streams.protocol.requests_replies import parse_request

KEYS = tuple(
    """
    model messages prompt options format keep_alive tools role content think input images stop num_predict
    num_ctx temperature stream logprobs top_logprobs suffix raw context type text response_format
    json_schema schema stream_options tool_calls function name arguments id call_id image_url url source
    data reasoning effort reasoning_effort tool_choice n dimensions encoding_format instructions summary
    output system thinking tool_use_id stop_sequences tool_call_id
    """.split()  # noqa: SIM905 - as a list it is a page
)
WORDS = tuple(
    """
    m:1b user assistant tool system developer text image_url image input_text function function_call
    function_call_output reasoning tool_use tool_result thinking base64 url json json_object json_schema
    none low max AAAA 5m {} data:image/png;base64,AAAA https://a.b/c.png message enabled
    """.split()  # noqa: SIM905 - as a list it is a page
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(WORDS)
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=8,
)
roles = st.sampled_from(("user", "assistant", "tool", "system", "developer", "robot"))
few = st.dictionaries(st.sampled_from(KEYS[2:]), values, max_size=2)
parts = st.builds(lambda kind, more: {"type": kind, "text": "x", **more}, st.sampled_from(WORDS), few)
calls = st.builds(lambda more: {"function": {"name": "f", "arguments": "{}", **more}}, few)
messages = st.builds(
    lambda role, content, tool_calls, more: {"role": role, "content": content, **tool_calls, **more},
    roles,
    values | st.text() | st.lists(parts, max_size=3),
    st.just({}) | st.lists(calls, max_size=2).map(lambda made: {"tool_calls": made}),
    few,
)
bodies = st.builds(
    lambda told, asked, more: {
        "model": "m:1b",
        "max_tokens": 9,
        "messages": told,
        "input": asked,
        "prompt": "x",
        **more,
    },
    st.lists(messages, max_size=3) | values,
    st.lists(messages | parts, max_size=3) | st.lists(st.text(), max_size=2) | values,
    few,
)
raw_bodies = bodies.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=20)


def ask_of(path: str, raw: bytes) -> Ask:
    """What a body asks for."""
    return CALLS[path](raw, Origin("7", 5)).ask


def refused_by_contract(ask: Ask) -> str:
    """Why the router would not take an ask, empty if it would."""
    try:
        parse_request(request_entry(ask.fields))
    except ContractError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("path", CALLS)
@given(raw=raw_bodies)
@settings(max_examples=60)
def test_no_body_breaks_the_translation(path: str, raw: bytes) -> None:
    """Each body is an ask that the contract takes, or refused with a 4xx."""
    try:
        ask = ask_of(path, raw)
    except Refusal as refusal:
        assert 400 <= refusal.status < 500
    else:
        assert refused_by_contract(ask) == ""


def test_the_contract_is_asked() -> None:
    """A message with a member that it does not know would be seen."""
    message = {"role": "user", "content": "x", "colour": "red"}
    assert refused_by_contract(Ask("chat", "m:1b", {"model": "m:1b", "messages": [message]}))


@given(raw=raw_bodies)
@settings(max_examples=60)
def test_counting_tokens_never_breaks(raw: bytes) -> None:
    """An estimate is a positive number, or the body is refused with 400."""
    try:
        assert messages_requests.count_tokens(raw) > 0
    except Refusal as refusal:
        assert refusal.status == 400


@pytest.mark.parametrize("depth", [99, 101, 5_000])
def test_a_deep_body_is_refused(depth: int) -> None:
    """What is nested deeper than anything needs is refused before anybody walks it."""
    raw = b'{"model":"m:1b","x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    if depth < 100:
        assert golang.decode(raw, when_empty="")["model"] == "m:1b"
        return
    with pytest.raises(Refusal, match=r"depth|recursion"):
        golang.decode(raw, when_empty="")


def test_a_body_of_too_many_lists_is_refused() -> None:
    """What takes long to walk is refused; as many numbers in one list are a context."""
    for inner, fits in (("1", True), ("[]", False)):
        raw = b"[" + b",".join([inner.encode()] * 100_001) + b"]"
        if fits:
            assert len(golang.decode(raw, when_empty="")) == 100_001
            continue
        with pytest.raises(Refusal, match="size"):
            golang.decode(raw, when_empty="")


def test_half_a_character_is_replaced() -> None:
    """An escaped half of a pair, which UTF-8 cannot hold, becomes the sign for it; a pair stays."""
    decoded = golang.decode(rb'{"a":["\ud83d","\ud83d\ude00"],"\udc00":1}', when_empty="")
    assert decoded == {"a": ["\ufffd", "\U0001f600"], "\ufffd": 1}
    assert msgspec.json.decode(golang.encode(decoded)) == decoded


def test_an_error_quotes_only_the_beginning() -> None:
    """A message that repeats what was sent has a limit."""
    with pytest.raises(Refusal) as refused:
        ask_of("/api/chat", json.dumps({"model": "m:1b", "messages": [{}], "format": "x" * 5_000}).encode())
    assert len(refused.value.message) == 1_000


def test_only_the_native_call_asks_for_a_context() -> None:
    """A text completion has no place for one."""
    raw = b'{"model":"m:1b","prompt":"x"}'
    fields = [ask_of(path, raw).fields for path in ("/api/generate", "/v1/completions")]
    assert ["context" in said for said in fields] == [True, False]
