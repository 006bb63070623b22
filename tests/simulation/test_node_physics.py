"""Simulated machines against figures computed by hand."""

from __future__ import annotations

import math

import pytest

from orion_streams.simulation.machine_spec import ModelSpec, NodeSpec
from orion_streams.simulation.node_physics import NEVER, Run, VirtualNode
from orion_streams.simulation.thermal_model import Thermals, hot_part_ms, speed_at
from orion_streams.simulation.virtual_house import Model, NodeSetup

TAU_S = 100.0
SPEC = NodeSpec(
    name="pi",
    ram_total_mb=10_000,
    base_ram_mb=1_000,
    disk_mb_per_s=100.0,
    ambient_mc=30_000,
    heat_mc=40_000,
    tau_s=TAU_S,
)
# 1 GB: 10 tokens/s of decode, 60 of prefill, 10 s to load, 1000 + 4096 * 0.02 + 204 MB in memory
MODELS = {name: Model(ModelSpec(name=name, size_mb=1_000), 4_096) for name in ("a", "b", "c", "d")}


class Witness:
    """Hears of everything, in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.ended_ms: dict[str, int] = {}

    def run_started(self, node: VirtualNode, run: Run) -> None:
        self.heard.append(f"start {run.work_id}")

    def run_ended(self, node: VirtualNode, run: Run, now: int) -> None:
        self.heard.append(f"end {run.work_id}")
        self.ended_ms[run.work_id] = now

    def model_loaded(self, node: VirtualNode, model: Model) -> None:
        self.heard.append(f"load {model.name}")

    def model_unloaded(self, node: VirtualNode, model: str) -> None:
        self.heard.append(f"unload {model}")

    def load_ended(self, node: VirtualNode, work_id: str, model: Model, load_ms: int) -> None:
        self.heard.append(f"ordered {model.name} {load_ms}")


def machine(
    limit_mb: int = 9_000, spec: NodeSpec = SPEC, all_warm: bool = False
) -> tuple[VirtualNode, Witness]:
    """A node whose models may take limit_mb less 1,000."""
    witness = Witness()
    setup = NodeSetup(spec=spec, models=MODELS, limit_mb=limit_mb)
    return VirtualNode(setup, witness, all_warm=all_warm), witness


def run(work_id: str, model: str = "a", session: str = "") -> Run:
    """60 prompt tokens (1 s), 100 tokens (10 s), 200 ms of a warm start."""
    return Run(
        work_id=work_id,
        request=f"brain/{work_id}",
        model=MODELS[model],
        prompt_tokens=60,
        tokens=100,
        overhead_ms=200,
        session=session,
    )


def play(node: VirtualNode, until_ms: int = NEVER) -> None:
    """Let everything end that ends by then."""
    while (due_ms := node.next_due()) <= until_ms and due_ms != NEVER:
        node.due(due_ms)


def test_memory_of_a_model_is_weights_context_and_runner() -> None:
    """A model of 1 GB with 4,096 tokens takes 1,286 MB."""
    assert MODELS["a"].resident_mb == 1_286  # 1000 + 4096 * 20 kB + 204, rounded up


def test_a_cold_run_loads_prefills_and_decodes() -> None:
    """10 s of load, then 0.2 + 1 + 10 s; a second run of the same model is warm."""
    node, witness = machine()
    node.hand(run("1"), 0)
    play(node)
    assert witness.ended_ms == {"1": 21_200}
    node.hand(run("2"), 30_000)
    play(node)
    assert witness.ended_ms["2"] == 41_200
    assert node.cold_loads == 1


def test_a_session_saves_most_of_the_prefill() -> None:
    """The second turn of a conversation needs a fifth of the second that its prompt takes."""
    node, witness = machine(all_warm=True)
    node.hand(run("1", session="talk"), 0)
    play(node)
    node.hand(run("2", session="talk"), 20_000)
    play(node)
    assert witness.ended_ms == {"1": 11_200, "2": 20_000 + 200 + 200 + 10_000}


def test_models_in_memory_are_served_first_and_in_order() -> None:
    """A later request for the model in memory overtakes one for another, as in a real Ollama."""
    node, witness = machine()
    for each in (run("1"), run("2", "b"), run("3"), run("4")):
        node.hand(each, 0)
    play(node)
    started = [line.split()[1] for line in witness.heard if line.startswith("start")]
    assert started == ["1", "3", "4", "2"]


def test_eviction_takes_the_least_recently_used_and_no_more() -> None:
    """Three models fit; for a fourth goes the one used longest ago, however it was loaded."""
    node, witness = machine(limit_mb=1_000 + 3 * 1_286)
    for n, name in enumerate(("a", "b", "c", "a", "d")):
        node.hand(run(str(n), name), n * 100_000)
        play(node)
    assert [line for line in witness.heard if line.startswith("unload")] == ["unload b"]
    assert sorted(node.resident) == ["a", "c", "d"]


def test_what_was_told_to_go_goes_first() -> None:
    """A model with an unload under way makes room before the least recently used one."""
    node, witness = machine(limit_mb=1_000 + 3 * 1_286)
    for n, name in enumerate(("a", "b", "c")):
        node.hand(run(str(n), name), n * 100_000)
        play(node)
    node.order_unload("c")
    node.hand(run("3", "d"), 400_000)
    assert "unload c" in witness.heard and sorted(node.resident) == ["a", "b"]


def test_an_unload_waits_for_the_run() -> None:
    """A busy model that was told to go goes when its run has ended; one asked for again stays."""
    node, witness = machine(all_warm=False)
    node.hand(run("1"), 0)
    play(node, 10_000)
    node.order_unload("a")
    node.finish_unload("a", 10_100)
    assert "unload a" not in witness.heard
    play(node)
    assert witness.heard[-2:] == ["end 1", "unload a"]


def test_no_load_evicts_a_model_at_work() -> None:
    """Where only the busy model could go, an ordered load waits until it is idle."""
    node, witness = machine(limit_mb=1_000 + 1_286)
    node.hand(run("1"), 0)
    play(node, 10_000)
    node.order_load("2", MODELS["b"], 11_000)
    assert "unload a" not in witness.heard
    play(node)
    assert witness.heard[-4:] == ["end 1", "unload a", "load b", "ordered b 10000"]


def test_memory_in_use_grows_with_a_load() -> None:
    """Half way through a load half of the model shows."""
    node, _ = machine()
    node.hand(run("1"), 0)
    assert node.used_mb(5_000) == 1_000 + 643
    play(node)
    assert node.used_mb(30_000) == 1_000 + 1_286


def test_two_slots_share_the_speed() -> None:
    """Two runs at once take twice as long each."""
    spec = NodeSpec(**{name: getattr(SPEC, name) for name in SPEC.__struct_fields__} | {"slots": 2})
    node, witness = machine(spec=spec, all_warm=True)
    node.hand(run("1"), 0)
    node.hand(run("2"), 0)
    play(node)
    assert witness.ended_ms == {"1": 22_400, "2": 22_400}


def test_a_cancelled_run_makes_way() -> None:
    """A cancel during the load ends the load, and the next one begins."""
    node, witness = machine()
    node.hand(run("1"), 0)
    node.hand(run("2", "b"), 0)
    assert node.cancel("1", 5_000) and not node.cancel("1", 5_000)
    play(node)
    assert witness.ended_ms == {"2": 5_000 + 10_000 + 11_200}


def test_temperature_follows_the_curve() -> None:
    """After one tau of full load a machine is at ambient + heat * (1 - 1/e)."""
    thermals = Thermals(SPEC)
    thermals.advance(int(TAU_S * 1000), 1.0)
    assert thermals.temp_mc == pytest.approx(30_000 + 40_000 * (1 - 1 / math.e))
    thermals.advance(int(TAU_S * 1000), 0.0)
    assert thermals.temp_mc == pytest.approx(30_000 + 40_000 * (1 - 1 / math.e) / math.e)


def hot_ms(before_mc: int, after_mc: int, target_mc: int, elapsed_ms: int) -> float:
    """The hot part of some time."""
    return hot_part_ms(before_mc, after_mc, target_mc=target_mc, tau_s=TAU_S, elapsed_ms=elapsed_ms)


def test_hot_time_is_counted_from_the_crossing() -> None:
    """On the way from 70 to 80 °C half of the way is made after tau * ln 2; cooling is the mirror image."""
    crossing_ms = TAU_S * 1000 * math.log(2)
    thermals = Thermals(SPEC)
    thermals.ambient_mc, thermals.temp_mc = 40_000.0, 70_000.0
    thermals.pass_time(200_000, 1.0)
    assert thermals.hot_ms == pytest.approx(200_000 - crossing_ms)
    assert hot_ms(80_000, 71_000, 70_000, 200_000) == pytest.approx(crossing_ms)


def test_a_machine_at_the_mark_is_not_hot() -> None:
    """Up to 75.0 °C nothing counts: strictly above does."""
    assert hot_ms(74_000, 75_000, 76_000, 1_000) == 0
    assert hot_ms(75_001, 75_001, 75_001, 1_000) == 1_000


def test_speed_falls_from_80_to_85_degrees() -> None:
    """Full speed up to 80 °C, two thirds at 82.5, a third from 85 on."""
    speeds = [speed_at(temp_mc) for temp_mc in (80_000, 82_500, 85_000, 95_000)]
    assert speeds == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])


def test_a_hot_machine_takes_longer() -> None:
    """At a steady 85 °C a run takes three times as long."""
    node, witness = machine(all_warm=True)
    node.thermals.ambient_mc, node.thermals.temp_mc = 45_000.0, 85_000.0
    node.hand(run("1"), 0)
    play(node)
    assert witness.ended_ms["1"] == pytest.approx(3 * 11_200, abs=5)


def test_a_node_that_is_fifo_serves_the_oldest() -> None:
    """Unlike Ollama it lets a request for another model go before a younger one for the model in memory."""
    for fifo, first in ((False, "2-0"), (True, "1-0")):
        node, _ = machine()
        node.fifo = fifo
        node.resident = {"b": 0}
        node.queue = [run("1-0", "a"), run("2-0", "b")]
        assert node.next_run().work_id == first
