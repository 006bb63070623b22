"""Units and reasons for a person: what tables, explanations, the log and reports have in common. Pure."""

from __future__ import annotations

from collections.abc import Callable

from orion_streams.events import Verdict

WORD_FOR = {"evict": "others"}
"""`evict_ms` is what the load costs others, also where it takes a place that nobody has."""


WITHOUT_FIGURES = {
    "role": "not a node that answers requests",
    "silent": "never heard from",
    "inventory_unknown": "not known which models it has",
    "not_installed": "does not have the model on disk",
    "two_agents": "two agents claim to be this node",
    "no_temperature": "no temperature reading",
}
"""Filters that no value trips."""


def held_back(found: Verdict) -> str:
    """Why a node is filtered, with the value that tripped it and its limit."""
    value, limit = found.value, found.limit
    match found.filter:
        case "stale":
            return f"not heard from for {seconds(value)}, limit {seconds(limit)}"
        case "tier":
            return f"may not take requests of tier {value} (policy.spill_forbidden)"
        case "too_large":
            return f"too small for the model: it takes {value} MB, limit {limit} MB"
        case "hot":
            return against_limit(found, "too hot", degrees)
        case "ram":
            return against_limit(found, "memory too full", ram)
        case "breaker":
            return f"breaker open after failures: {seconds(value)} of {seconds(limit)} over"
        case "memory":
            return f"no room to load the model now: it takes {value} MB, limit {max(limit, 0)} MB"
        case other:
            return WITHOUT_FIGURES.get(other, other.replace("_", " "))


def against_limit(found: Verdict, what: str, unit: Callable[[int], str]) -> str:
    """What is wrong, with its limit: to return that is the lower mark. A value that is not above it belongs
    to a node that has backed off and was not calm for long enough yet."""
    figures = f"{unit(found.value)}, limit {unit(found.limit)}"
    return f"{what}: {figures}" if found.value > found.limit else f"{what} of late, not calm yet: {figures}"


def why_abandoned(reason: str) -> str:
    """Why an attempt was given up."""
    return {
        "gone": "the node no longer has it",
        "silent": "the node is not heard from",
        "overdue": "it took longer than policy.attempt_deadline_ms",
        "hot": "the node grew too hot before it started",
        "ram": "the node's memory was too full before it started",
        "critical": "the node passed the critical temperature",
        "removed": "the node is no longer configured",
    }.get(reason, reason)


def whose_fault(blame: str) -> str:
    """Whom a failure is blamed on."""
    return {"request": "the request's own fault", "node": "the node's fault", "ours": "nobody's fault"}.get(
        blame, blame
    )


def degrees(temp_mc: int | None) -> str:
    """Milli-degrees for a person."""
    return "no sensor" if temp_mc is None else f"{temp_mc / 1000:.1f} °C"


def percent(permille: int) -> str:
    """Thousandths for a person."""
    return f"{permille / 10:.1f} %"


def ram(permille: int) -> str:
    """A share of memory for a person."""
    return f"{percent(permille)} RAM"


def gigabytes(megabytes: int) -> str:
    """MB for a person."""
    return f"{megabytes / 1000:.1f}"


def seconds(ms: int) -> str:
    """A duration for a person, in seconds or more."""
    if ms < 10_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms // 1000} s" if ms < 600_000 else f"{ms // 60_000} min"


def duration(ms: int) -> str:
    """A duration for a person, short ones in ms."""
    return f"{ms} ms" if ms < 1000 else seconds(ms)
