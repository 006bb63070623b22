"""Change the rules that a log holds, as `--set`, `--without` and `--policy` ask. Pure.

Each `policy.changed` of the log is changed before it is folded. The result must be rules that a
streams.toml could hold: types, limits and contradictions are those of config.py.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from orion_streams.config import GRAMMAR, Config, NodeConfig, contradictions
from orion_streams.errors import ConfigError
from orion_streams.model import events as ev
from orion_streams.model.names import full_model_name
from orion_streams.model.policy import ModelRules, NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.model.toml_values import complaints

FIELDS = {
    "policy": Policy.__struct_fields__,
    "nodes": tuple(name for name in NodeRules.__struct_fields__ if name != "name"),
    "models": ModelRules.__struct_fields__,
}
"""The keys of each table that can be set."""
SHAPES = {"policy": "policy.KEY", "nodes": "nodes.NAME.KEY", "models": 'models."NAME".KEY'}
AT_INTAKE = ("max_open", "default_deadline_ms", "max_deadline_ms", "num_ctx", "num_thread")
"""Keys that are read when a request is accepted: changing them does not change recorded requests."""
RETURNS = {"temp_max_mc": "temp_return_mc", "ram_max_permille": "ram_return_permille"}
"""Each mark, and the lower mark at which a node returns."""
UNREAD = ("ram_mb", "dedupe_keep", "dedupe_keep_ms")
"""Keys that no decision reads."""


class Setting(Struct, frozen=True):
    """One `--set`: `text` as written, `table` policy, nodes or models, `row` the node or model."""

    text: str
    table: str
    row: str
    key: str
    value: Any

    @property
    def path(self) -> str:
        """Return the key as in streams.toml."""
        row = f'"{self.row}"' if self.table == "models" else self.row
        return ".".join(part for part in (self.table, row, self.key) if part)


class Change(Struct, frozen=True):
    """A change of rules: those of a `file`, if any, then the settings; nodes of `without` take no
    requests."""

    settings: tuple[Setting, ...] = ()
    without: tuple[str, ...] = ()
    file: Config | None = None

    def of(self, event: ev.PolicyChanged) -> ev.PolicyChanged:
        """Return the event with the changed rules. Raises ConfigError naming a setting that is not
        valid."""
        if self.file is not None:
            event = replace(
                event,
                policy=self.file.policy,
                nodes=self.file.rules(),
                models=self.file.model_rules(),
                clients=self.file.clients,
            )
        if self.settings:
            event = with_settings(event, self.settings)
        if not self.without:
            return event
        nodes = tuple(
            replace(rules, inference=False) if rules.name in self.without else rules
            for rules in event.nodes
        )
        if not any(rules.takes_inference for rules in nodes):
            names = " ".join(f"--without {name}" for name in self.without)
            raise ConfigError(f"{names}: no node would be left that takes requests")
        return replace(event, nodes=nodes)

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield each node that is named, and by which option."""
        yield from ((name, f"--without {name}") for name in self.without)
        yield from ((each.row, f"--set {each.text}") for each in self.settings if each.table == "nodes")


def change_of(settings: Sequence[str], without: Sequence[str] = (), file: Config | None = None) -> Change:
    """Parse the options. Raises ConfigError with the key that does not exist."""
    return Change(tuple(parse_setting(each) for each in settings), tuple(without), file)


def parse_setting(text: str) -> Setting:
    """Parse `KEY=VALUE`, one line of a streams.toml. Raises ConfigError when it is not valid, or no rule
    has such a key."""
    path, value = parse_line(text)
    table = path[0] if path else ""
    if table not in FIELDS or isinstance(value, dict) or len(path) != SHAPES[table].count(".") + 1:
        shapes = ", ".join(SHAPES.values())
        raise ConfigError(f"--set {text}: expected one of {shapes}{did_you_mean(table, FIELDS)}")
    row, key = path[1] if len(path) > 2 else "", path[-1]
    setting = Setting(text, table, full_model_name(row) if table == "models" else row, key, value)
    if key not in FIELDS[table]:
        known_elsewhere = table == "nodes" and key in NodeConfig.__struct_fields__
        why = "no decision reads it" if known_elsewhere else "no such key"
        raise ConfigError(f"--set {text}: {setting.path}: {why}{did_you_mean(key, FIELDS[table])}")
    return setting


def parse_line(text: str) -> tuple[list[str], Any]:
    """Parse a line of TOML into the path of its key and its value. Raises ConfigError."""
    try:
        value: Any = tomllib.loads(text)
    except ValueError as error:
        hint = 'a text and a model\'s name stand in double quotes, as in models."llama3.2:3b".num_ctx=8192'
        why = str(error).partition(" (at")[0].lower()  # without line and column: it is one line
        raise ConfigError(f"--set {text}: expected KEY=VALUE as in streams.toml: {why}; {hint}") from None
    path: list[str] = []
    while isinstance(value, dict) and len(value) == 1:
        [(name, value)] = value.items()
        path.append(name)
    return path, value


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Suggest the nearest of the known names, if one is near."""
    near = get_close_matches(given, list(known), n=1)
    return f"; did you mean {near[0]}?" if near and near[0] != given else ""


def with_settings(event: ev.PolicyChanged, settings: Sequence[Setting]) -> ev.PolicyChanged:
    """Apply the settings to the rules; leave out those of nodes that the rules do not have. Raises
    ConfigError with key and expectation, as for a streams.toml."""
    before = config_of(event)
    tree: dict[str, Any] = msgspec.to_builtins(before)
    for each in settings:
        put(tree, each)
    told = " ".join(f"--set {each.text}" for each in settings)
    # what is wrong in the log itself is not the change's doing; it holds no [limits], which `stale_ms` may
    # not fit: they are blamed for it then, and passed over
    known = [*complaints(msgspec.to_builtins(before), Config, GRAMMAR), *contradictions(before)]
    for complaint in complaints(tree, Config, GRAMMAR):
        if complaint not in known:
            raise ConfigError(f"{told}: {complaint}")
    config = msgspec.convert(tree, Config)
    config = replace(config, policy=with_returns(config.policy, before.policy, settings))
    written = {each.key for each in settings if each.table == "policy"} - {"stale_ms"}
    for complaint in contradictions(config, written):
        if complaint not in known and not complaint.startswith("limits."):
            raise ConfigError(f"{told}: {complaint}")
    rules = {each.name: each for each in config.rules()}
    nodes = tuple(rules[each.name] for each in event.nodes)
    return replace(event, policy=config.policy, nodes=nodes, models=config.model_rules())


def put(tree: dict[str, Any], setting: Setting) -> None:
    """Set a key in the tree of a configuration; ignore a node that it does not have."""
    match setting.table:
        case "policy":
            row = tree["policy"]
        case "nodes":
            row = tree["nodes"].get(setting.row, {})
        case _:
            row = tree["models"].setdefault(setting.row, {})
    row[setting.key] = setting.value


def with_returns(policy: Policy, before: Policy, settings: Sequence[Setting]) -> Policy:
    """Lower the mark at which a node returns where the upper one was set to it or below: by the same
    distance as before, unless the lower one is set as well."""
    given = {each.key for each in settings if each.table == "policy"}
    moved = {
        lower: max(getattr(policy, upper) - getattr(before, upper) + getattr(before, lower), 1)
        for upper, lower in RETURNS.items()
        if upper in given and lower not in given and getattr(policy, lower) >= getattr(policy, upper)
    }
    return replace(policy, **moved)


def config_of(event: ev.PolicyChanged) -> Config:
    """Convert the rules of an event to a configuration."""
    nodes = {
        rules.name: NodeConfig(**{name: getattr(rules, name) for name in FIELDS["nodes"]})
        for rules in event.nodes
    }
    return Config(nodes=nodes, models=event.models, policy=event.policy)


def rules_of(grid: Grid) -> ev.PolicyChanged:
    """Return the rules of a grid as the event that set them."""
    nodes = tuple(node.rules for node in grid.nodes.values())
    return ev.PolicyChanged(
        revision=grid.revision,
        policy_id=grid.policy_id,
        policy=grid.policy,
        nodes=nodes,
        models=grid.models,
        decider=grid.decider,
    )


def check_names(change: Change, nodes: Iterable[str]) -> None:
    """Raise ConfigError when the change names a node that the log never had."""
    known = sorted(nodes)
    for name, where in change.names():
        if name not in known:
            hint = did_you_mean(name, known) or f" (known: {', '.join(known) or 'none'})"
            raise ConfigError(f"{where}: the log has no node {name}{hint}")


def notes_on(change: Change, models: Iterable[str], before: Policy, after: Policy) -> list[str]:
    """Explain settings that change less or more than they seem to. `before` and `after`: the policy without
    and with the change; `models`: the names that the log knows."""
    known, notes = sorted(models), []
    given, base = {each.path for each in change.settings}, change.file.policy if change.file else before
    for lower in RETURNS.values():
        if (moved := getattr(after, lower)) != getattr(base, lower) and f"policy.{lower}" not in given:
            notes.append(f"policy.{lower} goes along, to {moved}: a node returns below the mark")
    for each in change.settings:
        if each.key in AT_INTAKE:
            notes.append(f"{each.path} is read when a request comes in: these stay as they were taken")
        elif each.key in UNREAD:
            notes.append(f"{each.path}: no decision reads it")
        if each.table == "models" and each.row not in known:
            hint = did_you_mean(each.row, known)
            notes.append(f"{each.path}: no node in this log ever had {each.row}{hint}")
    return notes
