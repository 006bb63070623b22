"""The house of the simulation: its configuration, its models, and the text of every answer."""

from __future__ import annotations

from zlib import crc32

from orion_streams.config import Config, Limits, NodeConfig, Retention
from orion_streams.model.policy import UNLISTED, Policy
from orion_streams.protocol.agent_entries import InstalledModel
from tests.cluster.world_clock import World

MASTER, WORKER, EDGE = "orion-master", "orion-worker", "orion-edge"
MODELS = {
    "gemma3:270m": InstalledModel("gemma3:270m", "a", 253),
    "qwen3:0.6b": InstalledModel("qwen3:0.6b", "b", 523),
    "llama3.2:3b": InstalledModel("llama3.2:3b", "c", 2_019),
}
CLIENTS = {"brain": 6, "gateway": 3, "cli": 1}
"""By name, and their share of the requests."""
DEADLINE_MS = 20_000
HEALTH_MS = 1_000


def configuration(world: World) -> Config:
    """Make a configuration: quick nodes, short deadlines, and small limits where trimming is tried."""
    slots = world.rng("slots").choice((6, 16, 16))
    trims = "trimming" in world.faults
    return Config(
        clients=dict.fromkeys(CLIENTS, UNLISTED),
        nodes={
            MASTER: NodeConfig(tiers=(1,), slots=slots, ram_mb=16_384),
            WORKER: NodeConfig(tiers=(2,), slots=slots, ram_mb=8_192),
            EDGE: NodeConfig(inference=False, ollama="", ram_mb=4_096),
        },
        policy=Policy(
            default_deadline_ms=DEADLINE_MS,
            max_deadline_ms=600_000,
            attempt_deadline_ms=8_000,
            breaker_open_ms=2_000,
            breaker_open_max_ms=8_000,
            load_us_per_mb=200,
            prefill_us_per_mb=1,
            decode_us_per_mb=1,
            retry_ms=500,
            spill_ms=300,
        ),
        limits=Limits(health_ms=HEALTH_MS),
        retention=Retention(
            log_keep_ms=2_000 if trims else 172_800_000,
            log_keep_mb=1,
            snapshot_events=400,
            replies_entries=1_000 if trims else 50_000,
        ),
    )


def prompt_of(request: str) -> bytes:
    """Return the prompt of a request, named "client/id"."""
    return f"What of {request}?".encode()


def pieces_of(request: str, work_id: str) -> list[bytes]:
    """Return the answer of an attempt in pieces: no two attempts say the same."""
    count = 1 + crc32(request.encode()) % 4
    return [f"{request} {work_id} {n}/{count}.".encode() for n in range(1, count + 1)]
