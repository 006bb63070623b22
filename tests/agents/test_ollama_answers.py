"""Answers of Ollama: lenient in form, strict in content."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.agents.backend import Chunk, RunFailedError
from orion_streams.agents.ollama_answers import chunk, embedded
from orion_streams.agents.ollama_blame import FAULTS, Fault, error_of, fits, refusal
from orion_streams.agents.ollama_json import UNREADABLE
from orion_streams.agents.ollama_lists import installed_models, resident_models
from orion_streams.model.measured import Usage
from orion_streams.protocol import agent_entries

HUGE = 2**80
TRANSCRIPTS = Path(__file__).parents[1] / "simulated_ollama" / "transcripts"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"response": None, "thinking": None, "message": None, "done": None}, Chunk()),
        ({"message": {"content": None, "thinking": "hm", "tool_calls": None}}, Chunk(thinking="hm")),
        ({"message": {"content": "a", "colour": 5}, "colour": []}, Chunk(text="a")),
        ({"done": True, "done_reason": None, "eval_count": None}, Chunk(usage=Usage())),
        ({"done": True, "eval_count": 7.0, "error": None}, Chunk(usage=Usage(tokens=7))),
        ({"response": "a", "done": True, "error": ""}, Chunk(text="a", usage=Usage())),
        ({"done": True, "done_reason": "a\x1b"}, Chunk(usage=Usage(done_reason="a\\x1b"))),
        ({"response": "a", "error": False}, Chunk(text="a")),
    ],
)
def test_null_is_absent_and_the_unknown_is_ignored(line: dict[str, Any], expected: Chunk) -> None:
    """Whatever a server leaves out, says as null, or adds."""
    assert chunk(msgspec.json.encode(line)) == expected


@pytest.mark.parametrize("odd", [-1, 2**31, HUGE, 1.5, "7", True, [], {}])
def test_a_count_that_cannot_be_is_unknown(odd: Any) -> None:
    """The text is whole all the same; a duration beyond the contract's bound is unknown, too."""
    names = ("eval_count", "prompt_eval_count")
    assert chunk(msgspec.json.encode({"done": True, **dict.fromkeys(names, odd)})).usage == Usage()
    long_ns = odd if odd != 2**31 else HUGE
    assert chunk(msgspec.json.encode({"done": True, "eval_duration": long_ns})).usage == Usage()
    assert chunk(msgspec.json.encode({"done": True, "done_reason": odd})).usage is not None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("broken", "broken"),
        ({"message": "broken", "code": 5}, "broken"),
        ({"message": ""}, '{"message":""}'),
        ("a\n\x1b[2Jb", "a \\x1b[2Jb"),
        ("\n", "Ollama tells of an error without words"),
        ({}, "{}"),
        (5, "5"),
    ],
)
def test_an_error_is_one_wherever_it_stands(error: Any, words: str) -> None:
    """In a line, beside `done`, beside vectors, in a list; a sentence or an object."""
    for read, rest in (
        (chunk, {"response": "a"}),
        (chunk, {"done": True}),
        (lambda raw: embedded(raw, 1), {"embeddings": [[0.5]]}),
        (lambda raw: chunk(msgspec.json.encode({"done": True, "message": msgspec.Raw(raw)})), {}),
    ):
        with pytest.raises(RunFailedError, match=f"^{re.escape(words)}$") as failed:
            read(msgspec.json.encode({**rest, "error": error}))
        assert (failed.value.code, failed.value.blame) == ("ollama_error", "node")


def test_vectors_stay_as_they_came() -> None:
    """Whole numbers are numbers; every digit is passed on."""
    raw = b'{"embeddings":[[1,-0.25000001],[0,1e-9]],"prompt_eval_count":4,"total_duration":5000000}'
    found = embedded(raw, 2)
    assert found.vectors == b"[[1,-0.25000001],[0,1e-9]]"
    assert found.usage == Usage(prompt_tokens=4, prefill_ms=5, total_ms=5, done_reason="stop")
    assert embedded(b'{"embeddings":[]}', 0).vectors == b"[]"


@pytest.mark.parametrize(
    ("vectors", "asked", "blame"),
    [
        ([[0.5, 0.5]], 2, ""),
        ([[0.5, 0.5]], 0, ""),
        ([[0.5, 0.5]], 3, "request"),
        ([[0.5, 0.5]], 1, "node"),
        ([], 3, ""),
    ],
)
def test_vectors_have_the_length_that_was_asked_for(
    vectors: list[list[float]], asked: int, blame: str
) -> None:
    """Ollama cuts longer ones: a model that has too few is the request's fault, a server that does not cut
    the node's."""
    raw = msgspec.json.encode({"embeddings": vectors})
    if not blame:
        assert msgspec.json.decode(embedded(raw, len(vectors), asked).vectors) == vectors
        return
    with pytest.raises(RunFailedError, match=f"vectors of 2 numbers, and {asked} were asked for") as failed:
        embedded(raw, 1, asked)
    assert failed.value.blame == blame


CALL = {"name": "f", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("said", "usable"),
    [
        ({"function": CALL}, {"function": CALL}),
        ({"id": "c1", "function": CALL}, {"id": "c1", "function": CALL}),
        ({"id": 5, "function": CALL}, {"function": CALL}),
        ({"function": {"name": "f"}}, {"function": {"name": "f", "arguments": {}}}),
        ({"function": {"name": "f", "arguments": None}}, {"function": {"name": "f", "arguments": {}}}),
        ({"function": {"name": "f", "arguments": '{"a":1}'}}, {"function": CALL}),
        ({"function": {"name": "f", "arguments": ""}}, {"function": {"name": "f", "arguments": {}}}),
        ({}, None),
        ({"function": None}, None),
        ({"function": "f"}, None),
        ({"function": {"name": None}}, None),
        ({"function": {"name": "", "arguments": {}}}, None),
        ({"function": {"name": "f", "arguments": [1]}}, None),
        ({"function": {"name": "f", "arguments": "{"}}, None),
        ({"function": {"name": "f", "arguments": "[1]"}}, None),
    ],
)
def test_a_call_of_a_tool_is_whole(said: dict[str, Any], usable: dict[str, Any] | None) -> None:
    """It names a function, and its arguments are an object; else the answer is none."""
    raw = msgspec.json.encode({"message": {"content": "", "tool_calls": [said]}})
    if usable is not None:
        assert chunk(raw).tool_calls == (usable,)
        return
    with pytest.raises(RunFailedError, match="Ollama's answer cannot be used: ") as failed:
        chunk(raw)
    assert (failed.value.code, failed.value.blame) == ("bad_answer", "node")


PROBABLE = {"token": "a", "logprob": -0.5}


@pytest.mark.parametrize(
    ("said", "usable"),
    [
        (PROBABLE, PROBABLE),
        ({**PROBABLE, "bytes": [97], "top_logprobs": None}, {**PROBABLE, "bytes": [97]}),
        (
            {**PROBABLE, "logprob": 0, "top_logprobs": [PROBABLE]},
            {**PROBABLE, "logprob": 0, "top_logprobs": [PROBABLE]},
        ),
        ({}, None),
        ({**PROBABLE, "token": None}, None),
        ({**PROBABLE, "logprob": None}, None),
        ({**PROBABLE, "logprob": True}, None),
        ({**PROBABLE, "top_logprobs": [{}]}, None),
        ({**PROBABLE, "top_logprobs": [5]}, None),
        ({**PROBABLE, "top_logprobs": {"a": -0.5}}, None),
    ],
)
def test_a_token_has_its_probability(said: dict[str, Any], usable: dict[str, Any] | None) -> None:
    """And so has each alternative; else the answer is none."""
    raw = msgspec.json.encode({"response": "a", "logprobs": [said]})
    if usable is not None:
        assert chunk(raw).logprobs == (usable,)
        return
    with pytest.raises(RunFailedError, match="a token without its probability") as failed:
        chunk(raw)
    assert (failed.value.code, failed.value.blame) == ("bad_answer", "node")


GOOD = {"name": "m:latest", "digest": "abc", "size": 5_000_001}


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"name": "x" * 269}, "a name of 269 characters"),
        ({"name": "a\nb"}, "a name of 3 characters"),
        ({"digest": "a\nb"}, 'odd:latest: the digest "a'),
        ({"name": 5}, "a name that is no text: 5"),
        ({"size": None}, "odd:latest: a size of null bytes"),
        ({"size": -1}, "odd:latest: a size of -1 bytes"),
        ({"size": 3e8}, "odd:latest: a size of 300000000.0 bytes"),
        ({"size": HUGE}, "odd:latest: a size of "),
        ({"digest": None}, "odd:latest: the digest null"),
        ({"name": "m:latest"}, "m:latest: listed twice"),
    ],
)
def test_an_odd_row_costs_only_itself(odd: dict[str, Any], why: str) -> None:
    """On disk and in memory; it is counted, with the reason."""
    raw = msgspec.json.encode({"models": [GOOD, {**GOOD, "name": "odd:latest", **odd}, "x"]})
    for found in (installed_models(raw), resident_models(raw)):
        if "digest" in odd and found.models[1:]:  # in memory it takes room, whatever its weights are
            assert found.models[1] == agent_entries.ResidentModel("odd:latest", "", 6)
            continue
        assert [(row.name, row.size_mb) for row in found.models] == [("m:latest", 6)]
        assert found.left_out[0].startswith(why)
        assert found.left_out[1] == 'a row that is no object: "x"'


@pytest.mark.parametrize("odd", [-1, 0, 1.5, "4096", None, 2**24 + 1, 10**12, HUGE])
def test_a_runners_context_that_cannot_be_is_unknown(odd: Any) -> None:
    """Every run would ask Ollama for as much."""
    raw = msgspec.json.encode({"models": [{**GOOD, "context_length": odd}]})
    assert resident_models(raw).models[0].context_length == 0
    raw = msgspec.json.encode({"models": [{**GOOD, "context_length": 4096.0}]})
    assert resident_models(raw).models[0].context_length == 4096


def test_a_list_that_is_too_long_is_cut() -> None:
    """At the bound that the router reads by; each row beyond it is counted."""
    rows = [{**GOOD, "name": f"m{n}"} for n in range(1_003)]
    raw = msgspec.json.encode({"models": rows})
    assert (len(installed_models(raw).models), len(installed_models(raw).left_out)) == (1_000, 3)
    assert (len(resident_models(raw).models), len(resident_models(raw).left_out)) == (64, 939)


def test_a_model_that_runs_elsewhere_is_in_no_list() -> None:
    """A cloud model stands in Ollama's list with a remote host; its name is kept, to be said."""
    cloud = {**GOOD, "name": "gpt-oss:120b-cloud", "size": 384, "remote_host": "https://ollama.com:443"}
    found = installed_models(msgspec.json.encode({"models": [cloud, GOOD]}))
    assert ([row.name for row in found.models], found.remote) == (["m:latest"], ("gpt-oss:120b-cloud",))
    assert found.left_out == ()


@pytest.mark.parametrize(
    "odd",
    [
        {"name": "gpt-oss:120b-cloud"},
        {"name": "m:Cloud"},
        {"remote_model": "x"},
        {"remote_host": "https://ollama.com", "size": 0},
        {"remote_host": "https://ollama.com", "digest": None},
    ],
)
def test_a_model_runs_elsewhere_by_its_name_or_its_row(odd: dict[str, Any]) -> None:
    """A real Ollama goes by the name alone; and such a row is no odd one, however empty it is."""
    row = {**GOOD, "name": "big:1t", **odd}
    for found in (
        installed_models(msgspec.json.encode({"models": [row, GOOD]})),
        resident_models(msgspec.json.encode({"models": [row, GOOD]})),
    ):
        assert ([each.name for each in found.models], found.remote) == (["m:latest"], (row["name"],))
        assert found.left_out == ()


def test_no_list_is_no_answer() -> None:
    """Null is an empty list; what is no list, or tells of an error, is not."""
    for raw in (b'{"models":null}', b"{}", b'{"models":[]}', b'{"error":false}', b'{"error":""}'):
        assert installed_models(raw).models == ()
    for raw in (b'{"models":5}', b"[]", b"null", b'{"error":"x"}', b'{"error":"x","models":[]}', b"<html>"):
        with pytest.raises(UNREADABLE):
            installed_models(raw)


CASES = [
    (400, b'{"error":"unexpected EOF"}'),
    (400, b'{"error":"model is required"}'),
    (500, b'{"error":"option \\"num_predict\\" must be of type integer"}'),
    (500, b'{"error":"invalid format: \\"xml\\""}'),
    (500, b'{"error":{"message":"%s does not support tools"}}' % (b"m" * 250)),
    (500, b'{"error":"failed to process inputs: no image"}'),
    (404, b"404 page not found"),
    (429, b"<html>slow down</html>"),
    (500, b'{"error":"model requires more system memory (5 GiB)"}'),
    (500, b'{"error":"model runner has unexpectedly stopped"}'),
    (502, b"<html>Bad Gateway</html>"),
]


@pytest.mark.parametrize(("row", "case"), list(zip(FAULTS, CASES, strict=True)))
def test_each_row_of_the_table_of_faults(row: Fault, case: tuple[int, bytes]) -> None:
    """An answer that this row is for, and no row before it."""
    status, body = case
    failed = refusal(status, body)
    assert (failed.code, failed.blame, failed.breaks_model) == (row.code, row.blame, row.breaks_model)
    assert next(each for each in FAULTS if fits(each, status, error_of(body))) is row


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b"<html>The plain HTTP request was sent to HTTPS port</html>"),
        (400, b'{"error":null}'),
        (400, b'["error"]'),
        (307, b""),
        (401, b'{"error":"unauthorized"}'),
        (403, b'{"error":"a model does not support tools"}'),
        (405, b"405 method not allowed"),
        (413, b"<html>Request Entity Too Large</html>"),
        (500, b'{"error":"llama runner process has terminated: signal: killed"}'),
        (500, b'{"error":"model runner has unexpectedly stopped"}'),
        (500, b"x must be of type y"),
        (500, b'{"error":"llama runner process has terminated: this GPU does not support bf16"}'),
        (500, b'{"error":"Deepseek2 does not support K-shift"}'),
        (502, b'{"error":"this upstream does not support it"}'),
        (503, b'{"error":"server busy, please try again. maximum pending requests exceeded"}'),
        (504, b"\xff"),
    ],
)
def test_all_else_is_the_nodes_fault(status: int, body: bytes) -> None:
    """Pages of proxies, redirects, a runner that stopped, Ollama's words under other statuses."""
    assert refusal(status, body).blame == "node"


def recorded() -> list[Any]:
    """Return the JSON values that a real Ollama answered with, each once."""
    found = {}
    for path in sorted(TRANSCRIPTS.glob("*.json")):
        for exchange in msgspec.json.decode(path.read_bytes()):
            for line in "".join(row["text"] for row in exchange["body"]).splitlines():
                try:
                    found[line] = msgspec.json.decode(line)
                except msgspec.DecodeError:
                    continue
    return list(found.values())


RECORDED = recorded()
ODD: list[Any] = [None, "", "x" * 300, -1, 0, 1.5, 3e8, 2**31, HUGE, True, [], {}, [[]], {"error": "x"}]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) within a JSON value."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    found = [(value, key) for key, _ in items]
    for _, each in items:
        if isinstance(each, dict | list):
            found += places(each)
    return found


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a recorded answer in which some members are odd, gone or new; maybe cut off."""
    value = copy.deepcopy(draw(st.sampled_from([each for each in RECORDED if isinstance(each, dict)])))
    for _ in range(draw(st.integers(0, 4))):
        where, key = draw(st.sampled_from(places(value) or [(value, "new")]))
        if draw(st.booleans()) or not isinstance(where, dict):
            where[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        else:
            where.pop(key, None)
    raw = msgspec.json.encode(value)
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 9)) == 0 else raw


@given(mutated())
def test_whatever_a_server_says_is_an_answer_or_a_named_failure(raw: bytes) -> None:
    """A line, vectors, lists: what is read fits the contract, and nothing else is raised."""
    for read in (chunk, lambda raw: embedded(raw, 1)):
        try:
            found = read(raw)
        except RunFailedError as error:
            assert error.code and error.blame == "node"
            continue
        usage = found.usage or Usage()
        head = agent_entries.ResultHead("completed", "brain/q", 1, "1-0", **usage.fields())
        assert agent_entries.decode_result(agent_entries.encode_head(head)) == head
        assert isinstance(found.text + found.thinking, str)
    try:
        installed, resident = installed_models(raw), resident_models(raw)
    except UNREADABLE:
        return
    health = agent_entries.HealthHead(
        boot="b", sampled_ms=1, temp_mc=None, ram_used_mb=1, ram_total_mb=2, cpu_permille=3,
        inventory=installed.models, resident=resident.models, left_out=len(installed.left_out),
    )  # fmt: skip
    assert agent_entries.decode_health(agent_entries.encode_head(health)) == health
