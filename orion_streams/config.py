"""streams.toml as frozen structs. Order of precedence: flags, ORION_* variables, ./streams.toml, the
package's defaults. Configuration files are read here and nowhere else; what decisions read is in
`model.policy`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from orion_streams import environment
from orion_streams.errors import ConfigError, why
from orion_streams.model import (
    alert_rules,
    gateway_rules,
    policy_order,
    quiet_hours,
    server_urls,
    toml_values,
)
from orion_streams.model.alert_rules import DEFAULT_ALERTS, AlertRule, AlertTarget
from orion_streams.model.gateway_rules import GatewayRules
from orion_streams.model.names import full_model_name
from orion_streams.model.policy import (
    ROBOT,
    RUNS_MAX,
    ClientRules,
    Count,
    HostName,
    ModelName,
    ModelRules,
    Name,
    Natural,
    NodeRules,
    Policy,
    Tier,
    policy_id,
    usual_clients,
)
from orion_streams.model.toml_values import Grammar, complaints, of_value

PREFIX = "up to 64 letters, digits and any of _{}:.-"
PACKAGED_TOML = Path(__file__).with_name("streams.toml")
INSTALLED_TOML = Path("/etc/orion/streams.toml")
KEYS_FILE, ALERTS_FILE = "/var/lib/orion-gateway/keys.json", "/var/lib/orion-alerts/alerts.json"
"""Of the services of `orion install`, and where they keep what it gives no place for."""


class NodeConfig(Struct, frozen=True):
    """One [nodes.NAME] table: a machine of the house and its Ollama."""

    role: str = ""
    router: bool = False
    inference: bool = True
    tiers: tuple[Tier, ...] = ()
    slots: Annotated[int, Meta(ge=1, le=RUNS_MAX)] = 1
    ram_mb: Count = 8_192
    temperature_sensor: bool = True
    max_models: Count = 3
    max_num_ctx: Natural = 0
    load_us_per_mb: Natural = 0
    prefill_us_per_mb: Natural = 0
    decode_us_per_mb: Natural = 0
    quiet: str = ""
    ollama: str = "http://127.0.0.1:11434"
    ollama_models: str = ""
    keep_alive: str | float = "30m"
    simulated: bool = False


class RedisConfig(Struct, frozen=True):
    """The [redis] table. An empty url means the embedded server. `load` puts the password and the TLS files
    into the url, so that it alone describes a connection."""

    url: str = ""
    password_file: str = ""
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    data_dir: str = ""
    fsync: Literal["everysec", "always"] = "everysec"
    block_ms: Annotated[int, Meta(ge=10, le=2_000)] = 2_000


class Limits(Struct, frozen=True):
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
    drain_ms: Natural = 20_000
    pull_deadline_ms: Count = 21_600_000
    pull_idle_ms: Count = 600_000
    pull_margin_mb: Natural = 2_000
    lose_before_following: Count = 3


class Retention(Struct, frozen=True):
    """The [retention] table: how much of each stream is kept."""

    log_keep_ms: Count = 172_800_000
    log_keep_mb: Count = 256
    archive_dir: str = ""
    snapshot_events: Count = 20_000
    health_entries: Count = 600
    results_entries: Count = 20_000
    replies_entries: Count = 50_000


class Config(Struct, frozen=True):
    """The whole of streams.toml."""

    revision: Count = 1
    prefix: Annotated[str, Meta(pattern=r"^[\w{}:.-]{1,64}\Z", description=PREFIX)] = "orion:"
    redis: RedisConfig = RedisConfig()
    clients: dict[Name, ClientRules] = msgspec.field(default_factory=usual_clients)
    nodes: dict[Name, NodeConfig] = {}
    models: dict[ModelName, ModelRules] = {}
    policy: Policy = Policy()
    gateway: GatewayRules = GatewayRules()
    limits: Limits = Limits()
    retention: Retention = Retention()
    alerts: tuple[AlertRule, ...] = DEFAULT_ALERTS
    alerts_to: dict[Name, AlertTarget] = {}
    alerts_file: str = ""
    event_loop: Literal["asyncio", "uvloop"] = "asyncio"
    pull_from: Annotated[tuple[HostName, ...], Meta(examples=[["registry.ollama.ai"]])] = ()

    def key(self, *parts: str) -> str:
        """Return the Redis key of a stream: `key("work", "orion-worker")` is `orion:work:orion-worker`."""
        return self.prefix + ":".join(parts)

    def rules(self) -> tuple[NodeRules, ...]:
        """List the rules of the nodes that routing reads, sorted by name."""
        fields = [field for field in NodeRules.__struct_fields__ if field != "name"]
        return tuple(
            NodeRules(name=name, **{field: getattr(node, field) for field in fields})
            for name, node in sorted(self.nodes.items())
        )

    def simulated(self) -> tuple[str, ...]:
        """List the simulated nodes, sorted by name."""
        return tuple(sorted(name for name, node in self.nodes.items() if node.simulated))

    def model_rules(self) -> dict[str, ModelRules]:
        """Return the rules of the models that routing reads, by full name."""
        return {full_model_name(name): rules for name, rules in sorted(self.models.items())}

    def policy_id(self) -> str:
        """Return the identifier of these rules, as the log records it."""
        return policy_id(self.policy, self.rules(), self.model_rules(), self.clients)

    def node(self, name: str) -> NodeConfig:
        """Return the table of one node. Raises ConfigError, which lists the known nodes."""
        if name not in self.nodes:
            known = ", ".join(sorted(self.nodes)) or "none"
            raise ConfigError(f"nodes.{name}: no such node in streams.toml (known: {known})")
        return self.nodes[name]


def check_open_url(redis_url: str | None) -> None:
    """Raise ConfigError for a password in a URL of the command line."""
    if redis_url and server_urls.has_password(redis_url):
        raise ConfigError(
            "--redis: a command line is seen by everybody on this machine: put the password into "
            "ORION_REDIS_PASSWORD, or into a file that redis.password_file names"
        )


def load(path: str | Path | None = None, redis_url: str | None = None) -> Config:
    """Read the configuration from `chosen_file`. `redis_url` comes from the command line, where no password
    may stand. Raises ConfigError that names the file, the key and what was expected."""
    config = read(chosen_file(path))
    check_open_url(redis_url)
    url = redis_url or environment.redis_url() or config.redis.url
    return with_url(config, complete(url, config.redis)) if url else config


def chosen_file(path: str | Path | None = None) -> Path:
    """Return `path`, else $ORION_CONFIG, else ./streams.toml unless it is the package's own (as in a
    checkout), else that of the installed services, else the package's."""
    if given := path or environment.config_file():
        return Path(given)
    own = Path("streams.toml")
    if own.exists() and not (PACKAGED_TOML.exists() and own.samefile(PACKAGED_TOML)):
        return own
    if INSTALLED_TOML.exists():
        return INSTALLED_TOML
    return own if own.exists() else PACKAGED_TOML


def read(path: Path) -> Config:
    """Read a streams.toml, and nothing of the environment. Raises ConfigError."""
    config = parse(read_text(path), str(path))
    return with_state(config) if path == INSTALLED_TOML else config


def with_state(config: Config) -> Config:
    """Return the configuration with the services' places for what it leaves open: keys and told alerts."""
    keys_file = config.gateway.keys_file or KEYS_FILE
    return msgspec.structs.replace(
        config,
        gateway=msgspec.structs.replace(config.gateway, keys_file=keys_file),
        alerts_file=config.alerts_file or ALERTS_FILE,
    )


def with_url(config: Config, url: str) -> Config:
    """Return the configuration with another URL of the server."""
    redis = msgspec.structs.replace(config.redis, url=url)
    return msgspec.structs.replace(config, redis=redis)


def complete(url: str, redis: RedisConfig) -> str:
    """Return the URL with password and TLS files. ORION_REDIS_PASSWORD takes precedence over the service's
    credential, that over `password_file` or one's own copy of it, and all over the password in the URL. If
    the variable is set but empty, only the URL counts."""
    password = environment.redis_password()
    if password is None and (held := environment.credential("redis-password")):
        password = read_secret(held, "LoadCredential", "the password", guarded=True)
    if password is None and redis.password_file:
        path = environment.own_secret(Path(redis.password_file).expanduser())
        password = read_secret(path, "redis.password_file", "the password")
    if password:
        url = server_urls.with_password(url, password)
    return server_urls.with_tls(url, redis.tls_ca_file, redis.tls_cert_file, redis.tls_key_file)


def read_secret(path: Path, key: str, what: str, guarded: bool = False) -> str:
    """Read the one line of a secret in the file that a key names, readable by its owner only, or `guarded`
    by systemd (whose access list shows as a right of the group). Raises ConfigError otherwise."""
    try:
        text = read_text(path)
    except ConfigError as error:
        mend = environment.for_a_copy() if isinstance(error.__cause__, PermissionError) else ""
        raise ConfigError(f"{key}: {error}{mend}") from error
    if path.stat().st_mode & 0o077 and not guarded:
        raise ConfigError(f"{key}: others can read {path}: chmod 600 {path}")
    if not text.strip() or "\n" in text.strip():
        raise ConfigError(f"{key}: expected one line in {path}, {what}")
    return text.strip()


def read_text(path: Path) -> str:
    """Read a text file. Raises ConfigError if that fails."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {why(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def parse(text: str, source: str = "streams.toml") -> Config:
    """Parse a streams.toml. Raises ConfigError naming `source`, the key and what was expected."""
    tree = tree_of(text, source)
    for complaint in complaints_of(tree):
        raise ConfigError(f"{source}: {complaint}")
    return config_of(tree)


def config_of(tree: Mapping[str, Any]) -> Config:
    """Return the configuration of a streams.toml. Raises msgspec.ValidationError."""
    return msgspec.convert(with_tables(tree), Config)


def with_tables(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a streams.toml with a table for each client that it names in the list `clients.names`."""
    clients = tree.get("clients")
    if not isinstance(clients, dict) or not is_list_of_names(clients):
        return tree
    tables = {name: rules for name, rules in clients.items() if name != "names"}
    return {**tree, "clients": {**{name: {} for name in clients["names"]}, **tables}}


def is_list_of_names(clients: Mapping[str, Any]) -> bool:
    """Whether the clients stand in a list; `names` may also be a client's own table."""
    return not isinstance(clients.get("names", {}), dict)


def tree_of(text: str, source: str) -> dict[str, Any]:
    """Parse TOML. Raises ConfigError naming `source`."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a list in a list in a list
        hint = toml_values.of_toml(text)
        raise ConfigError(f"{source}: not valid TOML: {error}{hint}") from error


def complaints_of(tree: Mapping[str, Any]) -> list[str]:
    """List what is wrong with a streams.toml, value by value; else how its values contradict each other."""
    clients = tree.get("clients")
    found: list[str] = []
    if isinstance(clients, dict) and is_list_of_names(clients):
        names = clients["names"]
        found = list(of_value("clients.names", names, tuple[Name, ...], GRAMMAR, EXAMPLE_NAMES))
    if not found:
        tree = with_tables(tree)
        found = list(complaints(tree, Config, GRAMMAR))
    found = found or contradictions(config_of(tree), tree.get("policy", {}))
    return [toml_values.on_one_line(each) for each in found]


EXAMPLE_NAMES = ("brain", "kitchen")


GRAMMAR: Mapping[str, Grammar] = {
    "ollama": toml_values.ollama_url,
    "url": toml_values.redis_url,
    "keep_alive": toml_values.keep_alive,
    "quiet": quiet_hours.fault,
    "listen": gateway_rules.listen_fault,
    "origins": gateway_rules.origins_fault,
    "webhook": alert_rules.webhook_fault,
    **dict.fromkeys(
        ("temp_max_mc", "temp_return_mc", "temp_critical_mc", "derate_from_mc"), toml_values.mark_mc
    ),
    **dict.fromkeys(("ram_max_permille", "ram_return_permille"), toml_values.mark_permille),
}
"""What a value has to be beyond its type, by the last word of its key."""


RULES: tuple[tuple[str, Callable[[Config], bool], str], ...] = (
    (
        "models",
        lambda config: len({name.lower() for name in config.model_rules()}) == len(config.models),
        "the same model twice (a name without a tag means `:latest`, and its case does not count)",
    ),
    ("clients", lambda config: bool(config.clients), "expected at least one client, e.g. [clients.brain]"),
    (
        "nodes",
        lambda config: any(node.inference for node in config.nodes.values()),
        "expected at least one node with inference = true",
    ),
)
"""Key to blame, condition, and what was expected."""
NODE_RULES: tuple[tuple[str, Callable[[str, NodeConfig], bool], str], ...] = (
    (".ollama", lambda _, node: bool(node.ollama), "expected a URL, as inference is on"),
    (
        "",
        lambda name, node: ROBOT not in (name, (urlsplit(node.ollama).hostname or "").partition(".")[0]),
        f"{ROBOT} is the robot and never runs inference; set inference = false",
    ),
)
"""Rules of each node with inference; the key continues `nodes.NAME`."""


def contradictions(config: Config, written: Collection[str] = ()) -> list[str]:
    """List what is wrong with values that are valid one by one. Of two keys of [policy] that do not fit,
    blame the one that was `written`."""
    inference = {name: node for name, node in sorted(config.nodes.items()) if node.inference}
    found = policy_order.contradictions(config.policy, written)
    found += policy_order.health_too_rare(config.limits.health_ms, config.policy, written)
    found += [f"{key}: {expected}" for key, holds, expected in RULES if not holds(config)]
    found += [
        f"nodes.{name}{key}: {expected}"
        for name, node in inference.items()
        for key, holds, expected in NODE_RULES
        if not holds(name, node)
    ]
    found += [
        f"nodes.{name}.slots = {node.slots}: expected at most {RUNS_MAX}, policy.prefetch "
        f"({config.policy.prefetch}) included"
        for name, node in inference.items()
        if node.slots + config.policy.prefetch > RUNS_MAX
    ]
    ollamas = {name: node.ollama for name, node in inference.items()}
    found += gateway_rules.contradictions(config.gateway, config.clients, ollamas)
    found += alert_rules.contradictions(config.alerts, config.alerts_to, config.nodes, config.clients)
    return found + missing_nodes(config, inference)


def missing_nodes(config: Config, inference: Mapping[str, NodeConfig]) -> list[str]:
    """List the tiers and the places that no node with inference has."""
    tiers = {tier for node in inference.values() for tier in node.tiers}
    found = [
        f"policy.spill_forbidden: no inference node has tier {tier}, nobody could answer it"
        for tier in config.policy.spill_forbidden
        if tier not in tiers
    ]
    return found + [
        f"models.{name}.resident_on: '{place}' is no inference node"
        for name, model in sorted(config.models.items())
        for place in model.resident_on
        if place not in inference
    ]
