"""Findings about models: which node lacks what another has. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orion_streams.cli.doctor.findings import Facts, Finding
from orion_streams.gateway.view_models import lacked_by, pull_line
from orion_streams.model.state import Grid, Node

ABOUT = "models"
SHOWN = 5
"""So many models are named."""


def models(facts: Facts) -> Iterator[Finding]:
    """Yield each model that one node alone has, though another could run it: when that node is away, nobody
    answers. It is no fault: disks are small."""
    lines = list(alone(facts.grid, bool(facts.config.pull_from))) if facts.grid is not None else []
    for line in lines[:SHOWN]:
        yield Finding("ok", ABOUT, line)
    if len(lines) > SHOWN:
        yield Finding("ok", ABOUT, f"{len(lines) - SHOWN} more are on one node only: orion models")


def alone(grid: Grid, may_pull: bool) -> Iterator[str]:
    """Yield a line for each such model, with what brings it onto the node with most memory."""
    for name, node in sorted(grid.nodes.items()):
        for model, disk in sorted(node.installed.items()) if node.rules.inference else ():
            others = [grid.nodes[each] for each in lacked_by(grid, model)]
            able = [each for each in others if could_run(grid, each, disk.size_mb)]
            if able and has_it_alone(grid, name, others):
                best = min(able, key=lambda each: (-each.ram_total_mb, each.rules.name))
                line = pull_line(model, [best.rules.name], may_pull)
                yield f"{model} is on one node only: {line}"


def has_it_alone(grid: Grid, name: str, others: list[Node]) -> bool:
    """Return whether all other nodes that take requests are known to lack it."""
    lacking = {each.rules.name for each in others}
    return all(
        other in lacking or other == name for other, node in grid.nodes.items() if node.rules.inference
    )


def could_run(grid: Grid, node: Node, size_mb: int) -> bool:
    """Return whether a node's memory would hold a model of this size beside nothing else."""
    policy = grid.policy
    mark_mb = node.ram_total_mb * (policy.ram_max_permille - policy.ram_margin_permille) // 1000
    return policy.ram_system_mb + policy.runner_mb + size_mb <= mark_mb
