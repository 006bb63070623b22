"""streams.toml as frozen structs. Flags > ORION_* > ./streams.toml > the defaults of the package.

`Policy` and `NodeRules` are what the pure core reads; they travel in the log (`policy.changed`), so a
log explains itself without the file. Everything else concerns one process only.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from orion_streams.errors import ConfigError

Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Natural = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Permille = Annotated[int, Meta(ge=1, le=1000)]
Tier = Annotated[int, Meta(ge=1, le=9)]
Url = Annotated[str, Meta(pattern=r"^((https?|echo)://.*)?$")]

PACKAGED_TOML = Path(__file__).with_name("streams.toml")


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """What routing and folding read. Integers only; the unit is in the name. See streams.toml."""

    temp_max_mc: Count = 75_000
    temp_return_mc: Count = 70_000
    ram_max_permille: Permille = 900
    ram_return_permille: Permille = 850
    return_samples: Count = 3
    stale_ms: Count = 5_000
    gone_samples: Count = 3
    prefetch: Natural = 0
    max_attempts: Count = 4
    max_refusals: Count = 2
    max_open: Count = 1_000
    default_deadline_ms: Count = 600_000
    max_deadline_ms: Count = 86_400_000
    attempt_deadline_ms: Count = 300_000
    dedupe_keep: Count = 10_000
    dedupe_keep_ms: Count = 3_600_000
    max_step_ms: Count = 2_000
    max_events: Count = 64
    max_bytes: Count = 1_000_000
    max_scan: Count = 256
    spill_ms: Natural = 15_000
    retry_ms: Natural = 60_000
    two_agents_ms: Count = 30_000
    unload_again_ms: Count = 30_000
    load_us_per_mb: Natural = 17_000
    prefill_us_per_mb: Natural = 16
    decode_us_per_mb: Natural = 100
    prior_tokens: Count = 200


class NodeRules(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The part of a node's configuration that routing reads."""

    name: Name
    inference: bool = True
    tiers: tuple[Tier, ...] = ()
    slots: Count = 1
    ram_mb: Count = 8_192
    temperature_sensor: bool = True


class NodeConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One [nodes.NAME] table: a machine of the house and its Ollama."""

    role: str = ""
    router: bool = False
    inference: bool = True
    tiers: tuple[Tier, ...] = ()
    slots: Count = 1
    ram_mb: Count = 8_192
    temperature_sensor: bool = True
    ollama: Url = "http://127.0.0.1:11434"
    keep_alive: str = "30m"
    simulated: bool = False


class RedisConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The [redis] table. An empty url means the embedded server."""

    url: str = ""
    data_dir: str = ""
    fsync: Literal["everysec", "always"] = "everysec"
    block_ms: Annotated[int, Meta(ge=10, le=2_000)] = 2_000


class Clients(Struct, frozen=True, forbid_unknown_fields=True):
    """The [clients] table: who may write requests. Each has two streams of its own."""

    names: tuple[Name, ...] = ("brain", "gateway", "cli")


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """The [limits] table: bounds of batches, entries and waits of one process."""

    entry_max_bytes: Count = 1_100_000
    answer_max_bytes: Count = 4_000_000
    batch_entries: Count = 64
    token_flush_ms: Count = 50
    inter_token_ms: Count = 120_000
    load_deadline_ms: Count = 300_000
    num_predict_max: Count = 4_096
    health_ms: Count = 1_000
    inventory_ms: Count = 5_000
    lose_before_following: Count = 3


class Retention(Struct, frozen=True, forbid_unknown_fields=True):
    """The [retention] table: how much of each stream is kept."""

    log_keep_ms: Count = 172_800_000
    log_keep_mb: Count = 256
    snapshot_events: Count = 20_000
    health_entries: Count = 600
    results_entries: Count = 20_000
    replies_entries: Count = 50_000


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of streams.toml."""

    revision: Count = 1
    prefix: Annotated[str, Meta(pattern=r"^[\w{}:.-]{1,64}$")] = "orion:"
    redis: RedisConfig = RedisConfig()
    clients: Clients = Clients()
    nodes: dict[Name, NodeConfig] = {}
    policy: Policy = Policy()
    limits: Limits = Limits()
    retention: Retention = Retention()

    def key(self, *parts: str) -> str:
        """The Redis key of a stream: `key("work", "orion-worker")` is `orion:work:orion-worker`."""
        return self.prefix + ":".join(parts)

    def rules(self) -> tuple[NodeRules, ...]:
        """What routing reads of the nodes, by name."""
        return tuple(
            NodeRules(name, node.inference, node.tiers, node.slots, node.ram_mb, node.temperature_sensor)
            for name, node in sorted(self.nodes.items())
        )

    def node(self, name: str) -> NodeConfig:
        """The table of one node; ConfigError names the known ones."""
        if name not in self.nodes:
            known = ", ".join(sorted(self.nodes)) or "none"
            raise ConfigError(f"nodes.{name}: no such node in streams.toml (known: {known})")
        return self.nodes[name]


def policy_id(policy: Policy, rules: tuple[NodeRules, ...]) -> str:
    """Eight hex digits that name a policy together with the nodes it was made for."""
    return hashlib.blake2b(msgspec.json.encode((policy, rules)), digest_size=4).hexdigest()


def load(path: str | Path | None = None, redis_url: str | None = None) -> Config:
    """Read the configuration: `path`, else $ORION_CONFIG, else ./streams.toml, else the package's own.

    Raises ConfigError with file, key and what was expected.
    """
    chosen = path or os.environ.get("ORION_CONFIG")
    if chosen is None:
        chosen = Path("streams.toml") if Path("streams.toml").exists() else PACKAGED_TOML
    config = parse(read_text(Path(chosen)), str(chosen))
    url = redis_url or os.environ.get("ORION_REDIS_URL")
    if url:
        config = msgspec.structs.replace(config, redis=msgspec.structs.replace(config.redis, url=url))
    return config


def read_text(path: Path) -> str:
    """The file's text; ConfigError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def parse(text: str, source: str = "streams.toml") -> Config:
    """Text of a streams.toml to Config. Raises ConfigError naming `source`, key and expectation."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {explain(tree, error)}") from error
    for complaint in contradictions(config):
        raise ConfigError(f"{source}: {complaint}")
    return config


def explain(tree: dict[str, Any], error: msgspec.ValidationError) -> str:
    """The wrong key and what was expected. msgspec does not say which node it was: look again."""
    key, what = split_error(error)
    if key.startswith(("nodes[...]", "key")):
        for name, node in tree["nodes"].items():
            try:
                msgspec.convert({name: node}, dict[Name, NodeConfig])
            except msgspec.ValidationError as again:
                inner, what = split_error(again)
                return f"nodes.{name}{inner.partition('[...]')[2]}: {what}"
    return f"{key or 'top level'}: {what}"


def split_error(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's message as the key and what was expected."""
    what, _, where = str(error).partition(" - at ")
    return where.strip("`").removeprefix("$").lstrip("."), what


def contradictions(config: Config) -> list[str]:
    """What no single value shows: marks the wrong way round, a grid that could never answer."""
    policy, found = config.policy, []
    if policy.temp_return_mc >= policy.temp_max_mc:
        found.append("policy.temp_return_mc: expected less than policy.temp_max_mc")
    if policy.ram_return_permille >= policy.ram_max_permille:
        found.append("policy.ram_return_permille: expected less than policy.ram_max_permille")
    if policy.default_deadline_ms > policy.max_deadline_ms:
        found.append("policy.default_deadline_ms: expected at most policy.max_deadline_ms")
    if config.limits.health_ms * 2 > policy.stale_ms:
        found.append("limits.health_ms: expected at most half of policy.stale_ms")
    if not config.clients.names:
        found.append("clients.names: expected at least one client")
    if not any(node.inference for node in config.nodes.values()):
        found.append("nodes: expected at least one node with inference = true")
    for name, node in sorted(config.nodes.items()):
        if node.inference and not node.ollama:
            found.append(f"nodes.{name}.ollama: expected a URL, as inference is on")
    return found
