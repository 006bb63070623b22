"""A part of the log in a file, and back onto a server: whole commits, whole files, nothing wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config, NodeConfig, RedisConfig
from orion_streams.errors import ConfigError, LogError
from orion_streams.eventlog import jsonl
from orion_streams.eventlog.jsonl import is_head
from orion_streams.eventlog.loader import load
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.gateway_rules import GatewayRules
from orion_streams.model.snapshot import encode_grid
from orion_streams.replay import export as exporting
from orion_streams.replay.export import bring_in, export
from orion_streams.replay.source import FileSource, LiveSource
from orion_streams.replay.verify import verify
from orion_streams.runtime.connection import connect
from tests.replay.recorded import exported, grown


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(each.name for each in folder.iterdir())


def nothing(position: int) -> None:
    """Nobody looks on."""


async def test_a_part_begins_and_ends_with_a_commit(config: Config, tmp_path: Path) -> None:
    """Whatever positions are named, the file holds the whole commits around them, and verifies."""
    store = await grown(config)
    last = await store.log.last_position()
    rows = await store.log.events(0, last)
    heads = [position for position, raw in rows if is_head(raw)]
    for first, end in ((5, 5), (heads[3], heads[5]), (7, last), (heads[4] + 1, heads[6] - 1)):
        path = tmp_path / f"{first}-{end}.jsonl"
        moved = await export(LiveSource(store.log, config), path, first, end, nothing)
        assert moved.first == max(each for each in heads if each <= first)
        assert moved.last == min([each - 1 for each in heads if each > end] + [last])
        held = [row async for stretch in FileSource(path).stretches() for row in stretch.rows]
        assert held == rows[moved.first - 1 : moved.last]
        assert (await verify(FileSource(path))).diverged == 0


@pytest.mark.parametrize("last", [False, True])
async def test_what_was_altered_is_not_exported_as_if_it_was_written(
    config: Config, tmp_path: Path, last: bool
) -> None:
    """Also in the last commit of what is exported: the head after it, or the file's end, has its hash."""
    path = await exported(await grown(config), config, tmp_path / "whole.jsonl")
    lines = path.read_bytes().splitlines()
    at = [n for n, line in enumerate(lines) if b'"event":"node.sampled"' in line][-1 if last else 9]
    lines[at] = lines[at].replace(b'"ram_used_mb":', b'"ram_used_mb":1', 1)
    path.write_bytes(b"\n".join([*lines, b""]))
    source = FileSource(path)
    [altered] = [n for stretch in source.read() for n, raw in stretch.rows if raw == lines[at]]
    for end in (altered, (await source.bounds())[1]):
        with pytest.raises(LogError, match=r"line \d+: what stands at positions \d+ to \d+ is not"):
            await export(source, tmp_path / "part.jsonl", 1, end, nothing)
    assert names(tmp_path) == ["whole.jsonl"]


async def test_exports_one_after_the_other_are_whole_or_not(config: Config, tmp_path: Path) -> None:
    """Two parts in one file are one log; cut off between segments of the second one it is refused."""
    store = await grown(config)
    last = await store.log.last_position()
    one = await exported(store, config, tmp_path / "one.jsonl", 1, 20)
    end = (await FileSource(one).bounds())[1]
    two = await exported(store, config, tmp_path / "two.jsonl", end + 1, last)
    both = tmp_path / "both.jsonl"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    assert (await verify(FileSource(both))).events == last
    text = both.read_bytes()
    both.write_bytes(text[: text.rindex(jsonl._HEADER)])
    with pytest.raises(LogError, match=rf"it was cut off at position \d+, and goes to {last}"):
        await FileSource(both).bounds()


async def test_a_part_of_a_file_is_that_part_of_the_log(config: Config, tmp_path: Path) -> None:
    """Cut out of a file or of the log itself: the same bytes but for where the states stand."""
    store = await grown(config)
    whole = FileSource(await exported(store, config, tmp_path / "whole.jsonl.gz"))
    again = tmp_path / "again.jsonl"
    await export(whole, again, 20, 60, nothing)
    direct = FileSource(await exported(store, config, tmp_path / "direct.jsonl", 20, 60))
    rows = [
        [row async for each in log.stretches() for row in each.rows] for log in (FileSource(again), direct)
    ]
    assert rows[0] == rows[1] != []


async def test_the_same_log_gives_the_same_file(config: Config, tmp_path: Path) -> None:
    """No clock and no name gets into it, packed or not."""
    store = await grown(config)
    for suffix in (".jsonl", ".jsonl.gz"):
        one, two = [(await exported(store, config, tmp_path / f"{n}{suffix}")).read_bytes() for n in "ab"]
        assert one == two


async def test_states_stand_at_most_so_far_apart(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the log has no snapshot for long, the file gets one all the same."""
    monkeypatch.setattr(exporting, "SEGMENT_EVENTS", 10)
    store = await grown(config, snapshot_events=10_000)
    path = await exported(store, config, tmp_path / "log.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    headers = [line for line in lines if line["event"] == "log.segment"]
    assert len(headers) > 5
    assert all("snapshot" in each for each in headers[1:])
    assert (await verify(FileSource(path))).snapshots == len(headers) - 1


async def test_the_first_line_says_by_which_rules_and_no_secret(config: Config, tmp_path: Path) -> None:
    """Policy and configuration are there to be read; where servers are, and what opens them, is not."""
    node = NodeConfig(ollama="http://user:secret@house:11434", tiers=(1,))
    redis = RedisConfig(url="redis://user:secret@house:6379", password_file="/secret")
    gateway = GatewayRules(keys_file="/secret", addresses={"192.168.1.20": "secret"})
    nodes = {**config.nodes, "other": node}
    config = structs.replace(config, redis=redis, nodes=nodes, gateway=gateway)
    store = await grown(config)
    path = await exported(store, config, tmp_path / "log.jsonl", 10)
    header = json.loads(path.read_text().splitlines()[0])
    assert header["rules"]["policy"]["temp_max_mc"] == config.policy.temp_max_mc
    assert {row["name"] for row in header["rules"]["nodes"]} == set(config.nodes)
    assert header["config"]["nodes"]["other"]["tiers"] == [1]
    assert "secret" not in path.read_text()
    assert "192.168" not in path.read_text()
    found = await FileSource(path).config()
    assert found.policy == config.policy


@pytest.mark.parametrize("name", ["log.json", "log.jsonl.zst", "log", ".gz"])
async def test_another_suffix_is_refused(config: Config, tmp_path: Path, name: str) -> None:
    """One clear error, and no file."""
    store = await grown(config, rounds=1)
    with pytest.raises(ConfigError, match=r"expected a name that ends with \.jsonl or \.jsonl\.gz"):
        await exported(store, config, tmp_path / name)
    assert names(tmp_path) == []


async def test_a_file_is_not_overwritten_by_accident(config: Config, tmp_path: Path) -> None:
    """Only when it is asked for."""
    store, path = await grown(config, rounds=1), tmp_path / "log.jsonl"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="add --force"):
        await exported(store, config, path)
    assert path.read_text() == "mine"
    await export(LiveSource(store.log, config), path, 1, 2, nothing, force=True)
    assert path.read_text() != "mine"


async def test_what_is_wrong_is_not_exported(config: Config, tmp_path: Path) -> None:
    """An entry that was changed in the log: its position, and no file."""
    store = await grown(config)
    log = store.memory.streams["log"]
    at = next(each for each in log if int(each[:-2]) > 30 and b"ram_used_mb" in log[each][b"event"])
    log[at] = {b"event": log[at][b"event"].replace(b'"ram_used_mb":', b'"ram_used_mb":1')}
    with pytest.raises(LogError, match=r"positions \d+ to \d+ is not the log that was written"):
        await exported(store, config, tmp_path / "log.jsonl")
    assert names(tmp_path) == []


@pytest.fixture
async def redis(valkey_url: str) -> Any:
    """A server."""
    opened: Any = connect(valkey_url)
    yield opened
    await opened.aclose()


async def test_a_file_comes_onto_a_server_to_be_read(
    config: Config, tmp_path: Path, redis: Any, prefix: str
) -> None:
    """Log and states are there, any moment can be looked at, all decisions verify, and no router goes on
    with it."""
    store = await grown(config, rounds=40)
    path = await exported(store, config, tmp_path / "log.jsonl.gz", 20)
    moved = await bring_in(FileSource(path), redis, prefix, nothing)
    server = RedisLog(redis, prefix)
    assert (await server.first_position(), await server.last_position()) == (moved.first, moved.last)
    for position in (moved.first + 3, moved.last):
        here, there = await load(server, position), await load(store.log, position)
        assert encode_grid(here.grid) == encode_grid(there.grid)
    assert (await verify(LiveSource(server, config))).diverged == 0
    with pytest.raises(LogError, match="guard is at commit 0"):
        await Router(server, structs.replace(config, prefix=prefix)).start()
    keys = sorted([key.decode() async for key in redis.scan_iter(f"{prefix}*")])
    assert keys == [f"{prefix}log", f"{prefix}snapshots"]


@pytest.mark.parametrize("key", ["log", "guard", "snapshots"])
async def test_a_log_that_is_there_stays(
    config: Config, tmp_path: Path, redis: Any, prefix: str, key: str
) -> None:
    """Nothing is imported over, or beside, what a grid has left."""
    path = await exported(await grown(config, rounds=1), config, tmp_path / "log.jsonl")
    await redis.set(f"{prefix}{key}", "mine")
    with pytest.raises(ConfigError, match=f"{prefix}{key} is there already"):
        await bring_in(FileSource(path), redis, prefix, nothing)
    assert [each async for each in redis.scan_iter(f"{prefix}*")] == [f"{prefix}{key}".encode()]


async def test_a_file_that_is_wrong_leaves_nothing_on_the_server(
    config: Config, tmp_path: Path, redis: Any, prefix: str
) -> None:
    """An event was changed in the middle: file and line, and no key at all."""
    path = await exported(await grown(config), config, tmp_path / "log.jsonl")
    lines = path.read_bytes().split(b"\n")
    at = next(n for n, line in enumerate(lines) if n > len(lines) // 2 and b'"ram_used_mb":2000' in line)
    lines[at] = lines[at].replace(b'"ram_used_mb":2000', b'"ram_used_mb":2001')
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(LogError, match=rf"{path}: line \d+: "):
        await bring_in(FileSource(path), redis, prefix, nothing)
    assert [each async for each in redis.scan_iter(f"{prefix}*")] == []
