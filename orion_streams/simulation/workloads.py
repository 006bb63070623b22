"""Generate workloads: the trace of a seed, the same for every policy.

Two regimes favour opposite policies. *decode-heavy*: long answers and NVMe disks, so loads are cheap
compared with answers. *load-heavy*: short answers, SD cards, models that do not all fit. The arrival rate
follows from the service times with every model warm, so that the grid is as busy as UTILISATION.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.model.policy import ROBOT
from orion_streams.simulation.machine_spec import ModelSpec, NodeSpec

REGIMES = ("decode-heavy", "load-heavy")
WORKLOADS = ("steady", "bursty", "two-big", "hot-afternoon", "node-loss")
UTILISATION = 0.67
BURST = (10, 20)
BURST_GAP_MS = 500
"""Mean time between the requests of a burst."""
OVERHEAD_MS = (150, 270)
"""Range of Ollama's `load_duration` for a warm model."""
SESSIONS, SESSION_SHARE, TURN_SHARE = 6, 0.15, 0.6
"""Open sessions per model; share of requests that begin one; share of the others that continue one."""
AFTERNOON_MC, AFTERNOON = 14_000, (0.25, 0.35, 0.65, 0.75)
"""How much warmer it gets; when the rise begins and ends, and the fall begins and ends, as shares of the
run."""
LOSS = (0.40, 0.55)
"""When the worker is lost and when it is back, as shares of the run."""
CROWDED_MB = 5_000
"""Memory of the master taken by something else in two-big: two such models fit on no node."""
NUM_CTX = 4_096
"""Default context length of simulated runners."""
AMBIENT_MC, HEAT_MC, TAU_S = 32_000, 37_000, 180.0
"""Under constant load a machine reaches 69 °C, on a hot afternoon 83 °C."""


class Mix(Struct, frozen=True, kw_only=True):
    """The requests of a regime: models with their shares, lengths in tokens (log-normal answers,
    log-uniform prompts)."""

    models: tuple[ModelSpec, ...] = ()
    shares: tuple[float, ...] = ()
    answer_mean: int = 0
    answer_sigma: float = 0.0
    answer_max: int = 0
    prompt: tuple[int, int] = (0, 0)
    disk_mb_per_s: float = 0.0


class Arrival(Struct, frozen=True):
    """One request of a trace. `overhead_ms`: what a warm start takes; `read_tokens`: the real length of the
    prompt, if it is not `prompt_tokens`; `cancel_ms`: time until its client cancels."""

    at_ms: int
    model: str
    prompt_tokens: int
    tokens: int
    overhead_ms: int
    session: str
    read_tokens: int = 0
    kind: str = "generate"
    num_predict: int = 0
    tier: int = 0
    priority: int = 0
    deadline_ms: int = 86_400_000
    cancel_ms: int = 0
    num_ctx: int = NUM_CTX
    runner: str = ""


class Scenario(Struct, frozen=True):
    """A workload in a regime on some nodes. `gap_ms`: mean time between requests; `span_ms`: expected time
    of the last one; `fifo`: the queues of the nodes are first in, first out, which Ollama's is not."""

    regime: str
    workload: str
    requests: int
    mix: Mix
    nodes: tuple[NodeSpec, ...]
    gap_ms: float
    span_ms: int
    lost: str = ""
    fifo: bool = False


def model(name: str, size_mb: int) -> ModelSpec:
    """Make a model of a mix."""
    return ModelSpec(name=name, size_mb=size_mb)


SMALL, THREE, EIGHT = model("gemma3:270m", 253), model("llama3.2:3b", 2_019), model("llama3.1:8b", 4_920)
NINE, SEVEN, FOUR = model("qwen3:8b", 4_700), model("mistral:7b", 4_100), model("gemma3:4b", 3_300)
MIXES = {
    "decode-heavy": Mix(
        models=(THREE, EIGHT, SMALL),
        shares=(6, 3, 2),
        answer_mean=220,
        answer_sigma=0.8,
        answer_max=2_048,
        prompt=(50, 500),
        disk_mb_per_s=450.0,
    ),
    "load-heavy": Mix(
        models=(THREE, FOUR, EIGHT, SEVEN, NINE),
        shares=(60, 30, 20, 15, 12),
        answer_mean=25,
        answer_sigma=0.6,
        answer_max=200,
        prompt=(50, 200),
        disk_mb_per_s=70.0,
    ),
}
BIG_TWO = (EIGHT, NINE)


def scenario(regime: str, workload: str, requests: int, nodes: int) -> Scenario:
    """Return the nodes, the mix and the arrival rate of a workload."""
    mix = MIXES[regime]
    house = house_of(nodes, mix.disk_mb_per_s)
    if workload == "two-big":
        mix = replace(mix, models=BIG_TWO, shares=(1, 1))
        master = replace(house[0], base_ram_mb=house[0].base_ram_mb + CROWDED_MB)
        house = (master, *house[1:])
    workers = sum(node.name != ROBOT for node in house)
    gap_ms = service_ms(mix, house[0]) / (UTILISATION * workers)
    return Scenario(
        regime=regime,
        workload=workload,
        requests=requests,
        mix=mix,
        nodes=house,
        gap_ms=gap_ms,
        span_ms=round(gap_ms * requests),
        lost="orion-worker" if workload == "node-loss" and workers > 1 else "",
    )


def house_of(nodes: int, disk_mb_per_s: float) -> tuple[NodeSpec, ...]:
    """Return the master, the worker, the robot, then further workers."""
    names = ["orion-master", "orion-worker", ROBOT]
    names += [f"orion-worker-{n}" for n in range(2, nodes - 1)]
    ram = {"orion-master": 16_384, ROBOT: 4_096}
    return tuple(
        NodeSpec(
            name=name,
            ram_total_mb=ram.get(name, 8_192),
            disk_mb_per_s=disk_mb_per_s,
            ambient_mc=AMBIENT_MC,
            heat_mc=HEAT_MC,
            tau_s=TAU_S,
        )
        for name in names[:nodes]
    )


def service_ms(mix: Mix, node: NodeSpec) -> float:
    """Return the mean time of a request on a node with every model warm."""
    low, high = mix.prompt
    prompt = (high - low) / math.log(high / low)
    rows = zip(mix.models, mix.shares, strict=True)
    mean_mb = sum(each.size_mb * share for each, share in rows) / sum(mix.shares)
    per_mb = prompt / node.prefill_tokens_per_s + mix.answer_mean / node.decode_tokens_per_s
    return per_mb * mean_mb + sum(OVERHEAD_MS) / 2


def arrivals(scene: Scenario, seed: int) -> Iterator[Arrival]:
    """Yield the requests of a trace."""
    rng = random.Random(f"{seed} {scene.regime} {scene.workload}")  # noqa: S311 - a simulation
    mix = scene.mix
    names = [each.name for each in mix.models]
    weights = [sum(mix.shares[: n + 1]) for n in range(len(names))]
    mu = math.log(mix.answer_mean) - mix.answer_sigma**2 / 2
    logs = math.log(mix.prompt[0]), math.log(mix.prompt[1])
    talks: dict[str, list[str]] = {name: [] for name in names}
    for n, at_ms in enumerate(times(scene, rng)):
        name = rng.choices(names, cum_weights=weights)[0]
        yield Arrival(
            at_ms=at_ms,
            model=name,
            prompt_tokens=int(math.exp(rng.uniform(*logs))),
            tokens=min(max(round(rng.lognormvariate(mu, mix.answer_sigma)), 1), mix.answer_max),
            overhead_ms=rng.randint(*OVERHEAD_MS),
            session=session(talks[name], n, rng),
        )


def times(scene: Scenario, rng: random.Random) -> Iterator[int]:
    """Yield arrival times: a Poisson process, or bursts with the same mean rate."""
    at_ms, gap_ms = 0.0, scene.gap_ms
    if scene.workload != "bursty":
        for _ in range(scene.requests):
            at_ms += rng.expovariate(1 / gap_ms)
            yield int(at_ms)
        return
    left = scene.requests
    while left:
        size = min(rng.randint(*BURST), left)
        at_ms += rng.expovariate(1 / (gap_ms * size))
        moments = [at_ms + rng.uniform(0, 2 * BURST_GAP_MS * size) for _ in range(size)]
        yield from (int(each) for each in sorted(moments))
        at_ms = max(moments)
        left -= size


def session(talks: list[str], n: int, rng: random.Random) -> str:
    """Draw the session of a request; an empty string for none."""
    dice = rng.random()
    if dice < SESSION_SHARE:
        talks.append(f"talk-{n}")
        del talks[:-SESSIONS]
        return talks[-1]
    if talks and dice < SESSION_SHARE + (1 - SESSION_SHARE) * TURN_SHARE / 2:
        return talks[int(rng.random() * len(talks))]
    return ""


def warmer_mc(scene: Scenario, at_ms: int) -> float:
    """Return by how much the air is warmer than usual at a time."""
    if scene.workload != "hot-afternoon":
        return 0.0
    begins, there, ends, over = (share * scene.span_ms for share in AFTERNOON)
    rising = (at_ms - begins) / (there - begins)
    falling = (over - at_ms) / (over - ends)
    return AFTERNOON_MC * min(max(min(rising, falling), 0.0), 1.0)
