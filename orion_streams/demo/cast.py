"""The demo's nodes and policy: faster than real Pis, so that the story fits into a minute."""

from __future__ import annotations

from typing import Any

from orion_streams.demo.simulated_grid import GEMMA, LLAMA, SimulatedNode, three_nodes, with_models
from orion_streams.simulation.machine_spec import EngineName, ModelSpec

OTHER = ModelSpec(name="other:270m", size_mb=GEMMA.size_mb)
"""A second model name for the llama engine, which has one set of weights."""


def models_of(engine: EngineName) -> tuple[ModelSpec, ModelSpec]:
    """Return the light model of tier 1 and the heavy one of tier 2."""
    return (GEMMA, OTHER if engine == "llama" else LLAMA)


def cast_of(engine: EngineName) -> tuple[SimulatedNode, ...]:
    """Return three nodes with both models on both inference nodes, and a 15 times faster thermal model."""
    return with_models(
        three_nodes(engine),
        models_of(engine),
        disk_mb_per_s=1_500,
        prefill_tokens_per_s=2_000,
        decode_tokens_per_s=70,
        heat_mc=22_000,
        time_scale=15,
    )


def settings(real: bool) -> dict[str, dict[str, Any]]:
    """Return a policy for such nodes: two samples a second, and priors of their speed. `real`: inference
    keeps a small machine so busy that health may come late."""
    return {
        "policy": {
            "stale_ms": 5_000 if real else 2_000,
            "max_attempts": 8,
            "gone_samples": 4,
            "max_step_ms": 1_000,
            "spill_ms": 2_500,
            "load_us_per_mb": 4_000 if real else 800,
            "prefill_us_per_mb": 1,
            "decode_us_per_mb": 120 if real else 15,
            "prior_tokens": 24,
        },
        "limits": {"health_ms": 500, "inventory_ms": 2_000},
    }
