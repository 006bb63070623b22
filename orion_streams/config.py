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
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from orion_streams import urls
from orion_streams.errors import ConfigError

Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Natural = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Permille = Annotated[int, Meta(ge=1, le=1000)]
Tier = Annotated[int, Meta(ge=1, le=9)]
Url = Annotated[str, Meta(pattern=r"^((https?|echo)://.*)?$")]
ModelName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.:/@-]{1,200}\Z")]

DECIDER = 2
"""The version of the code that decides, raised with every change of what it answers to the same grid; see
`reconcile.DECIDERS`."""
ROBOT = "orion-edge"
"""The robot drives: whatever a configuration says, it never gets an inference request."""

PACKAGED_TOML = Path(__file__).with_name("streams.toml")


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """What routing and folding read. Integers only; the unit is in the name. See streams.toml."""

    temp_max_mc: Count = 75_000
    temp_return_mc: Count = 70_000
    temp_critical_mc: Count = 85_000
    derate_from_mc: Count = 65_000
    slope_horizon_ms: Natural = 240_000
    slope_smoothing_ms: Count = 30_000
    derate_permille: Natural = 500
    ram_max_permille: Permille = 900
    ram_return_permille: Permille = 850
    ram_margin_permille: Natural = 20
    ram_system_mb: Natural = 500
    num_ctx: Count = 4_096
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


class NodeRules(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The part of a node's configuration that routing reads."""

    name: Name
    inference: bool = True
    tiers: tuple[Tier, ...] = ()
    slots: Count = 1
    ram_mb: Count = 8_192
    temperature_sensor: bool = True
    load_us_per_mb: Natural = 0
    prefill_us_per_mb: Natural = 0
    decode_us_per_mb: Natural = 0

    @property
    def takes_inference(self) -> bool:
        """Whether it may ever get a request; the robot's name overrules every configuration."""
        return self.inference and self.name != ROBOT


class ModelRules(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One [models."NAME"] table: its runner's options, pinned so that no request reloads it by accident,
    and where it is to stay in memory. 0: not pinned; `num_ctx` is then `policy.num_ctx`."""

    num_ctx: Natural = 0
    num_thread: Natural = 0
    prior_tokens: Natural = 0
    resident_on: tuple[Name, ...] = ()

    @property
    def runner(self) -> str:
        """The pinned options beside num_ctx, as a runner's row names them."""
        return f"num_thread={self.num_thread}" if self.num_thread else ""


class NodeConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One [nodes.NAME] table: a machine of the house and its Ollama."""

    role: str = ""
    router: bool = False
    inference: bool = True
    tiers: tuple[Tier, ...] = ()
    slots: Count = 1
    ram_mb: Count = 8_192
    temperature_sensor: bool = True
    load_us_per_mb: Natural = 0
    prefill_us_per_mb: Natural = 0
    decode_us_per_mb: Natural = 0
    ollama: Url = "http://127.0.0.1:11434"
    keep_alive: str = "30m"
    simulated: bool = False


class RedisConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The [redis] table. An empty url means the embedded server. `load` puts password and TLS files into
    the url: from there on it says all that a connection needs."""

    url: str = ""
    password_file: str = ""
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
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
    archive_dir: str = ""
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
    models: dict[ModelName, ModelRules] = {}
    policy: Policy = Policy()
    limits: Limits = Limits()
    retention: Retention = Retention()

    def key(self, *parts: str) -> str:
        """The Redis key of a stream: `key("work", "orion-worker")` is `orion:work:orion-worker`."""
        return self.prefix + ":".join(parts)

    def rules(self) -> tuple[NodeRules, ...]:
        """What routing reads of the nodes, by name."""
        return tuple(
            NodeRules(
                name=name,
                inference=node.inference,
                tiers=node.tiers,
                slots=node.slots,
                ram_mb=node.ram_mb,
                temperature_sensor=node.temperature_sensor,
                load_us_per_mb=node.load_us_per_mb,
                prefill_us_per_mb=node.prefill_us_per_mb,
                decode_us_per_mb=node.decode_us_per_mb,
            )
            for name, node in sorted(self.nodes.items())
        )

    def simulated(self) -> tuple[str, ...]:
        """The nodes that are no real machines, by name."""
        return tuple(sorted(name for name, node in self.nodes.items() if node.simulated))

    def model_rules(self) -> dict[str, ModelRules]:
        """What routing reads of the models, by full name."""
        return {full_model_name(name): rules for name, rules in sorted(self.models.items())}

    def node(self, name: str) -> NodeConfig:
        """The table of one node; ConfigError names the known ones."""
        if name not in self.nodes:
            known = ", ".join(sorted(self.nodes)) or "none"
            raise ConfigError(f"nodes.{name}: no such node in streams.toml (known: {known})")
        return self.nodes[name]


def full_model_name(model: str) -> str:
    """Ollama's rule: a name without a tag means `:latest`."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


def policy_id(config: Config) -> str:
    """Eight hex digits that name a policy, its nodes and models, and the code that decides by it."""
    rules = (DECIDER, config.policy, config.rules(), config.model_rules())
    return hashlib.blake2b(msgspec.json.encode(rules), digest_size=4).hexdigest()


def load(path: str | Path | None = None, redis_url: str | None = None) -> Config:
    """Read the configuration: `path`, else $ORION_CONFIG, else ./streams.toml, else the package's own.

    `redis_url` comes from the command line: no password may stand there. Raises ConfigError with file, key
    and what was expected.
    """
    chosen = path or os.environ.get("ORION_CONFIG")
    if chosen is None:
        chosen = Path("streams.toml") if Path("streams.toml").exists() else PACKAGED_TOML
    config = parse(read_text(Path(chosen)), str(chosen))
    if redis_url and urls.has_password(redis_url):
        raise ConfigError(
            "--redis: a command line is seen by everybody on this machine: put the password into "
            "ORION_REDIS_PASSWORD, or into a file that redis.password_file names"
        )
    url = redis_url or os.environ.get("ORION_REDIS_URL") or config.redis.url
    return with_url(config, complete(url, config.redis)) if url else config


def with_url(config: Config, url: str) -> Config:
    """The same configuration on another server."""
    redis = msgspec.structs.replace(config.redis, url=url)
    return msgspec.structs.replace(config, redis=redis)


def complete(url: str, redis: RedisConfig) -> str:
    """The URL with password and TLS files. An ORION_REDIS_PASSWORD that is set goes before
    `password_file`, both before what stands in the URL; set and empty: only what stands there."""
    password = os.environ.get("ORION_REDIS_PASSWORD")
    if password is None and redis.password_file:
        password = read_password(Path(redis.password_file).expanduser())
    if password:
        url = urls.with_password(url, password)
    return urls.with_tls(url, redis.tls_ca_file, redis.tls_cert_file, redis.tls_key_file)


def read_password(path: Path) -> str:
    """The one line of a file that only its owner can read. ConfigError otherwise."""
    text = read_text(path)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"redis.password_file: others can read {path}: chmod 600 {path}")
    if not text.strip() or "\n" in text.strip():
        raise ConfigError(f"redis.password_file: expected one line in {path}, the password")
    return text.strip()


def read_text(path: Path) -> str:
    """The file's text; ConfigError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
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
    """The wrong key and what was expected. msgspec does not say which node or model it was: look again."""
    key, what = split_error(error)
    for table, rows in (("nodes", dict[Name, NodeConfig]), ("models", dict[ModelName, ModelRules])):
        if not isinstance(tree.get(table), dict):
            continue
        for name, row in tree[table].items():
            try:
                msgspec.convert({name: row}, rows)
            except msgspec.ValidationError as again:
                inner, found = split_error(again)
                if found == what:
                    return f"{table}.{name}{inner.partition('[...]')[2]}: {what}"
    return f"{key or 'top level'}: {what}"


def split_error(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's message as the key and what was expected."""
    what, _, where = str(error).partition(" - at ")
    return where.strip("`").removeprefix("$").lstrip("."), what


def contradictions(config: Config) -> list[str]:  # noqa: PLR0912 - one branch per complaint
    """What no single value shows: marks the wrong way round, a grid that could never answer."""
    policy, found = config.policy, []
    if policy.temp_return_mc >= policy.temp_max_mc:
        found.append("policy.temp_return_mc: expected less than policy.temp_max_mc")
    if policy.ram_return_permille >= policy.ram_max_permille:
        found.append("policy.ram_return_permille: expected less than policy.ram_max_permille")
    if policy.temp_critical_mc <= policy.temp_max_mc:
        found.append("policy.temp_critical_mc: expected more than policy.temp_max_mc")
    if policy.breaker_open_ms > policy.breaker_open_max_ms:
        found.append("policy.breaker_open_ms: expected at most policy.breaker_open_max_ms")
    if len(config.model_rules()) < len(config.models):
        found.append("models: the same model twice (a name without a tag means `:latest`)")
    if policy.ram_margin_permille >= policy.ram_max_permille:
        found.append("policy.ram_margin_permille: expected less than policy.ram_max_permille")
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
        if node.inference and ROBOT in (name, urlsplit(node.ollama).hostname):
            found.append(
                f"nodes.{name}: {ROBOT} is the robot and never runs inference; set inference = false"
            )
    for tier in policy.spill_forbidden:
        if not any(tier in node.tiers for node in config.nodes.values() if node.inference):
            found.append(
                f"policy.spill_forbidden: no inference node has tier {tier}, nobody could answer it"
            )
    for name, model in sorted(config.models.items()):
        for place in model.resident_on:
            if place not in config.nodes or not config.nodes[place].inference:
                found.append(f"models.{name}.resident_on: '{place}' is no inference node")
    return found
