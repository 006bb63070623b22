"""The bench's own parts work; how fast anything is, no test asks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from orion_streams.bench import bench_core
from orion_streams.bench.bench_load import StreamsLoad, check
from orion_streams.bench.bench_rows import GRID_GOALS, Row, compared
from orion_streams.bench.bench_run import Plan, measure
from orion_streams.bench.relay import hand_on, pairs
from orion_streams.errors import BackendError
from orion_streams.runtime.connection import connect
from orion_streams.runtime.supervisor import Child

PROMISED = {
    "streams_p50_ms",
    "streams_rps_16",
    "http_p50_ms",
    "http_rps_16",
    "script_p99_ms",
    "photos_ping_p99_ms",
    "photos_command_ms",
    "agent_rss_mb",
    "agent_idle_cpu_percent",
    "route_us_3_nodes",
}
TINY = Plan(
    streams_rounds=1,
    http_rounds=1,
    photo_rounds=1,
    turn_s=0.05,
    photo_turn_s=0.05,
    settle_s=0.0,
    idle_s=0.1,
)


async def test_a_hop_hands_on_every_entry_whole_and_in_order(valkey_url: str, prefix: str) -> None:
    """What waits in two streams stands afterwards in the two behind them, unchanged."""
    redis: Any = connect(valkey_url)
    one, two, three, four = (f"{prefix}{n}" for n in range(4))
    sent = [{b"id": str(n).encode(), b"prompt": b"\xff\x00"} for n in range(5)]
    for fields in sent:
        await redis.xadd(one, fields)
        await redis.xadd(three, fields)
    cursors = {one.encode(): b"0-0", three.encode(): b"0-0"}
    assert await hand_on(redis, pairs([one, two, three, four]), cursors) == 2 * len(sent)
    for target in (two, four):
        assert [fields for _, fields in await redis.xrange(target)] == sent
    await redis.xadd(one, {"id": "later"})
    assert await hand_on(redis, pairs([one, two]), {one.encode(): cursors[one.encode()]}) == 1
    await redis.delete(one, two, three, four)
    await redis.aclose()


async def test_a_load_times_every_request_through_a_relay_process(valkey_url: str, prefix: str) -> None:
    """Each request that was sent through a real relay comes back once and is timed."""
    one, two = f"{prefix}one", f"{prefix}two"
    argv = (sys.executable, "-m", "orion_streams.bench.relay", valkey_url, one, two)
    relay = Child("relay", argv, announces=True)
    redis: Any = connect(valkey_url)
    load = StreamsLoad(valkey_url, one, two, {"prompt": "hello"})
    await relay.start()
    try:
        timing = await load.run(0.05, at_a_time=4)
        assert len(timing.latencies_s) == await redis.xlen(one) >= 4
        assert timing.p50_ms > 0 < timing.rps
    finally:
        code = await relay.stop()
        await load.close()
        await redis.delete(one, two)
        await redis.aclose()
    assert code == 0


def test_a_reply_that_is_no_answer_ends_the_run() -> None:
    """A rejected request is not counted as a fast one."""
    check({b"id": b"1"})
    check({b"id": b"1", b"kind": b"done"})
    with pytest.raises(BackendError, match=r"rejected: queue_full"):
        check({b"id": b"1", b"kind": b"rejected", b"code": b"queue_full"})


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("streams_p50_ms", 9.0, "ms", 4.5, 2.0), "pass"),
        (Row("streams_p50_ms", 0.1, "ms", 0.04, 2.01), "over"),
        (Row("streams_rps_16", 1.0, "requests/s", 2.0, 0.4), "pass"),
        (Row("streams_rps_16", 9e9, "requests/s", 9e12, 0.39), "over"),
        (Row("agent_rss_mb", 80.0, "MB"), "pass"),
        (Row("agent_idle_cpu_percent", 1.01, "% of a core"), "over"),
        (Row("streams_p50_ms", 1.0, "ms"), "over"),
        (Row("http_p50_ms", 1.0, "ms"), ""),
    ],
)
def test_a_goal_bounds_the_figure_that_it_is_about(row: Row, verdict: str) -> None:
    """On the bound is met; a ratio's goal never looks at the value."""
    assert row.verdict == verdict


def test_a_comparison_gives_medians_of_the_rounds() -> None:
    """One disturbed round moves neither value, floor nor ratio."""
    row = compared("streams_p50_ms", "ms", [(2.0, 1.0), (90.0, 1.0), (3.0, 2.0)])
    assert row == Row("streams_p50_ms", 3.0, "ms", 1.0, 2.0)


@pytest.mark.everything
async def test_a_run_gives_all_promised_rows_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole bench in small: each figure once, as JSON, and everything started has ended."""
    monkeypatch.setattr(bench_core, "SIMULATED", 500)
    monkeypatch.setattr(bench_core, "REQUESTS", 100)
    before = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    rows = await measure(tmp_path, TINY)
    after = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    assert after <= before
    read: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(rows))
    names = [row["name"] for row in read]
    assert set(names) >= PROMISED | set(GRID_GOALS)
    assert len(names) == len(set(names))
    for row in read:
        assert list(row) == ["name", "value", "unit", "floor", "ratio"]
        assert row["value"] >= 0 and row["unit"]
        compares = row["name"].startswith(("streams_", "http_", "photos_"))
        assert (row["floor"] is not None) == (row["ratio"] is not None) == compares
