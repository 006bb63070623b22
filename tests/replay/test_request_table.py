"""Which requests were slow, what they waited for, and percentiles: against logs written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from orion_streams.model import events as ev
from orion_streams.model.percentiles import percentile
from orion_streams.model.state import Grid
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import AbandonReason, Filter, WaitKind
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay import request_delays, request_table
from orion_streams.replay.incident import Incident, collect
from orion_streams.replay.incident_facts import SlowRequest
from orion_streams.replay.request_words import said
from tests.grids import sample
from tests.replay.decided import chunks
from tests.replay.logs import (
    MASTER,
    MODEL,
    WORKER,
    Log,
    accepted,
    completed,
    failed,
    recorded,
    routed,
    started,
    work_id,
)

OTHER = "gemma3:4b"
HOT = Verdict(node=MASTER, filter=Filter.HOT, value=76_100, limit=75_000)
BUSY = Verdict(node=WORKER, cost_ms=9_000, drain_ms=8_000)


class Steady(Log):
    """A log with a commit each second, as a running grid has it: grid time passes as the server's does."""

    last_ms = 0

    def commit(self, at_ms: int, *events: ev.AnyEvent, decided: bool = True) -> int:
        """A commit, and those since the last one."""
        for ms in range(self.last_ms + 1_000, at_ms, 1_000):
            super().commit(ms)
        self.last_ms = at_ms
        return super().commit(at_ms, *events, decided=decided)


def answered(request: str, node: str, attempt: int = 1, **values: Any) -> ev.RequestCompleted:
    """An answer with the times that its node measured."""
    usual: dict[str, Any] = {
        "tokens": 20, "prompt_tokens": 20, "load_ms": 0, "prefill_ms": 0, "decode_ms": 0, "total_ms": 100,
    }  # fmt: skip
    return ev.RequestCompleted(
        request=request,
        attempt=attempt,
        node=node,
        work_id=work_id(request, attempt),
        **{**usual, **values},
    )


def queue() -> Steady:
    """A request that waits for the worker behind two others, while the master is hot."""
    log = Steady()
    log.commit(1_000, accepted("webui/a", OTHER), accepted("webui/b", OTHER))
    log.commit(1_000, routed("webui/a", WORKER), routed("webui/b", WORKER))
    log.commit(2_000, accepted("brain/slow", age_ms=500))
    log.commit(2_000, ev.RequestDeferred("brain/slow", WaitKind.BUSY, WORKER, (HOT, BUSY)))
    log.commit(9_000, answered("webui/a", WORKER), answered("webui/b", WORKER))
    warm = Verdict(node=WORKER, cost_ms=9_000, heat_ms=1_500)
    log.commit(12_000, routed("brain/slow", WORKER, 1, warm))
    log.commit(12_000, started("brain/slow"))
    log.commit(30_000, answered("brain/slow", WORKER, load_ms=6_000, total_ms=18_000, cold=True))
    return log


def row_of(incident: Incident, request: str) -> SlowRequest:
    """One request of the table."""
    return next(each for each in incident.slowest if each.ended.request == request)


def test_what_a_request_waited_for_is_said_with_times() -> None:
    """The queue by client and model, the node that was hot, the load, the run and what heat added."""
    row = row_of(queue().incident(), "brain/slow")
    assert said(row) == (
        "10 s waiting for orion-worker behind 2 gemma3:4b of webui (orion-master too hot at 76.1 °C); "
        "6.0 s loading llama3.2:3b; 12 s answering on orion-worker (about 1.5 s of it lost to heat)"
    )
    assert (row.ended.age_ms, row.ended.waited_ms, row.ended.load_ms) == (28_500, 10_500, 6_000)


def test_attempts_in_vain_and_times_without_a_node_are_said() -> None:
    """No node, an attempt that failed, one that was given up before it began, an end that came late."""
    log = Steady()
    log.commit(1_000, accepted("brain/q1"))
    log.commit(1_000, ev.RequestDeferred("brain/q1", WaitKind.NO_NODE, "", (HOT,)))
    log.commit(4_000, routed("brain/q1", WORKER), started("brain/q1"))
    log.commit(9_000, failed("brain/q1", WORKER), routed("brain/q1", MASTER, 2))
    silent = ev.AttemptAbandoned("brain/q1", 2, MASTER, work_id("brain/q1", 2), AbandonReason.SILENT)
    log.commit(16_000, silent, routed("brain/q1", WORKER, 3))
    log.commit(18_000, started("brain/q1", 3))
    log.commit(21_000, answered("brain/q1", WORKER, 3, total_ms=1_000))
    assert said(row_of(log.incident(), "brain/q1")) == (
        "3.0 s with no node to take it (orion-master too hot at 76.1 °C); "
        "5.0 s on orion-worker in vain (stream cut); "
        "7.0 s on orion-master in vain (the node is not heard from); "
        "2.0 s on orion-worker before it began; 1.0 s answering on orion-worker; "
        "2.0 s until its end was known"
    )


@pytest.mark.parametrize("filtered", list(Filter), ids=str)
def test_each_filter_has_words(filtered: Filter) -> None:
    """Whatever keeps a node away is told without the program's word; not at all if it never ends."""
    log = Steady()
    verdict = Verdict(node=MASTER, filter=filtered, value=1, limit=2)
    log.commit(1_000, accepted("brain/q1"))
    log.commit(1_000, ev.RequestDeferred("brain/q1", WaitKind.NO_NODE, "", (verdict,)))
    log.commit(9_000, routed("brain/q1", WORKER), started("brain/q1"), completed("brain/q1", WORKER))
    words = said(row_of(log.incident(), "brain/q1"))
    is_told = filtered not in ("", *request_delays.FOR_EVER)
    assert words.startswith("8.0 s with no node to take it")
    assert (MASTER in words) is is_told
    assert "_" not in words


def test_a_clock_that_jumps_makes_no_wait() -> None:
    """Delays are told in grid time, as the total is: an hour that only the server's clock made is none."""
    log = Log()
    log.commit(1_000, sample(WORKER), accepted("brain/q1"))
    log.commit(1_000, ev.RequestDeferred("brain/q1", WaitKind.BUSY, WORKER, (BUSY,)))
    log.commit(3_601_000, routed("brain/q1", WORKER), started("brain/q1"))
    log.commit(3_602_000, answered("brain/q1", WORKER, total_ms=1_000))
    incident = log.incident()
    row = row_of(incident, "brain/q1")
    assert row.ended.age_ms < 3_600_000, "the log has such a jump"
    assert sum(each.length_ms(each.begin) for each in row.delays) == row.ended.waited_ms
    assert sum(incident.spent.values()) == row.ended.age_ms


def test_delays_add_up_in_a_simulated_afternoon() -> None:
    """Delays and run of each request are its whole time: nothing is counted twice, nothing is lost."""
    rows = recorded("load-heavy", "hot-afternoon", 150)
    incident = collect(LoggedGrid(Grid()), chunks(rows), "a log")
    assert len(incident.slowest) == 150
    for row in incident.slowest:
        delayed_ms = sum(each.length_ms(each.begin) for each in row.delays)
        assert abs(delayed_ms + row.ended.run_ms - row.ended.age_ms) <= 20, row.ended.request
    assert any(each.ahead for row in incident.slowest for each in row.delays)


def test_percentiles_by_client_and_by_model() -> None:
    """Of the answered ones; where there are several clients or models, each has its own."""
    log = Steady()
    for n in range(1, 11):
        client, model = ("brain", MODEL) if n < 8 else ("webui", OTHER)
        log.commit(n * 20_000, accepted(f"{client}/{n}", model), routed(f"{client}/{n}", WORKER))
        log.commit(n * 20_000 + 1_000, started(f"{client}/{n}"))
        end = answered(
            f"{client}/{n}", WORKER, first_token_ms=n, cold=n == 9, load_ms=n * 10, total_ms=n * 100
        )
        log.commit(n * 20_000 + 1_000 + n * 100, end)
    log.commit(400_000, accepted("webui/lost", OTHER), ev.RequestFailed("webui/lost", "refused"))
    groups = {(each.kind, each.name): each for each in log.incident().groups}
    assert list(groups) == [
        ("all", ""), ("client", "brain"), ("client", "webui"), ("model", MODEL), ("model", OTHER),
    ]  # fmt: skip
    whole = groups["all", ""]
    totals = [1_000 + n * 100 for n in range(1, 11)]
    assert whole.total.ms == tuple(percentile(totals, each) for each in (500, 900, 990))
    assert (whole.answered, whole.otherwise, whole.total.count) == (10, 1, 10)
    assert (whole.load.count, whole.load.ms) == (1, (90, 90, 90))
    assert groups["client", "webui"].waited.ms == (1_000, 1_000, 1_000)
    assert groups["client", "webui"].otherwise == 1
    assert groups["model", MODEL].first_token.ms == (4, 7, 7)


def test_one_client_and_one_model_need_no_groups() -> None:
    """What would only repeat the first line is left out."""
    log = Steady()
    log.commit(1_000, accepted("brain/q1"), routed("brain/q1", WORKER), completed("brain/q1", WORKER))
    assert [(each.kind, each.name) for each in log.incident().groups] == [("all", "")]
    assert Log().incident().groups == ()


def test_groups_and_what_is_measured_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many clients those with the most requests; of many requests an even spread, all being counted."""
    monkeypatch.setattr(request_table, "MAX_MEASURED", 10)
    log = Log()
    for n in range(60):
        key = f"client-{n % 20}/{n}"
        log.commit(n, accepted(key), routed(key, WORKER), started(key), completed(key, WORKER))
    log.commit(99, accepted("busy/1"), ev.RequestFailed("busy/1", "refused"))
    groups = log.incident().groups
    assert (groups[0].answered, groups[0].otherwise, groups[0].total.count) == (60, 1, 10)
    clients = [each.name for each in groups if each.kind == "client"]
    assert len(clients) == request_table.MAX_GROUPS < 21
    assert "busy" not in clients


def test_the_slowest_in_each_order_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: the longest in all, the longest wait and the longest load are among them."""
    monkeypatch.setattr(request_table, "MAX_SLOW", 3)
    log = Steady()
    for n in range(50):
        at_ms, key = n * 20_000, f"brain/{n}"
        waits_ms, runs_ms, load_ms = (n * 7 % 50) * 100, (n * 11 % 50) * 100 + 500, (n * 13 % 50) * 10
        log.commit(at_ms, accepted(key), routed(key, WORKER))
        log.commit(at_ms + waits_ms, started(key))
        end = answered(key, WORKER, load_ms=load_ms, total_ms=runs_ms)
        log.commit(at_ms + waits_ms + runs_ms, end)
    rows = log.incident().slowest
    assert len(rows) <= 9
    kept = {row.ended.request for row in rows}
    assert {f"brain/{n}" for n in range(50) if n * 7 % 50 >= 47} <= kept
    assert {f"brain/{n}" for n in range(50) if n * 13 % 50 >= 47} <= kept
    totals = [row.ended.age_ms for row in rows]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] == max((n * 7 % 50 + n * 11 % 50) * 100 + 500 for n in range(50))


def test_what_is_remembered_of_a_node_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a very long queue the last runs are counted, and the words say that there were more."""
    monkeypatch.setattr(request_delays, "MAX_TURNS", 5)
    monkeypatch.setattr("orion_streams.replay.request_words.MAX_TURNS", 5)
    log = Steady()
    log.commit(1_000, accepted("brain/slow"))
    log.commit(1_000, ev.RequestDeferred("brain/slow", WaitKind.BUSY, WORKER, (BUSY,)))
    for n in range(20):
        log.commit(2_000 + n * 100, accepted(f"webui/{n}", OTHER), routed(f"webui/{n}", WORKER))
    log.commit(9_000, routed("brain/slow", WORKER), started("brain/slow"), completed("brain/slow", WORKER))
    assert "behind at least 5 gemma3:4b of webui" in said(row_of(log.incident(), "brain/slow"))
