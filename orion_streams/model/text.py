"""Units and reasons for a person: what tables, explanations, the log and reports have in common. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from orion_streams.model import events as ev
from orion_streams.model.verdict import Verdict

WORD_FOR = {"evict": "others"}
"""`evict_ms` is what the load costs others, also where it takes a place that nobody has."""


WITHOUT_FIGURES = {
    "role": "not a node that answers requests",
    "silent": "never heard from",
    "left": "its agent has left",
    "leaving": "its agent is about to leave",
    "inventory_unknown": "not known which models it has",
    "not_installed": "does not have the model on disk",
    "incapable": "its model cannot do what is asked",
    "two_agents": "two agents claim to be this node",
    "no_temperature": "no temperature reading",
}
"""Filters that no value trips."""


def held_back(found: Verdict) -> str:
    """Say why a node is filtered, with the value that tripped it and its limit."""
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
        case "stuck_sensor":
            return f"its temperature has not moved for {seconds(value)} of work, limit {seconds(limit)}"
        case "paused":
            return f"paused for this request, which failed here {seconds(value)} ago: for {seconds(limit)}"
        case "breaker":
            return f"breaker open after failures: {seconds(value)} of {seconds(limit)} over"
        case "places":
            return f"no place for the model now: it would be the {ordinal(value)} in memory, limit {limit}"
        case "memory":
            return f"no room to load the model now: it takes {value} MB, limit {max(limit, 0)} MB"
        case "drained" | "quiet":
            return meant(found)
        case other:
            return WITHOUT_FIGURES.get(other, other.replace("_", " "))


def meant(found: Verdict) -> str:
    """Say why a node takes nothing because somebody wants it so."""
    value, limit = found.value, found.limit
    if found.filter == "quiet":
        return f"quiet hours: it is {time_of_day(value)}, until {time_of_day(limit)}"
    return f"drained {seconds(value)} ago, {f'for {long(limit)}' if limit else 'until it is resumed'}"


def time_of_day(minute: int) -> str:
    """Format a minute of the day."""
    return f"{minute // 60:02}:{minute % 60:02}"


def ordinal(number: int) -> str:
    """Format a place in a row."""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def against_limit(found: Verdict, what: str, unit: Callable[[int], str]) -> str:
    """Say what is wrong, with its limit. A value at or below the limit belongs to a node that backed
    off and was not calm for long enough yet."""
    figures = f"{unit(found.value)}, limit {unit(found.limit)}"
    return f"{what}: {figures}" if found.value > found.limit else f"{what} of late, not calm yet: {figures}"


def why_abandoned(reason: str) -> str:
    """Say why an attempt was abandoned."""
    return {
        "gone": "the node no longer has it",
        "silent": "the node is not heard from",
        "overdue": "it took longer than policy.attempt_deadline_ms",
        "hot": "the node grew too hot before it started",
        "ram": "the node's memory was too full before it started",
        "critical": "the node passed the critical temperature",
        "removed": "the node is no longer configured",
        "left": "the node's agent left before it read it",
        "drained": "an operator drained the node",
    }.get(reason, reason)


WHY_FAILED = {
    "agent_error": "its agent came upon a mistake of its own",
    "agent_leaving": "its agent has left",
    "agent_restarted": "its agent began anew",
    "answer_too_large": "the answer grew too large",
    "attempts_exhausted": "each attempt failed",
    "bad_answer": "its Ollama's answer could not be read",
    "body_gone": "the request's text is gone",
    "cancelled": "it was cancelled",
    "incapable": "no model can do what is asked",
    "model_missing": "its Ollama no longer has the model",
    "model_too_large": "the model fits into no node",
    "no_done": "its Ollama ended the answer too early",
    "not_ollama": "what answers there is no Ollama",
    "ollama_busy": "its Ollama had too much to do",
    "ollama_error": "its Ollama failed",
    "ollama_memory": "its Ollama had no memory for the model",
    "ollama_unreachable": "its Ollama could not be reached",
    "overdue": "it took too long",
    "parts_gone": "a part of the request's images is gone",
    "parts_refused": "the request's images could not be read",
    "refused": "Ollama refused the request",
    "stalled": "its Ollama said nothing more",
    "stream_cut": "its Ollama's answer broke off",
    "unknown_model": "no node has the model",
}


def why_failed(code: str) -> str:
    """Say why an attempt or a request failed."""
    return WHY_FAILED.get(code, code.replace("_", " "))


def whose_fault(blame: str) -> str:
    """Say who is blamed for a failure."""
    return {"request": "the request's own fault", "node": "the node's fault", "ours": "nobody's fault"}.get(
        blame, blame
    )


def degrees(temp_mc: int | None) -> str:
    """Format milli-degrees."""
    return "no sensor" if temp_mc is None else f"{temp_mc / 1000:.1f} °C"


def percent(permille: int) -> str:
    """Format thousandths as per cent."""
    return f"{permille / 10:.1f} %"


def ram(permille: int) -> str:
    """Format a share of memory."""
    return f"{percent(permille)} RAM"


def gigabytes(megabytes: int) -> str:
    """Format MB of 2^20 bytes, as agents measure memory, as GB: to the tenth below ten."""
    return f"{megabytes / 1024:.{int(megabytes < 10_240)}f}"


def seconds(ms: int) -> str:
    """Format a duration in seconds or minutes."""
    if ms < 10_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms // 1000} s" if ms < 600_000 else f"{ms // 60_000} min"


def long(ms: int) -> str:
    """Format how long something is to last, of hours their number."""
    if ms < 7_200_000:
        return seconds(ms)
    minutes = ms // 60_000 % 60
    return f"{ms // 3_600_000} h {minutes} min" if minutes else f"{ms // 3_600_000} h"


def duration(ms: int) -> str:
    """Format a duration, short ones in ms."""
    return f"{ms} ms" if ms < 1000 else seconds(ms)


def describe(event: ev.AnyEvent) -> str:
    """Describe an event in a line; one without words of its own field by field."""
    match event:
        case ev.Committed():
            return f"number {event.number}, {event.inputs} inputs" + (
                "" if event.decided else ", undecided"
            )
        case ev.PolicyChanged():
            return f"revision {event.revision}, policy {event.policy_id}, {len(event.nodes)} nodes"
        case ev.RequestRouted():
            verdicts = ", ".join(verdict(each) for each in event.verdicts)
            return f"{event.request} attempt {event.attempt} to {event.node} ({verdicts})"
        case ev.RequestDeferred():
            waits = f"waits for {event.node}" if event.node else "no node takes it"
            return f"{event.request} {waits} ({', '.join(verdict(each) for each in event.verdicts)})"
        case ev.RequestCompleted():
            return (
                f"{event.request} on {event.node}: {event.tokens} tokens in {event.total_ms} ms"
                f" ({'cold' if event.cold else 'warm'})"
            )
        case _:
            return of_node(event)


def of_node(event: ev.AnyEvent) -> str:
    """Describe an event of a node or its models in a line."""
    match event:
        case ev.NodeSampled():
            return sample(event)
        case ev.NodeBackedOff(node, reason, value, mark):
            unit = degrees if reason == "hot" else ram
            return f"{node} {reason}: {unit(value)} > {unit(mark)}"
        case ev.BreakerOpened(node, failures, open_ms):
            return f"{node} for {seconds(open_ms)}, after {failures} failed requests"
        case ev.DiskOrdered():
            return f"{event.node} {event.op} {event.model}, by {event.by}"
        case ev.DiskEnded():
            return f"{event.node} {event.op} {event.model}: {event.code or 'done'}"
        case ev.NodeDrained():
            term = f"for {long(event.for_ms)}" if event.for_ms else "until it is resumed"
            return f"{event.node} by {event.by}, {term}"
        case ev.NodeResumed():
            return f"{event.node} {f'by {event.by}' if event.by else 'by itself'}"
        case ev.ZoneChanged():
            return f"local time is UTC{event.offset_s // 60:+} min"
        case ev.UnloadOrdered(node, model, reason):
            return f"{node} {model}, for {reason}"
        case ev.LoadOrdered():
            return (
                f"{event.node} {event.model}, num_ctx {event.num_ctx}, {event.reserve_mb} MB,"
                f" expected in {duration(event.load_ms)}"
            )
        case ev.LoadEnded():
            took = f"loaded in {duration(event.load_ms)}" if event.ok else "failed to load"
            return f"{event.node} {event.model} {took}{', alone' if event.alone else ''}"
        case _:
            return fields(event)


def sample(event: ev.NodeSampled) -> str:
    """Describe a health entry in a line."""
    heat = "no sensor" if event.temp_mc is None else f"{event.temp_mc / 1000:.1f} °C"
    return (
        f"{event.node} {heat}, {event.ram_used_mb} of {event.ram_total_mb} MB, "
        f"CPU {event.cpu_permille / 10:.0f} %, {len(event.in_hand)} in hand"
    )


def verdict(found: Verdict) -> str:
    """Describe a verdict in a few words."""
    return f"{found.node}: {found.filter or f'{found.cost_ms} ms'}"


def fields(event: ev.AnyEvent) -> str:
    """List all fields of an event that are not empty."""
    held = msgspec.to_builtins(event)
    return " ".join(f"{name}={value}" for name, value in held.items() if name != "event" and value != "")
