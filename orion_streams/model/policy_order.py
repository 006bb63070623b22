"""Pairs of keys of [policy] that have to fit each other. Pure."""

from __future__ import annotations

import operator
from collections.abc import Collection

from orion_streams.model.policy import Policy

ORDER: tuple[tuple[str, str, str], ...] = (
    ("temp_return_mc", "less than", "temp_max_mc"),
    ("ram_return_permille", "less than", "ram_max_permille"),
    ("temp_critical_mc", "more than", "temp_max_mc"),
    ("breaker_open_ms", "at most", "breaker_open_max_ms"),
    ("ram_margin_permille", "less than", "ram_max_permille"),
    ("default_deadline_ms", "at most", "max_deadline_ms"),
    ("retry_pause_ms", "at most", "retry_pause_max_ms"),
)
"""Pairs of keys of [policy], and how their values compare."""
COMPARE = {"less than": operator.lt, "more than": operator.gt, "at most": operator.le}
CONVERSE = {"less than": "more than", "more than": "less than", "at most": "at least"}


def contradictions(policy: Policy, written: Collection[str]) -> list[str]:
    """List the pairs that do not fit. Of two keys blame the one that was `written`."""
    return [
        misfit(policy, key, relation, other, written)
        for key, relation, other in ORDER
        if not COMPARE[relation](getattr(policy, key), getattr(policy, other))
    ]


def health_too_rare(health_ms: int, policy: Policy, written: Collection[str]) -> list[str]:
    """Say that health comes too seldom for `policy.stale_ms`, and blame that key if it was written."""
    if health_ms * 2 <= policy.stale_ms:
        return []
    if "stale_ms" in written:
        return [
            f"policy.stale_ms = {policy.stale_ms}: expected at least twice limits.health_ms ({health_ms})"
        ]
    what = f"expected at most half of policy.stale_ms ({policy.stale_ms}, the default)"
    return [f"limits.health_ms = {health_ms}: {what}"]


def misfit(policy: Policy, key: str, relation: str, other: str, written: Collection[str]) -> str:
    """Say how two keys of [policy] do not fit, with both values."""
    if other in written and key not in written:
        key, relation, other = other, CONVERSE[relation], key
    value, limit = getattr(policy, key), getattr(policy, other)
    default = ", the default" if other not in written and limit == getattr(Policy(), other) else ""
    return f"policy.{key} = {value}: expected {relation} policy.{other} ({limit}{default})"
