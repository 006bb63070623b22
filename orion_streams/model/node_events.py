"""Events about nodes: their health, rest and breaker, and the models on their disks and in their memory."""

from __future__ import annotations

from orion_streams.model.description import Description
from orion_streams.model.log_events import Event
from orion_streams.model.vocabulary import Mark, UnloadReason


class NodeSampled(Event, frozen=True, tag="node.sampled"):
    """A node's health entry. `temp_mc` is None where no sensor exists. `in_hand` are the work ids that
    the agent holds, `work_read` the last one it has read; `settled`: all results that it had written by
    then were taken before. `inventory_known`: its list of models is what the log says.
    `left_out`: rows of Ollama's lists that could not be used, and why the first; `remote`: models that run
    elsewhere; `sensor`: where the temperature comes from, or why there is none, and `engine`, what runs
    the models, now and then. `leaving`: its agent begins nothing more; `goodbye`: this boot's last entry,
    after which it reads nothing."""

    node: str
    boot: str
    sampled_ms: int
    temp_mc: int | None
    ram_used_mb: int
    ram_total_mb: int
    cpu_permille: int
    age_ms: int = 0
    throttled: int = 0
    work_read: str = ""
    in_hand: tuple[str, ...] = ()
    settled: bool = True
    inventory_known: bool = True
    left_out: int = 0
    left_out_why: str = ""
    remote: tuple[str, ...] = ()
    sensor: str = ""
    engine: str = ""
    leaving: bool = False
    goodbye: bool = False


class NodeBackedOff(Event, frozen=True, tag="node.backed_off"):
    """A safety mark was passed: the node takes nothing until it returns."""

    node: str
    reason: Mark
    value: int
    mark: int


class NodeReturned(Event, frozen=True, tag="node.returned"):
    """Below the lower marks for enough samples in a row."""

    node: str


class NodeDrained(Event, frozen=True, tag="node.drained"):
    """The operator `by` lets the node rest, for `for_ms` of grid time (0: until it is resumed): it takes
    nothing, what waits there is moved at once, and what runs after `drain_ms`. Again: it begins anew."""

    node: str
    by: str
    for_ms: int = 0
    drain_ms: int = 0
    reply_id: str = ""


class NodeResumed(Event, frozen=True, tag="node.resumed"):
    """The node's rest is over: the operator `by` ended it, or its time has passed."""

    node: str
    by: str = ""
    reply_id: str = ""


class ZoneChanged(Event, frozen=True, tag="zone.changed"):
    """From here on the router's local time is so many seconds ahead of UTC: quiet hours go by it."""

    offset_s: int


class DiskOrdered(Event, frozen=True, tag="disk.ordered"):
    """The operator `by` wants a model pulled onto the node's disk, or removed from it (`op`: `pull` or
    `remove`). `request`: the key of its entry, which its replies answer."""

    node: str
    op: str
    model: str
    by: str
    request: str
    work_id: str = ""
    reply_id: str = ""


class DiskEnded(Event, frozen=True, tag="disk.ended"):
    """What was ordered of the node's disk has ended: done if `code` is empty. `source`: the result that
    holds the node's own words. `by`: the operator who cancelled another's."""

    node: str
    op: str
    model: str
    request: str
    work_id: str
    code: str = ""
    source: str = ""
    by: str = ""
    reply_id: str = ""


class ModelInstalled(Event, frozen=True, tag="model.installed"):
    """Ollama on this node has the model on disk."""

    node: str
    model: str
    digest: str
    size_mb: int


class ModelRemoved(Event, frozen=True, tag="model.removed"):
    """No longer on this node's disk."""

    node: str
    model: str


class ModelDescribed(Event, frozen=True, tag="model.described"):
    """What a node's Ollama says of the model with this digest, once for all nodes."""

    node: str
    model: str
    digest: str
    about: Description


class ModelLoaded(Event, frozen=True, tag="model.loaded"):
    """The model is in this node's memory, with this context length."""

    node: str
    model: str
    digest: str
    size_mb: int
    context_length: int = 0


class ModelUnloaded(Event, frozen=True, tag="model.unloaded"):
    """The model left this node's memory."""

    node: str
    model: str


class UnloadOrdered(Event, frozen=True, tag="model.unload_ordered"):
    """A node is told to let go of an idle model; `model.unloaded` shows it done. `reason`: relief (it is
    out of memory), room (for what is loaded next)."""

    node: str
    model: str
    reason: UnloadReason = UnloadReason.RELIEF


class LoadOrdered(Event, frozen=True, tag="model.load_ordered"):
    """An idle node is told to load what the plan wants there. `runner`: its options beside num_ctx."""

    node: str
    model: str
    num_ctx: int
    runner: str
    load_ms: int
    reserve_mb: int
    work_id: str = ""


class LoadEnded(Event, frozen=True, tag="model.load_ended"):
    """What came of an ordered load. `alone`: nothing else ran on the node meanwhile."""

    node: str
    model: str
    work_id: str
    ok: bool
    load_ms: int = 0
    alone: bool = False


class BreakerOpened(Event, frozen=True, tag="node.breaker_opened"):
    """So many requests in a row failed on the node: it gets nothing for `open_ms`, then one probe."""

    node: str
    failures: int
    open_ms: int


class BreakerClosed(Event, frozen=True, tag="node.breaker_closed"):
    """The probe was answered: the node takes work again, one run more after each answer."""

    node: str
