"""Words of the page: short names, rounded figures, and a line for what was decided. Pure.

No line names a request's id: it says whose it is and which model it asks.
"""

from __future__ import annotations

from orion_streams.gateway.page_rows import BAD, OK, WARN
from orion_streams.model import events as ev
from orion_streams.model.text import long, seconds, why_abandoned, why_failed
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Filter, Mark, UnloadReason, WaitKind

HOUSE = "orion-"
"""How names of nodes begin in the house: left out where room is short."""
ABOUT_MS = 120_000
"""Below this an expected time is said in seconds, from here on in minutes."""
ROLE_WORDS = "no inference"

Line = tuple[str, str]
"""A tone and a text."""


def short(node: str) -> str:
    """Return a node's name as people say it."""
    return node.removeprefix(HOUSE) or node


def capital(text: str) -> str:
    """Return a sentence with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def about(ms: int) -> str:
    """Format an expected time, which nobody knows to the tenth: in whole seconds or minutes."""
    return f"{max(round(ms / 1000), 1)} s" if ms < ABOUT_MS else f"{round(ms / 60_000)} min"


def passed(ms: int) -> str:
    """Format a time that has passed, in whole seconds, minutes, hours or days."""
    for unit, word in ((86_400_000, "d"), (3_600_000, "h")):
        if ms >= 2 * unit:
            return f"{ms // unit} {word}"
    return f"{ms // 1000} s" if ms < ABOUT_MS else f"{ms // 60_000} min"


def degree(temp_mc: int) -> str:
    """Format a temperature without needless decimals."""
    return f"{round(temp_mc / 1000, 1):g} °C"


def share(permille: int) -> str:
    """Format a share of memory without needless decimals."""
    return f"{permille / 10:g} %"


def above(reason: str, value: int, mark: int) -> str:
    """Say which mark was passed."""
    if reason == Mark.HOT:
        return f"{degree(value)}, above {degree(mark)}"
    return f"{share(value)} of its memory used, above {share(mark)}"


def verdict_line(found: Verdict) -> str:
    """Say what a decision found on a node: its expected time, or in two words why not."""
    if not found.filter:
        return f"{short(found.node)} {about(found.cost_ms)}"
    return f"{short(found.node)}: {FILTER_WORDS.get(found.filter, found.filter.replace('_', ' '))}"


FILTER_WORDS: dict[str, str] = {
    Filter.ROLE: ROLE_WORDS,
    Filter.SILENT: "never heard from",
    Filter.LEFT: "has left",
    Filter.STALE: "silent",
    Filter.INVENTORY_UNKNOWN: "models not known",
    Filter.NOT_INSTALLED: "model not on disk",
    Filter.INCAPABLE: "its model cannot do it",
    Filter.TIER: "not for this tier",
    Filter.TOO_LARGE: "too small for the model",
    Filter.DRAINED: "drained",
    Filter.QUIET: "quiet hours",
    Filter.LEAVING: "is leaving",
    Filter.TWO_AGENTS: "two agents",
    Filter.NO_TEMPERATURE: "no temperature",
    Filter.STUCK_SENSOR: "sensor stuck",
    Filter.HOT: "too hot",
    Filter.RAM: "memory full",
    Filter.BREAKER: "breaker open",
    Filter.PAUSED: "failed a moment ago",
    Filter.PLACES: "no place for the model",
    Filter.MEMORY: "no room for the model",
}
"""Each filter in two or three words."""


def resting(for_ms: int, by: str) -> str:
    """Say for how long a node rests, and who wanted it."""
    return f"rests{f' for {long(for_ms)}' if for_ms else ''}, drained by {by}"


def asked(client: str, model: str) -> str:
    """Say which request is meant, without its id."""
    return f"{model or 'a request'} for {client}"


def decision(event: ev.AnyEvent, client: str, model: str) -> Line | None:
    """Return a line for what was decided, or came of it; None for what is no news. `client` and `model`: of
    the request that it is about."""
    match event:
        case ev.RequestRouted():
            return OK, routed(event, client, model)
        case ev.RequestDeferred(kind=WaitKind.QUIET):
            return OK, f"{asked(client, model)} waits until quiet hours end"
        case ev.RequestDeferred(kind=WaitKind.DRAINED):
            return OK, f"{asked(client, model)} waits for a node that was drained"
        case ev.RequestDeferred(node=""):
            return WARN, f"{asked(client, model)} waits: no node takes it"
        case ev.RequestDeferred():
            return OK, f"{asked(client, model)} waits for {short(event.node)}"
        case ev.AttemptFailed():
            return WARN, f"{short(event.node)} failed at {asked(client, model)}: {why_failed(event.code)}"
        case ev.AttemptAbandoned(request=""):
            return WARN, f"a load is given up on {short(event.node)}: {why_abandoned(event.reason)}"
        case ev.AttemptAbandoned():
            why = why_abandoned(event.reason)
            return WARN, f"{asked(client, model)} is taken from {short(event.node)}: {why}"
        case ev.RequestFailed():
            return BAD, f"{asked(client, model)} ends as an error: {why_failed(event.code)}"
        case ev.RequestExpired():
            return BAD, f"{asked(client, model)} has expired"
        case _:
            return of_node(event)


def routed(event: ev.RequestRouted, client: str, model: str) -> str:
    """Say where a request goes, and how long it will take."""
    chosen = next((each for each in event.verdicts if each.node == event.node), Verdict(node=event.node))
    again = ", once more" if event.attempt > 1 else ""
    how = "loads it first" if chosen.load_ms else "warm"
    return (
        f"{short(event.node)} takes {asked(client, model)}{again}: {how}, "
        f"about {about(chosen.drain_ms + chosen.run_ms)}"
    )


def on_disk(event: ev.DiskOrdered | ev.DiskEnded) -> Line:
    """Return a line for a model that is pulled or removed."""
    pulls = event.op == "pull"
    if isinstance(event, ev.DiskOrdered):
        return OK, f"{short(event.node)} {'pulls' if pulls else 'removes'} {event.model}: {event.by} asked"
    if event.code:
        return WARN, f"{short(event.node)} did not {event.op} {event.model}: {event.code}"
    return OK, f"{short(event.node)} has {'pulled' if pulls else 'removed'} {event.model}"


def of_node(event: ev.AnyEvent) -> Line | None:
    """Return a line for what was decided about a node, its models, or the rules."""
    match event:
        case ev.NodeBackedOff():
            return (
                WARN,
                f"{short(event.node)} takes nothing: {above(event.reason, event.value, event.mark)}",
            )
        case ev.NodeReturned():
            return OK, f"{short(event.node)} is back"
        case ev.NodeDrained():
            return WARN, f"{short(event.node)} {resting(event.for_ms, event.by)}"
        case ev.DiskOrdered() | ev.DiskEnded():
            return on_disk(event)
        case ev.NodeResumed():
            return OK, f"{short(event.node)} is no longer drained"
        case ev.BreakerOpened():
            what = f"{event.failures} request{'s' * (event.failures != 1)} failed there"
            return BAD, f"{short(event.node)} gets nothing for {seconds(event.open_ms)}: {what}"
        case ev.BreakerClosed():
            return OK, f"{short(event.node)} answers again"
        case ev.UnloadOrdered():
            why = "it is out of memory" if event.reason == UnloadReason.RELIEF else "another needs the room"
            return OK, f"{short(event.node)} lets {event.model} go: {why}"
        case ev.LoadOrdered():
            return OK, f"{short(event.node)} loads {event.model} ahead, about {about(event.load_ms)}"
        case ev.PolicyChanged():
            return OK, f"the rules of revision {event.revision} are in force"
        case _:
            return None
