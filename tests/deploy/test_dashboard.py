"""deploy/: the dashboard asks for nothing that /metrics does not say, and Prometheus for a page that is."""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import pytest
import yaml

from orion_streams.agents.metrics_page import Collected, families, written
from orion_streams.model import event_codec
from orion_streams.model import metric_specs as specs
from orion_streams.model.state import Grid
from orion_streams.projections import apply
from orion_streams.projections.metrics import Metrics, Tally
from tests.endpoint.running_endpoint import RECORDED, RunningEndpoint
from tests.gateway.scraped import Scraped
from tests.gateway.test_endpoint_document import served
from tests.golden.record import FOLDER, SUFFIX
from tests.grids import fails
from tests.helpers import WAIT_S, eventually_true
from tests.replay.recorded import rows_in

DEPLOY = Path(__file__).parents[2] / "deploy"
BOARD: dict[str, Any] = json.loads(
    (DEPLOY / "grafana" / "orion-dashboard.json").read_text(encoding="utf-8")
)
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus itself adds."""
COUNTING = {"rate", "increase", "irate"}
SUFFIXES = ("_bucket", "_count", "_sum")


class Exposed:
    """What /metrics said, in all: the labels and the kind of each sample."""

    def __init__(self) -> None:
        self.labels: dict[str, set[str]] = defaultdict(set)
        self.kinds: dict[str, str] = {}

    def note(self, found: Scraped) -> None:
        """Note a scrape."""
        self.kinds |= found.kinds
        for name, labels in found.labels.items():
            self.labels[name] |= labels

    def kind(self, name: str) -> str:
        """A sample's kind."""
        ends = (name, name.removesuffix("_total"), *(name.removesuffix(each) for each in SUFFIXES))
        return next(self.kinds[each] for each in ends if each in self.kinds)


@pytest.fixture(scope="module")
def exposed() -> Exposed:
    """What a simulated grid of processes exposes after an answer, and those of the recorded incidents."""
    everything = Exposed()
    with RunningEndpoint(RECORDED) as endpoint, httpx.Client(base_url=endpoint.url, timeout=WAIT_S) as http:
        model = http.get("/api/tags").json()["models"][0]["name"]
        asked = {"model": model, "messages": [{"role": "user", "content": "Why?"}], "stream": False}
        assert http.post("/api/chat", json=asked).status_code == 200

        def has_counted() -> bool:
            everything.note(Scraped(http.get("/metrics").text))
            return "gen_ai_server_time_to_first_token_seconds_bucket" in everything.labels

        eventually_true(has_counted, "the answer is counted")
    tally = Tally()
    for path in sorted(FOLDER.glob(f"*{SUFFIX}")):
        note_incident(everything, tally, path)
    return everything


def note_incident(everything: Exposed, tally: Tally, path: Path) -> None:
    """Fold a recorded log, and scrape now and then."""
    grid = Grid()
    metrics = Metrics(tally, grid)
    for number, row in enumerate(rows_in(gzip.decompress(path.read_bytes()))):
        event = event_codec.decode(row)
        apply(grid, event)
        metrics.take(grid, event)
        if number % 100 == 0:
            text, _ = written(Collected(families(tally, grid, 0)), "")
            everything.note(Scraped(text.decode()))


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each query of the panels with its legend."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], target["legendFormat"]


def variables(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The selector and the label that each variable asks for."""
    for each in board["templating"]["list"]:
        if each["type"] == "query":
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", each["query"]["query"])
            assert asked, each
            yield asked[1], asked[2]


def nodes_of(query: str) -> list[Any]:
    """All parts of a query. ValueError if it is none."""
    text = re.sub(r"\$__(rate_)?interval", "5m", query)
    assert "$__" not in text
    found: list[Any] = []
    promql.walk(promql.parse(text), found.append)
    return found


def asks_for_what_there_is(board: dict[str, Any], exposed: Exposed) -> None:
    """Each metric is exposed, each label one of its; rates are of what counts up."""
    for query, legend in queries(board):
        labels = labels_of(query, exposed)
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels, (query, legend)
    for selector, label in variables(board):
        assert label in labels_of(selector, exposed)


def labels_of(query: str, exposed: Exposed) -> set[str]:
    """Check a query. The labels of its series."""
    known: set[str] = set()
    kept: list[set[str]] = []
    for part in nodes_of(query):
        match part:
            case promql.VectorSelector():
                assert part.name in exposed.labels, part.name
                own = exposed.labels[part.name] | OF_PROMETHEUS
                assert {each.name for each in part.matchers.matchers} <= own, query
                known |= own
            case promql.Call() if part.func.name in COUNTING:
                name = part.args[0].vector_selector.name
                assert exposed.kind(name) in ("counter", "histogram"), query
            case promql.AggregateExpr():
                kept.append(set(part.modifier.labels) if part.modifier else set())
            case _:
                pass
    assert all(each <= known for each in kept), query
    return set().union(*kept) if kept else known


def spoilt(old: str, new: str) -> dict[str, Any]:
    """The dashboard with another word in it."""
    text = json.dumps(BOARD)
    assert old in text
    return dict(json.loads(text.replace(old, new)))


def test_every_query_asks_for_what_there_is(exposed: Exposed) -> None:
    """Metrics, labels in selectors, sums and legends, as the simulated grids expose them."""
    asks_for_what_there_is(BOARD, exposed)
    assert len(list(queries(BOARD))) > 40
    assert len(list(variables(BOARD))) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("orion_queue_depth{", "orion_queue_length{"),
        ("sum by (outcome)", "sum by (result)"),
        ("{{outcome}}", "{{result}}"),
        ('state=\\"running\\"', 'phase=\\"running\\"'),
        ("increase(orion_requests_total", "increase(orion_requests_open"),
        ('orion_node_available{instance=\\"$instance\\"}, node)', "orion_node_available, machine)"),
    ],
)
def test_an_unknown_name_is_found(exposed: Exposed, old: str, new: str) -> None:
    """The controls: one wrong word, and it is seen."""
    assert fails(asks_for_what_there_is, spoilt(old, new), exposed)


def test_a_broken_query_is_found(exposed: Exposed) -> None:
    """The control of the syntax: a bracket too few."""
    with pytest.raises(ValueError, match=r"invalid|unexpected|unclosed"):
        asks_for_what_there_is(spoilt("sum(orion_node_breaker", "sum((orion_node_breaker"), exposed)


def test_every_metric_is_shown() -> None:
    """Each has a place in the dashboard."""
    text = json.dumps(BOARD)
    assert [spec.name for spec in specs.METRICS if f"{spec.name}" not in text] == []


def test_grafana_can_import_it() -> None:
    """Its data source is a variable, panels have ids and places of their own, within 24 columns."""
    assert BOARD["id"] is None
    assert (BOARD["uid"], BOARD["templating"]["list"][0]["type"]) == ("orion-streams", "datasource")
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        for each in (panel, *panel.get("targets", ())):
            assert panel["type"] == "row" or each["datasource"]["uid"] == "${datasource}"


def test_prometheus_scrapes_a_page_that_there_is() -> None:
    """By its path, with a key as a Bearer token."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    [job] = config["scrape_configs"]
    assert f"GET {job['metrics_path']}" in served()
    assert job["authorization"]["type"] == "Bearer"
