"""`orion doctor`: collect facts, derive findings, print them, and return the exit code for the worst."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, structs
from rich.console import Console
from rich.text import Text

from orion_streams.cli import grid_discovery
from orion_streams.cli.doctor.alert_findings import alerts
from orion_streams.cli.doctor.collect_facts import FactCollector
from orion_streams.cli.doctor.findings import Facts, Finding, Severity
from orion_streams.cli.doctor.model_findings import models
from orion_streams.cli.doctor.node_findings import nodes, requests
from orion_streams.cli.doctor.routing_findings import restore, router, streams
from orion_streams.cli.doctor.server_findings import server
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_json
from orion_streams.cli.tables import BAD, DIM, GOOD, WAITING, make_console
from orion_streams.environment import as_called
from orion_streams.errors import EXIT_BAD_CONFIG, EXIT_DEGRADED, EXIT_NO_BACKEND, EXIT_OK
from orion_streams.model.server_urls import with_user
from orion_streams.runtime import acl

STYLES: dict[Severity, str] = {"ok": GOOD, "warning": WAITING, "problem": BAD}


class Diagnosis(Struct, frozen=True):
    """The worst severity, and all findings."""

    severity: Severity
    redis: str
    findings: list[Finding]


async def run(*, common: CommonOptions) -> int:
    """Print what is wrong with the grid. Return EXIT_OK, EXIT_DEGRADED for any warning or problem,
    EXIT_NO_BACKEND if Redis does not answer, EXIT_BAD_CONFIG if it refuses this user. Raises BackendError,
    ConfigError."""
    facts = await FactCollector(grid_discovery.find(common.redis_url, common.config_path)).look()
    found = told(diagnose(facts))
    if common.as_json:
        write_json(found)
    else:
        show(make_console(), found.findings)
    if facts.refused:
        return EXIT_BAD_CONFIG
    if facts.away:
        return EXIT_NO_BACKEND
    return EXIT_OK if found.severity == "ok" else EXIT_DEGRADED


def diagnose(facts: Facts) -> Diagnosis:
    """Derive all findings, in the order in which a request passes the parts. Pure."""
    found = list(server(facts))
    if not (facts.away or facts.refused):
        found += [*unread(facts), *router(facts), *streams(facts), *nodes(facts), *models(facts)]
        found += requests(facts)
    found += alerts(facts)
    ranks: list[Severity] = ["ok", "warning", "problem"]
    worst = max((ranks.index(each.severity) for each in found), default=0)
    return Diagnosis(ranks[worst], facts.url, found)


def told(found: Diagnosis) -> Diagnosis:
    """Return it with lines that can be pasted here: where this is called `./orion`, they say so."""
    rows = [
        structs.replace(row, what=as_called(row.what), mend=as_called(row.mend)) for row in found.findings
    ]
    return structs.replace(found, findings=rows)


def unread(facts: Facts) -> Iterator[Finding]:
    """Yield what could not be checked, and why."""
    if facts.denied:
        first, why = next(iter(facts.denied.items()))
        others = f" and {len(facts.denied) - 1} more were" if len(facts.denied) > 1 else " was"
        mend = f"orion doctor --redis {with_user(facts.url, acl.user_name(facts.config, acl.OWNER))}"
        yield Finding("warning", "doctor", f"{first}{others} not looked at: {why}", mend)
    for name, why in facts.failed.items():
        if name in ("log", "grid", "snapshots"):
            yield Finding("problem", "router", why, restore(facts))
        else:
            yield Finding("warning", "doctor", f"{name} was not looked at: {why}", "")


def show(console: Console, findings: list[Finding]) -> None:
    """Print a line per finding, and below it the line that mends it."""
    wide = max((len(each.about) for each in findings), default=0)
    for each in findings:
        line = Text(f"{each.severity:<8}", style=STYLES[each.severity])
        line.append(f" {each.about:<{wide}}  ", style=DIM)
        line.append(each.what, style="default")
        console.print(line, soft_wrap=True)
        if each.mend:
            console.print(Text(f"{'':<{wide + 11}}→ {each.mend}", style=DIM), soft_wrap=True)
