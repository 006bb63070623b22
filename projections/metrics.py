"""A fold of the log into counters and histograms. Pure.

A number says the same whenever the fold was broken off and taken up again: all that it needs beside its
tally stands in the grid.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import product

from msgspec import Struct, field

from orion_streams.model import events as ev
from orion_streams.model import metric_specs as specs
from orion_streams.model.metric_specs import MOST_MODELS, MOST_NODES, OTHER, Metric
from orion_streams.model.state import Grid, Request
from orion_streams.model.vocabulary import RequestState
from orion_streams.projections.ended_requests import EndedRequest, EndedRequests

BETWEEN = " "
"""Between the labels of a series: no name and no word has it."""


class Spread(Struct):
    """A histogram of integers: how many lie in each bucket, the last one without bound, and their sum."""

    buckets: list[int]
    sum: int = 0


class Tally(Struct):
    """What was counted since the first event that was told: by metric and labels. `models`, `nodes`: those
    that have a label, for good."""

    models: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    spreads: dict[str, dict[str, Spread]] = field(default_factory=dict)

    def count(self, metric: Metric, *labels: str) -> None:
        """Count one more."""
        series = self.counts.setdefault(metric.name, {})
        key = BETWEEN.join(labels)
        series[key] = series.get(key, 0) + 1

    def observe(self, metric: Metric, value: int, *labels: str) -> None:
        """Count a value; a negative one, as of clocks that differ, is 0."""
        value = max(value, 0)
        series = self.spreads.setdefault(metric.name, {})
        spread = series.setdefault(BETWEEN.join(labels), empty(metric))
        spread.buckets[bisect_left(metric.bounds, value)] += 1
        spread.sum += value

    def node(self, grid: Grid, name: str) -> str:
        """Return the label of a node, which gets one if the grid has it and there is one left."""
        return named(self.nodes, name, MOST_NODES, name in grid.nodes)

    def model(self, grid: Grid, name: str) -> str:
        """Return the label of a model, which gets one if a node has it and there is one left."""
        return named(self.models, name, MOST_MODELS, is_here(grid, name))


def empty(metric: Metric) -> Spread:
    """Return a histogram that counts nothing."""
    return Spread([0] * (len(metric.bounds) + 1))


def spreads_of(tally: Tally, metric: Metric) -> dict[str, Spread]:
    """Return the series of a histogram; those of a node, and that of the queue, also while they count
    nothing."""
    found = tally.spreads.get(metric.name, {})
    if not set(metric.labels) <= {"node"}:
        return found
    keys = tally.nodes if metric.labels else [""]
    return {**{key: empty(metric) for key in keys}, **found}


def series_of(tally: Tally, metric: Metric) -> dict[str, int]:
    """Return the series of a counter, with those that may come and have not, as 0: the first of its kind
    is else no increase to who looks. Why attempts fail has too many words for that."""
    choices = {"node": tally.nodes, "model": tally.models, **specs.WORDS.get(metric.name, {})}
    found = tally.counts.get(metric.name, {})
    if metric is specs.ATTEMPT_FAILURES:
        return found
    rows = product(*(choices[label] for label in metric.labels))
    return {**dict.fromkeys(map(BETWEEN.join, rows), 0), **found}


def fitting(tally: Tally) -> Tally:
    """Return a tally that another version may have saved, without the series that this one would not
    make."""
    shapes = {spec.name: (max(len(spec.labels) - 1, 0), len(spec.bounds) + 1) for spec in specs.METRICS}
    counts = {
        name: {key: value for key, value in series.items() if key.count(BETWEEN) == shapes[name][0]}
        for name, series in tally.counts.items()
        if name in shapes
    }
    spreads = {
        name: {
            key: spread
            for key, spread in series.items()
            if (key.count(BETWEEN), len(spread.buckets)) == shapes[name]
        }
        for name, series in tally.spreads.items()
        if name in shapes
    }
    return Tally(tally.models[:MOST_MODELS], tally.nodes[:MOST_NODES], counts, spreads)


def named(known: list[str], name: str, most: int, may_have: bool) -> str:
    """Return the label of a name, which gets one if it may have one and there is one left."""
    if name in known:
        return name
    if not may_have or len(known) >= most or BETWEEN in name:
        return OTHER
    known.append(name)
    return name


def is_here(grid: Grid, model: str) -> bool:
    """Whether a node has the model on disk or in memory: what anybody asks for has no label."""
    return any(model in node.installed or model in node.resident for node in grid.nodes.values())


def word(metric: Metric, label: str, value: str) -> str:
    """Return a label's word, `other` if it is none of those that it may be."""
    return value if value in specs.WORDS[metric.name][label] else OTHER


RequestEvent = (
    ev.RequestAccepted
    | ev.RequestRouted
    | ev.RequestDeferred
    | ev.RequestStarted
    | ev.AttemptFailed
    | ev.AttemptAbandoned
    | ev.BodyLost
    | ev.RequestCompleted
    | ev.RequestFailed
    | ev.RequestExpired
    | ev.RequestCancelled
)
RESULT_OF: dict[type[ev.Event], str] = {
    ev.RequestCompleted: specs.ANSWERED,
    ev.AttemptFailed: specs.FAILED,
    ev.AttemptAbandoned: specs.ABANDONED,
    ev.RequestFailed: specs.CANCELLED,
    ev.RequestExpired: specs.CANCELLED,
    ev.RequestCancelled: specs.CANCELLED,
}
"""What has become of an attempt that an event ends."""


class Metrics:
    """Goes on counting into `tally` from where `grid` is."""

    def __init__(self, tally: Tally, grid: Grid) -> None:
        self.tally = tally
        self._ended = EndedRequests(grid)
        self._open = dict(grid.open)
        self._boots = {name: node.boot for name, node in grid.nodes.items()}
        self._name(grid)

    def take(self, grid: Grid, event: ev.AnyEvent) -> None:
        """Count an event that was folded into `grid`."""
        ended = self._ended.take(grid, event)
        if ended is not None:
            self._end(grid, ended)
        if isinstance(event, RequestEvent):
            self._move(grid, event)
        elif isinstance(event, ev.NodeSampled):
            self._hear(grid, event)
        else:
            self._note(grid, event)

    def _note(self, grid: Grid, event: ev.AnyEvent) -> None:
        """Count what is of no open request."""
        tally = self.tally
        match event:
            case ev.PolicyChanged():
                self._boots = {name: node.boot for name, node in grid.nodes.items()}
                self._name(grid)
            case ev.ModelLoaded():
                tally.model(grid, event.model)
            case ev.NodeBackedOff():
                reason = word(specs.BACKOFFS, "reason", event.reason)
                tally.count(specs.BACKOFFS, tally.node(grid, event.node), reason)
            case ev.BreakerOpened():
                tally.count(specs.BREAKERS, tally.node(grid, event.node))
            case ev.UnloadOrdered():
                reason = word(specs.UNLOADS, "reason", event.reason)
                tally.count(specs.UNLOADS, tally.node(grid, event.node), reason)
            case ev.LoadEnded():
                self._load(grid, event)
            case ev.InputRejected() | ev.RequestRejected():
                tally.count(specs.REJECTED, word(specs.REJECTED, "code", event.code))

    def _name(self, grid: Grid) -> None:
        """Give nodes, and models in memory, their labels."""
        for name, node in sorted(grid.nodes.items()):
            self.tally.node(grid, name)
            for model in sorted(node.resident):
                self.tally.model(grid, model)

    def _hear(self, grid: Grid, event: ev.NodeSampled) -> None:
        """Count another boot of a node's agent."""
        before = self._boots.get(event.node)
        if before is None:
            return
        if before not in ("", event.boot):
            self.tally.count(specs.RESTARTS, self.tally.node(grid, event.node))
        self._boots[event.node] = event.boot

    def _load(self, grid: Grid, event: ev.LoadEnded) -> None:
        """Count a planned load."""
        self.tally.model(grid, event.model)
        node = self.tally.node(grid, event.node)
        self.tally.count(specs.LOADS, node, specs.OK if event.ok else specs.FAILED)
        if event.ok:
            self.tally.observe(specs.LOAD, event.load_ms, node)

    def _end(self, grid: Grid, ended: EndedRequest) -> None:
        """Count a request that has ended, and measure an answer."""
        tally, model = self.tally, self.tally.model(grid, ended.model)
        tally.count(specs.REQUESTS, model, ended.outcome)
        if ended.outcome is RequestState.ERROR:
            tally.count(specs.ERRORS, word(specs.ERRORS, "code", ended.code))
        if ended.outcome is not RequestState.DONE:
            return
        labels = (specs.OPERATIONS.get(ended.kind, OTHER), model)
        tally.observe(specs.DURATION, ended.age_ms, *labels)
        for kind, tokens in ((specs.INPUT, ended.prompt_tokens), (specs.OUTPUT, ended.tokens)):
            if tokens > 0:
                tally.observe(specs.TOKENS, tokens, *labels, kind)
        if ended.first_token_ms > 0:
            before_ms = max(ended.age_ms - ended.run_ms, 0)
            tally.observe(specs.FIRST_TOKEN, before_ms + ended.first_token_ms, *labels)
        if ended.tokens > 0 and ended.decode_ms > 0:
            tally.observe(specs.PER_TOKEN, ended.decode_ms * 1000 // ended.tokens, *labels)
        if ended.cold and ended.load_ms > 0:
            tally.observe(specs.LOAD, ended.load_ms, tally.node(grid, ended.node))

    def _move(self, grid: Grid, event: RequestEvent) -> None:
        """Count the end of a wait or of an attempt, by how the request's row has changed."""
        before, after = self._open.pop(event.request, None), grid.open.get(event.request)
        if after is not None:
            self._open[event.request] = after
        if before is None:
            return
        is_over = bool(before.work_id) and (after is None or after.work_id != before.work_id)
        if not before.started and (is_over or after is None or after.started):
            self.tally.observe(specs.WAIT, waited_ms(grid, before, event))
        if is_over and type(event) in RESULT_OF:
            node = self.tally.node(grid, before.node)
            self.tally.count(specs.ATTEMPTS, node, RESULT_OF[type(event)])
            if isinstance(event, ev.AttemptFailed | ev.AttemptAbandoned):
                why = event.code if isinstance(event, ev.AttemptFailed) else event.reason
                self.tally.count(specs.ATTEMPT_FAILURES, node, word(specs.ATTEMPT_FAILURES, "code", why))


def waited_ms(grid: Grid, row: Request, event: RequestEvent) -> int:
    """Return for how long a request has waited when an event ends that: since its acceptance, or since the
    attempt before failed."""
    since_ms = row.failures[-1].at_ms if row.failures else 0
    until_ms = grid.at_ms
    if isinstance(event, ev.RequestStarted):
        until_ms -= event.age_ms
    elif isinstance(event, ev.RequestCompleted):  # its begin was never told
        until_ms -= event.total_ms
    return until_ms - (since_ms or row.accepted_ms)
