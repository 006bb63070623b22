"""Taking a guard out of the code, for negative controls."""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

import pytest

from tests.cluster.one_run import run_one

MANY = 80


def without(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, part: str, instead: str, *more: tuple[str, str]
) -> None:
    """Replace parts of the source of a module's or class's function; each part must be there."""
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in ((part, instead), *more):
        assert old in source, f"{name} has no {old!r}"
        source = source.replace(old, new)
    scope: dict[str, Any] = {}
    module = sys.modules[function.__module__]
    exec(source, module.__dict__, scope)
    monkeypatch.setattr(owner, name, scope[name])


def broken(faults: str, seeds: range, requests: int = 200) -> dict[str, str]:
    """Return the invariants that broke in these runs, with what broke them first."""
    found: dict[str, str] = {}
    for seed in seeds:
        for name, what in run_one(seed, requests, frozenset(faults.split())).found.broken.items():
            found.setdefault(name, f"{what} (seed {seed})")
    return found


def breaks(invariant: str, faults: str, requests: int = 200) -> bool:
    """Return whether one of MANY runs breaks the invariant; stop at the first that does."""
    return any(invariant in broken(faults, range(seed, seed + 1), requests) for seed in range(1, MANY))
