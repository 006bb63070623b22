"""The rules that decisions read: policy, nodes, models. They travel in the log (`policy.changed`), so a log
explains itself without the file. A key that this version does not know is passed over there; in the file
it is refused. No floats; the unit is in the name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Natural = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
Name = Annotated[
    str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}\Z", description="small letters, digits, - and _")
]
Permille = Annotated[int, Meta(ge=1, le=1000)]
Tier = Annotated[int, Meta(ge=1, le=9, examples=[[1]])]
ModelName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9_.:/@-]{1,200}\Z", description="a model's name in Ollama")
]
HostName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9.:-]{0,252}\Z", description="a host, or host:port")
]

DECIDER = 5
"""The version of the code that decides, raised with every change of what it answers to the same grid. A
router and replay compare it with the log's before they decide."""
OLLAMA_NUM_CTX = 4_096
"""The context length of a model on a processor, where nobody asks for another."""
IN_HAND_MAX, RUNS_MAX = 256, 192
"""So many pieces of work a node's health lists, and so many of them may be runs."""
ROBOT = "orion-edge"
"""The robot drives: whatever a configuration says, it never gets an inference request."""


class Policy(Struct, frozen=True):
    """What routing and folding read. The unit is in the name. See streams.toml."""

    temp_max_mc: Count = 75_000
    temp_return_mc: Count = 70_000
    temp_critical_mc: Count = 85_000
    derate_from_mc: Count = 65_000
    slope_horizon_ms: Natural = 240_000
    slope_smoothing_ms: Count = 30_000
    derate_permille: Natural = 500
    stuck_ms: Count = 600_000
    stuck_whole_ms: Count = 3_600_000
    ram_max_permille: Permille = 900
    ram_return_permille: Permille = 850
    ram_margin_permille: Natural = 20
    ram_system_mb: Natural = 500
    num_ctx: Natural = 0
    num_ctx_reuse: Literal["larger", "exact"] = "larger"
    context_divisor: Count = 50_000
    runner_mb: Natural = 204
    return_samples: Count = 3
    fresh_ms: Count = 2_000
    stale_ms: Count = 5_000
    gone_samples: Count = 3
    prefetch: Natural = 0
    max_attempts: Count = 4
    max_refusals: Count = 2
    max_open: Count = 1_000
    default_deadline_ms: Count = 600_000
    max_deadline_ms: Count = 86_400_000
    max_rest_ms: Natural = 86_400_000
    attempt_deadline_ms: Count = 600_000
    dedupe_keep: Count = 10_000
    dedupe_keep_ms: Count = 3_600_000
    max_step_ms: Count = 2_000
    max_events: Count = 64
    max_bytes: Count = 1_000_000
    max_scan: Count = 256
    spill_ms: Natural = 15_000
    spill_forbidden: tuple[Tier, ...] = ()
    retry_ms: Natural = 60_000
    retry_pause_ms: Count = 1_000
    retry_pause_max_ms: Count = 30_000
    breaker_failures: Annotated[int, Meta(ge=2, le=8)] = 3
    breaker_open_ms: Count = 15_000
    breaker_open_max_ms: Count = 240_000
    two_agents_ms: Count = 30_000
    unload_again_ms: Count = 30_000
    load_again_ms: Count = 300_000
    min_stay_ms: Natural = 30_000
    evict_horizon_ms: Natural = 400_000
    copy_loads: Natural = 3
    due_stretch: Natural = 2
    group_loads: Natural = 3
    group_wait_ms: Natural = 900_000
    residual_permille: Permille = 250
    session_permille: Annotated[int, Meta(ge=0, le=1000)] = 800
    demand_half_ms: Count = 600_000
    plan_every_ms: Natural = 10_000
    plan_idle_ms: Natural = 5_000
    load_us_per_mb: Natural = 17_000
    prefill_us_per_mb: Natural = 16
    decode_us_per_mb: Natural = 100
    prior_tokens: Count = 200
    speed_half_ms: Count = 3_600_000


class NodeRules(Struct, frozen=True, omit_defaults=True):
    """The part of a node's configuration that routing reads. `quiet`: times of day between which it takes
    nothing new, "22:00-07:00"; empty: none."""

    name: Name
    inference: bool = True
    tiers: tuple[Tier, ...] = ()
    slots: Count = 1
    ram_mb: Count = 8_192
    temperature_sensor: bool = True
    max_models: Count = 3
    max_num_ctx: Natural = 0
    load_us_per_mb: Natural = 0
    prefill_us_per_mb: Natural = 0
    decode_us_per_mb: Natural = 0
    quiet: str = ""

    @property
    def takes_inference(self) -> bool:
        """Whether it may ever get a request; the robot's name overrules every configuration."""
        return self.inference and self.name != ROBOT


class ModelRules(Struct, frozen=True, omit_defaults=True):
    """One [models."NAME"] table: its runner's options, pinned so that no request reloads it by accident,
    and where it is to stay in memory. 0: not pinned; `num_ctx` is then `policy.num_ctx`, or the model's
    own. `max_num_ctx`: more than that no request gets (0: no limit)."""

    num_ctx: Natural = 0
    max_num_ctx: Natural = 0
    num_thread: Natural = 0
    prior_tokens: Natural = 0
    resident_on: tuple[Name, ...] = ()

    @property
    def runner(self) -> str:
        """Return the pinned options beside num_ctx, as a runner's row names them."""
        return f"num_thread={self.num_thread}" if self.num_thread else ""


class ClientRules(Struct, frozen=True, omit_defaults=True):
    """One [clients.NAME] table: how much a client may ask for at a time, in requests (0: policy.max_open)
    and in bytes of their entries, and at which priority. An `operator` may also list and cancel the
    requests of others, and let nodes rest; nobody asks in another's name. `max_keep_alive_ms`: for so long
    at most its requests keep an idle model in memory."""

    max_open: Natural = 0
    max_open_bytes: Count = 64_000_000
    max_priority: Annotated[int, Meta(ge=-9, le=9)] = 9
    operator: bool = False
    max_keep_alive_ms: Natural = 86_400_000


NO_RULES = ModelRules()
"""The rules of a model that streams.toml does not name."""


UNLISTED = ClientRules()
"""The rules of a client that the log does not name."""


GATEWAY = "gateway"
"""The client that may add and remove guests: clients that streams.toml does not name."""
GUEST_PREFIX = "key-"
"""How a guest's name begins, so that the server's rules can name the streams of all guests."""
MAX_GUESTS = 1_000


def usual_clients() -> dict[str, ClientRules]:
    """Return the clients of a house that names none. Its owner is its only operator: without users of the
    server the command line speaks as `owner`; with them only the owner's user may."""
    return {"brain": UNLISTED, "gateway": UNLISTED, "cli": UNLISTED, "owner": ClientRules(operator=True)}


def policy_id(
    policy: Policy,
    nodes: tuple[NodeRules, ...],
    models: Mapping[str, ModelRules],
    clients: Mapping[str, ClientRules],
) -> str:
    """Return eight hex digits that name a policy, its nodes, models and clients."""
    rules = (policy, nodes, dict(sorted(models.items())), dict(sorted(clients.items())))
    return hashlib.blake2b(msgspec.json.encode(rules), digest_size=4).hexdigest()
