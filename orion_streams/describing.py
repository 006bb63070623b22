"""What an event says, in a line. Pure."""

from __future__ import annotations

import msgspec

from orion_streams import events as ev
from orion_streams.words import degrees, duration, ram, seconds


def tag(event: ev.AnyEvent) -> str:
    """The event's name in the log."""
    return str(event.__struct_config__.tag)


def describe(event: ev.AnyEvent) -> str:
    """What an event says, in a line. Whatever has no words of its own is shown field by field."""
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
    """The same for what happens to a node and its models."""
    match event:
        case ev.NodeSampled():
            return sample(event)
        case ev.NodeBackedOff(node, reason, value, mark):
            unit = degrees if reason == "hot" else ram
            return f"{node} {reason}: {unit(value)} > {unit(mark)}"
        case ev.BreakerOpened(node, failures, open_ms):
            return f"{node} for {seconds(open_ms)}, after {failures} failed requests"
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
    """A health entry in a line."""
    heat = "no sensor" if event.temp_mc is None else f"{event.temp_mc / 1000:.1f} °C"
    return (
        f"{event.node} {heat}, {event.ram_used_mb} of {event.ram_total_mb} MB, "
        f"CPU {event.cpu_permille / 10:.0f} %, {len(event.in_hand)} in hand"
    )


def verdict(found: ev.Verdict) -> str:
    """A verdict in a few words."""
    return f"{found.node}: {found.filter or f'{found.cost_ms} ms'}"


def fields(event: ev.AnyEvent) -> str:
    """All fields that say something."""
    held = msgspec.to_builtins(event)
    return " ".join(f"{name}={value}" for name, value in held.items() if name != "event" and value != "")
