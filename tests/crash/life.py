"""One request's life on a real server, and the promise that must hold at its end."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Any

import msgspec
from msgspec import Struct
from redis.exceptions import ResponseError

from orion_streams.config import Config, parse
from orion_streams.eventlog.loader import load
from orion_streams.model.commit import GROUP
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import parse_stream_id
from orion_streams.protocol import agent_entries
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.source import LiveSource
from orion_streams.replay.verify import verify
from orion_streams.runtime.connection import connect
from orion_streams.runtime.faust_redis import App
from tests.conftest import ServerStore
from tests.crash.crash_roles import MODEL, NODE, WORDS, AgentRole, Ollama, Role, RouterRole
from tests.helpers import TERMINAL_REPLIES, assert_consistent, eventually, folded, replies

TOML = """
prefix = "{prefix}"
[clients]
names = ["brain"]
[redis]
block_ms = 10
[nodes.n1]
tiers = [1]
[limits]
inventory_ms = 100
token_flush_ms = 1
[policy]
retry_pause_ms = 10
[retention]
snapshot_events = {snapshot_events}
log_keep_ms = {log_keep_ms}
"""
ID = "q1"


class Plan(Struct, frozen=True):
    """What happens in a life: runs that fail at first, a cancel after the first token, snapshots and trims
    with every commit (on a server that trims to the entry), a photo in parts."""

    name: str
    failing: int = 0
    cancelled: bool = False
    trimmed: bool = False
    photo: bool = False


PLANS = (
    Plan("answered"),
    Plan("retried", failing=1),
    Plan("cancelled", cancelled=True),
    Plan("trimmed", trimmed=True),
    Plan("shown a photo", failing=1, trimmed=True, photo=True),
)


class Life:
    """A grid of one node that is asked once. `router` and `agent` are the present ones."""

    def __init__(self, url: str, prefix: str, plan: Plan, app: App) -> None:
        self.url, self.plan, self.app = url, plan, app
        snapshot_events, log_keep_ms = (3, 1) if plan.trimmed else (20_000, 172_800_000)
        text = TOML.format(prefix=prefix, snapshot_events=snapshot_events, log_keep_ms=log_keep_ms)
        self.config: Config = parse(text)
        self.redis: Any = connect(url)
        self.store = ServerStore("server", self.redis, prefix)
        self.ollama = Ollama(plan.failing)
        if plan.cancelled:
            self.ollama.hold.clear()
        self.graves: list[Role] = []
        self.cancel_sent = False

    def start_router(self, at: int = 0) -> RouterRole:
        """Start a new process of the router."""
        self.router = RouterRole(self.url, self.config, at)
        self.graves.append(self.router)
        return self.router

    def start_agent(self, at: int = 0) -> AgentRole:
        """Start a new process of the agent."""
        self.agent = AgentRole(self.url, self.config, self.app, self.ollama, at)
        self.graves.append(self.agent)
        return self.agent

    async def ask(self, request_id: str = ID, entry_id: str = "") -> None:
        """Write a request as a client does."""
        fields = {"id": request_id, "model": MODEL, "prompt": "say three words"}
        if self.plan.photo:
            parts = [await self.store.add("parts:brain", {"data": letter * 4}) for letter in "abc"]
            fields |= {"images": '["parts:0-12"]', "parts": msgspec.json.encode(parts).decode()}
        await self.store.add("requests:brain", fields, entry_id)

    async def hand_out(self, request_id: str) -> None:
        """Write a request, and wait until it is routed to the node; its agent need not read it."""
        await self.ask(request_id)
        await eventually(
            lambda: self.router.router.state.grid.nodes[NODE].assignments, f"{request_id} is handed out"
        )

    async def hear(self, beats: int) -> None:
        """Write so many health entries, and wait until the router has taken them."""
        for _ in range(beats):
            await self.agent.health.beat()
        last = (await self.store.entries(f"health:{NODE}"))[-1][0]

        async def heard() -> bool:
            cursor = self.router.router.guard.cursors.get(f"health:{NODE}", "")
            return parse_stream_id(cursor) >= parse_stream_id(last)

        await eventually(heard, "the router has taken all health")

    async def ends(self, request_id: str = ID) -> list[dict[str, str]]:
        """Return the terminal replies to a request."""
        rows = await replies(self.store)
        return [row for row in rows if row["id"] == request_id and row["kind"] in TERMINAL_REPLIES]

    async def token(self, request_id: str = ID) -> None:
        """Wait for the first piece of an answer."""

        async def there() -> bool:
            rows = await replies(self.store)
            return any(row["id"] == request_id and row["kind"] == "token" for row in rows)

        await eventually(there, f"a token of {request_id}")

    async def ended(self) -> bool:
        """Return whether the request has its end. On the way there send the plan's cancel."""
        told = [row["kind"] for row in await replies(self.store)]
        if self.plan.cancelled and not self.cancel_sent and "token" in told:
            self.cancel_sent = True
            await self.store.add("requests:brain", {"cancel": ID})
        return any(kind in TERMINAL_REPLIES for kind in told)

    async def rests(self) -> bool:
        """Return whether the request has its end and nothing is under way."""
        return await self.ended() and await self.idles()

    async def idles(self) -> bool:
        """Return whether nothing is open, held or pending."""
        grid = self.router.router.state.grid
        node = grid.nodes.get(NODE)
        if grid.open or node is None or node.assignments or self.agent.worker.core.in_hand:
            return False
        try:
            pending = await self.redis.xpending(f"{self.config.prefix}work:{NODE}", GROUP)
        except ResponseError:
            return False  # the group is still to be made
        return bool(pending["pending"] == 0)

    async def reads_no_more(self) -> bool:
        """Return whether the router has taken all that was written, and its last commit is the server's."""
        guard = self.router.router.guard
        extents = await self.store.log.extents(guard.cursors)
        tops = {stream: extent.top for stream, extent in extents.items()}
        return tops == guard.cursors and await self.store.log.guard() == guard

    async def caught_up(self) -> bool:
        """Return whether the router's last commit is the server's."""
        guard = self.router.router.guard
        return bool(guard.number) and await self.store.log.guard() == guard

    async def come_to_rest(self) -> None:
        """Wait for the end of all work, end the agent, let the router take what is left, and end it."""
        await eventually(self.rests, "rest")
        await self.agent.bury()
        for _ in range(2):  # the server's turn after the next: what the agent had sent is taken in
            await self.redis.ping()
        await eventually(self.reads_no_more, "all inputs taken")
        await self.router.bury()

    async def let_go(self) -> None:
        """End all its processes."""
        for role in self.graves:
            await role.bury()
        await self.redis.aclose()

    async def close(self) -> None:
        """End all its processes, and delete its keys."""
        for role in self.graves:
            role.cut()
        keys = [key async for key in self.redis.scan_iter(self.config.prefix + "*", count=1000)]
        if keys:
            await self.redis.delete(*keys)
        await self.let_go()


async def assert_promise(life: Life, lost: bool = False) -> None:
    """Assert exactly one terminal reply with the text of one run, gapless tokens within each attempt, no
    attempt twice, and a gapless log that replays to the live state. `lost`: the server lost its tail: the
    last pieces of an answer, and work that ran, may be missing there."""
    rows = await replies(life.store)
    ends = [row for row in rows if row["kind"] in TERMINAL_REPLIES]
    assert [row["kind"] for row in ends] == ["cancelled" if life.plan.cancelled else "done"], rows
    assert_tokens(rows)
    if not life.plan.cancelled:
        attempt = ends[0]["attempt"]
        passed_on = [r["text"] for r in rows if r["kind"] == "token" and r["attempt"] == attempt]
        pieces = "".join(passed_on)
        whole = ends[0]["text"].startswith(pieces) if lost else ends[0]["text"] == pieces
        assert whole, f"the pieces are not the answer: {rows}"
        number = ends[0]["text"].split()[0].partition("-")[2]
        assert ends[0]["text"].split() == [f"{word}-{number}" for word in WORDS], rows
    if life.plan.photo:
        assert life.ollama.shown == [["aaaabbbbcccc"]] * life.ollama.runs
    await assert_no_attempt_twice(life, lost)
    await assert_log(life)


def assert_tokens(rows: list[dict[str, str]]) -> None:
    """Assert that attempts rise, each is announced once, and its pieces have numbers from 1 in a row."""
    attempts = [int(row["attempt"]) for row in rows if row["kind"] == "token"]
    assert attempts == sorted(attempts), rows
    for attempt, group in groupby((r for r in rows if r["kind"] == "token"), lambda r: r["attempt"]):
        pieces = list(group)
        assert [int(row["seq"]) for row in pieces] == list(range(1, len(pieces) + 1)), (
            f"pieces are missing or come twice: {rows}"
        )
        runs = {word.partition("-")[2] for row in pieces for word in row["text"].split()}
        assert len(runs) == 1, f"attempt {attempt} holds pieces of two runs: {rows}"
    announced = [int(row["attempt"]) for row in rows if row["kind"] == "restarted"]
    assert announced == list(range(2, len(announced) + 2)), rows


async def assert_no_attempt_twice(life: Life, lost: bool) -> None:
    """Assert that each work entry was begun at most once, and no more ran than was handed out."""
    rows = await life.store.entries(f"results:{NODE}")
    begun: Counter[str] = Counter()
    for _, fields in rows:
        head = agent_entries.decode_result(fields[b"head"])
        begun[head.work_id] += head.op == "started"
    assert max(begun.values(), default=0) <= 1, f"an attempt was begun twice: {begun}"
    if not life.plan.trimmed and not lost:
        handed_out = [
            fields
            for _, fields in await life.store.entries(f"work:{NODE}")
            if agent_entries.decode_work(fields[b"head"]).op == "run"
        ]
        assert life.ollama.runs <= len(handed_out), "an attempt ran twice"


async def assert_log(life: Life) -> None:
    """Assert that what is left of the log folds to the router's state."""
    report = await verify(LiveSource(life.store.log, Config()))
    assert report.diverged == 0, report
    assert report.events > 0
    if life.plan.trimmed:
        again: LoggedGrid = await load(life.store.log)
    else:
        await assert_consistent(life.store)
        again = await folded(life.store.log)
    live = life.router.router.state
    assert encode_grid(again.grid) == encode_grid(live.grid), "the log's fold is not the live state"
    assert again.digest == live.digest, "the log is not the one that the router wrote"


async def live(life: Life, victim: str, at: int, how: str) -> bool:
    """Live a life whose first process of `victim` is killed, told to stop, or has its run cancelled at
    point `at`. Return whether it came to that point. Call it within `mortality()`."""
    try:
        await life.ask()
        router = life.start_router(at if victim == "router" else 0)
        agent = life.start_agent(at if victim == "agent" else 0)
        struck: Role = router if victim == "router" else agent
        if how != "kill":
            struck.strike = struck.end if how == "stop" else agent.withdraw
        await run_to_rest(life, struck, victim, how)
        await assert_promise(life)
        return struck.struck.is_set()
    except BaseException as error:
        error.add_note(f"{how} of the {victim} at point {at} of a life that is {life.plan.name}")
        raise
    finally:
        await life.close()


async def run_to_rest(life: Life, struck: Role, victim: str, how: str) -> None:
    """Wait for rest or the strike; after a strike start a new process."""
    await eventually(lambda: struck.struck.is_set() or life.rests(), "rest")
    struck.at = 0
    if struck.struck.is_set() and how != "withdraw":
        if how == "stop":
            await struck.ended()
        if victim == "router":
            life.start_router()
        else:
            life.start_agent()
    await life.come_to_rest()
