"""/metrics of a running gateway, as Prometheus reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from orion_streams.agents.grid_follower import GridFollower
from orion_streams.agents.isolated import Isolated
from orion_streams.agents.key_file import change
from orion_streams.agents.metrics_keeper import MetricsKeeper
from orion_streams.agents.metrics_page import Collected, MetricsPage, families, written
from orion_streams.gateway import grid_state
from orion_streams.gateway.keys import Key, digest_of, token_of, with_key
from orion_streams.gateway.metric_samples import samples
from orion_streams.gateway.refusal import Refusal
from orion_streams.model import metric_specs as specs
from orion_streams.model.metric_specs import MetricKind
from orion_streams.model.state import Grid, Installed, Resident
from orion_streams.model.vocabulary import Mark, WaitKind
from orion_streams.projections.metrics import Metrics, Tally
from tests.contract.contract_grid import MODEL, Run
from tests.gateway.gateway_stage import CHAT, Stage, gateway
from tests.gateway.scraped import Scraped, scrape
from tests.grids import AT_MS, FENCE, HEAVY, edge, grid, holding, node, request
from tests.helpers import eventually
from tests.properties import strategies as make

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
SECRET = "the pin is 4711"


def read_openmetrics(text: str) -> list[Family]:
    """The families of a text."""
    return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def page_of(some: Grid, tally: Tally | None = None, silent_ms: int = 0) -> Scraped:
    """What would be scraped of a grid."""
    known = Metrics(tally or Tally(), some).tally
    text, _ = written(Collected(families(known, some, silent_ms)), "")
    return Scraped(text.decode())


async def measured(run: Run) -> None:
    """Answers with numbers; what is asked with `!` fails first."""
    await run.started()
    if "!" in run.fields["messages"] and run.head.attempt == 1:
        await run.fail("stream_cut")
        return
    numbers: Any = {"prefill_ms": 30, "decode_ms": 200, "total_ms": 240, "first_token_ms": 35}
    await run.done("So.", tokens=4, prompt_tokens=3, **numbers)


async def answered(stage: Stage, count: int) -> Scraped:
    """A scrape that holds so many answers."""

    async def there() -> Scraped | None:
        found = await scrape(stage)
        return found if found.total("orion_requests_total", outcome="done") == count else None

    found: Scraped = await eventually(there, f"{count} answers are counted")
    return found


async def test_a_scrape_counts_what_was_asked(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """Requests, attempts, tokens, waits, and what the nodes say; no request, no session, no word of it."""
    async with gateway(valkey_url, prefix, tmp_path, measured) as stage:
        for text in ("Why?", "Why!", SECRET):
            body = {**CHAT, "messages": [{"role": "user", "content": text}], "session": SECRET}
            assert (await stage.post("/api/chat", {**body, "stream": False})).status == 200
        found = await answered(stage, 3)
    assert found.value("orion_requests_total", model=MODEL, outcome="done") == 3
    assert found.total("orion_attempts_total", result="answered") == 3
    assert found.total("orion_attempts_total", result="failed") == 1
    assert found.total("orion_attempt_failures_total", code="stream_cut") == 1
    assert found.total("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 12
    labels = {"gen_ai_operation_name": "chat", "gen_ai_request_model": MODEL}
    assert found.value("gen_ai_server_request_duration_seconds_count", **labels) == 3
    assert found.value("gen_ai_server_time_per_output_token_seconds_sum", **labels) == 0.15
    assert found.value("gen_ai_server_time_per_output_token_seconds_bucket", le="0.05", **labels) == 3
    assert found.value("gen_ai_server_time_per_output_token_seconds_bucket", le="0.025", **labels) == 0
    assert found.value("orion_queue_wait_seconds_count") == 4
    assert found.value("orion_node_temperature_celsius", node="one") == 50
    assert found.value("orion_node_available", node="one", reason="") == 1
    assert found.value("orion_model_resident", node="two", model=MODEL) == 1
    for word in (SECRET, "Why", "gateway@", "gateway/", "9-0"):
        assert word not in found.text


async def test_it_is_openmetrics_for_who_asks_for_that(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """As Prometheus does; else the older text."""
    kinds = {}
    async with gateway(valkey_url, prefix, tmp_path, measured) as stage:
        await stage.post("/api/chat", {**CHAT, "stream": False})
        await answered(stage, 1)
        for accept in (OPENMETRICS, "text/plain", "*/*", "a" * 900):
            async with stage.http.get(f"{stage.url}/metrics", headers={"Accept": accept}) as answer:
                kinds[accept] = answer.headers["Content-Type"]
                text = await answer.text()
            if accept == OPENMETRICS:
                assert text.endswith("# EOF\n")
                names = {family.name for family in read_openmetrics(text)}
            else:
                assert Scraped(text).value("orion_requests_total", model=MODEL, outcome="done") == 1
    assert "orion_requests" in names
    assert kinds.pop(OPENMETRICS).startswith(OPENMETRICS)
    assert set(kinds.values()) == {"text/plain; version=0.0.4; charset=utf-8"}


async def test_a_key_that_may_only_look_may_scrape(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """By its Bearer token; one that is not known may not, as elsewhere."""
    token = token_of(os.urandom(32))
    key = Key(name="p", client="key-p", hash=digest_of(token), created="2026-11-29", view_only=True)
    async with gateway(valkey_url, prefix, tmp_path) as stage:
        change(tmp_path / "keys.json", lambda table: with_key(table, key))
        found = await scrape(stage, headers={"Authorization": f"Bearer {token}"})
        assert found.value("orion_log_position")
        unknown = {"Authorization": f"Bearer {token_of(os.urandom(32))}"}
        async with stage.http.get(f"{stage.url}/metrics", headers=unknown) as answer:
            assert answer.status == 401


async def test_before_the_log_is_read_there_are_no_zeros(tmp_path: Path) -> None:
    """They would look like a restart."""
    nobody: Any = None
    follower = GridFollower(nobody, "orion:")
    keeper = MetricsKeeper(tmp_path / "m", "orion:")
    page = MetricsPage(follower, keeper, Isolated("/metrics", keeper))
    with pytest.raises(Refusal, match="not read yet"):
        await page.page(nobody)


async def test_a_listener_that_fails_ends_nothing_else(
    valkey_url: str,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Counting fails at an event: the log says it once, `/metrics` says that it stands still, the page's
    listener hears on, and requests are answered."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    async with gateway(valkey_url, prefix, tmp_path) as stage:
        await scrape(stage)
        monkeypatch.setattr(MetricsKeeper, "take", fail)
        async with stage.http.post(
            f"{stage.url}/api/generate", json={"model": MODEL, "prompt": "x"}
        ) as answer:
            assert answer.status == 200
            await answer.read()

        async def refusal() -> str:
            async with stage.http.get(f"{stage.url}/metrics") as answer:
                return await answer.text() if answer.status == 500 else ""

        assert "stand still" in await eventually(refusal, "/metrics stands still")
        async with stage.http.get(f"{stage.url}/orion/v1/health") as answer:
            assert answer.status == 200
    [line] = [each for each in caplog.messages if "stands still" in each]
    assert line.startswith("/metrics failed")
    assert "ZeroDivisionError in fail" in line
    assert "secret" not in line


def test_each_metric_is_there_with_its_kind_and_its_labels() -> None:
    """As the table of the metrics says; nothing else is."""
    some = house()
    tally = Tally()
    for spec in specs.HISTOGRAMS:
        tally.observe(spec, 1, *("n" for _ in spec.labels))
    tally.count(specs.ATTEMPT_FAILURES, "one", "stream_cut")
    tally.model(some, MODEL)
    found = page_of(some, tally)
    for spec in specs.METRICS:
        family = spec.name.removesuffix("_total")
        kind = MetricKind.GAUGE if spec.kind is MetricKind.INFO else spec.kind
        assert found.kinds.pop(family) == kind, spec.name
        sample = f"{spec.name}_count" if spec.bounds else spec.name
        assert found.labels[sample] == {*spec.labels}, spec.name
        assert spec.name.endswith("_total") == (spec.kind is MetricKind.COUNTER)
    assert found.kinds == {}


def house() -> Grid:
    """A node that runs, one that is hot, one that was never heard, one that is silent, and a robot."""
    run = holding(request="brain/a", started=True)
    return grid(
        node("one", assignments={FENCE: run}, resident={MODEL: Resident("a", 300)}, throttled=0x50005),
        node("two", temp_mc=80_500, backed_off=(Mark.HOT,), ram_used_mb=7_300, throttled=0x50000),
        node("three", heard_ms=None, temp_mc=None),
        node("four", heard_ms=AT_MS - 6_000, resident={HEAVY: Resident("b", 900)}),
        edge(),
        open_requests={
            "brain/a": request(node="one", work_id=FENCE, started=True),
            "brain/b": request(accepted_ms=AT_MS - 3_000, deferred=WaitKind.BUSY),
        },
        position=42,
        revision=3,
    )


def test_nodes_are_as_they_are_now() -> None:
    """In degrees, shares and reasons; a mark beside them."""
    found = page_of(house(), silent_ms=1_500)
    assert found.value("orion_node_temperature_celsius", node="two") == 80.5
    assert found.value("orion_temperature_mark_celsius") == 75
    assert found.value("orion_node_memory_used_ratio", node="two") == 0.913
    assert found.value("orion_memory_mark_ratio") == 0.9
    assert found.value("orion_node_available", node="two", reason="hot") == 0
    assert found.value("orion_node_available", node="orion-edge", reason="no_inference") == 0
    assert [found.value("orion_node_throttled", node=name) for name in ("one", "two")] == [1, 0]
    assert [found.value("orion_node_runs", node=name) for name in ("one", "two")] == [1, 0]
    assert found.value("orion_queue_depth") == 1
    assert found.value("orion_queue_oldest_seconds") == 3
    assert found.value("orion_requests_open", state="running") == 1
    assert found.value("orion_router_silent_seconds") == 1.5
    assert (found.value("orion_log_position"), found.value("orion_policy_revision")) == (42, 3)


@make.FEW
@given(make.queues())
def test_every_grid_can_be_scraped_with_words_that_are_known(some: Grid) -> None:
    """In every condition of its nodes, the marks included; an available node has no reason."""
    names = Metrics(Tally(), some).tally
    for spec, labels, value in samples(some, 0, names.models, names.nodes):
        assert len(labels) == len(spec.labels)
        assert value >= 0
        if spec is specs.AVAILABLE:
            assert labels[1] in (("",) if value else specs.REASONS)


@pytest.mark.parametrize("name", ["three", "four"])
def test_a_node_that_is_not_heard_has_no_temperature(name: str) -> None:
    """Nor memory, nor models: no old numbers. That it is not available is said, and since when."""
    some = house()
    found = page_of(some)
    for spec in (specs.TEMPERATURE, specs.MEMORY, specs.CPU, specs.THROTTLED):
        assert found.value(spec.name, node=name) is None
        assert found.value(spec.name, node="one") is not None
    assert found.total("orion_model_resident", node=name) == 0
    reason = "silent" if name == "three" else "stale"
    assert found.value("orion_node_available", node=name, reason=reason) == 0
    heard = found.value("orion_node_heard_age_seconds", node=name)
    assert heard == (None if name == "three" else 6)
    later = page_of(grid_state.moved_on(some, some.server_ms + 60_000))
    assert later.value("orion_node_temperature_celsius", node="one") is None


def test_a_sensor_that_is_not_there_is_no_zero() -> None:
    """Neither a temperature nor a memory that nobody has measured."""
    found = page_of(grid(node("one", temp_mc=None, ram_total_mb=0)))
    assert found.value("orion_node_temperature_celsius", node="one") is None
    assert found.value("orion_node_memory_used_ratio", node="one") is None


def test_more_models_than_labels_are_others_together() -> None:
    """In the memory of a node too."""
    resident = {f"m{n}:1b": Resident("a", 1) for n in range(specs.MOST_MODELS + 7)}
    found = page_of(grid(node("one", resident=resident)))
    assert found.value("orion_model_resident", node="one", model="other") == 7
    assert found.total("orion_model_resident") == specs.MOST_MODELS + 7


def test_a_page_has_an_end() -> None:
    """500 models that were all asked for in every way on 8 nodes: as many lines as there are labels."""
    disk = {f"m{n}:1b": Installed("a", 1) for n in range(500)}
    some = grid(*(node(f"n{n}", installed=disk) for n in range(8)))
    tally = Tally()
    for model in disk:
        for operation in specs.OPERATIONS.values():
            for spec in (specs.DURATION, specs.FIRST_TOKEN, specs.PER_TOKEN):
                tally.observe(spec, 1, operation, tally.model(some, model))
            for kind in specs.TOKEN_TYPES:
                tally.observe(specs.TOKENS, 1, operation, tally.model(some, model), kind)
    series = (specs.MOST_MODELS + 1) * len(specs.OPERATIONS)
    lines = page_of(some, tally).text.splitlines()
    spreads = [line for line in lines if line.startswith("gen_ai_") and "_bucket" in line]
    assert len(spreads) == series * (18 + 1 + 15 + 1 + 15 + 1 + 2 * (10 + 1))
    assert len(lines) - len(spreads) < 5 * 3 * series


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "a\nb", "ä{}=,", "\\n"])
def test_labels_are_escaped(odd: str) -> None:
    """Whatever a name has, Prometheus reads it back, in both forms."""
    some = grid()
    tally = Tally()
    tally.count(specs.BREAKERS, odd)
    assert page_of(some, msgspec.json.decode(msgspec.json.encode(tally), type=Tally)).value(
        "orion_breaker_openings_total", node=odd
    )
    text, _ = written(Collected(families(tally, some, 0)), OPENMETRICS)
    found = [
        family for family in read_openmetrics(text.decode()) if family.name == "orion_breaker_openings"
    ]
    assert found[0].samples[0].labels == {"node": odd}


def test_an_empty_grid_has_no_nodes() -> None:
    """No router has run yet: the router is silent, and nothing else is made up."""
    found = page_of(Grid(), silent_ms=10_001)
    assert found.value("orion_router_silent_seconds") == 10.001
    assert found.value("orion_log_position") == 0
    assert found.total("orion_node_available") == 0
