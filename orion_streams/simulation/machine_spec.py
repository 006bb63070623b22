"""The specs of simulated nodes and their models, also readable from a JSON file.

Units: MB are 10**6 bytes, rates are per second, `_mc` is milli-degrees Celsius, `_s` seconds.
"""

import hashlib
from typing import Annotated, Literal

import msgspec

Capability = Literal["completion", "tools", "embedding", "thinking", "insert", "vision"]
EngineName = Literal["synthetic", "llama"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Amount = Annotated[int, msgspec.Meta(ge=0)]
Rate = Annotated[float, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]

# Recorded of gemma3:270m (weights of 253 MB) on a CPU: 467.3 MB resident with a context of 2,048
# tokens, 477.8 MB with 4,096. So a token of context costs 1/50,000 of the weights, and what a
# runner holds beside weights and context is 204 MB. Larger models fit the same line well enough
# (8B in 4 bits: 98 kB a token by this formula, 131 kB by its architecture).
_CONTEXT_SHARE = 50_000
_SCRATCH_BYTES = 204_000_000


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model installed on a node. `size_mb` is the size of its file; `num_ctx` its Modelfile's, 0 for
    none."""

    name: str
    size_mb: Annotated[float, msgspec.Meta(gt=0)]
    capabilities: tuple[Capability, ...] = ("completion",)
    context_length: Count = 32_768
    num_ctx: Amount = 0
    embedding_length: Count = 640
    family: str = "gemma3"
    parameter_size: Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+)?[KMB]$")] = "268.10M"
    quantization: str = "Q4_K_M"

    @property
    def size_bytes(self) -> int:
        return round(self.size_mb * 1e6)

    @property
    def digest(self) -> str:
        """Return the digest, equal on every node that has the same model."""
        return _sha256(f"manifest {self.name} {self.size_bytes} {self.quantization}")

    @property
    def blob(self) -> str:
        """Return the digest of the weights."""
        return _sha256(f"weights {self.name} {self.size_bytes} {self.quantization}")

    @property
    def modified_at_s(self) -> int:
        """Return a made-up but constant time of installation, in seconds since 1970."""
        return 1_767_225_600 + int(self.digest[:8], 16) % (180 * 86_400)

    @property
    def parameter_count(self) -> int:
        scale = {"K": 1e3, "M": 1e6, "B": 1e9}[self.parameter_size[-1]]
        return round(float(self.parameter_size[:-1]) * scale)

    def resident_bytes(self, num_ctx: int) -> int:
        """Return the memory of the model when loaded with a context of `num_ctx` tokens."""
        return self.size_bytes + num_ctx * (self.size_bytes // _CONTEXT_SHARE) + _SCRATCH_BYTES


DEFAULT_MODELS = (
    ModelSpec(name="gemma3:270m", size_mb=253.113294),
    ModelSpec(name="other:270m", size_mb=253.113294),
)


class NodeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node: its machine, its speed, its limits, its models.

    The defaults are those of a Raspberry Pi 5 with 8 GB and an SD card. `prefill_tokens_per_s`
    and `decode_tokens_per_s` hold for a model of 1 GB; a model of s MB runs at rate * 1000 / s,
    because a CPU is bound by reading the weights (a Pi 5 decodes 3B, 8B and 13B in 4 bits at
    4.9, 2.2 and 1.4 tokens/s: 10 tokens/s per GB each time). Runs in progress share that speed.
    A rate of 0 takes no time. `unload_ms`: time from an unload's reply to the unload; `places`:
    most resident models; `slots`: most runs of one model at a time; `heat_mc`: final rise of the
    temperature under full load. `registry`: the models that it can pull, from a registry that is simulated,
    too, at `net_mb_per_s`.
    """

    name: str = "node"
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    ram_total_mb: Count = 8_192
    base_ram_mb: Amount = 900
    disk_mb_per_s: Rate = 80.0
    prefill_tokens_per_s: Rate = 60.0
    decode_tokens_per_s: Rate = 10.0
    slots: Count = 1
    places: Count = 3
    max_queue: Count = 512
    keep_alive_s: Seconds = 300.0
    unload_ms: Amount = 100
    ambient_mc: int = 45_000
    heat_mc: Amount = 30_000
    tau_s: Seconds = 90.0
    time_scale: Annotated[float, msgspec.Meta(ge=1)] = 1.0
    seed: int = 0
    engine: EngineName = "synthetic"
    models: tuple[ModelSpec, ...] = DEFAULT_MODELS
    registry: tuple[ModelSpec, ...] = ()
    net_mb_per_s: Rate = 0.0

    def rate_for(self, model: ModelSpec, tokens_per_s: float) -> float:
        """Return the rate of a model, given that for 1 GB; 0 stays 0."""
        return tokens_per_s * 1000 / model.size_mb


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
