"""A simulated machine with its Ollama, as its agent sees them: heat, memory, models, and ways to fail."""

from __future__ import annotations

from random import Random

from orion_streams.protocol.agent_entries import InstalledModel, ResidentModel
from tests.cluster.cluster_house import MODELS

COOL_MC, STEP_MC = 48_000, 6_000
BASE_MB = 1_500


class Machine:
    """A machine. `target_mc`: the temperature that it goes to, a step with each look. `failing`: how its
    Ollama fails (error, hang, away, busy, cut), or ""."""

    def __init__(self, name: str, ram_total_mb: int, rng: Random) -> None:
        self.name, self.ram_total_mb, self.rng = name, ram_total_mb, rng
        self.temp_mc = self.target_mc = COOL_MC
        self.other_mb = BASE_MB
        self.failing = ""
        self.installed: dict[str, InstalledModel] = dict(MODELS)
        self.resident: dict[str, int] = {}

    def heal(self) -> None:
        """End all that ails it."""
        self.target_mc, self.other_mb, self.failing = COOL_MC, BASE_MB, ""
        self.installed = dict(MODELS)

    def look(self) -> None:
        """Move the temperature by a step."""
        gap_mc = self.target_mc - self.temp_mc
        self.temp_mc += max(min(gap_mc, STEP_MC), -STEP_MC)

    @property
    def ram_used_mb(self) -> int:
        """Return the memory that everything takes."""
        models = sum(row.size_mb for row in self.rows())
        return min(self.other_mb + models, self.ram_total_mb)

    def rows(self) -> tuple[ResidentModel, ...]:
        """List the models in memory, as Ollama does."""
        return tuple(
            ResidentModel(name, MODELS[name].digest, MODELS[name].size_mb * 12 // 10 + 204, num_ctx)
            for name, num_ctx in self.resident.items()
        )

    def load_ms(self, model: str, num_ctx: int) -> int:
        """Load a model unless it is there with this context length. Return how long that takes."""
        if self.resident.get(model) == num_ctx:
            return 0
        self.resident[model] = num_ctx
        return 100 + MODELS[model].size_mb // 5 if model in MODELS else 100
