"""The simulated node answers as a real Ollama was recorded to, and so does a real one."""

from collections.abc import Sequence

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orion_streams.demo.ollama import ModelSpec, NodeSpec
from tests.helpers import eventually
from tests.needs import REAL_URL
from tests.simulated_ollama.conftest import INSTANT, client_of
from tests.simulated_ollama.recorded_contract import (
    BodyLine,
    Exchange,
    all_differences,
    by_name,
    differences,
    recorded,
    replay,
    send,
)

needs_real = pytest.mark.everything(REAL_URL is not None)

# Loads in 50 ms, reads 5,000 tokens/s and makes 300, or 100 where requests are to meet.
QUICK = NodeSpec(disk_mb_per_s=5_000, prefill_tokens_per_s=1_250, decode_tokens_per_s=75, unload_ms=50)
STEADY = msgspec.structs.replace(QUICK, decode_tokens_per_s=25)

# Recorded offsets of concurrent requests, in proportion to the shorter answers.
SCALE = 0.1

SEQUENTIAL = (
    "1-discovery",
    "2-residency",
    "3-inference",
    "4-reload-and-context",
    "5-refusals",
)
SPECS = {
    **dict.fromkeys(SEQUENTIAL, QUICK),
    # There a model must still be listed after the reply to its unload.
    "2-residency": msgspec.structs.replace(QUICK, unload_ms=300),
    "7-queue-one-resident-model": STEADY,
    "8-two-models-one-place": msgspec.structs.replace(STEADY, places=1, max_queue=2),
    "9-reload-while-busy": STEADY,
    "10-cancel": STEADY,
    "11-killed": STEADY,
}
# These need a server that is configured for them, or killed: neither is done over HTTP.
ONLY_SIMULATED = {"8-two-models-one-place", "11-killed"}
PRELOADED = set(SPECS) - set(SEQUENTIAL)
FAULTS = {
    "model-process-killed-mid-stream": "error_line",
    "model-process-killed-not-streamed": "error_line",
    "server-killed-mid-stream": "kill",
    "server-stopped-politely-mid-stream": "end_without_done",
}
# Recorded some seconds after the exchange before, when the model was gone.
AFTER_A_WHILE = {"ps-unloaded-1s", "ps-after-keepalive"}
OTHER_WORDS = {
    "gemma3:270m": "qwen-mini:0.5b",
    "other:270m": "phi:tiny",
    "Why is the sky blue?": "Name three rivers, please",
    "Count: 1 2 3": "Tell me of winter mornings",
    "Say hello": "Greet the whole house",
    "The capital of France is": "A steady wheel turns",
    "2048": "1536",
    "1024": "768",
    '"2s"': '"400ms"',
    '"num_predict": 8': '"num_predict": 5',
    '"num_predict": 40': '"num_predict": 30',
    '"max_tokens": 4': '"max_tokens": 6',
    '"seed": 7': '"seed": 11',
}
# What came out of a plain replay, which takes a second and serves several tests.
REPLAYED: dict[str, list[Exchange]] = {}
OVERTAKING = (("", "-B"), ("2", "-B"), ("4", ""))


async def listed(client: httpx.AsyncClient) -> list[str]:
    models = (await client.get("/api/ps")).json()["models"]
    return [model["name"] for model in models]


async def reset(client: httpx.AsyncClient) -> None:
    """Unloads whatever is resident."""
    for name in await listed(client):
        await client.post("/api/generate", json={"model": name, "keep_alive": 0})

    async def nothing() -> bool:
        return not await listed(client)

    await eventually(nothing, "no model is resident")


async def run(
    client: httpx.AsyncClient, file: str, exchanges: list[Exchange], *, scale: float, faults: bool
) -> list[Exchange]:
    """Replays a transcript from the state in which it was recorded."""
    await reset(client)
    if file in PRELOADED:
        await client.post("/api/generate", json={"model": exchanges[0].request.body["model"]})

    async def before(exchange: Exchange) -> None:
        if faults and exchange.name in FAULTS:
            await client.post("/sim/fault", json={"kind": FAULTS[exchange.name]})
        if exchange.name in AFTER_A_WHILE:

            async def as_recorded() -> bool:
                return not differences(exchange, await send(client, exchange))

            await eventually(as_recorded, exchange.name)

    return await replay(client, exchanges, scale=scale, before=before)


async def replayed(file: str, renamed: dict[str, str]) -> tuple[list[Exchange], list[Exchange]]:
    """A transcript with its texts replaced, and what a simulated node makes of it."""
    exchanges = recorded(file, renamed)
    names = {name: renamed.get(name, name) for name in ("gemma3:270m", "other:270m")}
    models = tuple(ModelSpec(name=name, size_mb=253.113294) for name in names.values())
    spec = msgspec.structs.replace(SPECS[file], models=models)
    async with client_of(spec) as client:
        observed = await run(client, file, exchanges, scale=SCALE, faults=True)
    if not renamed:
        REPLAYED[file] = observed
    return exchanges, observed


@pytest.mark.parametrize("file", SPECS)
async def test_every_recorded_exchange_comes_out_the_same(file: str) -> None:
    """Each recorded request gets the recorded status, type, shape, order of lines and end."""
    exchanges, observed = await replayed(file, {})
    assert all_differences(exchanges, observed) == []


@pytest.mark.parametrize("file", SPECS)
async def test_other_names_prompts_and_options_come_out_the_same_too(file: str) -> None:
    """What a node answers follows from the request, not from the recorded names and values."""
    exchanges, observed = await replayed(file, OTHER_WORDS)
    assert all_differences(exchanges, observed) == []


@needs_real
@pytest.mark.parametrize("file", [file for file in SPECS if file not in ONLY_SIMULATED])
async def test_a_real_ollama_still_answers_as_recorded(file: str) -> None:
    """The transcripts hold for the real server that ORION_TEST_OLLAMA names."""
    exchanges = recorded(file)
    async with httpx.AsyncClient(base_url=str(REAL_URL), timeout=120) as client:
        observed = await run(client, file, exchanges, scale=1.0, faults=False)
    assert all_differences(exchanges, observed) == []


@given(data=st.data())
@settings(max_examples=15)
async def test_any_request_of_a_recorded_kind_has_the_recorded_shape(data: st.DataObject) -> None:
    """Arbitrary names, prompts, lengths and contexts change nothing in the form of an answer."""
    name = data.draw(st.from_regex(r"[a-z][a-z0-9]{1,8}:[a-z0-9]{1,6}", fullmatch=True))
    prompt = data.draw(st.text(min_size=1, max_size=40).filter(str.strip))
    exchanges = by_name(recorded("3-inference", {"gemma3:270m": name}))
    options = {
        "num_predict": data.draw(st.integers(2, 40)),
        "num_ctx": data.draw(st.sampled_from((512, 2048, 9000))),
        "temperature": data.draw(st.floats(0, 2)),
        "seed": data.draw(st.integers(0, 2**31)),
    }
    spec = msgspec.structs.replace(INSTANT, models=(ModelSpec(name=name, size_mb=100),))
    async with client_of(spec) as client:
        for kind in ("generate-stream-cold", "generate-once", "generate-raw", "chat-stream"):
            expected = exchanges[kind]
            body = {**expected.request.body, "options": options}
            if "prompt" in body:
                body["prompt"] = prompt
            else:
                body["messages"] = [{"role": "user", "content": prompt}]
            request = msgspec.structs.replace(expected.request, body=body)
            asked = msgspec.structs.replace(expected, request=request)
            assert differences(expected, await send(client, asked)) == []


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:11434", 200),
        ("node.local", 200),
        ("192.168.1.7:11434", 200),
        ("[::1]:11434", 200),
        ("example.com", 403),
        ("example.com:11434", 403),
        ("localhost.example.com", 403),
    ],
)
async def test_a_foreign_host_header_is_refused(client: httpx.AsyncClient, host: str, status: int) -> None:
    """While it listens to this machine alone, a node refuses any name but a local one, bodiless."""
    response = await client.get("/api/version", headers={"Host": host})
    assert response.status_code == status
    assert (response.content == b"") == (status == 403)


async def test_a_simulated_node_says_so(client: httpx.AsyncClient) -> None:
    """Every answer carries a header that tells it from a real server's, errors included."""
    for path in ("/api/version", "/api/nothing"):
        assert (await client.get(path)).headers["server"] == "simulated-ollama"


def finishing_order(exchanges: Sequence[Exchange]) -> list[str]:
    return [e.name for e in sorted(exchanges, key=lambda e: e.finished_ms or 0)]


async def observed_or_recorded(source: str, file: str) -> list[Exchange]:
    if source == "recorded":
        return recorded(file)
    if file not in REPLAYED:
        await replayed(file, {})
    return REPLAYED[file]


@pytest.mark.parametrize("source", ["recorded", "simulated"])
async def test_one_slot_is_no_queue(source: str) -> None:
    """Runs that wait for the one slot of a model are not served in the order they came."""
    exchanges = await observed_or_recorded(source, "7-queue-one-resident-model")
    order = finishing_order(exchanges)
    assert order[0] == exchanges[0].name
    assert order != [exchange.name for exchange in exchanges]


@pytest.mark.parametrize("source", ["recorded", "simulated"])
async def test_a_busy_model_starves_a_waiting_one(source: str) -> None:
    """Later requests for the resident model overtake an earlier one for another model."""
    exchanges = await observed_or_recorded(source, "8-two-models-one-place")
    order = finishing_order([e for e in exchanges if e.status == 200])
    waiting = order.index("B-waits-and-evicts")
    assert all(order.index(f"A{n}-behind{b}") < waiting for n, b in OVERTAKING)
    assert [e.status for e in exchanges].count(503) == 1


@pytest.mark.parametrize("source", ["recorded", "simulated"])
async def test_a_reload_waits_until_the_model_is_idle(source: str) -> None:
    """Another num_ctx is served after everything the busy model was asked with its own."""
    exchanges = await observed_or_recorded(source, "9-reload-while-busy")
    assert finishing_order(exchanges)[-1] == "A-other-num_ctx"


@pytest.mark.parametrize("source", ["recorded", "simulated"])
async def test_a_client_that_leaves_makes_room_at_once(source: str) -> None:
    """After three of 200 tokens the slot is free: who waits takes no longer than its own run."""
    exchanges = by_name(await observed_or_recorded(source, "10-cancel"))
    gone, next_one = exchanges["cancelled-after-3-lines"], exchanges["waits-behind-it"]
    token_ms = (gone.body[-1].ms - gone.body[0].ms) / 2
    assert gone.finished_ms is not None
    assert next_one.finished_ms is not None
    assert next_one.finished_ms - gone.finished_ms < 20 * token_ms


# The comparison itself: what is wrong must be seen.

SAMPLE = "generate-stream-cold"


def spoiled(exchange: Exchange, **changes: object) -> Exchange:
    return msgspec.structs.replace(exchange, **changes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": 500},
        {"end": "disconnected"},
        {"headers": {"Content-Type": "application/json"}},
        {"body": []},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_comparison_sees_a_wrong_answer(wrong: dict[str, object]) -> None:
    """Another status, end, content type, or no body at all is a difference."""
    exchange = by_name(recorded("3-inference"))[SAMPLE]
    assert differences(exchange, exchange) == []
    assert len(differences(exchange, spoiled(exchange, **wrong))) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"done":true', '"done":false'),
        ('"eval_count":8,', ""),
        ('"eval_count":8', '"eval_count":"8"'),
        ('"eval_count":8', '"eval_count":8.5'),
        ('"model":"gemma3:270m"', '"model":"gemma3"'),
        ('"done_reason":"length"', '"done_reason":"load"'),
        ('"response":"","done":true', '"done":true,"response":""'),
        ("}\n", "}"),
    ],
)
def test_the_comparison_sees_a_wrong_last_line(old: str, new: str) -> None:
    """A missing key, another type, another order of keys or a missing line end is a difference."""
    exchange = by_name(recorded("3-inference"))[SAMPLE]
    last = BodyLine(0, exchange.body[-1].text.replace(old, new))
    changed = spoiled(exchange, body=[*exchange.body[:-1], last])
    assert last != exchange.body[-1]
    assert len(differences(exchange, changed)) == 1


def test_the_comparison_sees_another_error_text() -> None:
    """Error messages are compared to the letter."""
    exchange = by_name(recorded("5-refusals"))["bad-keep-alive"]
    changed = BodyLine(0, exchange.text.replace("duration", "time"))
    assert len(differences(exchange, spoiled(exchange, body=[changed]))) == 1


def test_the_comparison_sees_lines_out_of_order() -> None:
    """The end of a stream belongs at its end."""
    exchange = by_name(recorded("3-inference"))[SAMPLE]
    assert len(differences(exchange, spoiled(exchange, body=exchange.body[::-1]))) == 1


def test_the_comparison_sees_a_missing_end_of_events() -> None:
    """A stream of events without its last one is a difference."""
    exchange = by_name(recorded("6-openai"))["v1-chat-stream"]
    assert len(differences(exchange, spoiled(exchange, body=exchange.body[:-2]))) == 1


def test_the_comparison_sees_sequential_answers_exchanged() -> None:
    """Only concurrent requests that are the same are interchangeable; others have their order."""
    exchanges = recorded("2-residency")
    lists = [at for at, e in enumerate(exchanges) if e.request.path == "/api/ps"]
    first, second = lists[0], lists[2]
    swapped = list(exchanges)
    swapped[first], swapped[second] = exchanges[second], exchanges[first]
    assert len(all_differences(exchanges, swapped)) == 2


async def test_the_contract_fails_for_a_node_that_is_not_configured_as_recorded() -> None:
    """With room for both models, and no waiting, the recorded refusal does not come."""
    exchanges = recorded("8-two-models-one-place")
    async with client_of(INSTANT) as client:
        observed = await run(client, "8-two-models-one-place", exchanges, scale=SCALE, faults=True)
    assert all_differences(exchanges, observed) != []
