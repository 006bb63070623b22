"""Which models are in memory, when they come and go, and who waits for whom."""

import asyncio
import random
from typing import Any

import anyio
import httpx
import pytest
from msgspec.structs import replace

from orion_streams.demo.ollama import ModelSpec
from orion_streams.demo.ollama.answer_lines import Call, answer, gathered
from orion_streams.demo.ollama.engine import Job, RunnerOptions, Sampling
from orion_streams.demo.ollama.runner import Runner, Scheduler, Slots
from orion_streams.demo.ollama.simulated_node import Node
from tests.helpers import WAIT_S, eventually
from tests.simulated_ollama.conftest import INSTANT, client_of

HASTY = httpx.Timeout(10, read=0.1)
SMALL = tuple(ModelSpec(name=f"m{n}:1b", size_mb=100) for n in range(4))


async def load(client: httpx.AsyncClient, model: str, **more: Any) -> httpx.Response:
    return await client.post("/api/generate", json={"model": model, **more})


async def say(client: httpx.AsyncClient, model: str, **more: Any) -> dict[str, Any]:
    body = {"model": model, "prompt": "hello there", "stream": False, **more}
    answer: dict[str, Any] = (await client.post("/api/generate", json=body)).json()
    return answer


async def listed(client: httpx.AsyncClient) -> list[str]:
    return [model["name"] for model in (await client.get("/api/ps")).json()["models"]]


async def until_listed(client: httpx.AsyncClient, *names: str) -> None:
    async def as_wanted() -> bool:
        return sorted(await listed(client)) == sorted(names)

    await eventually(as_wanted, f"listed are {names}")


async def test_an_unload_is_listed_for_a_moment_longer() -> None:
    """The reply to an unload comes before the unload."""
    async with client_of(replace(INSTANT, unload_ms=300)) as client:
        await load(client, "gemma3:270m")
        reply = await load(client, "gemma3:270m", keep_alive=0)
        assert reply.json()["done_reason"] == "unload"
        assert await listed(client) == ["gemma3:270m"]
        await until_listed(client)


async def test_keep_alive_0_unloads_after_the_answer(client: httpx.AsyncClient) -> None:
    """A prompt with keep_alive 0 is answered first."""
    answer = await say(client, "gemma3:270m", keep_alive=0)
    assert answer["done_reason"] in ("stop", "length")
    await until_listed(client)


async def test_the_time_to_live_is_the_last_caller_s(client: httpx.AsyncClient) -> None:
    """A later keep_alive replaces an earlier one for everybody."""
    await load(client, "gemma3:270m", keep_alive=-1)
    forever = (await client.get("/api/ps")).json()["models"][0]["expires_at"]
    await load(client, "gemma3:270m", keep_alive="50ms")
    await until_listed(client)
    assert forever.startswith("23")


async def test_a_name_without_a_tag_means_latest() -> None:
    """`model` and `model:latest` are one model, listed under its full name."""
    spec = replace(INSTANT, models=(ModelSpec(name="tiny", size_mb=10),))
    async with client_of(spec) as client:
        assert (await load(client, "tiny")).json()["model"] == "tiny"
        assert (await load(client, "tiny:latest")).status_code == 200
        assert (await load(client, "library/TINY")).status_code == 200
        assert await listed(client) == ["tiny:latest"]


@pytest.mark.parametrize(
    ("options", "reloads"),
    [
        ({"num_ctx": 2048}, False),
        ({"num_ctx": 2048, "temperature": 0.1, "seed": 3, "stop": ["x"]}, False),
        ({"num_ctx": 1024}, True),
        ({"num_ctx": 2048, "num_thread": 1}, True),
        ({}, True),
    ],
)
async def test_runner_options_reload_and_others_do_not(options: dict[str, Any], reloads: bool) -> None:
    """A model stays loaded exactly as long as the options it was loaded with are asked for."""
    spec = replace(INSTANT, disk_mb_per_s=2_500, unload_ms=0)
    load_ns = 253.113294 / 2_500 * 1e9
    async with client_of(spec) as client:
        await say(client, "gemma3:270m", options={"num_ctx": 2048})
        answer = await say(client, "gemma3:270m", options=options)
        shown = (await client.get("/api/ps")).json()["models"][0]["context_length"]
    assert (answer["load_duration"] > load_ns) == reloads
    assert shown == options.get("num_ctx", 4096)


async def test_a_warm_answer_has_a_load_duration_all_the_same() -> None:
    """Reading the header of a resident model counts as loading."""
    async with client_of(replace(INSTANT, disk_mb_per_s=1_000)) as client:
        await load(client, "gemma3:270m")
        warm = await say(client, "gemma3:270m")
    assert 10e6 < warm["load_duration"] < 253e6


async def test_the_one_that_would_leave_first_is_evicted() -> None:
    """With no place left the idle model with the shortest keep_alive goes, not the oldest."""
    spec = replace(INSTANT, models=SMALL, places=2, unload_ms=0)
    async with client_of(spec) as client:
        await load(client, "m0:1b", keep_alive="10m")
        await load(client, "m1:1b", keep_alive="5m")
        await load(client, "m2:1b")
        assert sorted(await listed(client)) == ["m0:1b", "m2:1b"]


async def test_memory_evicts_too() -> None:
    """A model that has a place but no memory waits for another one to go."""
    spec = replace(INSTANT, models=SMALL, ram_total_mb=1_600, base_ram_mb=900, unload_ms=0)
    async with client_of(spec) as client:
        await load(client, "m0:1b")
        await load(client, "m1:1b")
        await load(client, "m2:1b")
        assert sorted(await listed(client)) == ["m1:1b", "m2:1b"]


async def test_a_model_that_never_fits_is_refused() -> None:
    """Without anything to evict a model too large is an error that says how much is missing."""
    spec = replace(INSTANT, ram_total_mb=1_200, base_ram_mb=900)
    async with client_of(spec) as client:
        reply = await load(client, "gemma3:270m")
    assert reply.status_code == 500
    assert reply.json()["error"] == (
        "model requires more system memory (455.7 MiB) than is available (286.1 MiB)"
    )


async def test_an_idle_queue_is_never_full() -> None:
    """A resident model takes any number of requests: the limit counts waiting loads only."""
    async with client_of(replace(INSTANT, max_queue=1, decode_tokens_per_s=500)) as client:
        await load(client, "gemma3:270m")
        asked = [say(client, "gemma3:270m", options={"num_predict": 3}) for _ in range(8)]
        answers = await asyncio.gather(*asked)
    assert [answer["done"] for answer in answers] == [True] * 8


def long_run(tokens: int = 60) -> dict[str, Any]:
    return {"model": "m0:1b", "prompt": "tell me", "options": {"num_predict": tokens}}


async def test_more_slots_run_side_by_side() -> None:
    """With two slots a second run starts while the first goes on."""
    spec = replace(INSTANT, models=SMALL, slots=2, decode_tokens_per_s=10)
    async with (
        client_of(spec) as client,
        client.stream("POST", "/api/generate", json=long_run()) as first,
    ):
        lines = first.aiter_lines()
        await anext(lines)
        answer = await say(client, "m0:1b", options={"num_predict": 2})
        rest = [line async for line in lines]
    assert answer["done"]
    assert len(rest) > 10


@pytest.mark.parametrize("model", ["m0:1b", "m1:1b"])
async def test_who_leaves_while_waiting_leaves_nothing_behind(model: str) -> None:
    """A client that gives up, waiting for a slot or for a load, holds no slot, model or place."""
    spec = replace(INSTANT, models=SMALL, places=1, decode_tokens_per_s=20, unload_ms=0)
    async with client_of(spec) as client:
        async with client.stream("POST", "/api/generate", json=long_run()) as busy:
            lines = busy.aiter_lines()
            await anext(lines)
            with pytest.raises(httpx.ReadTimeout):
                body = {"model": model, "prompt": "me too"}
                await client.post("/api/generate", json=body, timeout=HASTY)
            assert [line async for line in lines]
        assert (await say(client, "m2:1b", options={"num_predict": 1}))["done"]
        assert await listed(client) == ["m2:1b"]
        await load(client, "m2:1b", keep_alive=0)
        await until_listed(client)


async def test_who_leaves_during_a_load_ends_it() -> None:
    """A load that nobody waits for any more is given up: the model does not become resident."""
    spec = replace(INSTANT, models=SMALL, disk_mb_per_s=250)
    async with client_of(spec) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/api/generate", json={"model": "m0:1b"}, timeout=HASTY)
        await load(client, "m1:1b")
        assert await listed(client) == ["m1:1b"]


async def test_runs_in_progress_share_the_machine() -> None:
    """Two models answering at once take longer than the 130 ms that one would."""
    spec = replace(INSTANT, models=SMALL, decode_tokens_per_s=30)
    async with client_of(spec) as client:
        both = await asyncio.gather(
            *(say(client, name, options={"num_predict": 40}) for name in ("m0:1b", "m1:1b"))
        )
    assert all(answer["eval_duration"] > 1.5 * 130e6 for answer in both)


async def order_of_service(seed: int) -> list[int]:
    """Who of eight, waiting for one slot, gets it when."""
    slots = Slots(1, random.Random(seed))
    served: list[int] = []

    async def run(number: int) -> None:
        async with slots:
            served.append(number)

    async with slots:
        waiting = [asyncio.create_task(run(number)) for number in range(8)]
        await anyio.wait_all_tasks_blocked()
    await asyncio.gather(*waiting)
    return served


async def test_a_slot_goes_to_any_who_waits() -> None:
    """Service is in another order than arrival, in the same one for the same seed, and complete."""
    order = await order_of_service(1)
    assert order != sorted(order)
    assert sorted(order) == list(range(8))
    assert order == await order_of_service(1) != await order_of_service(2)


async def test_a_slot_given_to_who_has_just_left_is_given_on() -> None:
    """A run that is cancelled in the moment in which it gets its slot does not keep it."""
    slots = Slots(1, random.Random(0))

    async def run() -> None:
        async with slots:
            pass

    async with slots:
        leaving = asyncio.create_task(run())
        await anyio.wait_all_tasks_blocked()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await asyncio.wait_for(run(), WAIT_S)


async def test_a_model_granted_to_who_has_just_left_is_given_back() -> None:
    """A request that is cancelled in the moment in which it gets its model does not keep it."""

    class Meddling(Scheduler):
        def _grant(self, request: Any, runner: Runner) -> None:
            super()._grant(request, runner)
            leaving.cancel()

    node = Node(replace(INSTANT, models=SMALL))
    scheduler = Meddling(node.spec, node.engine, node.machine, lambda: 0)

    async def use() -> None:
        async with scheduler.lease(SMALL[0], RunnerOptions(), None):
            pass

    leaving = asyncio.create_task(use())
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert [runner.users for runner in scheduler.resident()] == [0]
    await scheduler.close()
    await node.close()


@pytest.mark.parametrize("seed", range(4))
async def test_no_cancellation_leaves_anything_taken(seed: int) -> None:
    """Whoever is cancelled, and whenever: in the end no model is in use and every slot is free."""
    rng = random.Random(seed)
    spec = replace(
        INSTANT, models=SMALL, places=2, disk_mb_per_s=20_000, decode_tokens_per_s=100, unload_ms=2
    )
    node = Node(spec)
    loop = asyncio.get_running_loop()
    job = Job(prompt="hello", sampling=Sampling(num_predict=5))

    async def ask(model: ModelSpec, num_ctx: int) -> None:
        call = Call(model.name, model, options=RunnerOptions(num_ctx=num_ctx), job=job)
        assert (await gathered(answer(node, call))).done

    asked = [asyncio.create_task(ask(rng.choice(SMALL), rng.choice((1024, 2048)))) for _ in range(40)]
    for task in rng.sample(asked, 25):
        loop.call_later(rng.uniform(0, 0.2), task.cancel)
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
    assert [runner.users for runner in node.scheduler.resident() if runner.users] == []
    assert node.machine.active == 0
    await asyncio.wait_for(asyncio.gather(*(ask(model, 512) for model in SMALL)), WAIT_S)
    await node.close()


async def test_a_deleted_model_is_gone_from_the_list(client: httpx.AsyncClient) -> None:
    """After a delete the model is in no list, and asking for it is a 404."""
    reply = await client.request("DELETE", "/api/delete", json={"model": "other:270m"})
    assert (reply.status_code, reply.content) == (200, b"")
    tags = (await client.get("/api/tags")).json()["models"]
    assert [model["name"] for model in tags] == ["gemma3:270m"]
    assert (await load(client, "other:270m")).status_code == 404
