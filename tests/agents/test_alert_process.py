"""`orion alerts run` on a real grid: what it tells, notes and refuses; it writes no secret."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

from orion_streams.agents import alert_file
from orion_streams.agents.alert_file import SenderState
from orion_streams.agents.alert_sender import Sender
from orion_streams.agents.alert_watch import Watch
from orion_streams.agents.grid_follower import GridFollower
from orion_streams.config import Config, Retention
from orion_streams.eventlog.loader import take_snapshot
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.alert_rules import AlertRule
from orion_streams.model.commit import Snapshot
from orion_streams.model.state import Grid
from orion_streams.protocol.alert_messages import says
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.protocol.public_row import SILENT_MS
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import free_port
from tests.agents.agent_bench import Process
from tests.agents.alert_stage import Hook, hook
from tests.agents.test_alert_sender import Ear, ear
from tests.contract.contract_grid import running
from tests.helpers import eventually

SECRET, TOKEN, DEAF = "s3cr3t-topic", "t0k3n-of-mine", "s3cr3t-of-deaf"
TOML = """
prefix = "{prefix}"
[[alerts]]
name = "silent"
kind = "silent"
for_ms = 0
nodes = ["edge"]
[[alerts]]
name = "unread"
kind = "unread_client"
for_ms = 0
[clients.brain]
[nodes.one]
[nodes.edge]
inference = false
[alerts_to.phone]
group_ms = 0
[alerts_to.deaf]
webhook = "http://127.0.0.1:{deaf}/{secret}"
token_file = "{token_file}"
group_ms = 0
"""


class House:
    """A folder with a streams.toml, and processes in it."""

    def __init__(self, home: Path, url: str, prefix: str, seen: Hook) -> None:
        self.home, self.url = home, url
        token_file = home / "token"
        token_file.write_text(TOKEN)
        token_file.chmod(0o600)
        text = TOML.format(prefix=prefix, deaf=free_port(), secret=DEAF, token_file=token_file)
        (home / "streams.toml").write_text(text)
        self.env = {
            "ORION_ALERT_WEBHOOK_PHONE": f"{seen.url}/{SECRET}",
            "ORION_ALERT_TOKEN_PHONE": TOKEN,
            "ORION_LOG": "debug",
            "XDG_DATA_HOME": str(home),
        }

    def start(self, name: str, *words: str) -> Process:
        """`orion alerts WORDS` with its output in a folder of its own."""
        folder = self.home / name
        folder.mkdir()
        redis = ("--redis", self.url) if words == ("run",) else ()
        config = ("--config", str(self.home / "streams.toml"))
        return Process(folder, "alerts", *words, *redis, *config, env=self.env)


def told(seen: Hook) -> set[str]:
    """What was told."""
    return {row["says"] for each in seen.got for row in each.body["begun"]}


def written(home: Path) -> list[bytes]:
    """Every file but those in which the secrets stand."""
    files = [each for each in home.rglob("*") if each.is_file()]
    return [each.read_bytes() for each in files if each.name not in ("token", "streams.toml")]


async def test_it_follows_a_grid_and_tells_what_is_wrong(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """From the log and what it sees itself, to the one target that hears it, until it is told to end; a
    second one beside it is refused, and neither said nor noted a secret."""
    async with hook() as seen, running(valkey_url, prefix) as grid:
        await grid.redis.xadd(f"{prefix}requests:stranger", {"id": "q"})
        house = House(tmp_path, valkey_url, prefix, seen)
        both = {
            "edge has never been heard from",
            "nobody reads requests of stranger (1 wait): add [clients.stranger] (seen live)",
        }
        async with house.start("first", "run") as first:
            await eventually(lambda: told(seen) == both, "both alerts")
            assert {each.headers["Authorization"] for each in seen.got} == {f"Bearer {TOKEN}"}
            await first.logged("deaf was not told (try 1): nobody listens there")
            async with house.start("second", "run") as second:
                assert await second.ended() == 78
            async with house.start("list", "list", "--json") as listing:
                assert await listing.ended() == 0
            first.signal(signal.SIGTERM)
            assert await first.ended() == 0
        async with house.start("test", "test") as trial:
            assert await trial.ended() == 69
    assert "another process sends alerts by" in second.log()
    listed = msgspec.json.decode(listing.out.read_bytes())
    assert listed["sending"] is True
    assert {(row["rule"], row["about"], row["live"]) for row in listed["open"]} == {
        ("silent", "edge", False),
        ("unread", "stranger", True),
    }
    assert "phone: it answered 200" in trial.out.read_text()
    assert "deaf: nobody listens there" in trial.out.read_text()
    noted = alert_file.read(tmp_path / "orion-streams" / "alerts.json", prefix)
    assert noted is not None
    assert noted.position
    texts = written(tmp_path)
    assert len(texts) > 8
    for secret in (SECRET, TOKEN, DEAF):
        assert not any(secret.encode() in text for text in texts)


async def test_it_goes_on_where_it_was_killed(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """What began while none ran is told by the next one; what was told is not told again."""
    async with hook() as seen, running(valkey_url, prefix) as grid:
        house = House(tmp_path, valkey_url, prefix, seen)
        async with house.start("first", "run") as first:
            await eventually(lambda: seen.got, "an alert")
            await eventually(lambda: noted_open(tmp_path, prefix) == ["silent/edge"], "that it is noted")
            await first.kill()
        await grid.redis.xadd(f"{prefix}requests:stranger", {"id": "q"})
        async with house.start("second", "run"):
            await eventually(lambda: "nobody reads" in str(told(seen)), "the second alert")
    edge = [each for each in seen.got if "edge" in each.body["text"]]
    assert len({each.body["id"] for each in edge}) == 1


def noted_open(home: Path, prefix: str) -> list[str]:
    """What is noted as open."""
    state = alert_file.read(home / "orion-streams" / "alerts.json", prefix)
    return list(state.folded.book.open) if state is not None else []


class Looked(GridFollower):
    """A follower that has loaded an empty log, and has not heard a router, or the server, for so long."""

    silent = away = 0

    @property
    def heard_ms_ago(self) -> int:
        return self.away

    @property
    def silent_ms(self) -> int:
        return self.silent


def watch_of(config: Config, redis: Any, target: Ear) -> tuple[Watch, Looked, Sender]:
    """A watch, what it looks at, and whom it tells."""
    sender = Sender(config.alerts, [target], SenderState(config.prefix), lambda _: None)
    follower = Looked(redis, config.prefix)
    return Watch(config, redis, RedisLog(redis, config.prefix), follower, sender), follower, sender


def live_config(prefix: str, *kinds: Any, **values: Any) -> Config:
    """Rules of these kinds that hold at once."""
    rules = tuple(AlertRule(kind.replace("_", "-"), kind, for_ms=0) for kind in kinds)
    return Config(prefix=prefix, alerts=rules, **values)


def open_now(sender: Sender) -> dict[str, str]:
    """What is open by what it is about, with its detail."""
    return {key: alert.detail or str(alert.value) for key, alert in sender.state.live.open.items()}


async def test_no_router_is_seen(valkey_url: str, prefix: str) -> None:
    """Only once it has not looked for longer than a router ever takes; and it ends when it looks again."""
    redis: Redis = connect(valkey_url)
    watch, follower, sender = watch_of(live_config(prefix, "no_router"), redis, ear())
    seen = []
    for silent in (0, SILENT_MS, SILENT_MS + 1, 60_000, 0):
        follower.silent = silent
        await watch.look(seldom=True)
        seen.append(list(open_now(sender)))
    assert seen == [[], [], ["no-router/"], ["no-router/"], []]
    await redis.aclose()


async def test_a_server_that_is_away_is_no_router(valkey_url: str, prefix: str) -> None:
    """Of a router nobody knows then: what is told is that the server does not answer."""
    redis: Redis = connect(valkey_url)
    watch, follower, sender = watch_of(live_config(prefix, "no_router"), redis, ear())
    follower.silent = follower.away = 60_000
    await watch.look(seldom=True)
    [alert] = sender.state.live.open.values()
    assert says(alert) == "the grid's server has not answered for 60 s (seen live)"
    await redis.aclose()


async def test_a_client_that_nobody_reads_is_seen(valkey_url: str, prefix: str) -> None:
    """One that streams.toml names is none, nor is another kind of stream; without its stream it ends."""
    redis: Any = connect(valkey_url)
    config = live_config(prefix, "unread_client")
    watch, _, sender = watch_of(config, redis, ear())
    for name in ("requests:brain", "requests:stranger", "replies:stranger", "health:nobody"):
        await redis.xadd(prefix + name, {"id": "q"})
    await watch.look(seldom=False)
    assert open_now(sender) == {}
    await watch.look(seldom=True)
    assert open_now(sender) == {"unread-client/stranger": "1"}
    await redis.delete(f"{prefix}requests:stranger")
    await watch.look(seldom=True)
    assert open_now(sender) == {}
    await redis.aclose()


async def test_an_archive_that_is_behind_is_seen(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """Where there is one; while nobody can tell, nothing begins or ends."""
    redis: Any = connect(valkey_url)
    store = RedisLog(redis, prefix)
    folder = tmp_path / "archive"
    keep = Retention(archive_dir=str(folder), snapshot_events=10)
    watch, _, sender = watch_of(live_config(prefix, "archive_behind", retention=keep), redis, ear())
    await watch.look(seldom=True)
    assert open_now(sender) == {}
    for position in (26, 40):
        whole = take_snapshot(LoggedGrid(Grid()))
        await store.save_snapshot(Snapshot(position, whole.digest, whole.grid))
    await watch.look(seldom=True)
    assert open_now(sender) == {"archive-behind/": "it reaches position 0; up to 26 it should"}
    await redis.rename(f"{prefix}snapshots", f"{prefix}elsewhere")
    await redis.set(f"{prefix}snapshots", "no stream")
    await watch.look(seldom=True)
    assert list(open_now(sender)) == ["archive-behind/"]
    none, _, quiet = watch_of(live_config(prefix, "archive_behind"), redis, ear())
    await none.look(seldom=True)
    assert open_now(quiet) == {}
    await redis.aclose()


async def test_what_was_seen_live_by_another_rule_ends(valkey_url: str, prefix: str) -> None:
    """A restart with other rules leaves nothing open for ever."""
    redis: Any = connect(valkey_url)
    config = live_config(prefix, "no_router")
    watch, follower, sender = watch_of(config, redis, ear())
    follower.silent = 60_000
    await watch.look(seldom=False)
    state = sender.state
    after = Sender((), [ear()], state, lambda _: None)
    other = Watch(live_config(prefix), redis, RedisLog(redis, prefix), follower, after)
    await other.look(seldom=False)
    assert state.live.open == {}
    assert [each.ended for each in state.outboxes["one"].waiting] == [False, True]
    await redis.aclose()
