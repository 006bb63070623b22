"""Changed rules: what `--set`, `--without` and `--policy` make of the rules that a log holds. Pure.

Each `policy.changed` of the log is changed before it is folded. What comes out must be rules that a
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

from orion_streams.config import Config, NodeConfig, contradictions, explain
from orion_streams.errors import ConfigError
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules, NodeRules, Policy, full_model_name
from orion_streams.model.state import Grid

FIELDS = {
    "policy": Policy.__struct_fields__,
    "nodes": tuple(name for name in NodeRules.__struct_fields__ if name != "name"),
    "models": ModelRules.__struct_fields__,
}
"""What can be set in each table."""
SHAPES = {"policy": "policy.KEY", "nodes": "nodes.NAME.KEY", "models": 'models."NAME".KEY'}
AT_INTAKE = ("max_open", "default_deadline_ms", "max_deadline_ms", "num_ctx", "num_thread")
"""Keys that are read when a request comes in: a log holds requests as they were taken."""
RETURNS = {"temp_max_mc": "temp_return_mc", "ram_max_permille": "ram_return_permille"}
"""Each mark, and the lower one at which a node returns."""
UNREAD = ("ram_mb", "dedupe_keep", "dedupe_keep_ms")
"""Keys that no decision reads."""


class Setting(Struct, frozen=True):
    """One `--set`, as it was written: `table` policy, nodes or models, `row` the node or model."""

    text: str
    table: str
    row: str
    key: str
    value: Any

    @property
    def path(self) -> str:
        """The key as streams.toml has it."""
        row = f'"{self.row}"' if self.table == "models" else self.row
        return ".".join(part for part in (self.table, row, self.key) if part)


class Change(Struct, frozen=True):
    """Other rules: those of a `file`, if any, then the settings; nodes of `without` take no inference."""

    settings: tuple[Setting, ...] = ()
    without: tuple[str, ...] = ()
    file: Config | None = None

    def of(self, event: ev.PolicyChanged) -> ev.PolicyChanged:
        """The event with the changed rules. ConfigError names the setting that makes none."""
        if self.file is not None:
            event = replace(
                event,
                policy=self.file.policy,
                nodes=self.file.rules(),
                models=self.file.model_rules(),
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
        """Each node that is named, and where."""
        yield from ((name, f"--without {name}") for name in self.without)
        yield from ((each.row, f"--set {each.text}") for each in self.settings if each.table == "nodes")


def change_of(settings: Sequence[str], without: Sequence[str] = (), file: Config | None = None) -> Change:
    """The change that the options ask for. ConfigError names the key that is none."""
    return Change(tuple(parse_setting(each) for each in settings), tuple(without), file)


def parse_setting(text: str) -> Setting:
    """`KEY=VALUE` is one line of a streams.toml. ConfigError when it is none, or no rule has such a key."""
    try:
        found: Any = tomllib.loads(text)
    except ValueError as error:
        hint = 'a text and a model\'s name stand in double quotes, as in models."llama3.2:3b".num_ctx=8192'
        why = str(error).partition(" (at")[0].lower()  # where in a line of TOML that nobody wrote
        raise ConfigError(f"--set {text}: expected KEY=VALUE as in streams.toml: {why}; {hint}") from None
    path: list[str] = []
    while isinstance(found, dict) and len(found) == 1:
        [(name, found)] = found.items()
        path.append(name)
    table = path[0] if path else ""
    if table not in FIELDS or isinstance(found, dict) or len(path) != SHAPES[table].count(".") + 1:
        shapes = ", ".join(SHAPES.values())
        raise ConfigError(f"--set {text}: expected one of {shapes}{did_you_mean(table, FIELDS)}")
    row, key = path[1] if len(path) > 2 else "", path[-1]
    setting = Setting(text, table, full_model_name(row) if table == "models" else row, key, found)
    if key not in FIELDS[table]:
        known_elsewhere = table == "nodes" and key in NodeConfig.__struct_fields__
        why = "no decision reads it" if known_elsewhere else "no such key"
        raise ConfigError(f"--set {text}: {setting.path}: {why}{did_you_mean(key, FIELDS[table])}")
    return setting


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The nearest of the known names, if one is near."""
    near = get_close_matches(given, list(known), n=1)
    return f"; did you mean {near[0]}?" if near and near[0] != given else ""


def with_settings(event: ev.PolicyChanged, settings: Sequence[Setting]) -> ev.PolicyChanged:
    """The rules with the settings; those of nodes that the rules do not have are left out. ConfigError
    names key and expectation, as for a streams.toml."""
    before = config_of(event)
    tree: dict[str, Any] = msgspec.to_builtins(before)
    for each in settings:
        match each.table:
            case "policy":
                tree["policy"][each.key] = each.value
            case "nodes":
                if each.row in tree["nodes"]:
                    tree["nodes"][each.row][each.key] = each.value
            case _:
                tree["models"].setdefault(each.row, {})[each.key] = each.value
    told = " ".join(f"--set {each.text}" for each in settings)
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{told}: {explain(tree, error)}") from error
    config = replace(config, policy=with_returns(config.policy, before.policy, settings))
    known = contradictions(before)
    for complaint in contradictions(config):
        # what the log itself says is not the change's doing, and of [limits] it says nothing
        if complaint not in known and not complaint.startswith("limits."):
            raise ConfigError(f"{told}: {complaint}")
    rules = {each.name: each for each in config.rules()}
    nodes = tuple(rules[each.name] for each in event.nodes)
    return replace(event, policy=config.policy, nodes=nodes, models=config.model_rules())


def with_returns(policy: Policy, before: Policy, settings: Sequence[Setting]) -> Policy:
    """A mark that is set as low as the one at which a node returns takes that along, as far below it as it
    was, unless that is set as well."""
    given = {each.key for each in settings if each.table == "policy"}
    moved = {
        lower: max(getattr(policy, upper) - getattr(before, upper) + getattr(before, lower), 1)
        for upper, lower in RETURNS.items()
        if upper in given and lower not in given and getattr(policy, lower) >= getattr(policy, upper)
    }
    return replace(policy, **moved)


def config_of(event: ev.PolicyChanged) -> Config:
    """The rules as the streams.toml that they may have come from."""
    nodes = {
        rules.name: NodeConfig(**{name: getattr(rules, name) for name in FIELDS["nodes"]})
        for rules in event.nodes
    }
    return Config(nodes=nodes, models=event.models, policy=event.policy)


def rules_of(grid: Grid) -> ev.PolicyChanged:
    """The rules that hold in a grid, as the event that brought them."""
    nodes = tuple(node.rules for node in grid.nodes.values())
    return ev.PolicyChanged(grid.revision, grid.policy_id, grid.policy, nodes, grid.models, grid.decider)


def check_names(change: Change, nodes: Iterable[str]) -> None:
    """ConfigError when the change names a node that the log never had."""
    known = sorted(nodes)
    for name, where in change.names():
        if name not in known:
            hint = did_you_mean(name, known) or f" (known: {', '.join(known) or 'none'})"
            raise ConfigError(f"{where}: the log has no node {name}{hint}")


def notes_on(change: Change, models: Iterable[str], before: Policy, after: Policy) -> list[str]:
    """What a person has to know of settings that change less than they seem to, or more. The rules are
    those `before` and `after` the change."""
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
