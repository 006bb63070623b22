"""Findings about alerts: whether anybody is told. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orion_streams.cli.doctor.findings import Facts, Finding, url_as
from orion_streams.model.alert_rules import DEFAULT_ALERTS

ABOUT = "alerts"


def alerts(facts: Facts) -> Iterator[Finding]:
    """Yield rules of one's own that tell nobody, and a process that should send and does not run."""
    config = facts.config
    if not config.alerts_to and config.alerts not in ((), DEFAULT_ALERTS):
        what = "streams.toml has [[alerts]], and nobody is told"
        yield Finding(
            "warning", ABOUT, what, "add [alerts_to.NAME] (docs/ALERTS.md), then orion alerts test"
        )
    if config.alerts_to and facts.sender_runs is False:
        what = "nobody is told: the process that sends does not run"
        yield Finding("warning", ABOUT, what, f"orion alerts run --redis {url_as(facts, 'reader')}")
