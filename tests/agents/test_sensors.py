"""What a node says of itself: sensors on a made-up /sys, and the entries of its health."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

from orion_streams.agents import health as health_module
from orion_streams.agents import sensors, thermal
from orion_streams.agents.backend import Echo, Listing
from orion_streams.agents.health import Health, Residency
from orion_streams.agents.sensors import LocalSensors, SimulatedSensors, mapped, throttled
from orion_streams.protocol import agent_entries
from orion_streams.protocol.node_health import inventory_digest
from orion_streams.runtime.faust_redis import App, StreamChannel
from tests.agents.agent_bench import MODEL, NODE, SKILLED, Bench, elsewhere, running


def zone(thermal: Path, number: int, kind: str, temp: str) -> Path:
    """A thermal zone of /sys."""
    folder = thermal / f"thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(kind + "\n")
    (folder / "temp").write_text(temp + "\n")
    return folder


KINDS = (
    "cpu-thermal", "cpu_thermal", "cpu0-thermal", "CPU-therm", "soc-thermal", "bigcore0-thermal",
    "littlecore-thermal", "x86_pkg_temp", "coretemp", "mtktscpu",
)  # fmt: skip
"""The processor's zones by the names of boards and drivers."""


@pytest.mark.parametrize("kind", [*KINDS, "acpitz"])
async def test_the_processors_zone_is_found_by_its_type(tmp_path: Path, kind: str) -> None:
    """Whatever its number, and whatever other chips are fitted."""
    for number, other in enumerate(("rtc-thermal", "gpu-thermal", "npu_core", "iwlwifi_1", "battery")):
        zone(tmp_path, number, other, "99000")
    zone(tmp_path, 7, kind, "61234")
    machine = LocalSensors(tmp_path)
    assert (await machine.sample()).temp_mc == 61_234
    assert machine.sensor == f"{kind} (thermal_zone7)"


@pytest.mark.parametrize("kinds", [("cpu-thermal", "cpu-thermal"), ("soc-thermal", "bigcore0-thermal")])
@pytest.mark.parametrize(("temps"), [("50000", "80000"), ("80000", "50000")])
async def test_the_hottest_zone_of_the_processor_counts(
    tmp_path: Path, kinds: tuple[str, ...], temps: tuple[str, ...]
) -> None:
    """Of several, also of one type; the board's own is no judge beside them."""
    zone(tmp_path, 0, "acpitz", "99000")
    for number, (kind, temp) in enumerate(zip(kinds, temps, strict=True), start=1):
        zone(tmp_path, number, kind, temp)
    machine = LocalSensors(tmp_path)
    assert (await machine.sample()).temp_mc == 80_000
    assert machine.sensor.startswith("the hottest of ")


@pytest.mark.parametrize(
    ("temp", "why"),
    [
        ("92", "whole degrees, it seems"),
        ("0", "no temperature of a processor at work"),
        ("-5000", "no temperature"),
        ("920", "tenths of degrees, it seems"),
        ("9200", "hundredths of degrees, it seems"),
        ("2982", "hundredths of degrees, it seems"),  # or tenths of a kelvin
        ("93000000", "no temperature"),
        ("45000\n92000", "no temperature"),
        ("\N{FULLWIDTH DIGIT FIVE}0000", "no temperature"),
        ("920000", "no temperature"),
        ("92.5", "no temperature"),
        ("1e5", "no temperature"),
        ("9" * 20, "no temperature"),
    ],
)
async def test_what_cannot_be_is_not_believed(tmp_path: Path, temp: str, why: str) -> None:
    """Another unit, zero, no number: unknown, whatever a second zone says, and the sensor is named."""
    zone(tmp_path, 0, "cpu-thermal", "50000")
    zone(tmp_path, 1, "cpu-thermal", temp)
    machine = LocalSensors(tmp_path)
    assert (await machine.sample()).temp_mc is None
    assert machine.sensor.startswith("cpu-thermal (thermal_zone1) gives ")
    assert why in machine.sensor


async def test_a_zone_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    """A core that sleeps has no temperature; without any zone that can be read there is none."""
    zone(tmp_path, 0, "cpu-thermal", "50000")
    (zone(tmp_path, 1, "cpu-thermal", "1") / "temp").unlink()
    machine = LocalSensors(tmp_path)
    assert (await machine.sample()).temp_mc == 50_000
    (tmp_path / "thermal_zone0" / "temp").unlink()
    assert (await machine.sample()).temp_mc is None
    assert machine.sensor.count("cannot be read") == 2


async def test_a_zone_that_gives_no_text_is_not_passed_over(tmp_path: Path) -> None:
    """It can be read, and is no temperature."""
    zone(tmp_path, 0, "cpu-thermal", "50000")
    (zone(tmp_path, 1, "cpu-thermal", "1") / "temp").write_bytes(b"\xff\xfe\x00")
    assert (await LocalSensors(tmp_path).sample()).temp_mc is None


async def test_a_zone_that_comes_later_counts(tmp_path: Path) -> None:
    """Its driver may be loaded after the agent has begun; it is seen after some samples."""
    machine = LocalSensors(tmp_path)
    assert (await machine.sample()).temp_mc is None
    zone(tmp_path, 0, "cpu-thermal", "50000")
    assert [(await machine.sample()).temp_mc for _ in range(sensors.SELDOM)][-1] == 50_000
    zone(tmp_path, 1, "cpu-thermal", "80000")
    assert [(await machine.sample()).temp_mc for _ in range(sensors.SELDOM)][-1] == 80_000


@pytest.mark.parametrize("bits", ["0x1ffffffff", "0x" + "f" * 20])
async def test_bits_that_cannot_be_are_not_passed_on(tmp_path: Path, bits: str) -> None:
    """The router would drop the whole entry."""
    assert await throttled(script(tmp_path, f"echo throttled={bits}")) == 0
    assert await throttled(script(tmp_path, "echo throttled=0xffffffff")) == 2**32 - 1


async def test_without_a_sensor_the_temperature_is_none_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No zone at all: None, never a guess, and one line for it."""
    machine = LocalSensors(tmp_path / "nothing")
    for _ in range(3):
        assert (await machine.sample()).temp_mc is None
    assert len([each for each in caplog.records if "not known" in each.message]) == 1


@pytest.mark.parametrize("temp", ["", "hot", "-274000", "999999999"])
async def test_a_sensor_that_fails_is_none_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, temp: str
) -> None:
    """Nonsense, or what no processor can have: None and one line, until it works again."""
    folder = zone(tmp_path, 0, "cpu-thermal", temp)
    machine = LocalSensors(tmp_path)
    for _ in range(3):
        assert (await machine.sample()).temp_mc is None
    assert len(caplog.records) == 1
    (folder / "temp").write_text("50000")
    assert (await machine.sample()).temp_mc == 50_000


def test_a_zone_that_cannot_be_read_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A zone without a type, or with one that is no text, hides no other."""
    (tmp_path / "thermal_zone0").mkdir()
    (zone(tmp_path, 1, "x", "1") / "type").write_bytes(b"\xff\xfe")
    good = zone(tmp_path, 2, "cpu-thermal", "50000")
    assert thermal.processor_zones(tmp_path) == (thermal.Zone("cpu-thermal", good / "temp"),)
    assert len(caplog.records) == 2


def script(folder: Path, text: str) -> str:
    """An executable in a folder of its own."""
    path = folder / "vcgencmd"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_throttle_bits_come_from_vcgencmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where vcgencmd exists, its bits are in the sample."""
    script(tmp_path, '[ "$1" = get_throttled ] && echo throttled=0x50005')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (await LocalSensors(tmp_path).sample()).throttled == 0x50005


@pytest.mark.parametrize(
    "text", ["exit 1", "echo VCHI initialization failed", "exec sleep 60", "echo =0x-5"]
)
async def test_a_vcgencmd_that_fails_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """An error, nonsense, or no answer in time: 0, and no process stays behind."""
    monkeypatch.setattr(sensors, "VCGENCMD_S", 0.2)
    before = psutil.Process().children(recursive=True)
    assert await throttled(script(tmp_path, text)) == 0
    assert psutil.Process().children(recursive=True) == before
    assert await throttled(str(tmp_path / "absent")) == 0


class Process:
    """A process as psutil shows it; without `shared` one that has ended."""

    def __init__(self, name: str | None, shared: int | None) -> None:
        self.info, self.shared = {"name": name}, shared

    def memory_info(self) -> SimpleNamespace:
        if self.shared is None:
            raise psutil.NoSuchProcess(1)
        return SimpleNamespace(shared=self.shared)


def test_mapped_models_of_every_ollama_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared pages of server and runner are added; other processes and ended ones are not."""
    rows = [("ollama", 100), ("ollama runner", 2000), ("python", 30_000), ("ollama", None), (None, 400_000)]
    found = [Process(name, shared) for name, shared in rows]
    monkeypatch.setattr(psutil, "process_iter", lambda attrs: iter(found))
    assert mapped(sensors.ollama_processes()) == 2100


async def test_a_models_mapped_memory_is_seen_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known process is looked at for every sample, as its pages grow while it loads; a new one is found
    by the very next sample when asked to look again, and after some samples otherwise."""
    gigabyte = 1024 * sensors.MB
    runner, late = Process("ollama", 0), Process("ollama", 2 * gigabyte)
    found = [runner]
    memory = SimpleNamespace(total=8 * gigabyte, available=7 * gigabyte)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(psutil, "process_iter", lambda attrs: iter(found))
    machine = LocalSensors(tmp_path)

    async def used_mb() -> int:
        return (await machine.sample()).ram_used_mb

    assert await used_mb() == 1024
    runner.shared = gigabyte
    assert await used_mb() == 2048
    found.append(late)
    assert await used_mb() == 2048
    machine.look_again()
    assert await used_mb() == 4096
    runner.shared = None
    assert await used_mb() == 3072
    found.append(Process("ollama", gigabyte))
    assert [await used_mb() for _ in range(sensors.SELDOM)] == [3072, 3072, 3072, 4096, 4096]


async def test_sensors_look_again_when_other_models_are_in_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each change of what is resident, before the next sample, and not while it stays."""
    looks: list[str] = []
    monkeypatch.setattr(SimulatedSensors, "look_again", lambda machine: looks.append("again"))
    async with running(bench.config):
        await bench.healthy(lambda head: True, "nothing is there")
        assert looks == []
        for number, num_ctx in enumerate((512, 1024), 1):
            await bench.load(pinned={"num_ctx": num_ctx})
            await bench.healthy(resident_with([num_ctx]), "it is there")
            await bench.healthy(resident_with([num_ctx]), "it is still there")
            assert len(looks) == number
        await bench.work("unload", model=MODEL)
        await bench.healthy(resident_with([]), "it is gone")
        assert len(looks) == 3


def resident_with(lengths: list[int]) -> Callable[[agent_entries.HealthHead], bool]:
    """Whether just models with these context lengths are in memory."""
    return lambda head: [row.context_length for row in head.resident] == lengths


async def test_a_health_entry_is_complete(bench: Bench) -> None:
    """Sample, models, what is in hand, the last work read and the last result written: in each entry."""
    await bench.simulate("set", temp_mc=71_500, extra_ram_mb=1000)
    async with running(bench.config):
        ended = await bench.ended(await bench.run())
        held = await bench.hanging()
        top = (await bench.results())[-1].id
        head = await bench.healthy(lambda head: head.results_written == top, "it has caught up")
    assert head.in_hand == (held,)
    assert head.work_read == held
    assert head.results_written > ended.id
    assert [row.name for row in head.resident] == [MODEL]
    assert head.resident[0].context_length == 4096
    assert head.temp_mc is not None
    assert 70_000 < head.temp_mc < 76_000
    assert (head.ram_total_mb, head.cpu_permille > 900) == (8192, True)
    assert len({each.boot for each in await bench.health()}) == 1
    stamps = [each.sampled_ms for each in await bench.health()]
    assert stamps == sorted(set(stamps))


async def test_the_inventory_is_listed_on_change_only(bench: Bench) -> None:
    """The digest is in every entry; the list comes first, and again when a model is removed."""
    async with running(bench.config):
        first = await bench.healthy(lambda head: head.inventory is not None, "the list")
        assert first.inventory is not None
        assert {row.name for row in first.inventory} == {MODEL, SKILLED}
        assert first.inventory_digest == inventory_digest(first.inventory)
        later = await bench.healthy(lambda head: True, "the next entry")
        assert (later.inventory, later.inventory_digest) == (None, first.inventory_digest)
        async with httpx.AsyncClient(base_url=bench.node.url, trust_env=False) as http:
            await http.request("DELETE", "/api/delete", json={"model": SKILLED})
        changed = await bench.healthy(lambda head: head.inventory is not None, "the list again")
        assert changed.inventory is not None
        assert [row.name for row in changed.inventory] == [MODEL]


async def test_the_inventory_is_listed_every_minute() -> None:
    """Who missed the list, or started later, knows it after a minute."""
    residency = Residency(Echo(), 1000)
    told = []
    for now_s in (0.0, 1.0, 59.0, 60.0, 61.0, 120.0):
        await residency.look(now_s)
        told.append(residency.news.to_tell(residency.installed, now_s)[1] is not None)
    assert told == [True, False, False, True, False, True]


async def test_an_agent_says_what_it_works_with(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Once, at its start: where Ollama is, how many models it has, and the sensor."""
    caplog.set_level(logging.INFO, "orion.agent")
    async with running(bench.config):
        for _ in range(3):
            await bench.healthy(lambda head: True, "its health")
    said = [each.message for each in caplog.records]
    assert said.count(f"Ollama at {bench.node.url} answers: 2 models") == 1
    assert said.count("temperature: simulated") == 1


async def test_while_ollama_is_away_its_models_are_unknown(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """No digest, nothing resident, said once; the node's own health goes on."""
    caplog.set_level(logging.WARNING, "orion.agent")
    async with running(elsewhere(bench.config, "http://127.0.0.1:9", simulated=False)):
        for _ in range(3):
            head = await bench.healthy(lambda head: True, "its health")
            assert (head.inventory_digest, head.inventory, head.resident) == ("", None, ())
    said = [each.message for each in caplog.records if "does not answer" in each.message]
    assert len(said) == 1
    assert said[0].startswith("Ollama at http://127.0.0.1:9 does not answer (")


class Stuck(Echo):
    """A backend that never says what is resident."""

    async def resident(self) -> Listing[agent_entries.ResidentModel]:
        await asyncio.Event().wait()
        return Listing()


async def test_an_ollama_that_hangs_does_not_hold_up_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look gives up waiting, asks no second time meanwhile, and can be closed."""
    monkeypatch.setattr(health_module, "PATIENCE_S", 0.01)
    residency = Residency(Stuck(), 1000)
    await residency.look(0.0)
    first = residency._looking
    await residency.look(1.0)
    assert residency._looking is first
    assert residency.news.to_tell(residency.installed, 1.0) == ("", None)
    await residency.close()


class Odd(Echo):
    """A backend whose lists have rows that cannot be used, and a model that runs elsewhere."""

    async def installed(self) -> Listing[agent_entries.InstalledModel]:
        return Listing((await super().installed()).models, ("m: a size of -1 bytes",), ("big:1t-cloud",))

    async def resident(self) -> Listing[agent_entries.ResidentModel]:
        return Listing((), ("x" * 300,))


async def test_what_lists_leave_out_is_counted_and_said_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the lists counts; each reason is logged when it is new, the first is in every entry."""
    caplog.set_level(logging.WARNING, "orion.agent")
    channel = StreamChannel(App("by-hand"), redis=bench.redis, key=f"{bench.prefix}health:{NODE}")
    machine = SimulatedSensors(bench.node.url)
    health = Health(channel, machine, Residency(Odd(), 1000), None, None)
    for _ in range(2):
        await health.beat()
    await machine.close()
    for head in await bench.health():
        assert (head.left_out, head.left_out_why) == (2, "m: a size of -1 bytes")
        assert (head.remote, head.inventory_digest != "") == (("big:1t-cloud",), True)
    assert [each.message for each in caplog.records] == [
        "a row of Ollama's lists is left out: m: a size of -1 bytes",
        f"a row of Ollama's lists is left out: {'x' * 300}",
        "these models run elsewhere and are never asked: big:1t-cloud",
    ]
