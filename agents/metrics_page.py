"""`/metrics` of the gateway: what was counted and what the grid says now, in Prometheus' text, or in
OpenMetrics for who asks for that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import accumulate

from aiohttp import web
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from orion_streams.agents.grid_follower import GridFollower
from orion_streams.agents.isolated import Isolated
from orion_streams.agents.metrics_keeper import MetricsKeeper
from orion_streams.gateway.failures import RETRY_AFTER_S
from orion_streams.gateway.metric_samples import samples
from orion_streams.gateway.refusal import Refusal
from orion_streams.model import metric_specs as specs
from orion_streams.model.state import Grid
from orion_streams.projections.metrics import BETWEEN, Spread, Tally, series_of, spreads_of

VERSION = version("orion-streams")
OPENMETRICS = "application/openmetrics-text"


class MetricsPage:
    """Answers a scrape."""

    def __init__(self, follower: GridFollower, keeper: MetricsKeeper, counting: Isolated) -> None:
        self._follower, self._keeper, self._counting = follower, keeper, counting
        self._writing = asyncio.Lock()

    async def page(self, http: web.Request) -> web.Response:
        """Answer `/metrics`. Raise Refusal 503 until the log is read: zeros would look like a restart; 500
        once counting has failed."""
        if not self._follower.loaded.is_set():
            raise Refusal(503, "the log is not read yet", retry_after_s=RETRY_AFTER_S)
        if self._counting.failed:
            raise Refusal(500, "the counters stand still: the gateway's log says why")
        async with self._writing:  # one at a time, beside what else the gateway does
            found = Collected(families(self._keeper.tally, self._follower.grid, self._follower.silent_ms))
            accept = http.headers.get("Accept", "")
            text, content_type = await asyncio.to_thread(written, found, accept)
        return web.Response(body=text, headers={"Content-Type": content_type})


def written(found: Collector, accept: str) -> tuple[bytes, str]:
    """Return the metrics in the form that is asked for, and how it is called."""
    if OPENMETRICS in accept:
        text: bytes = openmetrics.generate_latest(found)  # type: ignore[no-untyped-call]
        return text, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(found), CONTENT_TYPE_PLAIN_0_0_4


class Collected(Collector):
    """Families as they were at one moment."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._families = list(found)

    def collect(self) -> list[Metric]:
        """Return them."""
        return self._families


def families(tally: Tally, grid: Grid, silent_ms: int) -> Iterator[Metric]:
    """Yield one family for each metric: what was counted, and what the grid says, moved on to now."""
    for spec in specs.HISTOGRAMS:
        yield histogram(spec, spreads_of(tally, spec))
    for spec in specs.COUNTERS:
        yield counter(spec, series_of(tally, spec))
    gauges = {
        spec.name: GaugeMetricFamily(spec.name, spec.what, labels=spec.labels) for spec in specs.GAUGES
    }
    for spec, labels, value in samples(grid, silent_ms, tally.models, tally.nodes):
        gauges[spec.name].add_metric(labels, value)
    yield from gauges.values()
    build = InfoMetricFamily(specs.BUILD.name.removesuffix("_info"), specs.BUILD.what)
    build.add_metric([], dict(zip(specs.BUILD.labels, (VERSION, str(grid.decider)), strict=True)))
    yield build


def counter(spec: specs.Metric, series: dict[str, int]) -> CounterMetricFamily:
    """Return a counter."""
    family = CounterMetricFamily(spec.name, spec.what, labels=spec.labels)
    for key, value in sorted(series.items()):
        family.add_metric(key.split(BETWEEN), value)
    return family


def histogram(spec: specs.Metric, series: dict[str, Spread]) -> HistogramMetricFamily:
    """Return a histogram."""
    family = HistogramMetricFamily(spec.name, spec.what, labels=spec.labels)
    bounds = [str(each / spec.per) for each in spec.bounds] + ["+Inf"]
    for key, spread in sorted(series.items()):
        labels = key.split(BETWEEN) if spec.labels else []
        buckets = list(zip(bounds, accumulate(spread.buckets), strict=True))
        family.add_metric(labels, buckets, spread.sum / spec.per)
    return family
