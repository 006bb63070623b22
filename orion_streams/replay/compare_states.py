"""Compare two states of a grid. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, to_builtins

from orion_streams.model.state import Grid


class Change(Struct, frozen=True):
    """One value that differs, by its path; None: it is absent."""

    path: str
    before: Any
    after: Any


TABLES = ("nodes", "open", "models", "speeds", "answers", "footprints", "demand", "guests")
PLAIN = ("revision", "policy_id", "decider")


def changes(before: Grid, after: Grid) -> list[Change]:
    """List all values that differ, table by table; of closed requests only their states."""
    found: list[Change] = []
    for name in PLAIN:
        found += walk(name, getattr(before, name), getattr(after, name))
    found += walk("policy", rules_in_force(before), rules_in_force(after))
    for table in TABLES:
        found += walk(table, plain(getattr(before, table)), plain(getattr(after, table)))
    return [*found, *walk("closed", ends(before), ends(after))]


def plain(table: Mapping[Any, Any]) -> dict[str, Any]:
    """Convert a table of the grid to builtins; keys of several parts are joined with spaces."""
    rows = to_builtins(table).items()
    return {key if isinstance(key, str) else " ".join(map(str, key)): row for key, row in rows}


def rules_in_force(grid: Grid) -> Any:
    """Return the policy, or None before there is one."""
    return to_builtins(grid.policy) if grid.revision else None


def ends(grid: Grid) -> dict[str, str]:
    """Return the terminal state of each remembered request."""
    return {key: row.state for rows in grid.closed.values() for key, row in rows.items()}


def walk(path: str, before: Any, after: Any) -> Iterator[Change]:
    """Yield the differences of two values, at the deepest named level."""
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(each for each in after if each not in before)]:
            yield from walk(f"{path}.{name}", before.get(name), after.get(name))
        return
    yield Change(path, before, after)
