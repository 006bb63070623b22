"""Replay a log for its alerts: who would have been told what, and when. Pure.

Settings `alerts.NAME.KEY=VALUE` change a rule; all others change the rules of the log as `whatif` takes
them: a mark that is lower is passed sooner. What a router decided stays as it was recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from orion_streams.config import GRAMMAR, Config, contradictions
from orion_streams.errors import ConfigError
from orion_streams.eventlog.jsonl import Row
from orion_streams.eventlog.loader import fold_each
from orion_streams.model import events as ev
from orion_streams.model.alert_rules import SEEN_LIVE, AlertRule
from orion_streams.model.toml_values import complaints
from orion_streams.projections import nodes
from orion_streams.projections.alerts import AlertChange, AlertFold
from orion_streams.protocol.alert_messages import says
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.rule_changes import (
    Change,
    change_of,
    check_names,
    did_you_mean,
    parse_line,
    rules_of,
)

TABLE = "alerts"


class ReplayedAlert(Struct, frozen=True):
    """An alert that would have gone out. `ended_ms`, `lasted_ms`, `ended_position`: None if it was open at
    the log's end."""

    rule: str
    kind: str
    about: str
    severity: str
    says: str
    position: int
    began_ms: int
    ended_position: int | None = None
    ended_ms: int | None = None
    lasted_ms: int | None = None


class ReplayedAlerts(Struct, frozen=True):
    """All of them, in the order of their begin. `not_judged`: rules that no log can tell, as they are seen
    live only."""

    first: int
    last: int
    alerts: list[ReplayedAlert]
    not_judged: list[str]


class AlertReplay:
    """Takes a log from `state`, which it owns, on."""

    def __init__(self, rules: Sequence[AlertRule], state: LoggedGrid, change: Change) -> None:
        """Raises ConfigError when the change makes no valid rules."""
        self.state, self._change, self._rules = state, change, rules
        self._first = state.grid.position + 1
        self._seen = set[str]()
        if state.grid.revision:
            self._change_rules(rules_of(state.grid))
        self._fold = AlertFold(rules, state.grid)
        self._begun: list[AlertChange] = []
        self._ended: dict[tuple[str, str, int], AlertChange] = {}

    def take(self, rows: Sequence[Row]) -> None:
        """Take the next rows. Raises LogError for altered ones, ConfigError."""
        for _, event in fold_each(self.state, rows):
            if isinstance(event, ev.PolicyChanged):
                self._change_rules(event)
            for change in self._fold.take(self.state.grid, event):
                if change.ended:
                    self._ended[key_of(change)] = change
                else:
                    self._begun.append(change)

    def finish(self) -> ReplayedAlerts:
        """Return what would have gone out. Raises ConfigError if a setting names a node that never was."""
        check_names(self._change, self._seen)
        rows = [row_of(each, self._ended.get(key_of(each))) for each in self._begun]
        live = [rule.name for rule in self._rules if rule.kind in SEEN_LIVE]
        return ReplayedAlerts(self._first, self.state.grid.position, rows, live)

    def _change_rules(self, event: ev.PolicyChanged) -> None:
        self._seen |= {rules.name for rules in event.nodes}
        if self._change.settings:
            nodes.policy_changed(self.state.grid, self._change.of(event))


def key_of(change: AlertChange) -> tuple[str, str, int]:
    """Return what tells an alert from all others."""
    return change.alert.rule, change.alert.about, change.alert.position


def row_of(begun: AlertChange, ended: AlertChange | None) -> ReplayedAlert:
    """Return an alert with its end, if it came to one."""
    alert = begun.alert
    return ReplayedAlert(
        rule=alert.rule,
        kind=alert.kind,
        about=alert.about,
        severity=alert.severity,
        says=says(alert),
        position=alert.position,
        began_ms=alert.began_ms,
        ended_position=ended.position if ended is not None else None,
        ended_ms=ended.at_ms if ended is not None else None,
        lasted_ms=ended.lasted_ms if ended is not None else None,
    )


def with_settings(config: Config, settings: Sequence[str]) -> tuple[tuple[AlertRule, ...], Change]:
    """Return the rules of alerts with their settings, and the change of the log's rules that the others ask
    for. Raises ConfigError with the key that does not exist, or the value that is not valid."""
    own = [text for text in settings if parse_line(text)[0][:1] == [TABLE]]
    change = change_of([text for text in settings if text not in own])
    rows: list[dict[str, Any]] = [msgspec.to_builtins(rule) for rule in config.alerts]
    for text in own:
        put(rows, text)
    told = " ".join(f"--set {text}" for text in own)
    for complaint in complaints({TABLE: rows}, Config, GRAMMAR):
        raise ConfigError(f"{told}: {complaint}")
    rules = msgspec.convert(rows, tuple[AlertRule, ...])
    for complaint in contradictions(msgspec.structs.replace(config, alerts=rules)):
        if complaint.startswith(f"{TABLE}["):
            raise ConfigError(f"{told}: {complaint}")
    return rules, change


def put(rows: list[dict[str, Any]], text: str) -> None:
    """Set a key of the rule that `alerts.NAME.KEY=VALUE` names. Raises ConfigError."""
    path, value = parse_line(text)
    if len(path) != 3 or isinstance(value, dict):
        raise ConfigError(f"--set {text}: expected {TABLE}.NAME.KEY=VALUE")
    _, name, key = path
    names = [str(row["name"]) for row in rows]
    if name not in names:
        hint = did_you_mean(name, names) or f" (known: {', '.join(names) or 'none'})"
        raise ConfigError(f"--set {text}: no rule is called {name}{hint}")
    if key == "name":
        raise ConfigError(f"--set {text}: a rule keeps its name")
    rows[names.index(name)][key] = value
