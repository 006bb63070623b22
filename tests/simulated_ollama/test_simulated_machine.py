"""The simulated machine: temperature, memory, CPU, and the controls over them."""

import math
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.simulation.machine_state import Machine
from orion_streams.simulation.thermal_model import warm
from tests.helpers import eventually
from tests.simulated_ollama.conftest import INSTANT, client_of

temperatures = st.floats(-20_000, 120_000)
seconds = st.floats(0, 10_000)
PI = {"ambient_mc": 45_000, "heat_mc": 30_000, "tau_s": 90.0}


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(start=temperatures, load=st.sampled_from((0.0, 0.5, 1.0)), elapsed=seconds, more=seconds)
def test_temperature_approaches_its_target_monotonically(
    start: float, load: float, elapsed: float, more: float
) -> None:
    """The distance to the steady state never grows and never changes its sign."""
    target = 45_000 + load * 30_000
    first = warm(start, load=load, elapsed_s=elapsed, **PI) - target
    later = warm(start, load=load, elapsed_s=elapsed + more, **PI) - target
    assert abs(later) <= abs(first) + 1e-6 <= abs(start - target) + 2e-6
    assert first * (start - target) >= 0


@given(start=temperatures, first=seconds, second=seconds)
def test_steps_add_up(start: float, first: float, second: float) -> None:
    """Two steps give what one step over both their times gives: the solution is exact."""
    once = warm(start, load=1, elapsed_s=first + second, **PI)
    twice = warm(warm(start, load=1, elapsed_s=first, **PI), load=1, elapsed_s=second, **PI)
    assert math.isclose(once, twice, abs_tol=1e-3)


def test_after_one_time_constant_a_third_is_left() -> None:
    """After tau the distance to the steady state is 1/e of what it was; in the end it is 0."""
    assert math.isclose(warm(45_000, load=1, elapsed_s=90, **PI), 75_000 - 30_000 / math.e)
    assert math.isclose(warm(45_000, load=1, elapsed_s=9_000, **PI), 75_000)


def test_a_machine_heats_under_load_and_cools_without() -> None:
    """Only running models heat; `time_scale` makes that go faster."""
    clock = Clock()
    machine = Machine(replace(INSTANT, time_scale=10), lambda: 0, clock)
    with machine.running():
        clock.now += 9
        hot = machine.sensors()
    clock.now += 9
    cooler = machine.sensors()
    assert hot.temp_mc == round(75_000 - 30_000 / math.e)
    assert hot.cpu_permille > 900
    assert cooler.cpu_permille < 100
    assert cooler.temp_mc == round(45_000 + (hot.temp_mc - 45_000) / math.e)


async def sensors(client: httpx.AsyncClient) -> dict[str, Any]:
    reading: dict[str, Any] = (await client.get("/sim/sensors")).json()
    return reading


async def test_sensors_say_that_they_are_simulated(client: httpx.AsyncClient) -> None:
    """A reading names its engine, and numbers are integers with their unit in the name."""
    assert await sensors(client) == {
        "simulated": True,
        "engine": "synthetic",
        "temp_mc": 45_000,
        "ram_used_mb": 900,
        "ram_total_mb": 8_192,
        "cpu_permille": 20,
        "throttled": 0,
    }


async def test_resident_models_take_memory(client: httpx.AsyncClient) -> None:
    """Memory in use is the base, what models hold, and what else was set."""
    await client.post("/api/generate", json={"model": "gemma3:270m"})
    size = (await client.get("/api/ps")).json()["models"][0]["size"]
    pushed = await client.post("/sim/set", json={"extra_ram_mb": 500})
    assert pushed.json()["ram_used_mb"] == 900 + 500 + math.ceil(size / 1e6)


async def test_the_machine_can_be_pushed() -> None:
    """A set temperature goes on from there towards the set ambient one."""
    async with client_of(replace(INSTANT, tau_s=0.01)) as client:
        await client.post("/sim/set", json={"temp_mc": 90_000, "ambient_mc": 60_000})

        async def settled() -> bool:
            return bool((await sensors(client))["temp_mc"] == 60_000)

        await eventually(settled, "the machine has the set ambient temperature")
    async with client_of(replace(INSTANT, tau_s=100_000)) as client:
        pushed = (await client.post("/sim/set", json={"temp_mc": 90_000})).json()
        assert 89_900 < pushed["temp_mc"] <= 90_000


async def test_a_run_heats_the_node() -> None:
    """While a model answers the CPU is busy and the temperature rises."""
    spec = replace(INSTANT, decode_tokens_per_s=10, time_scale=1_000)
    async with client_of(spec) as client:
        body = {"model": "gemma3:270m", "prompt": "x"}
        async with client.stream("POST", "/api/generate", json=body) as answer:
            lines = answer.aiter_lines()
            for _ in range(4):
                await anext(lines)
            during = await sensors(client)
    assert during["cpu_permille"] > 900
    assert during["temp_mc"] > 45_000


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/sim/set", {"temp": 1}, "unknown field `temp`"),
        ("/sim/set", {"temp_mc": "hot"}, "Expected `int | null`, got `str`"),
        ("/sim/fault", {"kind": "explode"}, "Invalid enum value 'explode'"),
        ("/sim/fault", {"kind": "busy", "when": "now"}, "unknown field `when`"),
        ("/sim/fault", {"kind": "busy", "times": -1}, "Expected `int` >= 0"),
        ("/sim/fault", {}, "missing required field `kind`"),
    ],
)
async def test_bad_controls_are_refused(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], sentence: str
) -> None:
    """An unknown field or value is a 400 that names it and what is known."""
    reply = await client.post(path, json=body)
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]
    assert "known fields: " in reply.json()["error"]
