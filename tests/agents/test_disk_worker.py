"""A node's agent pulls and removes models: on a simulated Ollama, whose registry is simulated, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec import structs

from orion_streams.agents.backend import Echo, PullStep, RunFailedError
from orion_streams.agents.disk_worker import TELL_S, DiskWorker, Room, Told
from orion_streams.agents.model_disk import free_below, free_mb
from orion_streams.agents.ollama_pull import WORDS, failed, pull_refusal, pull_step
from orion_streams.config import Config, Limits, NodeConfig
from orion_streams.demo.ollama import ModelSpec
from orion_streams.protocol.agent_entries import HealthHead, decode_health
from tests.agents.agent_bench import MODEL, NODE, Bench, Result, agent_process, limited, open_bench, running
from tests.helpers import eventually

NEW = ModelSpec(name="new:1b", size_mb=800)
OTHER = ModelSpec(name="other:1b", size_mb=600)
SLOW_MB_PER_S = 40.0
"""A pull of NEW takes 20 s: long enough to do something meanwhile."""


@pytest.fixture
async def quick(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """A registry at hand."""
    async with open_bench(valkey_url, prefix, registry=(NEW, OTHER)) as opened:
        yield opened


@pytest.fixture
async def slow(valkey_url: str, prefix: str) -> AsyncIterator[Bench]:
    """A registry far away."""
    async with open_bench(valkey_url, prefix, registry=(NEW, OTHER), net_mb_per_s=SLOW_MB_PER_S) as opened:
        yield opened


def at(config: Config, folder: Path) -> Config:
    """The same node, which knows where models are kept."""
    node = structs.replace(config.nodes[NODE], ollama_models=str(folder))
    return structs.replace(config, nodes={**config.nodes, NODE: node})


def statuses(results: list[Result]) -> list[str]:
    """What progress says, in order."""
    return [each.fields[b"status"].decode() for each in results if each.head.op == "progress"]


async def progress(bench: Bench, work_id: str) -> None:
    """Wait until a part is being pulled."""

    async def begun() -> bool:
        return any(b"completed" in each.fields for each in await bench.results(work_id))

    await eventually(begun, "progress")


async def listed(bench: Bench, holds: Callable[[HealthHead], bool]) -> None:
    """Wait until a list of models is so, in whatever health entry: it comes once when it changes."""

    async def came() -> bool:
        rows = await bench.redis.xrange(f"{bench.prefix}health:{NODE}")
        return any(holds(decode_health(fields[b"head"])) for _, fields in rows)

    await eventually(came, "the list of models")


async def test_a_pull_tells_its_progress_and_the_inventory_follows(quick: Bench, tmp_path: Path) -> None:
    """Ollama's own steps in order, then one end; that the disk is unknown is said first where it is."""
    async with running(at(limited(quick.config, pull_margin_mb=0), tmp_path)):
        work_id = await quick.work("pull", model=NEW.name)
        end = await quick.ended(work_id)
        assert (end.head.op, end.head.request) == ("completed", "")
        said = statuses(await quick.results(work_id))
        assert said[0] == "pulling manifest"
        assert said[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
        [whole] = [
            each.fields for each in await quick.results(work_id)
            if each.fields.get(b"completed") == each.fields.get(b"total") == b"800000000"
        ]  # fmt: skip
        assert whole[b"digest"] == f"sha256:{NEW.blob}".encode()
        await listed(quick, lambda head: any(row.name == NEW.name for row in head.inventory or ()))
    assert free_mb(structs.replace(quick.config.nodes[NODE], ollama="http://10.0.0.9:11434")) is None
    elsewhere = structs.replace(
        quick.config.nodes[NODE], ollama_models=str(tmp_path / "none" / "at" / "all")
    )
    assert free_mb(elsewhere) is None


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("pull_offline", "registry_away", "no such host"),
        ("pull_no_space", "no_space", "no space left on device"),
        ("pull_cut", "pull_failed", "without `success`"),
    ],
)
async def test_a_pull_that_fails_says_why_in_ollamas_words(
    quick: Bench, fault: str, code: str, words: str
) -> None:
    """The next one goes on where it was, and succeeds."""
    async with running(limited(quick.config, pull_margin_mb=0)):
        await quick.fault(fault)
        end = await quick.ended(await quick.work("pull", model=NEW.name))
        assert (end.head.op, end.head.code, end.head.blame) == ("failed", code, "node")
        assert words in end.fields[b"message"].decode()
        again = await quick.ended(await quick.work("pull", model=NEW.name))
        assert again.head.op == "completed"


async def test_what_no_registry_has_is_not_pulled(quick: Bench) -> None:
    """Ollama says that there is no such file."""
    async with running(quick.config):
        end = await quick.ended(await quick.work("pull", model="nothing:1b"))
        assert (end.head.op, end.head.code) == ("failed", "registry_lacks")


async def test_a_disk_that_is_too_small_refuses_before_it_is_full(quick: Bench, tmp_path: Path) -> None:
    """As soon as the size is announced; with the same disk and no margin the pull succeeds."""
    async with running(at(limited(quick.config, pull_margin_mb=10**9), tmp_path)):
        work_id = await quick.work("pull", model=NEW.name)
        end = await quick.ended(work_id)
        assert (end.head.op, end.head.code) == ("failed", "no_space")
        assert "0.8 GB to come" in end.fields[b"message"].decode()
        assert statuses(await quick.results(work_id)) == ["pulling manifest"]


async def test_pulls_go_one_at_a_time_and_take_no_slot(slow: Bench) -> None:
    """While one goes on, the next waits, and a run is answered; cancelled, each ends once."""
    async with running(limited(slow.config, pull_margin_mb=0)):
        first = await slow.work("pull", model=NEW.name)
        await progress(slow, first)
        second = await slow.work("pull", model=OTHER.name)
        assert (await slow.ended(await slow.run(model=MODEL))).head.op == "completed"
        assert await slow.results(second) == []
        await slow.cancel(first)
        end = await slow.ended(first)
        assert (end.head.op, end.head.code) == ("failed", "cancelled")
        await progress(slow, second)
        await slow.cancel(second)
        assert (await slow.ended(second)).head.code == "cancelled"


async def test_an_agent_that_is_killed_half_way_reports_it_at_its_start(
    slow: Bench, tmp_path: Path
) -> None:
    """And a pull by the next life goes on where Ollama was."""
    async with agent_process(tmp_path, slow) as process:
        work_id = await slow.work("pull", model=NEW.name)
        await progress(slow, work_id)
        await process.kill()
    async with running(limited(slow.config, pull_margin_mb=0)):
        end = await slow.ended(work_id)
        assert (end.head.op, end.head.code) == ("failed", "agent_restarted")
        again = await slow.work("pull", model=NEW.name)
        await progress(slow, again)
        parts = [each.fields for each in await slow.results(again) if b"completed" in each.fields]
        assert int(parts[0][b"completed"]) > 0
        await slow.cancel(again)
        await slow.ended(again)


async def test_ollama_that_falls_silent_ends_the_pull(slow: Bench) -> None:
    """After limits.pull_idle_ms, as a node's fault."""
    async with running(limited(slow.config, pull_margin_mb=0, pull_idle_ms=50)):
        end = await slow.ended(await slow.work("pull", model=NEW.name))
        assert (end.head.op, end.head.code) == ("failed", "pull_stalled")


class TwoSteps(Echo):
    """A backend that pulls at once, in two steps."""

    async def pull(self, model: str) -> AsyncGenerator[PullStep, None]:
        """Pull nothing."""
        for status in ("pulling manifest", "success"):
            yield PullStep(f"{status} of {model}")


async def test_an_outage_of_redis_is_not_blamed_on_ollama() -> None:
    """While progress cannot be told, the limit on Ollama's silence stands still."""
    told: list[dict[str, bytes]] = []
    idle_ms = 20

    async def tell(fields: dict[str, bytes]) -> None:
        back = asyncio.Event()
        asyncio.get_running_loop().call_later(5 * idle_ms / 1000, back.set)
        await back.wait()
        told.append(fields)

    worker = DiskWorker(TwoSteps(), Limits(pull_idle_ms=idle_ms), lambda: 5_000)
    await worker.pull("new:1b", tell)
    assert [each["status"] for each in told] == [b"pulling manifest of new:1b", b"success of new:1b"]


async def test_a_pull_that_takes_too_long_ends(slow: Bench) -> None:
    """After limits.pull_deadline_ms, whatever still comes."""
    async with running(limited(slow.config, pull_margin_mb=0, pull_deadline_ms=2_500)):
        work_id = await slow.work("pull", model=NEW.name)
        end = await slow.ended(work_id)
        assert (end.head.op, end.head.code) == ("failed", "overdue")
        assert statuses(await slow.results(work_id))


def gone_from_disk(head: HealthHead) -> bool:
    """Whether the list of models has come, without it."""
    return head.inventory is not None and all(row.name != MODEL for row in head.inventory)


def gone_from_memory(head: HealthHead) -> bool:
    """Whether no runner has it."""
    return all(row.name != MODEL for row in head.resident)


async def test_a_model_is_removed_from_memory_and_disk(quick: Bench) -> None:
    """Ollama alone would keep the runner; a model that is not there is removed already."""
    async with running(quick.config):
        await quick.ended(await quick.load())
        await quick.healthy(lambda head: any(row.name == MODEL for row in head.resident), "it is resident")
        end = await quick.ended(await quick.work("remove", model=MODEL))
        assert end.head.op == "completed"
        await quick.healthy(gone_from_memory, "no runner has it")
        await listed(quick, gone_from_disk)
        assert (await quick.ended(await quick.work("remove", model=MODEL))).head.op == "completed"


def test_a_disk_that_nobody_knows_refuses_nothing() -> None:
    """The negative: one that is known does."""
    step = PullStep("pulling", "sha256:a", 10**12, 0)
    unknown = Room(lambda: None, 2_000)
    unknown.check(step)
    assert not unknown.is_known
    with pytest.raises(RunFailedError, match=r"1000.0 GB to come, 5.0 GB free, of which 2.0 GB stay free"):
        Room(lambda: 5_000, 2_000).check(step)


def test_parts_add_up_and_what_is_there_counts_not() -> None:
    """Each part is looked at when it is announced, and only then."""
    looks: list[int] = []
    room = Room(lambda: looks.append(1) or 3_000, 1_000)  # type: ignore[func-returns-value]
    room.check(PullStep("a", "sha256:a", 2_500_000_000, 1_000_000_000))
    room.check(PullStep("a", "sha256:a", 2_500_000_000, 1_200_000_000))
    room.check(PullStep("b", "sha256:b", 700_000_000, 0))
    assert len(looks) == 3  # one for `is_known`
    with pytest.raises(RunFailedError):
        room.check(PullStep("c", "sha256:c", 1_000_000, 0))


def test_what_is_told_is_bounded() -> None:
    """Another step and the end of a part at once, all else by time."""
    told, step = Told(), PullStep("pulling", "sha256:a", 100, 1)
    assert told.is_due(step, 0.0)
    assert not told.is_due(structs.replace(step, completed=50), TELL_S / 2)
    assert told.is_due(structs.replace(step, completed=60), TELL_S)
    assert told.is_due(structs.replace(step, completed=100), TELL_S)
    assert told.is_due(PullStep("writing manifest"), TELL_S)


@pytest.mark.parametrize("raw", [b"", b"nothing", b"[]", b'{"error":"boom"}', b'{"error":{}}'])
def test_lines_that_are_no_steps(raw: bytes) -> None:
    """End the pull as the node's fault."""
    with pytest.raises(RunFailedError) as caught:
        pull_step(raw)
    assert (caught.value.code, caught.value.blame, caught.value.breaks_model) == (
        "pull_failed",
        "node",
        False,
    )


def test_steps_are_read_with_care() -> None:
    """Values of a wrong type say nothing."""
    odd = b'{"status":7,"digest":null,"total":-1,"completed":1e9}'
    assert pull_step(odd) == PullStep()
    good = b'{"status":"pulling a","digest":"sha256:a","total":9,"completed":3}'
    assert pull_step(good) == PullStep("pulling a", "sha256:a", 9, 3)
    assert pull_refusal(b"<html>").code == "pull_failed"
    assert str(pull_refusal(b'{"error":"invalid model name"}')) == "invalid model name"
    assert pull_refusal(b'{"error":{"message":"no space left on device"}}').code == "no_space"
    assert str(pull_refusal(b'{"error":null}')) == "Ollama refuses to pull, and does not say why"


@pytest.mark.parametrize(("words", "code"), WORDS)
def test_ollamas_errors_have_codes(words: str, code: str) -> None:
    """In whatever case they are written."""
    assert failed(f"pull: {words.upper()} at all").code == code


def test_the_first_folder_that_is_there_counts(tmp_path: Path) -> None:
    """A folder that is missing is passed over."""
    assert free_below([tmp_path / "none", tmp_path]) is not None
    assert free_below([tmp_path / "none"]) is None
    assert free_mb(NodeConfig(ollama_models=str(tmp_path))) == pytest.approx(
        free_below([tmp_path]), rel=0.1
    )
