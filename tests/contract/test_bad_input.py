"""Whatever a client writes: one rejected reply, one event, and the next good request is served."""

import asyncio
import json
from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orion_streams.agents.router import Router
from orion_streams.config import parse
from orion_streams.eventlog.memory_log import MemoryLog
from orion_streams.model import events as ev
from orion_streams.model.state import Grid as GridState
from orion_streams.protocol import agent_entries
from orion_streams.protocol.node_health import inventory_digest
from orion_streams.protocol.requests_replies import MAX_DEPTH, MAX_FIELDS, MAX_MESSAGE, RequestEntry
from tests.contract.contract_grid import CONFIG, MODEL, Grid, Run, echo, running, silence
from tests.helpers import eventually

HUGE = "9" * 400
DEEP = "[" * 10_000 + "]" * 10_000
DEEP_OBJECT = '{"a":' * 10_000 + "1" + "}" * 10_000
GOOD = {"id": "bad", "model": MODEL, "prompt": "x"}
CHAT = {"id": "bad", "model": MODEL}

REJECTED: dict[str, tuple[Mapping[Any, Any], str]] = {
    "unknown model": ({**GOOD, "model": "nobody-has-it"}, "unknown_model"),
    "no model": ({"id": "bad", "prompt": "x"}, "bad_field"),
    "no content": (CHAT, "bad_field"),
    "two contents": ({**GOOD, "messages": "[]"}, "bad_field"),
    "content of another kind": ({**GOOD, "kind": "chat"}, "bad_field"),
    "empty model": ({**GOOD, "model": ""}, "bad_field"),
    "model with a space": ({**GOOD, "model": "gemma3 270m"}, "bad_field"),
    "model that ends with a newline": ({**GOOD, "model": f"{MODEL}\n"}, "bad_field"),
    "model with NUL": ({**GOOD, "model": "gemma3\0"}, "bad_field"),
    "model in another script": ({**GOOD, "model": "джемма"}, "bad_field"),
    "model too long": ({**GOOD, "model": "m" * 201}, "bad_field"),
    "unknown kind": ({**GOOD, "kind": "draw"}, "bad_field"),
    "endless kind": ({**GOOD, "kind": "k" * 100_000}, "bad_field"),
    "empty kind": ({**GOOD, "kind": ""}, "bad_field"),
    "tier out of range": ({**GOOD, "tier": "10"}, "bad_field"),
    "tier of 400 digits": ({**GOOD, "tier": HUGE}, "bad_field"),
    "tier of 5000 digits": ({**GOOD, "tier": "9" * 5_000}, "bad_field"),
    "tier is a word": ({**GOOD, "tier": "high"}, "bad_field"),
    "empty tier": ({**GOOD, "tier": ""}, "bad_field"),
    "priority of 400 digits": ({**GOOD, "priority": f"-{HUGE}"}, "bad_field"),
    "priority is a fraction": ({**GOOD, "priority": "1.5"}, "bad_field"),
    "deadline of 400 digits": ({**GOOD, "deadline_ms": HUGE}, "bad_field"),
    "deadline beyond the limit": ({**GOOD, "deadline_ms": "86400001"}, "bad_field"),
    "negative deadline": ({**GOOD, "deadline_ms": "-1"}, "bad_field"),
    "deadline is not a number": ({**GOOD, "deadline_ms": "NaN"}, "bad_field"),
    "stream is a word": ({**GOOD, "stream": "maybe"}, "bad_field"),
    "empty stream": ({**GOOD, "stream": ""}, "bad_field"),
    "think is a number": ({**GOOD, "think": "7"}, "bad_field"),
    "session too long": ({**GOOD, "session": "s" * 129}, "bad_field"),
    "options are a list": ({**GOOD, "options": "[]"}, "bad_field"),
    "options with null": ({**GOOD, "options": '{"seed": null}'}, "bad_field"),
    "options with NaN": ({**GOOD, "options": '{"temperature": NaN}'}, "bad_json"),
    "options with Infinity": ({**GOOD, "options": '{"temperature": Infinity}'}, "bad_json"),
    "options with 1e400": ({**GOOD, "options": '{"temperature": 1e400}'}, "bad_json"),
    "options with 400 digits": ({**GOOD, "options": f'{{"seed": {HUGE}}}'}, "bad_json"),
    "options nested deep": ({**GOOD, "options": DEEP_OBJECT}, "bad_json"),
    "options cut short": ({**GOOD, "options": '{"seed": '}, "bad_json"),
    "options with half a surrogate": ({**GOOD, "options": r'{"stop": "\ud800"}'}, "bad_json"),
    "empty options": ({**GOOD, "options": ""}, "bad_json"),
    "format is a word": ({**GOOD, "format": '"yaml"'}, "bad_field"),
    "format is a list": ({**GOOD, "format": "[]"}, "bad_field"),
    "format with 400 digits": ({**GOOD, "format": f'{{"maximum": {HUGE}}}'}, "bad_json"),
    "format nested deep": ({**GOOD, "format": DEEP_OBJECT}, "bad_json"),
    "format just too deep": (
        {**GOOD, "format": '{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1)},
        "bad_json",
    ),
    "tools with 400 digits": ({**GOOD, "tools": f'[{{"limit": {HUGE}}}]'}, "bad_json"),
    "tools are words": ({**GOOD, "tools": '["look"]'}, "bad_field"),
    "images are no list": ({**GOOD, "images": '{"a": 1}'}, "bad_field"),
    "messages nested deep": ({**CHAT, "messages": DEEP}, "bad_json"),
    "messages are no list": ({**CHAT, "messages": '{"role": "user"}'}, "bad_field"),
    "message without a role": ({**CHAT, "messages": '[{"content": "x"}]'}, "bad_field"),
    "message of a king": ({**CHAT, "messages": '[{"role": "king"}]'}, "bad_field"),
    "message with more in it": ({**CHAT, "messages": '[{"role": "user", "mood": "x"}]'}, "bad_field"),
    "message that says null": ({**CHAT, "messages": '[{"role": "user", "content": null}]'}, "bad_field"),
    "input is a word": ({**CHAT, "kind": "embed", "input": '"x"'}, "bad_field"),
    "invalid UTF-8 in a value": ({**GOOD, "prompt": b"\xff\xfe"}, "bad_utf8"),
    "invalid UTF-8 in a name": ({**GOOD, b"\xff": "x"}, "bad_utf8"),
    "invalid UTF-8 in the id": ({**GOOD, "id": b"\xc3("}, "bad_utf8"),
    "half a surrogate as UTF-8": ({**GOOD, "prompt": b"\xed\xa0\x80"}, "bad_utf8"),
    "empty id": ({**GOOD, "id": ""}, "bad_id"),
    "id with NUL": ({**GOOD, "id": "a\0b"}, "bad_id"),
    "id with a newline": ({**GOOD, "id": "a\nb"}, "bad_id"),
    "id too long": ({**GOOD, "id": "i" * 129}, "bad_id"),
    "entry too large": ({**GOOD, "prompt": "x" * 1_100_001}, "too_large"),
    "large field that nobody asked for": ({**GOOD, "extra": "x" * 1_100_001}, "too_large"),
    "too many fields": (GOOD | {f"f{number}": "" for number in range(MAX_FIELDS)}, "too_large"),
    "nothing but an empty field": ({"": ""}, "bad_field"),
    "cancel of an unknown id": ({"cancel": "never heard of"}, "unknown_id"),
    "cancel of nothing": ({"cancel": ""}, "unknown_id"),
    "cancel of bytes": ({"cancel": b"\xff"}, "bad_utf8"),
}

ACCEPTED: dict[str, Mapping[Any, Any]] = {
    "a megabyte": {**GOOD, "prompt": "é" * 500_000},
    "an empty prompt": {**GOOD, "prompt": ""},
    "NUL, quotes and line ends": {**GOOD, "prompt": "a\0b\r\n$5 \"'\\{}[]"},
    "a prompt that says null": {**GOOD, "prompt": "null"},
    "fields that nobody knows": {**GOOD, "": "", "colour": "blue", "a\0": "b"},
    "an id of 128 bytes": {**GOOD, "id": "é" * 64},
    "an id with a slash and spaces": {**GOOD, "id": "a/b c/../*"},
    "everything at its limit": {**GOOD, "tier": "9", "priority": "-9", "deadline_ms": "86400000"},
    "no messages at all": {**CHAT, "messages": "[]"},
    "a format as deep as may be": {**GOOD, "format": '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH},
    "the same field twice in an object": {**GOOD, "options": '{"seed": 1, "seed": 2}'},
    "an unknown option": {**GOOD, "options": '{"no_such_option": [ "a" ]}'},
}


def reply_id(fields: Mapping[Any, Any], entry_id: str) -> str:
    """Where the reply is to be found: under the id if it can be one, else under the entry's."""
    given = fields.get("cancel") or fields.get("id", "")
    usable = isinstance(given, str) and 0 < len(given.encode()) <= 128 and given.isprintable()
    return given if usable else entry_id


async def rejections(grid: Grid) -> list[ev.InputRejected | ev.RequestRejected]:
    """What the log says was rejected."""
    kinds = (ev.InputRejected, ev.RequestRejected)
    return [event for event in await grid.events() if isinstance(event, kinds)]


@pytest.mark.parametrize("case", REJECTED)
async def test_a_bad_entry_gets_one_rejected_reply(valkey_url: str, prefix: str, case: str) -> None:
    """One reply with code and sentence, one event that names it, no run; the next good one is served."""
    fields, code = REJECTED[case]
    async with running(valkey_url, prefix) as grid:
        entry_id = await grid.send(fields)
        await grid.ask("good")
        assert [end["kind"] for end in await grid.ends("good")] == ["done"]
        replies = [row for row in await grid.replies() if row["id"] != "good"]
        events = await rejections(grid)
        assert [run.head.request for run in grid.runs] == ["brain/good"]
    [reply] = replies
    assert (reply["kind"], reply["code"], reply["id"]) == ("rejected", code, reply_id(fields, entry_id))
    assert 0 < len(reply["message"]) <= MAX_MESSAGE
    [event] = events
    assert (event.code, event.reply_id) == (code, reply["entry"])
    assert int(reply["position"]) > 0


@pytest.mark.parametrize("case", ACCEPTED)
async def test_an_odd_but_good_entry_is_answered(valkey_url: str, prefix: str, case: str) -> None:
    """What is within the limits is served, and its body reaches the node byte for byte."""
    fields = ACCEPTED[case]
    async with running(valkey_url, prefix) as grid:
        await grid.send(fields)
        [end] = await grid.ends(fields["id"])
        assert await rejections(grid) == []
        [run] = grid.runs
    assert end["kind"] == "done"
    assert end["text"] == fields.get("prompt", "")
    known = set(RequestEntry.__struct_fields__) - {"id", "tier", "priority", "deadline_ms", "session"}
    body = {name: value for name, value in run.fields.items() if name != "head"}
    assert body == {name: value for name, value in fields.items() if name in known}


async def test_a_rejected_id_may_be_used_afterwards(valkey_url: str, prefix: str) -> None:
    """A rejection burns no id: the corrected request under the same id is served."""
    async with running(valkey_url, prefix) as grid:
        await grid.send({"id": "again", "model": MODEL})
        assert [end["kind"] for end in await grid.ends("again")] == ["rejected"]
        await grid.ask("again")

        async def served() -> bool:
            return [end["kind"] for end in await grid.ends("again")] == ["rejected", "done"]

        await eventually(served, "the corrected request is served")


async def test_a_duplicate_is_ignored_while_open_and_known_when_done(valkey_url: str, prefix: str) -> None:
    """Open: no reply of its own; closed: a known one that names the terminal entry. Neither runs."""
    free = asyncio.Event()

    async def script(run: Run) -> None:
        await free.wait()
        await echo(run)

    async with running(valkey_url, prefix, script) as grid:
        for _ in range(3):
            await grid.ask("dup", stream="0")
        free.set()
        [done] = await grid.ends("dup")
        await grid.send({"id": "dup", "model": MODEL, "prompt": "quite another one"})

        async def known() -> bool:
            return len(await grid.ends("dup")) > 1

        await eventually(known, "the second reply")
        [first, second] = await grid.ends("dup")
        resent = [event for event in await grid.events() if isinstance(event, ev.RequestResent)]
        assert len(grid.runs) == 1
    assert (first, second["kind"], second["state"]) == (done, "known", "done")
    assert second["reply_id"] == done["entry"]
    assert [bool(event.reply_id) for event in resent] == [False, False, True]


async def test_a_cancel_ends_once_and_is_known_afterwards(valkey_url: str, prefix: str) -> None:
    """A cancel of an open id gets one cancelled reply; cancelling it again gets a known one."""
    async with running(valkey_url, prefix, silence) as grid:
        await grid.ask("c")
        await grid.send({"cancel": "c", "model": "ignored", "prompt": "ignored"})
        assert [end["kind"] for end in await grid.ends("c")] == ["cancelled"]
        await grid.send({"cancel": "c"})

        async def known() -> bool:
            ends = await grid.ends("c")
            return [(end["kind"], end.get("state")) for end in ends[1:]] == [("known", "cancelled")]

        await eventually(known, "the cancelled id is known")


async def test_a_field_that_stands_a_thousand_times_counts_once(valkey_url: str, prefix: str) -> None:
    """However often an entry repeats a field, its last value reaches the node, once, and nothing stops."""
    repeated = [part for number in range(1_100) for part in ("prompt", f"{number}")]
    async with running(valkey_url, prefix) as grid:
        key = f"{prefix}requests:brain"
        await grid.redis.execute_command("XADD", key, "*", "id", "many", "model", MODEL, *repeated)
        [end] = await grid.ends("many")
        _, flat = (await raw_range(grid, f"{prefix}work:{grid.runs[0].agent.name}"))[-1]
    assert (end["kind"], end["text"]) == ("done", "1099")
    assert flat.count(b"prompt") == 1


async def test_an_error_reply_has_one_message(valkey_url: str, prefix: str) -> None:
    """The node's own words take the place of the general sentence: no field stands twice in a reply."""

    async def script(run: Run) -> None:
        await run.fail("bad_options", "request", "Ollama: no such thing")

    async with running(valkey_url, prefix, script) as grid:
        await grid.ask("e")
        await grid.ends("e")
        _, flat = (await raw_range(grid, f"{prefix}replies:brain"))[-1]
    assert flat.count(b"message") == 1
    assert flat[flat.index(b"message") + 1] == b"Ollama: no such thing"


async def raw_range(grid: Grid, key: str) -> list[tuple[bytes, list[bytes]]]:
    """All entries of a stream as the server sends them: fields in order, repeated ones too."""
    pool = grid.redis.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_command("XRANGE", key, "-", "+")
        rows: list[tuple[bytes, list[bytes]]] = await connection.read_response()
        return rows
    finally:
        await pool.release(connection)


@pytest.mark.parametrize("entry_id", ["1-1", "99999999999999-5", "18446744073709551614-3"])
async def test_absurd_entry_ids_change_nothing(valkey_url: str, prefix: str, entry_id: str) -> None:
    """An entry with an id far in the past or the future is served, and so is the one after it."""
    async with running(valkey_url, prefix) as grid:
        await grid.send({"id": "odd", "model": MODEL, "prompt": "x", "deadline_ms": "60000"}, entry_id)
        await grid.ask("next")
        for request_id in ("odd", "next"):
            assert [end["kind"] for end in await grid.ends(request_id)] == ["done"]


async def test_the_next_after_too_many_open_is_rejected(valkey_url: str, prefix: str) -> None:
    """Beyond max_open open requests a further one gets queue_full, and nothing else is harmed."""
    async with running(valkey_url, prefix, silence, policy="max_open = 2") as grid:
        for request_id in ("a", "b", "c"):
            await grid.ask(request_id)
        [end] = await grid.ends("c")
        assert (end["kind"], end["code"]) == ("rejected", "queue_full")
        await grid.send({"cancel": "a"})
        assert [end["kind"] for end in await grid.ends("a")] == ["cancelled"]
        assert await grid.replies("b") == []


values = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode(errors="surrogatepass")),
    st.sampled_from([b"1", b"0", b"-1", b"null", b"{}", b"[]", b'{"a":1}', b"json", MODEL.encode()]),
    st.sampled_from([HUGE.encode(), DEEP.encode(), DEEP_OBJECT.encode(), b'[{"role":"user"}]']),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
names = st.sampled_from([name.encode() for name in (*RequestEntry.__struct_fields__, "cancel")])
entries = st.dictionaries(names | st.binary(max_size=8), values, max_size=8)
likely = entries.map(lambda fields: {b"model": MODEL.encode(), b"prompt": b"x"} | fields)


async def ends_of(fields: dict[bytes, bytes]) -> list[dict[bytes, bytes]]:
    """All replies to one entry and what an agent makes of it, by a router on a log in memory."""
    clock = count(1_000_000, 10)
    store = MemoryLog(lambda: next(clock))
    router = Router(store, parse(CONFIG.format(policy="", clients=["brain"])), token=lambda: "token")
    row = agent_entries.InstalledModel(MODEL, "sha256:x", 300)
    head = agent_entries.HealthHead(
        "boot", 1, 50_000, 1_000, 8_000, 0, inventory=(row,), inventory_digest=inventory_digest((row,))
    )
    for node in ("one", "two"):
        await store.add(f"health:{node}", {"head": agent_entries.encode_head(head)})
    await router.start()
    await store.add("requests:brain", fields)
    while await router.cycle(block_ms=0):
        state: GridState = router.state.grid
        for key, request in state.open.items():
            result = agent_entries.ResultHead("completed", key, request.attempt, request.work_id)
            await store.add(
                f"results:{request.node}", {"head": agent_entries.encode_head(result), "text": "y"}
            )
    assert not router.state.grid.open
    replies = store.streams.get("replies:brain", {}).values()
    return [each for each in replies if each[b"kind"] != b"accepted"]  # of who asks to be told


@settings(max_examples=300)
@example(fields={b"model": b"gemma3:270m", b"prompt": b"x", b"notify": b"1"})
@given(fields=entries | likely)
def test_any_bytes_get_exactly_one_reply(fields: dict[bytes, bytes]) -> None:
    """Fields of any bytes never crash the router, never loop, and get exactly one reply: done if they are
    a good request (expired if its deadline is a moment), rejected otherwise."""
    if not fields:
        fields = {b"": b""}
    replies = asyncio.run(ends_of(fields))
    assert len(replies) == 1
    ends = (b"done", b"rejected", b"expired") if b"deadline_ms" in fields else (b"done", b"rejected")
    assert replies[0][b"kind"] in ends
    if replies[0][b"kind"] == b"rejected":
        assert replies[0][b"code"]
        assert replies[0][b"message"]
